"""Differences and gradients along a path from corrupt to clean: what each gradient method multiplies.

A path leads from the replaced input (0) to the clean one (1), or, for activations, from one writer's replaced output
to its clean one with everything else live.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from einops import einsum
from torch import Tensor, nn

from checkpoints.model.anatomy import Anatomy
from circuits.attribution.ablation import check_share, everywhere, replacement
from circuits.contraction.contraction import Contraction
from circuits.contraction.gradients import Gradients
from circuits.facts.batch import Batch, answer_rank
from circuits.facts.metrics import Metric
from circuits.trace.trace import Trace, check_stream, head_writer, hooks, output_tensor, run
from circuits.trace.writers import Writers

Kind = Literal["fixed", "increments", "own activations", "all activations"]
Settle = Callable[[Writers, Gradients], None]


@dataclass(frozen=True, slots=True)
class Quadrature:
    """Where gradients are taken, counted from the corrupt end, and what they are multiplied with.

    Attributes:
        alphas, weights: points of the path and their shares.
        kind: the whole difference; each step's increment; for interpolated activations, the difference of the writers
            that were interpolated, or (as EAP-IG's code has it) of all of them.
    """

    alphas: tuple[float, ...]
    weights: tuple[float, ...]
    kind: Kind = "fixed"

    @property
    def ends(self) -> tuple[float, ...]:
        """The points whose gradient the end runs themselves give."""
        return () if self.kind.endswith("activations") else self.alphas


@dataclass(frozen=True, slots=True)
class Scored:
    """One batch.

    Attributes:
        scores: [b, B, F] readers first.
        clean_metric, corrupt_metric: [b].
        rank: [b] tokens above the answer.
    """

    scores: Tensor
    clean_metric: Tensor
    corrupt_metric: Tensor
    rank: Tensor


@dataclass(frozen=True, slots=True)
class PathScorer:
    """Scores batches by differences x gradients.

    Attributes:
        contraction: the model, its graph and the buffers.
        quadrature: the path.
        measure: the metric.
        fixed: what writers are replaced by where that is no corrupt run.
        freeze_norms: whether the norms in front of readers count as linear.
    """

    contraction: Contraction
    quadrature: Quadrature
    measure: Metric
    fixed: Writers | None
    freeze_norms: bool

    def __call__(self, batch: Batch, *, check: bool) -> Scored:
        """Score a batch; the first one also checks the model."""
        contraction = self.contraction
        ends = _Ends.of(self, batch, check=check)
        shape = contraction.shape
        size = batch.targets, len(shape.readers), len(shape.writers)
        scores = torch.zeros(size, dtype=contraction.dtype, device=batch.clean.device)
        where = everywhere(batch, self.fixed)

        def settle(differences: Writers, gradients: Gradients) -> None:
            contraction.settle(scores, where, differences, gradients)

        for differences, gradients in _pairs(self, batch, ends, settle):
            contraction.add_scores(scores, where, differences, gradients)
        return Scored(scores, ends.clean_metric, ends.corrupt_metric, ends.rank)

    @property
    def parts(self) -> Anatomy:
        """The model."""
        return self.contraction.parts

    def gradients(self) -> Gradients:
        """An empty sum."""
        return Gradients(self.parts, freeze_norms=self.freeze_norms)


@dataclass(slots=True)
class _Ends:
    """The corrupt and the clean run of a batch.

    Attributes:
        low, high: the residual stream before layer 0, corrupt and clean.
        value, clean: what writers are replaced by, and what they wrote.
        traces: the runs whose gradient is wanted, by their place on the path.
        metric: from logits to [b].
        corrupt_metric, clean_metric, rank: [b].
    """

    low: Tensor
    high: Tensor
    value: Writers
    clean: Writers
    metric: Callable[[Tensor], Tensor]
    corrupt_metric: Tensor
    clean_metric: Tensor
    rank: Tensor
    traces: dict[float, Trace] = field(default_factory=dict)

    @classmethod
    def of(cls, scorer: PathScorer, batch: Batch, *, check: bool) -> "_Ends":
        """Run both, keeping the graph of an end at which the gradient is wanted."""
        parts, alphas, measure = scorer.parts, scorer.quadrature.ends, scorer.measure
        with torch.set_grad_enabled(0.0 in alphas):
            corrupt = run(parts, batch, batch.corrupt, readers=0.0 in alphas)
        with torch.set_grad_enabled(1.0 in alphas):
            clean = run(parts, batch, batch.clean, readers=check or 1.0 in alphas)
        if check:
            check_stream(parts, clean)
            if scorer.fixed is not None:
                check_share(parts, batch, clean)
        logits = clean.logits.detach()
        return cls(
            low=corrupt.stream.detach(),
            high=clean.stream.detach(),
            value=replacement(parts, batch, scorer.fixed, Writers.of(parts, corrupt)),
            clean=Writers.of(parts, clean),
            traces={alpha: trace for alpha, trace in ((0.0, corrupt), (1.0, clean)) if alpha in alphas},
            metric=lambda found: measure(found, batch, logits),
            corrupt_metric=measure(corrupt.logits.detach(), batch, logits),
            clean_metric=measure(logits, batch, logits),
            rank=answer_rank(logits, batch),
        )


def _pairs(scorer: PathScorer, batch: Batch, ends: _Ends, settle: Settle) -> Iterator[tuple[Writers, Gradients]]:
    """What is to be multiplied: once for a fixed difference, once a step or a writer otherwise."""
    if scorer.quadrature.kind == "increments":
        yield from _increments(scorer, batch, ends)
        return
    differences = ends.value - ends.clean
    del ends.value, ends.clean
    if scorer.quadrature.kind != "fixed":
        yield from _activations(scorer, batch, ends, differences, settle)
        return
    gradients = scorer.gradients()
    for alpha, weight in zip(scorer.quadrature.alphas, scorer.quadrature.weights, strict=True):
        settle(differences, gradients)
        known = ends.traces.pop(alpha) if alpha in ends.traces else None
        gradients.add(known or _between(scorer.parts, batch, ends, alpha, grad=True), ends.metric, weight)
    yield differences, gradients


def _increments(scorer: PathScorer, batch: Batch, ends: _Ends) -> Iterator[tuple[Writers, Gradients]]:
    """Each step's own increment of every writer, and the gradient at the step's midpoint."""
    parts, steps = scorer.parts, len(scorer.quadrature.alphas)
    start = ends.value
    for number, alpha in enumerate(scorer.quadrature.alphas, 1):
        if number == steps:
            stop = ends.clean
        else:
            stop = Writers.of(parts, _between(parts, batch, ends, number / steps, grad=False))
        gradients = scorer.gradients()
        gradients.add(_between(parts, batch, ends, alpha, grad=True), ends.metric, 1.0)
        yield start - stop, gradients
        start = stop


def _activations(
    scorer: PathScorer, batch: Batch, ends: _Ends, differences: Writers, settle: Settle
) -> Iterator[tuple[Writers, Gradients]]:
    """Gradients with one group of writers at a time (the input, a layer's heads, its MLP) between its two outputs.

    As EAP-IG's code has it, the passes that move the input give nothing to what reads it alone, unless learned
    positions are added to it: the moved embeddings are constants there, so no gradient arrives and no hook fires.
    """
    own = scorer.quadrature.kind == "own activations"
    groups = 1 + 2 * scorer.parts.n_layers
    gradients = scorer.gradients()
    for group in range(groups):
        moved = _only(differences, group) if own else differences
        for alpha, weight in zip(scorer.quadrature.alphas, scorer.quadrature.weights, strict=True):
            settle(moved, gradients)
            trace = _interpolated(scorer.parts, batch, ends.high, differences, group, 1 - alpha)
            gradients.add(trace, ends.metric, weight if own else weight / groups)
            if group == 0 and not own and not scorer.parts.learned_positions:
                gradients.forget_bare_stream()
        if own:
            yield moved, gradients
            gradients = scorer.gradients()
    if not own:
        yield differences, gradients


def _between(parts: Anatomy, batch: Batch, ends: _Ends, alpha: float, *, grad: bool) -> Trace:
    """The run whose input lies a share ``alpha`` of the way from corrupt to clean."""
    with torch.set_grad_enabled(grad):
        stream = ends.low + alpha * (ends.high - ends.low)
        return run(parts, batch, batch.clean, stream=stream, readers=grad, writers=not grad)


def _interpolated(
    parts: Anatomy, batch: Batch, stream: Tensor, differences: Writers, group: int, share: float
) -> Trace:
    """The clean run with a group's output moved by a share of its difference, as a constant."""
    if group == 0:
        with torch.enable_grad():
            return run(parts, batch, batch.clean, stream=stream + (share * differences.stream).to(stream.dtype))
    block = parts.blocks[(group - 1) // 2]
    if group % 2:
        heads = differences.heads[block.index]
        shift = einsum(heads, head_writer(block, heads.dtype), "b t head width, head width d -> b t d")
        module = block.o if block.attention_post_norm is None else block.attention_post_norm.module
    else:
        shift = differences.mlps[block.index]
        module = block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module
    with torch.enable_grad(), hooks([module.register_forward_hook(_mover(share * shift / block.residual_scale))]):
        return run(parts, batch, batch.clean)


def _mover(shift: Tensor) -> Callable[..., Any]:
    def move(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        tensor = output_tensor(output).detach()
        moved = tensor + shift.to(tensor.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return move


def _only(differences: Writers, group: int) -> Writers:
    """The difference of one group, 0 for the others."""
    zero = differences.map(lambda x: torch.zeros_like(x[:1, :1]).expand_as(x))
    if group == 0:
        return replace(zero, stream=differences.stream)
    layer = (group - 1) // 2
    if group % 2:
        return replace(zero, heads=(*zero.heads[:layer], differences.heads[layer], *zero.heads[layer + 1 :]))
    return replace(zero, mlps=(*zero.mlps[:layer], differences.mlps[layer], *zero.mlps[layer + 1 :]))
