"""Torch distributed checkpoints (`.distcp`), read without anything in them being run.

Torch's own reader unpickles what its metadata calls bytes with no restriction at all, so it is not used. The metadata,
itself a pickle, becomes inert records by a list of allowed names; a tensor is unpickled only where the metadata says
that it is one, of the model's shape and covered by its chunks, by torch's reader for weights alone.
"""

import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files.formats import METADATA, SHARDS
from checkpoints.files.headers import unwrapped
from checkpoints.files.limits import require_file, require_plain_archive

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PREFIXES = ("", "model.", "app.model.", "state_dict.", "app.")
# what torch's own checkpoint metadata is made of; a name outside this list is refused, and none is imported
_NAMES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath"},
}
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_DTYPES = (*_FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a stored tensor: where it begins in the tensor, its shape, and where its bytes are."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int

    @property
    def place(self) -> tuple[slice, ...]:
        """The part of the tensor that it fills."""
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as the metadata describes it; `chunks` is None for what is no tensor."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...] | None


@dataclass(frozen=True, slots=True)
class Filling:
    """Which stored tensors fill which of a model's, proved to cover it; see `plan`."""

    folder: Path
    sources: "Mapping[str, tuple[Stored, ...]]"

    def fill(self, model: "PreTrainedModel") -> None:
        """Put the stored values into a model of the config that this was planned for.

        Raises:
            CorruptWeights: a chunk is damaged, or two names of one tied tensor hold different values.
        """
        import torch

        targets = model.state_dict()
        for name, (first, *others) in self.sources.items():
            with torch.no_grad():
                self._read(first, name, targets[name])
            for other in others:
                again = torch.empty_like(targets[name])
                self._read(other, name, again)
                if not torch.equal(again, targets[name]):
                    raise CorruptWeights(
                        f"{self.folder} holds two different tensors for {name!r}, which its config.json ties to "
                        "another: set tie_word_embeddings to false there if they were trained apart"
                    )

    def _read(self, stored: Stored, name: str, target: "torch.Tensor") -> None:
        for chunk in stored.chunks or ():
            target[chunk.place] = _read_chunk(self.folder, chunk, name)


def read_metadata(folder: Path) -> dict[str, Stored]:
    """What a distributed checkpoint says it holds, by name.

    Raises:
        CorruptWeights: its metadata is damaged, asks for a name that no checkpoint needs, or points outside it.
    """
    path = folder / METADATA
    require_file(path)
    try:
        with path.open("rb") as stream:
            metadata = _MetadataUnpickler(stream).load()
        places = {
            (index.state["fqn"], _sizes(index.state["offset"])): info.state
            for index, info in _fields(metadata, "Metadata")["storage_data"].items()
            if index.state.get("offset") is not None
        }
        return {
            str(name): _stored(folder, str(name), entry, places)
            for name, entry in metadata.state["state_dict_metadata"].items()
        }
    except DriftError:
        raise
    except Exception as error:  # unpickling hostile bytes can raise anything
        text = " ".join(str(error).split())[:200]
        raise CorruptWeights(f"{path} cannot be read: {type(error).__name__}: {text}; restore the file") from error


def plan(folder: Path, stored: Mapping[str, Stored], model: "PreTrainedModel") -> Filling:
    """Find every tensor of a model, of which only names and shapes are looked at, in a distributed checkpoint.

    Raises:
        CorruptWeights: one is missing, no tensor, of another shape or not covered, or a tensor is left over.
    """
    known = {unwrapped(name): entry for name, entry in stored.items()}
    groups = _groups(model)
    prefix = next((p for p in _PREFIXES if all(any(p + name in known for name in group) for group in groups)), None)
    if prefix is None:
        named = [group[0] for group in groups]
        missing = [g[0] for g in groups if not any(p + name in known for p in _PREFIXES for name in g)] or named
        raise CorruptWeights(
            f"{folder} does not cover the model of its config.json: {len(missing)} tensors are missing, "
            f"{missing[0]!r} first; it holds {sorted(stored)[:2]} and others"
        )
    _refuse_left_over(folder, known, prefix, groups)
    targets = model.state_dict()
    sources = {group[0]: tuple(known[prefix + name] for name in group if prefix + name in known) for group in groups}
    for name, entries in sources.items():
        for entry in entries:
            _require_covering(folder, name, entry, targets[name])
    return Filling(folder, sources)


def _groups(model: "PreTrainedModel") -> list[list[str]]:
    """The names of each of a model's tensors; a tied one has several."""
    found: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), []).append(name)
    return list(found.values())


def _refuse_left_over(folder: Path, known: Mapping[str, Stored], prefix: str, groups: list[list[str]]) -> None:
    taken = {prefix + name for group in groups for name in group}
    tops = {name.partition(".")[0] for group in groups for name in group}
    over = [
        name
        for name in sorted(known.keys() - taken)
        if name.startswith(prefix) and name.endswith(".weight") and name[len(prefix) :].partition(".")[0] in tops
    ]
    if over:
        raise CorruptWeights(
            f"{folder} holds {len(over)} tensors that its config.json leaves no place for, {over[0]!r} first: config "
            "and weights belong to different models"
        )


