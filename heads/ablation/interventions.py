"""Changes to what heads do, made inside the attention call, at chosen positions and nowhere else."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import anatomy
from heads.ablation.kinds import ABLATIONS
from heads.rows.fused import Call, fused_output
from heads.rows.rows import attention_of, editing

Kind = Literal["off", "mean_output", "mean_query", "uniform", "knockout"]
Scope = Literal["prefill", "decode", "both"]
Targets = Mapping[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class EditPositions:
    """Which positions of each sequence of a batch an edit touches, and which columns a knockout hides.

    Attributes:
        first_decoded: [batch] the row that predicts the first answer token.
        hidden: [batch, S] True for the columns of the needle.
        scope: rows before it (``prefill``), from it on (``decode``), or both.
    """

    first_decoded: Tensor
    hidden: Tensor
    scope: Scope

    def rows(self, positions: Tensor) -> Tensor:
        """[batch, Q] bool: the touched ones among absolute positions [Q]."""
        decoded = positions >= self.first_decoded[:, None]
        return torch.ones_like(decoded) if self.scope == "both" else decoded ^ (self.scope == "prefill")


@contextmanager
def ablated(
    model: PreTrainedModel, targets: Targets, where: EditPositions, *, kind: Kind, means: "Means | None" = None
) -> Iterator[None]:
    """Ablate heads while the block runs; attention implementation and hooks are put back afterwards.

    Args:
        model: any model of the attention interface (``mean_query``: of `checkpoints.model.anatomy.anatomy`).
        targets: layer -> query heads.
        where: positions and columns.
        kind: see `heads.ablation.kinds.ABLATIONS`.
        means: calibrated means, for the two kinds that need them.
    """
    if kind not in get_args(Kind):
        raise BadPrompt(f"no ablation is called {kind!r}; there are {list(ABLATIONS)}")
    if kind.startswith("mean") and means is None:
        raise BadPrompt(f"{kind} needs calibrated means")
    with attention_of(model), ExitStack() as stack:
        if kind == "mean_query" and means is not None:
            stack.enter_context(_queries(model, targets, where, means))
        else:
            stack.enter_context(editing(_Edit(targets, where, kind, {} if means is None else means.output)))
        yield


@dataclass(frozen=True, slots=True)
class _Edit:
    targets: Targets
    where: EditPositions
    kind: Kind
    means: Mapping[int, Tensor]

    def query(self, call: Call) -> Tensor:
        """The queries, zeroed where the head is to attend to all keys alike."""
        heads = list(self.targets.get(call.layer, ()))
        if self.kind != "uniform" or not heads:
            return call.query
        kept = call.query.clone()
        kept[:, heads] = kept[:, heads].masked_fill(self._touched(call)[:, None, :, None], 0.0)
        return kept

    def output(self, call: Call, output: Tensor) -> Tensor:
        """The heads' outputs [batch, heads, queries, d], replaced where the edit says so."""
        heads = list(self.targets.get(call.layer, ()))
        if self.kind == "uniform" or not heads:
            return output
        new = torch.zeros_like(output[:, heads])
        if self.kind == "mean_output":
            new = new + self.means[call.layer][heads].to(output)[None, :, None]
        elif self.kind == "knockout":
            new = self._without_needle(call, heads)
        out = output.clone()
        out[:, heads] = torch.where(self._touched(call)[:, None, :, None], new, output[:, heads])
        return out

    def _touched(self, call: Call) -> Tensor:
        positions = call.mask.query_start + torch.arange(call.query.shape[2], device=call.query.device)
        return self.where.rows(positions)

    def _without_needle(self, call: Call, heads: list[int]) -> Tensor:
        """Attention of some heads with the needle's columns hidden."""
        function, hidden = call.mask.function, self.where.hidden

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return function(batch, head, query, key) & ~hidden[batch, key]

        group = call.query.shape[1] // call.key.shape[1]
        shared = [head // group for head in heads]
        sinks = None if call.logits.sinks is None else call.logits.sinks[heads]
        return fused_output(
            replace(
                call,
                query=call.query[:, heads],
                key=call.key[:, shared],
                value=call.value[:, shared],
                mask=replace(call.mask, function=seen, earlier=None),
                logits=replace(call.logits, sinks=sinks),
            )
        )


@dataclass(frozen=True, slots=True)
class Means:
    """Calibrated means per layer: outputs [heads, d of values], queries before QK-norm [heads, head_dim]."""

    output: Mapping[int, Tensor]
    query: Mapping[int, Tensor]


class Calibration:
    """Collects the mean output of every head, and the mean query where the model's parts are known.

    Args:
        model: the model.
        queries: collect queries too, which needs `checkpoints.model.anatomy.anatomy`.
    """

    def __init__(self, model: PreTrainedModel, *, queries: bool) -> None:
        self._model, self._queries = model, queries
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._counts: dict[tuple[str, int], int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Collect while the model runs."""
        with attention_of(self._model), editing(self), ExitStack() as stack:
            if self._queries:
                for block in anatomy(self._model).blocks:
                    rows = block.q.rows
                    handle = block.q.module.register_forward_hook(
                        lambda _m, _i, out, layer=block.index, rows=rows: self._add("query", layer, out[..., rows])
                    )
                    stack.callback(handle.remove)
            yield

    def query(self, call: Call) -> Tensor:
        """Leave the queries as they are."""
        return call.query

    def output(self, call: Call, output: Tensor) -> Tensor:
        """Count a layer's outputs in and leave them as they are."""
        self._add("output", call.layer, output.transpose(1, 2))
        return output

    def _add(self, what: str, layer: int, values: Tensor) -> None:
        flat = values.flatten(0, 1).double()
        self._sums[what, layer] = self._sums.get((what, layer), torch.zeros(())) + flat.sum(dim=0).cpu()
        self._counts[what, layer] = self._counts.get((what, layer), 0) + len(flat)

    def means(self) -> Means:
        """The means over all positions seen."""
        means = {key: total / self._counts[key] for key, total in self._sums.items()}
        output = {layer: mean for (what, layer), mean in means.items() if what == "output"}
        query = {layer: mean for (what, layer), mean in means.items() if what == "query"}
        return Means(output, query)


@contextmanager
def _queries(model: PreTrainedModel, targets: Targets, where: EditPositions, means: Means) -> Iterator[None]:
    """Replace queries at the projection's output."""
    with ExitStack() as stack:
        for block in anatomy(model).blocks:
            if heads := list(targets.get(block.index, ())):
                hook = _replace_queries(block.q.rows[heads], means.query[block.index][heads], where)
                stack.callback(block.q.module.register_forward_hook(hook).remove)
        yield


def _replace_queries(rows: Tensor, mean: Tensor, where: EditPositions) -> Any:
    def hook(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        touched = where.rows(torch.arange(out.shape[1], device=out.device))[..., None, None]
        new = out.clone()
        new[..., rows] = torch.where(touched, mean.to(out), out[..., rows])
        return new

    return hook
