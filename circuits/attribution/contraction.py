"""Differences times gradients, token chunk by token chunk.

Per reader behind a norm with gain G and at step k of a path, with d_k the gradient at the projection's output, the
gradient in front of the norm is centre(G W^T d_k) / s_k - x_hat_k c_k, with c_k = (W(G x_hat_k) . d_k) / (s_k D).
Summed over steps the first term needs only the sum of d_k / s_k, kept per head in head_dim, so that one contraction
serves any number of steps. The second needs the products of the writers' differences with x_hat_k, which a layer's
readers share; they are taken after every step, so that what is kept does not grow with the steps. No per-head
tensor of width D exists beyond one chunk of tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from checkpoints.model.anatomy import Anatomy, Block
from circuits.attribution.mla import HeadGradients, effective_weight, latent_gradients, normed_part
from circuits.facts.batch import Batch
from circuits.graph.shape import GraphShape
from circuits.trace.trace import LayerTrace, Trace, head_outputs, head_writer, widen

CPU_CHUNK, GPU_CHUNK = 36 << 20, 1 << 30
CPU_WEIGHTS, GPU_WEIGHTS = 1 << 28, 4 << 30


@dataclass(frozen=True, slots=True)
class Writers:
    """What every writer adds to the stream in one run, or a difference between two runs.

    Attributes:
        stream: [b, t, d] the input's share.
        heads: per layer [b, t, heads, head_dim], in front of `head_writer`.
        mlps: per layer [b, t, d].
    """

    stream: Tensor
    heads: tuple[Tensor, ...]
    mlps: tuple[Tensor, ...]

    @classmethod
    def of(cls, parts: Anatomy, trace: Trace) -> "Writers":
        """What was written in a run."""
        return cls(
            stream=widen(trace.stream),
            heads=tuple(head_outputs(b, layer) for b, layer in zip(parts.blocks, trace.layers, strict=True)),
            mlps=tuple(widen(layer.mlp_out) for layer in trace.layers),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Writers":
        """The same with every tensor changed."""
        return Writers(change(self.stream), tuple(map(change, self.heads)), tuple(map(change, self.mlps)))

    def __add__(self, other: "Writers") -> "Writers":
        return self._with(other, torch.add)

    def __sub__(self, other: "Writers") -> "Writers":
        return self._with(other, torch.sub)

    def _with(self, other: "Writers", operation: Callable[[Tensor, Tensor], Tensor]) -> "Writers":
        return Writers(
            stream=operation(self.stream, other.stream),
            heads=tuple(map(operation, self.heads, other.heads)),
            mlps=tuple(map(operation, self.mlps, other.mlps)),
        )


@dataclass(slots=True)
class _LayerGradients:
    """Sums over steps for one layer.

    Attributes:
        heads: [b, t, readers, head_dim] sum of weight * d_k / s_k over query, key and value heads.
        x_hats: [b, t, d] of each step whose part along it is still to be subtracted.
        alongs: [b, t, readers], the weights of those x_hats.
        mlp: [b, t, d] the MLP's gradient in front of its norm.
        apart: per step the stream and its own share of ``heads``, where the norm in front has no closed form.
    """

    heads: Tensor | None = None
    x_hats: list[Tensor] = field(default_factory=list)
    alongs: list[Tensor] = field(default_factory=list)
    mlp: Tensor | None = None
    apart: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Gradients:
    """Gradients of the metric at every reader, accumulated over the steps of a path.

    Args:
        parts: the model.
        freeze_norms: whether the scale of the norm in front of a reader counts as a constant.
    """

    def __init__(self, parts: Anatomy, *, freeze_norms: bool = False) -> None:
        self.parts, self.freeze_norms = parts, freeze_norms
        self.layers = [_LayerGradients() for _ in parts.blocks]
        self.logits: Tensor | None = None

    def add(self, trace: Trace, metric: Callable[[Tensor], Tensor], weight: float) -> None:
        """Run the backward pass of a trace, from the metric [b] of its logits, and add its gradients."""
        found = _gradients(trace, metric(trace.logits).sum())
        final = widen(found.pop((-1, "logits"))) * weight
        self.logits = final if self.logits is None else self.logits.add_(final)
        for block, seen, total in zip(self.parts.blocks, trace.layers, self.layers, strict=True):
            mlp, q = (widen(found.pop((block.index, name))) for name in ("mlp", "q"))
            k, v = (q, q) if seen.q is seen.k else (widen(found.pop((block.index, name))) for name in "kv")
            if seen.latent is None:
                _add_heads(total, block, seen, (q, k, v), weight, freeze_norm=self.freeze_norms)
            else:
                at_key = found.pop((block.index, "latent key"))
                _add_latent(total, latent_gradients(block, seen, (q, k, at_key), freeze=self.freeze_norms), weight)
            inside = mlp
            if block.mlp_norm is not None:
                inside = block.mlp_norm.pull_back(widen(seen.mlp_in), mlp, freeze=self.freeze_norms)
            total.mlp = weight * inside if total.mlp is None else total.mlp.add_(inside, alpha=weight)

    def forget_bare_stream(self) -> None:
        """Take back what reached the readers in front of which nothing has been written yet: those of layer 0."""
        total = self.layers[0]
        if total.heads is not None:
            total.heads.zero_()
        total.x_hats.clear()
        total.alongs.clear()
        total.apart = [(stream, torch.zeros_like(heads)) for stream, heads in total.apart]
        if self.parts.blocks[0].parallel and total.mlp is not None:
            total.mlp.zero_()


def _gradients(trace: Trace, value: Tensor) -> dict[tuple[int, str], Tensor]:
    """(layer, reader) -> gradient of a value there, 0 where it does not depend on it; the stream's end is layer -1."""
    where: dict[tuple[int, str], Any] = {(-1, "logits"): trace.final}
    like: dict[tuple[int, str], Tensor] = {(-1, "logits"): trace.final}
    for index, layer in enumerate(trace.layers):
        own = {"q": layer.q} if layer.q is layer.k else {"q": layer.q, "k": layer.k, "v": layer.v}
        own |= {} if layer.latent is None else {"latent key": layer.latent.key}
        own_places = {(index, name): tensor for name, tensor in own.items()}
        where |= {(index, "mlp"): layer.mlp_edge, **own_places}
        like |= {(index, "mlp"): layer.mlp_in, **own_places}
    keep = any(layer.latent is not None for layer in trace.layers)
    gradients = torch.autograd.grad(value, list(where.values()), retain_graph=keep, allow_unused=True)
    return {
        place: torch.zeros_like(like[place]) if gradient is None else gradient
        for place, gradient in zip(where, gradients, strict=True)
    }


