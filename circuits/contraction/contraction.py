"""Differences times gradients, token chunk by token chunk.

    scores[F, B] = sum over t, d of differences[F, t, d] * gradients[B, t, d]

with no per-head tensor of width D beyond one chunk of tokens. Two layers at a time the chunk's gradients of their
readers are made from `circuits.contraction.gradients`, multiplied with the differences of all writers before them, and
forgotten. The last layer writes to the logits alone, which are read where answers are produced and nowhere else. What
gradients hold along directions that a layer's readers share (x_hat of their norm) is subtracted last, as
(difference . x_hat) times the readers' shares, so that one contraction serves any number of steps.

Shapes: b facts, t tokens, d the stream's width D, w a head's width, r one layer's attention readers (query, key, value
heads in turn), F the graph's writers, B its readers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from checkpoints.model.anatomy import Anatomy, Block
from circuits.contraction.gradients import Gradients, LayerGradients
from circuits.contraction.mla import effective_weight
from circuits.facts.batch import Batch
from circuits.graph.shape import GraphShape
from circuits.trace.trace import head_writer
from circuits.trace.writers import Writers

CPU_CHUNK, GPU_CHUNK = 36 << 20, 1 << 30
CPU_WEIGHTS, GPU_WEIGHTS = 1 << 28, 4 << 30


def room(maps: int, n_layers: int, *, on_cpu: bool) -> tuple[bool, int]:
    """Whether the maps of all layers, of so many bytes each, are held at once; bytes of the writers of one chunk.

    Where not all fit, a layer's are made anew for each chunk: one no smaller than they makes them seldom.
    """
    fits = n_layers * maps <= (CPU_WEIGHTS if on_cpu else GPU_WEIGHTS)
    return fits, max(CPU_CHUNK if on_cpu else GPU_CHUNK, 0 if fits else maps)


class _Chunk(NamedTuple):
    """A stretch of one row's tokens, and which of the scores it adds to."""

    target: int
    row: int
    tokens: slice

    def of(self, tensor: Tensor) -> Tensor:
        """[t, ...] of [b, t, ...]."""
        return tensor[self.row, self.tokens]

    def written(self, writers: Writers, block: Block) -> tuple[Tensor, Tensor]:
        """[t, heads, w] and [t, d] of a layer's heads and MLP."""
        return self.of(writers.heads[block.index]), self.of(writers.mlps[block.index])

    @property
    def size(self) -> int:
        return self.tokens.stop - self.tokens.start  # type: ignore[no-any-return]


class _Weights(NamedTuple):
    """[heads, w, d] from z to the stream, and [r, w, d] from a projection back to it."""

    write: Tensor
    read: Tensor


