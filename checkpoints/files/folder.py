"""The files of a checkpoint folder: which hold weights, which the tokenizer, and the hashes of their content.

Nothing here imports torch; hashes are over bytes, so equal hashes mean equal files.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import CorruptWeights, NotACheckpoint
from checkpoints.files.hashes import hash_file
from checkpoints.files.reading import decode, parse_lenient, read_bytes
from checkpoints.results.disk import can_be

CONFIG_FILE = "config.json"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN_INDEX = "pytorch_model.bin.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
GENERATION_CONFIG = "generation_config.json"
_WHOLE = (("model.safetensors", SAFETENSORS_INDEX), ("pytorch_model.bin", BIN_INDEX))
_DISTRIBUTED = ("", "pytorch_model_fsdp_0", "model")
_TOKENIZER_FILES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
TOKENIZER_FILES = frozenset(name for names in _TOKENIZER_FILES for name in names)
_TOKENIZER_PARTS = (*sorted(TOKENIZER_FILES), "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                    "chat_template.jinja")  # fmt: skip
VOLATILE = frozenset(
    {"transformers_version", "_name_or_path", "_attn_implementation_autoset", "base_model_name_or_path", "revision"}
)

_IDLE = VOLATILE | {"_from_model_config", "output_attentions", "output_hidden_states", "use_cache"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        NotACheckpoint: missing, unreadable, or not an object.
    """
    try:
        value = parse_lenient(decode(read_bytes(path)))
    except FileNotFoundError as error:
        raise NotACheckpoint(f"{path.parent} is no checkpoint: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise NotACheckpoint(f"{path} cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise NotACheckpoint(f"{path} holds a JSON {type(value).__name__}, not an object; restore the file")
    return value


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Name the files that hold a checkpoint's weights, in the order transformers would choose.

    Safetensors (one file, or the shards of its index) before `.bin`, an adapter, `.distcp` files and one `.gguf`. An
    adapter beside whole weights is not applied: they are taken as they are.
    Shards that an index names are returned whether or not they exist: `checkpoints.files.check` says which are missing.

    Raises:
        NotACheckpoint: no such folder, or no config and no GGUF in it.
        CorruptWeights: a checkpoint without weight files.
    """
    if not folder.is_dir():
        raise NotACheckpoint(f"{folder} is no checkpoint: there is no such folder")
    for single, index in _WHOLE:
        if (folder / single).exists():
            return (folder / single,)
        if (folder / index).exists():
            return _indexed(folder / index)
    if (folder / ADAPTER_FILE).exists():
        return (folder / ADAPTER_FILE,)
    if (distributed := distributed_folder(folder)) is not None:
        return _distributed_files(distributed)
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return (ggufs[0],)
    if len(ggufs) > 1:
        raise NotACheckpoint(
            f"{folder} holds {len(ggufs)} GGUF files ({ggufs[0].name}, {ggufs[1].name}, ...): keep one per folder"
        )
    for config in (CONFIG_FILE, ADAPTER_CONFIG):
        if (folder / config).exists():
            raise CorruptWeights(
                f"{folder} has a {config} but no weights: looked for model.safetensors, {SAFETENSORS_INDEX}, "
                f"pytorch_model.bin, {BIN_INDEX}, {ADAPTER_FILE}, *.distcp and *.gguf"
            )
    raise NotACheckpoint(
        f"{folder} is no checkpoint: looked for {CONFIG_FILE} with model.safetensors (or its shards, .bin or .distcp), "
        f"{ADAPTER_CONFIG} with {ADAPTER_FILE}, and one *.gguf"
    )


def _distributed_files(folder: Path) -> tuple[Path, ...]:
    """Its `.distcp` files, and last the metadata, which decides what each of their bytes is."""
    files = tuple(sorted(folder.glob("*.distcp")))
    if not files:
        raise CorruptWeights(
            f"{folder} has the metadata of a distributed checkpoint, but no .distcp file; restore them"
        )
    return (*files, folder / ".metadata")


def distributed_folder(folder: Path) -> Path | None:
    """The folder that holds a torch distributed checkpoint's `.distcp` files: itself or a known one in it."""
    places = (folder / name for name in _DISTRIBUTED)
    return next((place for place in places if (place / ".metadata").exists()), None)


def adapter_base(folder: Path) -> Path | None:
    """The folder of the base model that an adapter names; None where there is no adapter, or whole weights beside it.

    The name may be a folder, absolute or relative to the adapter or its series, or a hub id whose files are in the
    hub client's cache.

    Raises:
        NotACheckpoint: the base is not to be found without a network.
    """
    if not (folder / ADAPTER_CONFIG).exists() or any((folder / name).exists() for names in _WHOLE for name in names):
        return None
    name = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    for place in (Path(name), folder / name, folder.parent / name) if name else ():
        if can_be(place) and (place / CONFIG_FILE).exists():
            if weight_files(place)[0].name == ADAPTER_FILE:
                raise NotACheckpoint(f"{place}, which {folder} names as its base, is an adapter itself: merge it first")
            return place
    revision = read_json(folder / ADAPTER_CONFIG).get("revision")
    cached = _cached_snapshot(name, revision if isinstance(revision, str) else None)
    if cached is None:
        raise NotACheckpoint(
            f"{folder} is an adapter on {name!r:.200}, which is neither a folder nor in the hub client's cache; "
            f"name its folder in {ADAPTER_CONFIG}, or fetch it with `hf download {name}`"
        )
    return cached


def _cached_snapshot(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # no such id, a name that is none, or none in the cache
        return None


def _indexed(index: Path) -> tuple[Path, ...]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CorruptWeights(f"{index} names no shards (no weight_map); restore the file")
    names = sorted({str(name) for name in mapping.values()})
    outside = [name for name in names if Path(name).name != name or not can_be(index.parent / name)]
    if outside:
        raise CorruptWeights(f"{index} names a shard outside its folder, or no name: {outside[0]!r:.200}")
    return tuple(index.parent / name for name in names)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like one checkpoint: a config, an adapter's config, or exactly one GGUF file."""
    configs = (folder / CONFIG_FILE, folder / ADAPTER_CONFIG)
    return any(config.exists() for config in configs) or len(list(folder.glob("*.gguf"))) == 1


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
    ggufs = sorted(folder.glob("*.gguf"))
    return TokenizerSource((ggufs[0],), ggufs[0]) if len(ggufs) == 1 else None


def tokenizer_parts(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Every file that a tokenizer is made from: its vocabulary and merges, and what is set beside them."""
    files = tokenizer_files(folders)
    return () if not files else tuple(file for name in _TOKENIZER_PARTS if (file := files[0].parent / name).exists())


def loading_files(folder: Path, *, code: bool) -> tuple[Path, ...]:
    """Every file of a folder that takes part in building its model: weights, their index, configs, and code if allowed.

    Raises:
        NotACheckpoint, CorruptWeights: as `weight_files`.
    """
    weights = weight_files(folder)
    if weights[0].suffix == ".gguf":
        return weights
    if weights[0].name == ADAPTER_FILE:
        return (*weights, folder / ADAPTER_CONFIG)
    sharded = weights[0].name not in {single for single, _ in _WHOLE}
    indexes = {".safetensors": [SAFETENSORS_INDEX], ".bin": [BIN_INDEX]}.get(weights[0].suffix, []) if sharded else []
    found = (folder / name for name in (CONFIG_FILE, GENERATION_CONFIG, *indexes))
    return (*weights, *(file for file in found if file.exists()), *(code_files(folder) if code else ()))


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


def generation_settings(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What generation_config.json adds to a config, less what changes no token (bookkeeping, outputs asked for)."""
    if not (folder / GENERATION_CONFIG).exists():
        return {}
    found = read_json(folder / GENERATION_CONFIG)
    return {key: value for key, value in found.items() if key not in _IDLE and config.get(key) != value}


def hash_config(config: dict[str, Any]) -> str:
    """SHA-256 of a config's content, less what only records the library version or the place it came from."""
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