def _add_heads(
    total: _LayerGradients,
    block: Block,
    seen: LayerTrace,
    gradients: tuple[Tensor, Tensor, Tensor],
    weight: float,
    *,
    freeze_norm: bool,
) -> None:
    projections = (block.q, block.k, block.v)
    per_head = torch.cat([p.select(g) for g, p in zip(gradients, projections, strict=True)], -2)
    norm = block.attention_norm
    if norm is None or not norm.closed:
        per_head *= weight
    else:
        x_hat, inverse = norm.normalise(widen(seen.attention_in))
        per_head *= (inverse * weight).unsqueeze(-1)
    if norm is not None and not norm.closed:
        total.apart.append((widen(seen.attention_in), per_head))
        return
    if norm is not None and not freeze_norm:
        outputs = zip(projections, (seen.q, seen.k, seen.v), strict=True)
        parts = torch.cat([normed_part(p, norm, widen(out)) for p, out in outputs], -2)
        total.x_hats.append(x_hat)
        total.alongs.append(parts.mul_(per_head).sum(-1).div_(x_hat.shape[-1]))
    total.heads = per_head if total.heads is None else total.heads.add_(per_head)


def _add_latent(total: _LayerGradients, step: HeadGradients, weight: float) -> None:
    heads = step.heads * weight
    total.heads = heads if total.heads is None else total.heads.add_(heads)
    total.x_hats += step.directions
    total.alongs += [along * weight for along in step.alongs]


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
        on_cpu = self.device.type == "cpu"
        chunk = (CPU_CHUNK if on_cpu else GPU_CHUNK) if chunk_mb is None else int(chunk_mb * 2**20)
        itemsize = torch.finfo(dtype).bits // 8
        self.tokens = max(1, chunk // (len(shape.writers) * parts.d_model * itemsize))
        heads = parts.n_layers * (2 * parts.n_heads + 2 * parts.n_kv_heads)
        self._fits = heads * parts.head_dim * parts.d_model * itemsize <= (CPU_WEIGHTS if on_cpu else GPU_WEIGHTS)
        self._buffer = torch.empty(0)
        self._reads = torch.empty(0)

    def add_scores(self, scores: Tensor, batch: Batch, differences: Writers, gradients: Gradients) -> None:
        """Add differences x gradients, summed over positions, to ``scores`` [b, B, F], readers first.

        Where the batch is split into segments, ``scores`` is [b * segments, B, F], those of a row one after the other.
        Only positions from the first difference between the prompts to the last real one contribute; elsewhere one
        of the factors is exactly zero. Entries that are no edges hold no meaning afterwards.
        """
        kept = [self._weights(block) for block in self.parts.blocks] if self._fits else None
        for target, row, span in self._spans(batch):
            buffer, reads = self._buffers(span.stop - span.start)
            buffer[0] = differences.stream[row, span]
            mlp: Tensor | None = None
            for block, total in zip(self.parts.blocks, gradients.layers, strict=True):
                writer, reader = self._weights(block) if kept is None else kept[block.index]
                before = self.shape.first_writer(block.index)
                columns = self.shape.attention_columns(block.index)
                self._attention_gradients(reads[1:], block, total, reader, row, span)
                if mlp is None:
                    _multiply(scores[target, columns, :before], buffer[:before], reads[1:])
                else:
                    # the MLP of the layer before reads the column just left of these: one product for all of them
                    reads[0] = mlp
                    _multiply(scores[target, columns.start - 1 : columns.stop, :before], buffer[:before], reads)
                self._write(buffer, block, writer, differences, row, span)
                assert total.mlp is not None
                mlp = total.mlp[row, span]
            assert gradients.logits is not None
            assert mlp is not None
            ends = torch.stack([mlp, gradients.logits[row, span]])
            _multiply(scores[target, -2:], buffer, ends)
            self._subtract_along(scores[target], buffer, gradients, row, span)
        self._free()

    def settle(self, scores: Tensor, batch: Batch, differences: Writers, gradients: Gradients) -> None:
        """Subtract the parts along x_hat of the steps added so far from ``scores`` [b, B, F], and forget them."""
        spans = self._spans(batch) if any(total.x_hats for total in gradients.layers) else ()
        for target, row, span in spans:
            buffer, _ = self._buffers(span.stop - span.start)
            buffer[0] = differences.stream[row, span]
            for block in self.parts.blocks:
                self._write(buffer, block, head_writer(block, self.dtype), differences, row, span)
            self._subtract_along(scores[target], buffer, gradients, row, span)
        self._free()
        for total in gradients.layers:
            total.x_hats.clear()
            total.alongs.clear()

    def _write(self, buffer: Tensor, block: Block, weight: Tensor, differences: Writers, row: int, span: slice) -> None:
        """Fill the rows of a layer's heads and MLP."""
        before = self.shape.first_writer(block.index)
        after = before + self.parts.n_heads
        torch.bmm(differences.heads[block.index][row, span].transpose(0, 1), weight, out=buffer[before:after])
        buffer[after] = differences.mlps[block.index][row, span]

    def _subtract_along(self, scores: Tensor, buffer: Tensor, gradients: Gradients, row: int, span: slice) -> None:
        """Subtract (difference . x_hat) x along, summed over tokens and steps, from [B, F]."""
        x_hats = [x[row, span] for total in gradients.layers for x in total.x_hats]
        if not x_hats:
            return
        shares = iter(torch.bmm(buffer.transpose(0, 1), torch.stack(x_hats, -1)).unbind(-1))  # [t, F] each
        for block, total in zip(self.parts.blocks, gradients.layers, strict=True):
            before = self.shape.first_writer(block.index)
            target = scores[self.shape.attention_columns(block.index), :before]
            for along in total.alongs:
                target.addmm_(along[row, span].T, next(shares)[:, :before], alpha=-1)

    def _attention_gradients(
        self, reads: Tensor, block: Block, total: _LayerGradients, weight: Tensor, row: int, span: slice
    ) -> None:
        """Fill [readers, t, d] with the gradients in front of the norm, but for their parts along x_hat."""
        if total.apart and block.attention_norm is not None:
            reads.zero_()
            for stream, heads in total.apart:
                behind = torch.bmm(heads[row, span].transpose(0, 1), weight)
                reads += block.attention_norm.pull_back(stream[row, span], behind)
            return
        assert total.heads is not None
        torch.bmm(total.heads[row, span].transpose(0, 1), weight, out=reads)

    def _weights(self, block: Block) -> tuple[Tensor, Tensor]:
        """[heads, head_dim, d] from z to the stream, and [readers, head_dim, d] from a projection back to it."""
        if block.latent is not None:
            reader = effective_weight(block, self.dtype)
        else:
            reader = torch.cat([p.weight.detach() for p in (block.q, block.k, block.v)]).to(self.dtype)
        if block.attention_norm is not None and block.attention_norm.closed:
            reader = block.attention_norm.fold_(reader)
        return head_writer(block, self.dtype), reader

    def _buffers(self, size: int) -> tuple[Tensor, Tensor]:
        """[F, t, d] for the writers and [1 + readers, t, d] for a layer's readers, the same memory for every chunk."""
        writers, width = len(self.shape.writers), self.parts.d_model
        readers = 1 + self.parts.n_heads + 2 * self.parts.n_kv_heads
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

    def _spans(self, batch: Batch) -> Iterator[tuple[int, int, slice]]:
        """Where scores go, the row, and stretches of its positions, of even length and short enough for the buffer."""
        for row, (first, last) in enumerate(zip(batch.first.tolist(), batch.last.tolist(), strict=True)):
            for target, low, stop in batch.stretches[row] if batch.stretches else ((row, 0, last + 1),):
                start = max(low, first)
                pieces = max(1, -(-(stop - start) // self.tokens))
                size = max(1, -(-(stop - start) // pieces))
                for place in range(start, stop, size):
                    yield target, row, slice(place, min(place + size, stop))


def _multiply(target: Tensor, differences: Tensor, gradients: Tensor) -> None:
    """Add to target [R, F]: gradients [R, t, d] . differences [F, t, d]."""
    target.addmm_(gradients.flatten(1), differences.flatten(1).T)
