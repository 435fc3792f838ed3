"""Many exact patches in one pass: runs start where the patch does, from the clean run's own streams.

In front of a patched reader everything is clean, and what reaches it is known: its stream, plus what the writer would
have written more. So the layers before it are skipped and its stream is put in their place; many patches at one layer
go through the model side by side, each in rows of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints.model.anatomy import Anatomy, Block, Projection, anatomy
from checkpoints.stats.units import Floats
from circuits.attribution.ablation import Ablation, check_share, fixed_values, replacement
from circuits.attribution.edges import graph_shape
from circuits.facts.batch import Batch, answer_rank, batches
from circuits.facts.facts import FactSet
from circuits.facts.metrics import Metric, MetricName, find_metric
from circuits.graph.shape import GraphShape
from circuits.trace.trace import Trace, check_stream, first_input, forward, frozen, head_writer, hooks, run
from circuits.trace.writers import Writers

TOKENS = 4096  # in one pass, unless one patch has more


@dataclass(frozen=True, slots=True)
class Patcher:
    """What the patches of one batch share.

    Attributes:
        parts: the model.
        shape: its graph.
        batch: b facts.
        clean: the clean run.
        differences: what each writer would write more if patched.
    """

    parts: Anatomy
    shape: GraphShape
    batch: Batch
    clean: Trace
    differences: Writers

    def edges(self, places: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], Batch, Tensor]]:
        """Patch edges (row, column): numbers of the edges, their batch side by side, and logits [n, vocab]."""
        order = sorted(range(len(places)), key=lambda i: (self._reader(places[i][1])[:2], places[i]))
        for (layer, kind), numbers in groupby(order, key=lambda i: self._reader(places[i][1])[:2]):
            for chunk in self._chunks(list(numbers)):
                moved = torch.stack([self.difference(places[i][0]) for i in chunk])
                heads = [self._reader(places[i][1])[2] for i in chunk]
                yield chunk, *self._run(layer, len(chunk), self._reader_hooks(layer, kind, heads, moved))

    def nodes(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Batch, Tensor]]:
        """The same for writers, each replaced for all that read it."""
        order = sorted(range(len(rows)), key=lambda i: rows[i])
        for layer, numbers in groupby(order, key=lambda i: self._writer(rows[i])):
            for chunk in self._chunks(list(numbers)):
                moved = torch.stack([self.difference(rows[i]) for i in chunk])
                yield chunk, *self._run(int(layer), len(chunk), self._writer_hooks(layer, moved))

    def difference(self, row: int) -> Tensor:
        """[b, t, d] what one writer adds to the stream."""
        if row == 0:
            found = self.differences.stream
        else:
            layer, head = divmod(row - 1, self.parts.n_heads + 1)
            if head == self.parts.n_heads:
                found = self.differences.mlps[layer]
            else:
                heads = self.differences.heads[layer]
                found = heads[:, :, head] @ head_writer(self.parts.blocks[layer], heads.dtype)[head]
        return found.to(self.clean.stream.dtype).expand_as(self.clean.stream)

    def _reader(self, column: int) -> tuple[int, str, int]:
        """Layer, kind and head of a column."""
        if column == len(self.shape.readers) - 1:
            return self.parts.n_layers, "logits", 0
        layer, place = divmod(column, self.shape.n_heads + 2 * self.shape.n_kv_heads + 1)
        for kind, heads in (("q", self.shape.n_heads), ("k", self.shape.n_kv_heads), ("v", self.shape.n_kv_heads)):
            if place < heads:
                return layer, kind, place
            place -= heads
        return layer, "mlp", 0

    def _writer(self, row: int) -> float:
        """The layer that a run with a writer replaced starts at; a half more inside of it, behind its attention."""
        if row == 0:
            return 0
        layer, head = divmod(row - 1, self.parts.n_heads + 1)
        return layer + 1 if head == self.parts.n_heads else layer + 0.5

    def _chunks(self, numbers: list[int]) -> Iterator[list[int]]:
        size = max(1, TOKENS // self.batch.clean.numel())
        return (numbers[start : start + size] for start in range(0, len(numbers), size))

    def _run(self, layer: int, copies: int, patch: Callable[[list[Any]], None]) -> tuple[Batch, Tensor]:
        """Run the layers from one on over the batch side by side."""
        batch = side_by_side(self.batch, copies)
        handles: list[Any] = []
        with torch.no_grad(), hooks(handles), _skipped(self.parts.blocks[:layer]):
            start = self.clean.final if layer == self.parts.n_layers else self.clean.layers[layer].attention_in
            module = self.parts.final_norm.module if layer == self.parts.n_layers else self.parts.blocks[layer].module
            handles.append(module.register_forward_pre_hook(_starter(_copies(start, copies)), with_kwargs=True))
            patch(handles)
            return batch, forward(self.parts.model, batch, batch.clean)

    def _reader_hooks(self, layer: int, kind: str, heads: list[int], moved: Tensor) -> Callable[[list[Any]], None]:
        """Hooks that let each copy's reader read its own stream."""
        if kind == "logits":
            return self._stream_hooks(layer, moved)
        block, seen = self.parts.blocks[layer], self.clean.layers[layer]
        projections = {"q": block.q, "k": block.k, "v": block.v}
        if kind in projections:
            streams = seen.attention_in + moved
            if block.attention_norm is not None:
                streams = block.attention_norm.module.forward(streams)
            hook = _head_hook(projections[kind], heads, streams)
            return lambda handles: handles.append(projections[kind].module.register_forward_hook(hook))
        streams = seen.mlp_in + moved
        if block.mlp_norm is not None:
            streams = block.mlp_norm.module.forward(streams)
        read = streams.flatten(0, 1)
        return lambda handles: handles.append(
            block.mlp.register_forward_pre_hook(lambda _module, args: (read, *args[1:]))
        )

    def _writer_hooks(self, layer: float, moved: Tensor) -> Callable[[list[Any]], None]:
        """Hooks that replace each copy's writer."""
        if layer == int(layer):
            return self._stream_hooks(int(layer), moved)
        block = self.parts.blocks[int(layer)]
        module = block.o if block.attention_post_norm is None else block.attention_post_norm.module
        more = moved.flatten(0, 1) / block.residual_scale
        return lambda handles: handles.append(
            module.register_forward_hook(lambda _module, _args, output: output + more)
        )

    def _stream_hooks(self, layer: int, moved: Tensor) -> Callable[[list[Any]], None]:
        module = self.parts.final_norm.module if layer == self.parts.n_layers else self.parts.blocks[layer].module
        more = moved.flatten(0, 1)

        def move(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return _with_first(args, kwargs, first_input(args, kwargs) + more)

        return lambda handles: handles.append(module.register_forward_pre_hook(move, with_kwargs=True))


def side_by_side(batch: Batch, copies: int) -> Batch:
    """The same facts so many times over."""
    offsets = torch.arange(copies, device=batch.row.device).repeat_interleave(len(batch.row)) * len(batch.indices)
    return replace(
        batch,
        indices=batch.indices * copies,
        clean=_copies(batch.clean, copies),
        corrupt=_copies(batch.corrupt, copies),
        attention_mask=None if batch.attention_mask is None else _copies(batch.attention_mask, copies),
        last=_copies(batch.last, copies),
        first=_copies(batch.first, copies),
        row=_copies(batch.row, copies) + offsets,
        place=_copies(batch.place, copies),
        answer=_copies(batch.answer, copies),
        wrong=_copies(batch.wrong, copies),
    )


def _copies(value: Tensor, copies: int) -> Tensor:
    return value.repeat(copies, *[1] * (value.ndim - 1))


@contextmanager
def _skipped(blocks: Sequence[Block]) -> Iterator[None]:
    """Let layers hand on what they are given; their own forward is put back in any case."""

    def hand_on(*args: Any, **kwargs: Any) -> Tensor:
        return first_input(args, kwargs)

    try:
        for block in blocks:
            block.module.forward = hand_on
        yield
    finally:
        for block in blocks:
            block.module.__dict__.pop("forward", None)


def _starter(stream: Tensor) -> Callable[..., Any]:
    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _with_first(args, kwargs, stream)

    return enter


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> tuple[Any, Any]:
    """A call with another tensor in place of its first."""
    return ((tensor, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": tensor})


def _head_hook(projection: Projection, heads: list[int], streams: Tensor) -> Callable[..., Tensor]:
    """Replace one head's output in each copy by what it makes of that copy's stream."""
    own = torch.einsum("kbtd,khd->kbth", streams, projection.weight[heads])
    if projection.bias is not None:
        own = own + projection.bias[heads][:, None, None]
    places = projection.places[heads]

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        for copy, (values, place) in enumerate(zip(own, places, strict=True)):
            output[copy * len(values) : (copy + 1) * len(values), :, place] = values
        return output

    return hook


@dataclass(frozen=True, slots=True)
class Patched:
    """Metrics of the patches of a set of facts.

    Attributes:
        changes: [P, N] metric with each patch minus the clean one.
        clean, corrupt: [N] metric of the two plain runs.
        rank: [N] tokens above the answer in the clean run.
    """

    changes: Floats
    clean: Floats
    corrupt: Floats
    rank: NDArray[np.integer]


def run_patches(
    model: PreTrainedModel,
    facts: FactSet,
    patches: Callable[[Patcher], Iterator[tuple[list[int], Batch, Tensor]]],
    count: int,
    *,
    metric: MetricName | Metric,
    ablation: Ablation,
    batch_size: int,
) -> Patched:
    """The metric under each of ``count`` patches, which ``patches`` runs over a batch."""
    _name, measure = find_metric(metric, facts)
    parts = anatomy(model)
    changes, ends = np.zeros((count, len(facts))), np.zeros((3, len(facts)))
    with frozen(model), torch.no_grad():
        fixed = fixed_values(parts, facts, ablation, batch_size)
        for number, batch in enumerate(batches(facts, batch_size, model)):
            corrupt, clean = run(parts, batch, batch.corrupt, readers=False), run(parts, batch, batch.clean)
            if number == 0:
                check_stream(parts, clean)
                if fixed is not None:
                    check_share(parts, batch, clean)
            written = Writers.of(parts, clean)
            differences = replacement(parts, batch, fixed, Writers.of(parts, corrupt)) - written
            patcher = Patcher(parts, graph_shape(parts), batch, clean, differences)
            index = list(batch.indices)
            logits = clean.logits
            values = measure(logits, batch, logits), measure(corrupt.logits, batch, logits), answer_rank(logits, batch)
            ends[:, index] = torch.stack([value.double() for value in values]).cpu().numpy()
            for numbers, tiled, found in patches(patcher):
                each = measure(found, tiled, _copies(logits, len(numbers))).view(len(numbers), -1)
                changes[np.ix_(numbers, index)] = (each - values[0]).double().cpu().numpy()
    return Patched(changes, ends[0], ends[1], ends[2].astype(np.int64))
