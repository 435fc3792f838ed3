"""What tells one tokenizer from another: what it does to a text, not how its files are written.

Two tokenizers are the same where vocabulary, merges and special tokens are, where texts in many scripts become the same
ids, and where the same tokens are put around them. White space in a file, a truncation block left behind by a call, or
merges written as strings make no difference; ``add_bos_token`` in a side file does.

What files do is remembered beside the hashes of files, by the hashes of their content and the versions of the
libraries that read them.
"""

import hashlib
import json
import tempfile
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import DriftError, is_failure
from checkpoints.files.configs import CONFIG_FILE, read_json
from checkpoints.files.folder import combine
from checkpoints.files.hashes import cache_folder, hash_file
from checkpoints.tokenizers.load import read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 2
TEXTS = (
    "The quick brown fox can't jump over 3.14 lazy dogs, isn't that so?",
    " a space in front",
    "a space behind ",
    "two  spaces,   three,\ta tab\n\na line \r\n    indented",
    "0 12 123 1234567 1,000.50 2024-01-31 17:45",
    "don't I'LL we'VE ALL CAPS camelCase snake_case",
    "naïve café Ångström e\u0301 ﬁ ½ ① Ⅳ",
    "def f(x):\n    return x**2  # {[(<>)]}\n",
    "https://example.org/a_b?c=d&e=f#g",
    "你好，世界。这是一个测试。",
    "ひらがなとカタカナ、日本語。",
    "한국어 문장입니다.",
    "Привет, мир! Γειά σου Κόσμε",
    "مرحبا بالعالم؟ שלום עולם",
    "नमस्ते दुनिया। สวัสดีชาวโลก",
    "🙂👍🏽 👩\u200d👩\u200d👧 \u00a0\u200b\ufeff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
_REFUSED = [-1]
_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def tokenizer_identity(folder: Path, *, gguf: Path | None = None, code: bool = False) -> str | None:
    """SHA-256 of what the tokenizer of a folder's files does; None where it cannot be loaded.

    Args:
        folder: where its files lie.
        gguf: the GGUF file that holds it, in place of them.
        code: whether code that it brings may run.
    """
    key = tokenizer_key(folder, gguf=gguf, code=code)
    return _identity(key, folder, None if gguf is None else gguf.name, code)


def tokenizer_key(folder: Path, *, gguf: Path | None = None, code: bool = False) -> str:
    """SHA-256 of a tokenizer's files and of what decides how they are read: known without reading the tokenizer.

    Tokenizers of one key do the same. Those of two keys may do so too: `tokenizer_identity` tells, which imports torch.
    """
    files = [path for name in _FILES if (path := folder / name).is_file()] if gguf is None else [gguf]
    parts = {path.name: hash_file(path) for path in files}
    return combine({**parts, "made by": _made_by(folder), "code": str(code), "versions": _versions()})


def behaviour(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of a tokenizer's vocabulary, merges, special tokens, and of what it makes of texts."""
    added = sorted(getattr(tokenizer, "added_tokens_decoder", {}).items())
    named = "".join(f"a{token} b {token}c" for _, token in added)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {"model": None} if backend is None else json.loads(backend.to_str())
    told = {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])),
        "model": parts["model"],
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id],
        "all special": sorted(set(tokenizer.all_special_ids)),
        "texts": [_ids(tokenizer, text, special=False) for text in (*TEXTS, named)],
        "framed": [_ids(tokenizer, text, special=True) for text in ("", *TEXTS)],
    }
    seldom = {"normalizer": parts.get("normalizer"), "written": _written(tokenizer)}
    told |= {name: value for name, value in seldom.items() if value}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _written(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What becomes of the texts that it knows, where it writes them otherwise than they were."""
    unknown = tokenizer.unk_token_id
    known = ((text, ids) for text in TEXTS if unknown not in (ids := _ids(tokenizer, text, special=False)))
    written = ((text, str(tokenizer.decode(ids, skip_special_tokens=True))) for text, ids in known if ids != _REFUSED)
    return [back for text, back in written if back != text]


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, *, special: bool) -> list[int]:
    """Ids of a text; -1 alone for one that the tokenizer refuses, as one without an unknown token may."""
    try:
        return list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
    except BaseException as error:
        if not is_failure(error):
            raise
        return list(_REFUSED)


@lru_cache(maxsize=4096)
def _identity(key: str, folder: Path, gguf: str | None, code: bool) -> str | None:
    known = _recall(key)
    if known is not None:
        return known
    try:
        found = behaviour(read_tokenizer(folder, gguf=gguf, code=code))
    except DriftError:
        return None
    _remember(key, found)
    return found


def _made_by(folder: Path) -> str:
    """What of a model's config decides which class of tokenizer is made."""
    with suppress(DriftError):
        config = read_json(folder / CONFIG_FILE)
        return json.dumps([config.get(name) for name in ("model_type", "tokenizer_class", "auto_map")], default=str)
    return ""


@lru_cache(maxsize=1)
def _versions() -> str:
    found: dict[str, Any] = {"identity": VERSION}
    for name in ("transformers", "tokenizers", "sentencepiece"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return json.dumps(found)


def _recall(key: str) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_place(key).read_text(encoding="utf-8"))
        if record["seal"] == _seal(key, record["identity"]):
            return str(record["identity"])
    return None


def _remember(key: str, identity: str) -> None:
    place = _place(key)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False, encoding="utf-8") as file:
            json.dump({"identity": identity, "seal": _seal(key, identity)}, file)
        Path(file.name).replace(place)


def _place(key: str) -> Path:
    return cache_folder().with_name("tokenizers") / f"{key[:32]}.json"


def _seal(key: str, identity: str) -> str:
    """Tells a record that was damaged or edited from a whole one."""
    return hashlib.sha256(f"{key}:{identity}".encode()).hexdigest()
