"""What an audit knows of one checkpoint: gathered once, so that every check is a function of plain values.

Tensors are read from the mapped file in pieces; a fixed sample of each matrix is kept for the distances between
checkpoints, everything else is reduced at once.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.checkpoint import Checkpoint
from checkpoints.errors import DriftError
from checkpoints.files import CONFIG_FILE, combine, hash_file
from checkpoints.headers import TensorEntry
from checkpoints.validate import tensor_entries, validate

_PIECE = 1 << 22
_BLOCK = 64
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor.

    Attributes:
        dtype: as the file spells it.
        shape: its shape.
        digest: SHA-256 of dtype, shape and bytes; None when values were not read.
        non_finite: number of NaN and infinite values.
        zero: every value is zero.
        sample: values at positions fixed by the tensor's name and size, float32 [<= sample size]; empty for
            vectors and non-floating tensors.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str | None = None
    non_finite: int = 0
    zero: bool = False
    sample: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Facts:
    """One checkpoint as the checks see it.

    Attributes:
        checkpoint: which.
        problem: why its files cannot be used, or None.
        config: content of config.json, or None where there is none.
        tokenizer: hash of its tokenizer, or None.
        parts: hash of each tensor, or of each weight file where tensors were not read; equal mappings mean
            equal weights.
        tensors: by name; empty where the format hides them (`.bin`, GGUF, hub metadata).
    """

    checkpoint: Checkpoint
    problem: str | None = None
    config: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, TensorFacts] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The checkpoint's label."""
        return self.checkpoint.label

    @property
    def identity(self) -> str | None:
        """Equal for equal weights; None where nothing was hashed."""
        return combine(dict(self.parts)) if self.parts else None


def gather(checkpoint: Checkpoint, *, values: bool, sample_size: int) -> Facts:
    """Gather the facts of one checkpoint.

    Args:
        checkpoint: which.
        values: read every weight; otherwise only headers, configs and tokenizers, and of a hub revision the
            published hashes and the headers of its weight files, which are not fetched.
        sample_size: how many values of each matrix to keep.
    """
    try:
        if checkpoint.hub is not None and not values:
            parts = {file.name: file.digest for file in checkpoint.hub.weights}
            shapes = {name: TensorFacts(*about) for name, about in checkpoint.hub.shapes().items()}
            return Facts(checkpoint, None, checkpoint.config, checkpoint.tokenizer_hash, parts, shapes)
        files = validate(checkpoint.fetch())
        config = checkpoint.config if (checkpoint.path / CONFIG_FILE).exists() else None
        tokenizer = checkpoint.tokenizer_hash
        if files[0].suffix != ".safetensors":
            parts = {file.name: hash_file(file) for file in files} if values else {}
            return Facts(checkpoint, None, config, tokenizer, parts)
        tensors = {
            name: _read(name, entry, sample_size) if values else TensorFacts(entry.dtype, entry.shape)
            for name, entry in tensor_entries(files).items()
        }
    except (DriftError, OSError) as error:
        return Facts(checkpoint, problem=str(error))
    parts = {name: tensor.digest for name, tensor in tensors.items() if tensor.digest is not None}
    return Facts(checkpoint, None, config, tokenizer, parts, tensors)


def _read(name: str, entry: TensorEntry, sample_size: int) -> TensorFacts:
    digest = hashlib.sha256(f"{entry.dtype}{entry.shape}".encode())
    non_finite, zero = 0, True
    floating = entry.dtype in _FLOATS
    for piece in _pieces(entry.file, entry.start, entry.end):
        digest.update(piece.data)
        zero = zero and not piece.any()
        if floating:
            values = _decode(piece, entry.dtype)
            non_finite += values.size - int(np.isfinite(values).sum())
    sample = np.empty(0, np.float32)
    if floating and len(entry.shape) > 1:
        sample = _sample(name, entry, sample_size)
    return TensorFacts(entry.dtype, entry.shape, digest.hexdigest(), non_finite, zero, sample)


def _pieces(file: Path, start: int, end: int) -> Iterator[NDArray[np.uint8]]:
    if start == end:
        return
    data = np.memmap(file, np.uint8, mode="r", offset=start, shape=(end - start,))
    for low in range(0, end - start, _PIECE):
        yield np.asarray(data[low : low + _PIECE])


def _decode(raw: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    values = np.ascontiguousarray(raw).view(_FLOATS[dtype])
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _sample(name: str, entry: TensorEntry, size: int) -> NDArray[np.float32]:
    """Values at blocks of positions that depend only on the tensor's name and size."""
    width = np.dtype(_FLOATS[entry.dtype]).itemsize
    count = (entry.end - entry.start) // width
    data = np.memmap(entry.file, np.uint8, mode="r", offset=entry.start, shape=(count * width,))
    if count <= size:
        return _decode(data, entry.dtype).astype(np.float32)
    generator = np.random.default_rng([zlib.crc32(name.encode()), count])
    starts = np.sort(generator.integers(0, count - _BLOCK + 1, size=max(1, size // _BLOCK)))
    blocks = [data[start * width : (start + _BLOCK) * width] for start in starts]
    return _decode(np.concatenate(blocks), entry.dtype).astype(np.float32)
