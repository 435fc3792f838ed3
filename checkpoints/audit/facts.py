"""What an audit knows of one checkpoint: gathered once, so that every check is a function of plain values.

Of a tensor either every value is read, in pieces of the mapped file, or a sample at places that its name and size
decide. Samples tell tensors apart; where two agree, both are read in full before anything is said of them. The sample
of each matrix is kept for the distances between checkpoints, everything else is reduced at once.
"""

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import DriftError
from checkpoints.files.check import checked_weights
from checkpoints.files.configs import CONFIG_FILE, read_json
from checkpoints.files.folder import combine
from checkpoints.files.formats import find_weights
from checkpoints.files.hashes import hash_file
from checkpoints.files.headers import TensorEntry
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.series.layouts import TRAINER_STATE

Depth = Literal["metadata", "samples", "weights"]

_SAMPLED = "sample:"
_FILE_SAMPLE = 1 << 16
_PIECE = 1 << 22
_BESIDE = (TRAINER_STATE, "generation_config.json")
BLOCK = 64
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor.

    Attributes:
        dtype: as the file spells it.
        shape: its shape.
        digest: SHA-256 of dtype, shape and bytes (of a sample of them: with a prefix that says so); None when values
            were not read.
        non_finite: number of NaN and infinite values; 0 as well where those lie outside the sample.
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
class CheckpointFacts:
    """One checkpoint as the checks see it.

    Attributes:
        checkpoint: which.
        problem: why its files cannot be used, or None.
        config: content of config.json, or None where there is none.
        tokenizer: its `tokenizer_key`, or, once `confirmed`, where keys differ, its `tokenizer_hash`; None without one.
        parts: hash of each tensor, or of each weight file where tensors were not read; once `confirmed`, equal
            mappings mean equal weights.
        tensors: by name; empty where the format hides them (`.bin`, GGUF, hub metadata).
        beside: why files beside the weights, which only describe the training, cannot be read.
    """

    checkpoint: Checkpoint
    problem: str | None = None
    config: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, TensorFacts] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The checkpoint's label."""
        return self.checkpoint.label

    @property
    def identity(self) -> str | None:
        """Equal for equal weights; None where nothing was hashed."""
        return combine(dict(self.parts)) if self.parts else None


def gather(checkpoint: Checkpoint, *, depth: Depth, sample_size: int) -> CheckpointFacts:
    """Gather the facts of one checkpoint.

    Args:
        checkpoint: which.
        depth: ``"metadata"`` reads headers, configs and tokenizers alone, and of a hub revision, which is not fetched,
            the published hashes and headers; ``"samples"`` some values of every tensor; ``"weights"`` all.
        sample_size: how many values of each matrix to keep.
    """
    try:
        if checkpoint.hub is not None and depth == "metadata":
            parts = {file.name: file.digest for file in checkpoint.hub.weights}
            shapes = {name: TensorFacts(*about) for name, about in checkpoint.hub.shapes().items()}
            return CheckpointFacts(checkpoint, None, checkpoint.config, checkpoint.tokenizer_key, parts, shapes)
        weights = checked_weights(checkpoint.fetch())
        config = checkpoint.config if (checkpoint.path / CONFIG_FILE).exists() else None
        tokenizer = checkpoint.tokenizer_key
        entries = weights.entries()
        if not entries:
            parts = _file_digests(weights.files, depth)
            return CheckpointFacts(checkpoint, None, config, tokenizer, parts, beside=_beside(checkpoint))
        tensors = {name: _about(name, entry, depth, sample_size) for name, entry in entries.items()}
    except (DriftError, OSError) as error:
        return CheckpointFacts(checkpoint, problem=str(error))
    parts = {name: tensor.digest for name, tensor in tensors.items() if tensor.digest is not None}
    return CheckpointFacts(checkpoint, None, config, tokenizer, parts, tensors, _beside(checkpoint))


