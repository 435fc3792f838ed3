"""Differences times gradients, token chunk by token chunk.

Per reader behind a norm with gain G and at step k of a path, with d_k the gradient at the projection's output, the
gradient in front of the norm is centre(G W^T d_k) / s_k - x_hat_k c_k, with c_k = (W(G x_hat_k) . d_k) / (s_k D).
Summed over steps the first term needs only the sum of d_k / s_k, kept per head in head_dim; the second has rank
(steps), and its factors are known. So one contraction serves any number of steps, and no per-head tensor of width D
exists beyond one chunk of tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from checkpoints.anatomy import Anatomy, Block, Norm, Projection
from circuits.graph import GraphShape
from circuits.trace import Batch, LayerTrace, Trace, head_outputs, head_writer, logit_difference, widen


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes for the writers' buffer of one chunk."""

    chunk_bytes: int

    @classmethod
    def of(cls, device: torch.device, chunk_mb: float | None) -> "Budget":
        """The default suits a CPU's caches or a GPU's width."""
        default = 24.0 if device.type == "cpu" else 1024.0
        return cls(int((default if chunk_mb is None else chunk_mb) * 2**20))

    def tokens(self, rows: int, width: int, itemsize: int) -> int:
        """How many tokens of ``rows`` vectors fit."""
        return max(1, self.chunk_bytes // (rows * width * itemsize))


@dataclass(frozen=True, slots=True)
class Differences:
    """What every writer changes, corrupt - clean (or over one step towards corrupt).

    Attributes:
        stream: [b, t, d] the input's.
        heads: per layer [b, t, heads, head_dim], in front of `head_writer`.
        mlps: per layer [b, t, d].
    """

    stream: Tensor
    heads: tuple[Tensor, ...]
    mlps: tuple[Tensor, ...]


def difference(parts: Anatomy, corrupt: Trace, clean: Trace) -> Differences:
    """Everything the second run lacks to be the first."""
    pairs = list(zip(parts.blocks, corrupt.layers, clean.layers, strict=True))
    return Differences(
        stream=widen(corrupt.stream) - widen(clean.stream),
        heads=tuple(head_outputs(block, a) - head_outputs(block, b) for block, a, b in pairs),
        mlps=tuple(widen(a.mlp_out) - widen(b.mlp_out) for _, a, b in pairs),
    )


@dataclass(slots=True)
class _LayerGradients:
    """Sums over steps for one layer.

    Attributes:
        heads: [b, t, readers, head_dim] sum of weight * d_k / s_k over query, key and value heads.
        x_hats: per step [b, t, d].
        alongs: per step [b, t, readers], the weight of x_hat_k to subtract.
        mlp: [b, t, d] the MLP's gradient in front of its norm.
    """

    heads: Tensor | None = None
    x_hats: list[Tensor] = field(default_factory=list)
    alongs: list[Tensor] = field(default_factory=list)
    mlp: Tensor | None = None


class Gradients:
    """Gradients of the metric at every reader, accumulated over the steps of a path."""

    def __init__(self, parts: Anatomy) -> None:
        self.parts = parts
        self.layers = [_LayerGradients() for _ in parts.blocks]
        self.logits: Tensor | None = None

    def add(self, trace: Trace, batch: Batch, weight: float) -> None:
        """Run the backward pass of a trace and add its gradients."""
        wanted = [trace.final]
        for layer in trace.layers:
            wanted += [layer.q, layer.k, layer.v, layer.mlp_read]
        metric = logit_difference(trace.logits, batch).sum()
        found = iter(torch.autograd.grad(metric, wanted))
        final = widen(next(found)) * weight
        self.logits = final if self.logits is None else self.logits + final
        for block, seen, total in zip(self.parts.blocks, trace.layers, self.layers, strict=True):
            q, k, v, mlp = (widen(next(found)) for _ in range(4))
            _add_heads(total, block, seen, (q, k, v), weight)
            inside = mlp if block.mlp_norm is None else block.mlp_norm.pull_back(widen(seen.mlp_in), mlp)
            total.mlp = weight * inside if total.mlp is None else total.mlp + weight * inside


def _add_heads(
    total: _LayerGradients, block: Block, seen: LayerTrace, gradients: tuple[Tensor, Tensor, Tensor], weight: float
) -> None:
    projections = (block.q, block.k, block.v)
    per_head = torch.cat([g[..., p.rows] for g, p in zip(gradients, projections, strict=True)], -2) * weight
    norm = block.attention_norm
    if norm is not None:
        x_hat, inverse = norm.normalise(widen(seen.attention_in))
        per_head = per_head * inverse.unsqueeze(-1)
        outputs = [
            _normed_part(p, norm, widen(out)) for p, out in zip(projections, (seen.q, seen.k, seen.v), strict=True)
        ]
        total.x_hats.append(x_hat)
        total.alongs.append((torch.cat(outputs, -2) * per_head).sum(-1) / x_hat.shape[-1])
    total.heads = per_head if total.heads is None else total.heads + per_head


def _normed_part(projection: Projection, norm: Norm, output: Tensor) -> Tensor:
    """[b, t, heads, head_dim] W(gain * x_hat): the projection's output without its bias and the norm's."""
    part = output[..., projection.rows]
    if projection.bias is not None:
        part = part - projection.bias
    if norm.bias is not None:
        part = part - projection.weight.to(part.dtype) @ norm.bias.to(part.dtype)
    return part


def add_scores(
    scores: Tensor,
    parts: Anatomy,
    shape: GraphShape,
    batch: Batch,
    differences: Differences,
    gradients: Gradients,
    budget: Budget,
) -> None:
    """Add differences x gradients, summed over positions, to ``scores`` [b, F, B].

    Only positions from the first difference between the prompts to the last real one contribute; elsewhere one of
    the factors is exactly zero.
    """
    dtype = differences.stream.dtype
    writers = [head_writer(block, dtype) for block in parts.blocks]
    readers = [_reader_weights(block, dtype) for block in parts.blocks]
    tokens = budget.tokens(len(shape.writers), parts.d_model, differences.stream.element_size())
    for row, span in _spans(batch, tokens):
        size = span.stop - span.start
        buffer = torch.empty(len(shape.writers), size, parts.d_model, dtype=dtype, device=scores.device)
        buffer[0] = differences.stream[row, span]
        for block, total in zip(parts.blocks, gradients.layers, strict=True):
            layer, before = block.index, shape.first_writer(block.index)
            after = before + parts.n_heads
            reads = _attention_gradients(block, total, readers[layer], row, span)
            _multiply(scores[row, :before, shape.attention_columns(layer)], buffer[:before], reads)
            heads = differences.heads[layer][row, span].transpose(0, 1)
            torch.bmm(heads, writers[layer], out=buffer[before:after])
            buffer[after] = differences.mlps[layer][row, span]
            assert total.mlp is not None
            seen = before if block.parallel else after
            column = shape.mlp_column(layer)
            _multiply(scores[row, :seen, column : column + 1], buffer[:seen], total.mlp[row, span][None])
        assert gradients.logits is not None
        _multiply(scores[row, :, -1:], buffer, gradients.logits[row, span][None])


def _multiply(target: Tensor, differences: Tensor, gradients: Tensor) -> None:
    """Add to target [F, R]: differences [F, t, d] . gradients [R, t, d]."""
    target.addmm_(differences.flatten(1), gradients.flatten(1).T)


def _reader_weights(block: Block, dtype: torch.dtype) -> Tensor:
    """[readers, head_dim, d] from the gradient at a projection's output to that at the norm's input, up to 1/s."""
    weight = torch.cat([projection.weight for projection in (block.q, block.k, block.v)]).to(dtype)
    if block.attention_norm is None:
        return weight
    norm = block.attention_norm
    return norm.centre(weight * norm.gain.to(dtype))


def _attention_gradients(block: Block, total: _LayerGradients, weight: Tensor, row: int, span: slice) -> Tensor:
    """[readers, t, d] gradient in front of the attention norm for every query, key and value head."""
    assert total.heads is not None
    reads = torch.bmm(total.heads[row, span].transpose(0, 1), weight)
    for x_hat, along in zip(total.x_hats, total.alongs, strict=True):
        reads.addcmul_(along[row, span].T.unsqueeze(-1), x_hat[row, span].unsqueeze(0), value=-1)
    return reads


def _spans(batch: Batch, tokens: int) -> Iterator[tuple[int, slice]]:
    for row, (first, last) in enumerate(zip(batch.first.tolist(), batch.last.tolist(), strict=True)):
        for start in range(first, last + 1, tokens):
            yield row, slice(start, min(start + tokens, last + 1))