def _require_covering(folder: Path, name: str, stored: Stored, target: "torch.Tensor") -> None:
    import torch

    if stored.chunks is None:
        raise CorruptWeights(f"{folder} holds no tensor but pickled bytes for {name!r}, which could run code: refused")
    if stored.shape != tuple(target.shape):
        raise CorruptWeights(
            f"the weights of {folder} do not fit its config: {name!r} is {stored.shape}, the config asks for "
            f"{tuple(target.shape)}"
        )
    if (stored.dtype in _FLOATS) != target.is_floating_point():
        raise CorruptWeights(f"{folder} holds {stored.dtype} for {name!r}, which the model has as {target.dtype}")
    covered = torch.zeros(stored.shape, dtype=torch.bool)
    for chunk in stored.chunks:
        ends = (start + size for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
        if any(end > length for end, length in zip(ends, stored.shape, strict=True)):
            raise CorruptWeights(f"{folder} puts a part of {name!r} outside it, at {chunk.offsets}; save it again")
        covered[chunk.place] = True
    left = int((~covered).sum())
    if left:
        raise CorruptWeights(
            f"{folder} does not cover {name!r}: {left:,} of its {covered.numel():,} values are in no part of it; they "
            "would be random, so nothing was loaded"
        )


def _read_chunk(folder: Path, chunk: Chunk, name: str) -> "torch.Tensor":
    import torch

    path = folder / chunk.file
    try:
        with path.open("rb") as stream:
            stream.seek(chunk.start)
            data = stream.read(chunk.length)
        require_plain_archive(io.BytesIO(data), len(data), f"the part of {name!r} in {path}")
        tensor = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except DriftError:
        raise
    except Exception as error:  # as above
        text = " ".join(str(error).split())[:200]
        raise CorruptWeights(f"{name!r} in {path} cannot be read: {type(error).__name__}: {text}") from error
    if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != chunk.sizes or tensor.is_complex():
        raise CorruptWeights(f"{path} holds no tensor of {chunk.sizes} where its metadata promises a part of {name!r}")
    return tensor


def _stored(
    folder: Path, name: str, entry: "_Record", places: Mapping[tuple[str, tuple[int, ...]], dict[str, Any]]
) -> Stored:
    if type(entry).__name__ != "TensorStorageMetadata":
        return Stored("", (), None)
    dtype = str(entry.state["properties"].state[0])
    if dtype not in _DTYPES:
        raise ValueError(f"{name!r} is of the dtype {dtype}")
    shape = _sizes(entry.state["size"])
    return Stored(dtype, shape, tuple(_chunks(folder, name, entry.state["chunks"], places, len(shape))))


def _chunks(
    folder: Path,
    name: str,
    chunks: "list[_Record]",
    places: Mapping[tuple[str, tuple[int, ...]], dict[str, Any]],
    rank: int,
) -> Iterator[Chunk]:
    for chunk in chunks:
        offsets, sizes = _sizes(chunk.state["offsets"]), _sizes(chunk.state["sizes"])
        if len(offsets) != rank or len(sizes) != rank:
            raise ValueError(f"a part of {name!r} has another number of dimensions than it")
        place = places[name, offsets]
        file, start, length = place["relative_path"], place["offset"], place["length"]
        if Path(file).name != file or not Path(file).match(SHARDS):
            raise CorruptWeights(f"{folder} points outside its own .distcp files, to {file!r}: refused")
        if place.get("transform_descriptors"):
            raise CorruptWeights(f"{folder} holds {name!r} in a transformed stream, which is not read; save it plainly")
        require_file(folder / file)
        size = (folder / file).stat().st_size
        if start < 0 or length < 0 or start + length > size:
            raise CorruptWeights(
                f"{folder / file} is truncated: it has {size} bytes, the metadata promises {start + length}"
            )
        yield Chunk(offsets, sizes, file, start, length)


def _fields(record: Any, kind: str) -> dict[str, Any]:
    if type(record).__name__ != kind or not isinstance(record, _Record):
        raise ValueError("it holds no checkpoint metadata")
    fields: dict[str, Any] = record.state
    return fields


def _sizes(record: Any) -> tuple[int, ...]:
    values = tuple(record.values[0])
    if type(record).__name__ != "Size" or any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{values} is no shape")
    return values


class _Record:
    """Stands for one of torch's own records: holds what the file says, does nothing."""

    values: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _MetadataUnpickler(pickle.Unpickler):
    """Gives records of its own, made for this one reading, in place of whatever class or function is named."""

    def __init__(self, stream: io.BufferedReader) -> None:
        super().__init__(stream)
        self._made: dict[tuple[str, str], type] = {("collections", "OrderedDict"): type("OrderedDict", (dict,), {})}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        known = self._made.get((module, name))
        if known is None:
            if name not in _NAMES.get(module, ()):
                raise CorruptWeights(f"the metadata asks for {module}.{name}, which no checkpoint needs: refused")
            known = self._made[module, name] = type(name, (_Record,), {})
        return known