class Contraction:
    """Differences times gradients, chunk by chunk in the same buffers.

    The maps between heads and stream are made for each contraction, while no graph is alive: kept, they would add to
    the peak of the backward pass.

    Args:
        parts: the model.
        shape: its graph.
        dtype: of the scores.
        chunk_mb: memory for the writers' buffer of one chunk of tokens; by default what suits the device.
    """

    def __init__(self, parts: Anatomy, shape: GraphShape, dtype: torch.dtype, chunk_mb: float | None = None) -> None:
        self.parts, self.shape, self.dtype = parts, shape, dtype
        self.device = parts.blocks[0].output_weight.device
        itemsize = torch.finfo(dtype).bits // 8
        maps = (2 * parts.n_heads + 2 * parts.n_kv_heads) * parts.head_dim * parts.d_model * itemsize
        self._fits, usual = room(maps, parts.n_layers, on_cpu=self.device.type == "cpu")
        chunk = usual if chunk_mb is None else int(chunk_mb * 2**20)
        self.tokens = max(1, chunk // (len(shape.writers) * parts.d_model * itemsize))
        self._buffer = torch.empty(0)
        self._reads = torch.empty(0)

    def add_scores(self, scores: Tensor, batch: Batch, differences: Writers, gradients: Gradients) -> None:
        """Add differences x gradients, summed over positions, to ``scores`` [b, B, F], readers first.

        Where the batch is split into segments, ``scores`` is [b * segments, B, F], those of a row one after the other.
        Only positions from the first difference between the prompts to the last real one contribute; elsewhere one
        of the factors is exactly zero. Entries that are no edges hold no meaning afterwards.
        """
        kept = [self._weights(block) for block in self.parts.blocks] if self._fits else None
        for chunk in self._chunks(batch):
            target = scores[chunk.target]
            written, buffer = self._buffers(chunk.size)
            written[0] = chunk.of(differences.stream)
            for pair in self._pairs():
                columns = self._columns(pair)
                reads = buffer[: columns.stop - columns.start]
                for block in pair:
                    weights = self._weights(block) if kept is None else kept[block.index]
                    first = self.shape.columns_before(block.index).start - columns.start
                    self._read_before(reads[first:], block, gradients, weights.read, chunk)
                    if block.index < self.parts.n_layers - 1:
                        self._write(written, block, weights.write, *chunk.written(differences, block))
                _multiply(target[columns], written[: self.shape.first_writer(pair[-1].index)], reads)
            self._multiply_last(target, written, differences, gradients, chunk)
            self._subtract_along(target, written, gradients, chunk)
        self._free()

    def settle(self, scores: Tensor, batch: Batch, differences: Writers, gradients: Gradients) -> None:
        """Subtract the parts along x_hat of the steps added so far from ``scores`` [b, B, F], and forget them.

        Done after every step, so that what is kept does not grow with the steps.
        """
        chunks = self._chunks(batch) if any(total.along for total in gradients.layers) else ()
        for chunk in chunks:
            written, _ = self._buffers(chunk.size)
            written[0] = chunk.of(differences.stream)
            for block in self.parts.blocks[:-1]:
                self._write(written, block, head_writer(block, self.dtype), *chunk.written(differences, block))
            self._subtract_along(scores[chunk.target], written, gradients, chunk)
        self._free()
        for total in gradients.layers:
            total.along.clear()

    def _pairs(self) -> Iterator[tuple[Block, ...]]:
        """Layers two by two, so that one product reads what was written below them, which takes most of its time."""
        for first in range(0, self.parts.n_layers, 2):
            yield self.parts.blocks[first : first + 2]

    def _columns(self, pair: tuple[Block, ...]) -> slice:
        """Columns from those in front of the first layer of a pair to those in front of its last one."""
        first, last = (self.shape.columns_before(block.index) for block in (pair[0], pair[-1]))
        return slice(first.start, last.stop)

    def _multiply_last(
        self, scores: Tensor, written: Tensor, differences: Writers, gradients: Gradients, chunk: _Chunk
    ) -> None:
        """Add to [B, F] what the last layer's MLP and the logits get.

        Their gradients are 0 but where an answer's tokens are produced, so that only there the last layer's writes are
        made.
        """
        ends_btd = _known(gradients.layers[-1].mlp_btd), _known(gradients.logits_btd)
        reads = torch.stack([chunk.of(end_btd) for end_btd in ends_btd])
        (places,) = reads.any(-1).any(0).nonzero(as_tuple=True)
        every = written.new_empty(len(self.shape.writers), len(places), self.parts.d_model)
        every[: len(written)] = written[:, places]
        block = self.parts.blocks[-1]
        heads, mlp = chunk.written(differences, block)
        self._write(every, block, head_writer(block, self.dtype), heads[places], mlp[places])
        _multiply(scores[self.shape.columns_before(self.parts.n_layers)], every, reads[:, places])

    def _write(self, written: Tensor, block: Block, weight: Tensor, heads_thw: Tensor, mlp_td: Tensor) -> None:
        """Fill the rows of a layer's heads and MLP."""
        first = self.shape.first_writer(block.index)
        mlp = first + self.parts.n_heads
        torch.bmm(rearrange(heads_thw, "t head w -> head t w"), weight, out=written[first:mlp])
        written[mlp] = mlp_td

    def _read_before(self, reads: Tensor, block: Block, gradients: Gradients, weight: Tensor, chunk: _Chunk) -> None:
        """Fill [readers, t, d] with the gradients of `GraphShape.columns_before`, but for their parts along x_hat."""
        before = min(block.index, 1)
        if before:
            reads[0] = chunk.of(_known(gradients.layers[block.index - 1].mlp_btd))
        count = self.parts.n_heads + 2 * self.parts.n_kv_heads
        self._read_attention(reads[before : before + count], block, gradients.layers[block.index], weight, chunk)

    def _read_attention(
        self, reads: Tensor, block: Block, total: LayerGradients, weight: Tensor, chunk: _Chunk
    ) -> None:
        """Fill [r, t, d] with the gradients in front of the norm, but for their parts along x_hat."""
        if not total.apart or block.attention_norm is None:
            torch.bmm(rearrange(chunk.of(_known(total.heads_btrw)), "t r w -> r t w"), weight, out=reads)
            return
        reads.zero_()
        for stream_btd, heads_btrw in total.apart:
            behind = torch.bmm(rearrange(chunk.of(heads_btrw), "t r w -> r t w"), weight)
            reads += block.attention_norm.pull_back(chunk.of(stream_btd), behind)

    def _subtract_along(self, scores: Tensor, written: Tensor, gradients: Gradients, chunk: _Chunk) -> None:
        """Subtract (difference . direction) x share, summed over tokens and steps, from [B, F]."""
        directions = [chunk.of(along.direction_btd) for total in gradients.layers for along in total.along]
        if not directions:
            return
        products = torch.bmm(torch.stack(directions, 1), rearrange(written, "writer t d -> t d writer"))
        products_tf = iter(products.unbind(1))
        for layer, total in enumerate(gradients.layers):
            before = self.shape.first_writer(layer)
            target = scores[self.shape.attention_columns(layer), :before]
            for along in total.along:
                target.addmm_(chunk.of(along.share_btr).T, next(products_tf)[:, :before], alpha=-1)

    def _weights(self, block: Block) -> _Weights:
        """A layer's maps between its heads and the stream, the norm's gain in them."""
        if block.latent is not None:
            read = effective_weight(block, self.dtype)
        else:
            read = torch.cat([p.weight.detach() for p in (block.q, block.k, block.v)]).to(self.dtype)
        if block.attention_norm is not None and block.attention_norm.closed:
            read = block.attention_norm.fold_(read)
        return _Weights(head_writer(block, self.dtype), read)

    def _buffers(self, size: int) -> tuple[Tensor, Tensor]:
        """[F, t, d] for the writers below the last layer, [B, t, d] for a pair's readers, the same for every chunk."""
        writers, width = self.shape.first_writer(self.parts.n_layers - 1), self.parts.d_model
        readers = max(columns.stop - columns.start for columns in map(self._columns, self._pairs()))
        if self._buffer.numel() < writers * size * width:
            self._buffer = torch.empty(writers * size * width, dtype=self.dtype, device=self.device)
            self._reads = torch.empty(readers * size * width, dtype=self.dtype, device=self.device)
        return (
            self._buffer[: writers * size * width].view(writers, size, width),
            self._reads[: readers * size * width].view(readers, size, width),
        )

    def _free(self) -> None:
        """Give the buffers back, which would add to the peak of the next backward pass."""
        self._buffer = self._reads = torch.empty(0)

    def _chunks(self, batch: Batch) -> Iterator[_Chunk]:
        """Stretches of every row's positions, of even length and short enough for the buffer."""
        for row, (first, last) in enumerate(zip(batch.first.tolist(), batch.last.tolist(), strict=True)):
            for target, low, stop in batch.stretches[row] if batch.stretches else ((row, 0, last + 1),):
                start = max(low, first)
                pieces = max(1, -(-(stop - start) // self.tokens))
                size = max(1, -(-(stop - start) // pieces))
                for place in range(start, stop, size):
                    yield _Chunk(target, row, slice(place, min(place + size, stop)))


def _multiply(scores: Tensor, written: Tensor, reads: Tensor) -> None:
    """Add differences [F, t, d] x gradients [B, t, d], summed over t and d, to the first F of scores [B, ...]."""
    scores[:, : len(written)].addmm_(
        rearrange(reads, "reader t d -> reader (t d)"), rearrange(written, "writer t d -> (t d) writer")
    )


def _known(total: Tensor | None) -> Tensor:
    """A sum to which a step has been added."""
    assert total is not None
    return total