def _beside(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is wrong with the JSON that trainers put beside the weights."""
    problems = []
    for path in (checkpoint.path / name for name in _BESIDE):
        if path.exists():
            try:
                read_json(path)
            except DriftError as error:
                problems.append(str(error))
    return tuple(problems)


def confirmed(facts: Sequence[CheckpointFacts]) -> list[CheckpointFacts]:
    """The same facts, read closer wherever what they say so far would be a fault.

    Hashes of everything stand in place of hashes of samples wherever agreement would be one: where all of a checkpoint
    agrees with another, or a tensor with one further on than the next. A tensor that stays as it is from one checkpoint
    to the next (frozen, or too slow for its dtype) is in order and not read. Tokenizers are read where their files
    differ.
    """
    homes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, fact in enumerate(facts):
        for part in fact.parts.items():
            homes[part].append(place)
    apart = {part for part, places in homes.items() if any(b - a > 1 for a, b in pairwise(places))}
    alike = Counter(fact.identity for fact in facts)
    settled = []
    for fact in facts:
        sampled = [part for part in fact.parts.items() if part[1].startswith(_SAMPLED)]
        names = [part[0] for part in sampled if part in apart or alike[fact.identity] > 1]
        settled.append(replace(fact, parts={**fact.parts, **_digests(fact, names)}) if names else fact)
    return _with_tokenizers_read(settled)


def _with_tokenizers_read(facts: Sequence[CheckpointFacts]) -> list[CheckpointFacts]:
    """With hashes of what tokenizers do where their files differ, which need not make a difference."""
    if len({fact.tokenizer for fact in facts} - {None}) < 2:
        return list(facts)
    return [
        fact if fact.tokenizer is None else replace(fact, tokenizer=fact.checkpoint.tokenizer_hash) for fact in facts
    ]


def _digests(fact: CheckpointFacts, names: Sequence[str]) -> dict[str, str]:
    weights = find_weights(fact.checkpoint.path)
    if not fact.tensors:
        return {file.name: hash_file(file) for file in weights.files if file.name in names}
    entries = weights.entries()
    return {name: str(_read(name, entries[name], 0).digest) for name in names}


def _file_digests(files: Sequence[Path], depth: Depth) -> dict[str, str]:
    if depth == "weights":
        return {file.name: hash_file(file) for file in files}
    if depth == "metadata":
        return {}
    raw = {
        file: _sample_bytes(file.name, TensorEntry(file, "U8", (), 0, file.stat().st_size), 1 << 16) for file in files
    }
    return {file.name: _SAMPLED + hashlib.sha256(sample.data).hexdigest() for file, sample in raw.items()}


def _about(name: str, entry: TensorEntry, depth: Depth, sample_size: int) -> TensorFacts:
    if depth == "metadata":
        return TensorFacts(entry.dtype, entry.shape)
    return _read(name, entry, sample_size) if depth == "weights" else _look(name, entry, sample_size)


def _read(name: str, entry: TensorEntry, sample_size: int) -> TensorFacts:
    """Facts of every value."""
    digest = _started(entry)
    non_finite, zero = 0, True
    for piece in _pieces(entry.file, entry.start, entry.end):
        digest.update(piece.data)
        zero = zero and not piece.any()
        if entry.dtype in _FLOATS:
            non_finite += _non_finite(_decode(piece, entry.dtype))
    kept = _sample_bytes(name, entry, sample_size) if _is_matrix(entry) and sample_size else None
    return TensorFacts(entry.dtype, entry.shape, digest.hexdigest(), non_finite, zero, _values(kept, entry))


def _look(name: str, entry: TensorEntry, sample_size: int) -> TensorFacts:
    """Facts of a sample; of every value where the sample holds nothing but zeros, or what is not finite."""
    raw = _sample_bytes(name, entry, sample_size)
    broken = entry.dtype in _FLOATS and _non_finite(_decode(raw, entry.dtype))
    if broken or not raw.any():
        return _read(name, entry, sample_size)
    digest = _started(entry)
    digest.update(raw.data)
    kept = raw if _is_matrix(entry) else None
    return TensorFacts(entry.dtype, entry.shape, _SAMPLED + digest.hexdigest(), sample=_values(kept, entry))


def _started(entry: TensorEntry) -> "hashlib._Hash":
    return hashlib.sha256(f"{entry.dtype}{entry.shape}".encode())


def _is_matrix(entry: TensorEntry) -> bool:
    return entry.dtype in _FLOATS and len(entry.shape) > 1


def _non_finite(values: NDArray[Any]) -> int:
    return values.size - int(np.isfinite(values).sum())


def _values(raw: NDArray[np.uint8] | None, entry: TensorEntry) -> NDArray[np.float32]:
    return np.empty(0, np.float32) if raw is None else _decode(raw, entry.dtype).astype(np.float32)


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


def _sample_bytes(name: str, entry: TensorEntry, size: int) -> NDArray[np.uint8]:
    """The bytes of values in blocks at places that depend only on the tensor's name and size."""
    width = np.dtype(_FLOATS.get(entry.dtype, "u1")).itemsize
    count = (entry.end - entry.start) // width
    if count <= size:
        starts, block = np.zeros(1, int), count
    else:
        generator = np.random.default_rng([zlib.crc32(name.encode()), count])
        starts, block = np.sort(generator.integers(0, count - BLOCK + 1, size=max(1, size // BLOCK))), BLOCK
    with entry.file.open("rb", buffering=0) as stream:
        return np.frombuffer(
            b"".join(_at(stream, entry.start + int(s) * width, block * width) for s in starts), np.uint8
        )


def _at(stream: FileIO, place: int, size: int) -> bytes:
    stream.seek(place)
    return stream.read(size)
