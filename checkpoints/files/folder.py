"""The files of a checkpoint folder: which hold weights, which the tokenizer, and the hashes of their content.

Nothing here imports torch; hashes are over bytes, so equal hashes mean equal files.
"""

import codecs
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import CorruptWeights, NotACheckpoint
from checkpoints.files.configs import ADAPTER_CONFIG, CONFIG_FILE, neutral, read_json
from checkpoints.files.formats import find_weights, has_whole, is_checkpoint, packed_file
from checkpoints.files.hashes import hash_file
from checkpoints.files.reading import decode, read_bytes
from checkpoints.results.disk import can_be

_TOKENIZER_FILES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
TOKENIZER_FILES = frozenset(name for names in _TOKENIZER_FILES for name in names)
TOKENIZER_PARTS = (*sorted(TOKENIZER_FILES), "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                    "chat_template.jinja")  # fmt: skip
_TEXTS = (".json", ".txt", ".jinja")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Name the files that hold a checkpoint's weights, of the first format of the table that is there.

    An adapter beside whole weights is not applied: they are taken as they are.
    Shards that an index names are returned whether or not they exist: `checkpoints.files.check` says which are missing.

    Raises:
        NotACheckpoint: no such folder, or no config and no GGUF in it.
        CorruptWeights: a checkpoint without weight files.
    """
    return find_weights(folder).files


def adapter_base(folder: Path) -> Path | None:
    """The folder of the base model that an adapter names; None where there is no adapter, or whole weights beside it.

    The name may be a folder, absolute or relative to the adapter or its series, or a hub id whose files are in the
    hub client's cache.

    Raises:
        NotACheckpoint: the base is not to be found without a network.
    """
    if not (folder / ADAPTER_CONFIG).exists() or has_whole(folder):
        return None
    name = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    for place in (folder / name, folder.parent / name, Path(name)) if name else ():
        if can_be(place) and is_checkpoint(place):
            if find_weights(place).format.is_adapter:
                raise NotACheckpoint(f"{place}, which {folder} names as its base, is an adapter itself: merge it first")
            return place
    revision = read_json(folder / ADAPTER_CONFIG).get("revision")
    cached = _cached_snapshot(name, revision if isinstance(revision, str) else None)
    if cached is None:
        raise NotACheckpoint(
            f"{folder} is an adapter on {name!r:.200}, which is neither a folder nor in the hub client's cache; "
            f"name its folder in {ADAPTER_CONFIG}, or {_way_to(name)}"
        )
    return cached


def _way_to(name: str) -> str:
    """How a base model gets where its adapter looks for it."""
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    hub: Any = utils
    try:
        hub.validate_repo_id(name)
    except HFValidationError:
        return "put the base model there"
    return f"fetch it with `hf download {name}`"


def _cached_snapshot(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # no such id, a name that is none, or none in the cache
        return None


def tokenizer_files(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The files that define a tokenizer's vocabulary and merges, from the first folder that has any."""
    for folder in folders:
        for names in _TOKENIZER_FILES:
            files = tuple(folder / name for name in names)
            if all(file.exists() for file in files):
                return files
    return ()


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """What a tokenizer is read from.

    Attributes:
        files: the files that define its vocabulary and merges.
        packed: the weight file that holds it, where there are no such files.
    """

    files: tuple[Path, ...]
    packed: Path | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.files[0].parent


def tokenizer_source(folder: Path, folders: Sequence[Path]) -> TokenizerSource | None:
    """A tokenizer's files from the first folder that has any, else the one weight file of `folder` that brings it."""
    if files := tokenizer_files(folders):
        return TokenizerSource(files)
    packed = packed_file(folder)
    return None if packed is None else TokenizerSource((packed,), packed)


def tokenizer_parts(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Every file that a tokenizer is made from: its vocabulary and merges, and what is set beside them."""
    files = tokenizer_files(folders)
    return () if not files else tuple(file for name in TOKENIZER_PARTS if (file := files[0].parent / name).exists())


def loading_files(folder: Path, *, code: bool) -> tuple[Path, ...]:
    """Every file of a folder that takes part in building its model: weights, their index, configs, and code if allowed.

    Raises:
        NotACheckpoint, CorruptWeights: as `weight_files`.
    """
    weights = find_weights(folder)
    beside = [folder / name for name in weights.format.configs]
    index = [] if weights.index is None else [weights.index]
    own = code_files(folder) if code and weights.format.config == CONFIG_FILE else ()  # no other config names code
    return (*weights.files, *(file for file in beside if file.exists()), *index, *own)


def code_files(folder: Path) -> tuple[Path, ...]:
    """The Python files of a folder and the folders in it."""
    return tuple(sorted(path for path in folder.rglob("*.py") if path.is_file()))


def hash_weights(files: Sequence[Path]) -> str:
    """SHA-256 of a checkpoint's weights: of the file itself, or over the shards' names and hashes.

    Raises:
        CorruptWeights: a file is missing or unreadable.
    """
    try:
        return combine({file.name: hash_file(file) for file in files})
    except OSError as error:
        raise CorruptWeights(f"{error.filename} cannot be read: {error.strerror}; restore the file") from error


def combine(hashes: dict[str, str]) -> str:
    """Combine per-file hashes into one; a single file's hash is returned as it is."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@contextmanager
def view(folder: Path, files: Iterable[Path]) -> Iterator[Path]:
    """A folder of the same name with links to some of a folder's files, for as long as the block lasts.

    Libraries look around where they load: transformers applies an adapter that lies beside whole weights, loads another
    file where the config names one, and takes a distributed checkpoint in the same folder first. None of that is in the
    hash of the files that were asked for. What describes a model stands there without a byte-order mark, and its config
    without what is no part of it.
    """
    folder = folder.absolute()
    with tempfile.TemporaryDirectory(prefix="circuit-drift-") as place:
        shown = Path(place) / (folder.name or "checkpoint")
        for file in files:
            link = shown / file.absolute().relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if file.name == CONFIG_FILE:
                link.write_text(json.dumps(neutral(read_json(file))), encoding="utf-8")
            elif file.name.endswith(_TEXTS) and is_marked(file):
                link.write_text(decode(read_bytes(file)), encoding="utf-8")
            else:
                _link(link, file.resolve())
        yield shown


def is_marked(file: Path) -> bool:
    """Whether a file begins with a byte-order mark, which transformers takes for damage."""
    with file.open("rb") as opened:
        return opened.read(3).startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _link(link: Path, file: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # not every user of Windows may make symbolic links
        link.hardlink_to(file)
