"""Are a checkpoint's files whole? Answered from sizes and headers, before anything is loaded."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from checkpoints.errors import CorruptWeights
from checkpoints.files.folder import ADAPTER_FILE, BIN_INDEX, SAFETENSORS_INDEX, read_json, weight_files
from checkpoints.files.headers import TensorEntry, read_header
from checkpoints.files.limits import require_file, require_plain_archive


def check_files(folder: Path) -> tuple[Path, ...]:
    """Check that a checkpoint folder's weight files exist and hold every byte they promise.

    Returns:
        the weight files.

    Raises:
        NotACheckpoint: the folder is no checkpoint.
        CorruptWeights: a weight file is missing, empty, truncated, or not of its kind.
    """
    files = weight_files(folder)
    kind = files[0].suffix
    if kind == ".safetensors":
        tensor_entries(files)
    elif kind == ".gguf":
        _check_magic(files[0], b"GGUF")
    elif kind == ".distcp":
        _check_not_empty(files)
    else:
        _check_shards(files, folder / BIN_INDEX)
        for file in files:
            _check_bin(file)
    return files


def count_tensors(files: Sequence[Path]) -> int:
    """How many tensors weight files hold; of `.bin` files, how many they can hold at most."""
    if files[0].suffix == ".safetensors":
        return len(tensor_entries(files))
    return sum(_pickle_size(file) for file in files) // _SMALLEST_ENTRY


_SMALLEST_ENTRY = 16  # bytes: a tensor's name, storage and shape take more than that in a pickle


def _pickle_size(file: Path) -> int:
    """Bytes of a `.bin` file's pickle; all of them where it is of the format before archives."""
    if not zipfile.is_zipfile(file):
        return file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith("data.pkl"))


def tensor_entries(files: Sequence[Path]) -> dict[str, TensorEntry]:
    """The tensors of a safetensors checkpoint by name, over all its shards.

    Raises:
        CorruptWeights: a shard is missing or damaged, or lacks a tensor that the index promises.
    """
    folder = files[0].parent
    index = folder / SAFETENSORS_INDEX
    sharded = files[0].name not in ("model.safetensors", ADAPTER_FILE)
    if sharded:
        _check_shards(files, index)
    entries: dict[str, TensorEntry] = {}
    for file in files:
        entries.update(read_header(file))
    if sharded:
        for name, shard in read_json(index)["weight_map"].items():
            if name not in entries or entries[name].file.name != shard:
                raise CorruptWeights(f"{folder / shard} lacks the tensor {name!r} that {index.name} promises")
    if not entries:
        raise CorruptWeights(f"{files[0]} holds no tensor")
    return entries


def _check_shards(files: Sequence[Path], index: Path) -> None:
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CorruptWeights(
            f"{files[0].parent} lacks {len(missing)} of {len(files)} weight files: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''} (named by {index.name}); restore them"
        )


def _check_not_empty(files: Sequence[Path]) -> None:
    for file in files:
        require_file(file)
        if file.stat().st_size == 0:
            raise CorruptWeights(f"{file} is empty (0 bytes); restore the file")


def _check_bin(path: Path) -> None:
    _check_not_empty([path])
    with path.open("rb") as stream:
        magic = stream.read(2)
    if magic == b"PK":
        require_plain_archive(path, path.stat().st_size, str(path))
    if magic not in (b"PK", b"\x80\x02"):
        raise CorruptWeights(f"{path} is no PyTorch weight file (it starts with {magic!r}); restore the file")


def _check_magic(path: Path, magic: bytes) -> None:
    require_file(path)
    with path.open("rb") as stream:
        seen = stream.read(len(magic))
    if seen != magic:
        raise CorruptWeights(f"{path} is no {path.suffix[1:].upper()} file (it starts with {seen!r})")
