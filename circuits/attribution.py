"""Edge attribution over a plain model: EAP, EAP-IG, clean-corrupted and conductance.

A score of the edge u -> v is the sum over positions of (u(corrupt) - u(clean)) . g_v, where g_v is the gradient of
the metric at v's private copy of the residual stream (Syed et al. 2023; EAP-IG: Hanna et al. 2024, Riemann rule
named). Conductance takes u's own increment along the path instead of the whole difference, so that the scores across
any cut of the graph add up to metric(corrupt) - metric(clean); the residual is kept with every result.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.anatomy import Anatomy, anatomy
from checkpoints.errors import BadPrompt, CorruptWeights
from circuits.contract import Contraction, Gradients, Writers
from circuits.expansion import KeyValue, expanded, view
from circuits.facts import FactSet
from circuits.graph import GraphShape
from circuits.metrics import Metric, MetricName, find_metric
from circuits.scores import AttributionGraph
from circuits.trace import Batch, Trace, answer_rank, batches, check_stream, frozen, run

logger = logging.getLogger(__name__)

Method = Literal["eap", "eap-ig", "clean-corrupted", "conductance"]
Rule = Literal["left", "right", "midpoint"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where on the path from corrupt (0) to clean (1) gradients are taken, and with what weight."""

    alphas: tuple[float, ...]
    weights: tuple[float, ...]


def attribute(
    model: PreTrainedModel,
    facts: FactSet,
    *,
    method: Method = "eap-ig",
    metric: MetricName | Metric = "logit difference",
    ig_steps: int = 5,
    rule: Rule = "midpoint",
    groups: int | None = None,
    kv: KeyValue = "groups",
    batch_size: int = 8,
    chunk_mb: float | None = None,
    progress: bool = False,
) -> AttributionGraph:
    """Score every edge for every fact. Positive = corrupting the edge raises the metric.

    The model runs as it is, under its own fused attention; its mode and its parameters' flags are restored.

    Args:
        model: a decoder in Hugging Face form, on any device.
        facts: N clean/corrupt pairs.
        method: ``eap`` takes the gradient at the clean run; ``eap-ig`` averages it over the path from the corrupt to
            the clean input; ``clean-corrupted`` over its two ends; ``conductance`` pairs each step's gradient with
            that step's own increments.
        metric: ``logit difference``, ``log probability`` of the whole answer, ``kl`` from the clean distribution, or a
            function, as in `circuits.metrics.find_metric`; the sign of scores is that of its rise.
        ig_steps: gradients along the path, for ``eap-ig`` and ``conductance``.
        rule: which point of each step, counted from the corrupt end: ``left`` (0, 1/m, ...), ``right`` (1/m, ..., 1),
            ``midpoint``. Conductance is always at midpoints.
        groups: keep means over this many disjoint groups of facts instead of every fact's own scores.
        kv: key and value readers for each group of query heads that shares them, or ``query heads`` for each of these,
            as published tools have them; a group's score is the sum of its members'.
        batch_size: facts in one forward pass. Scores do not depend on it.
        chunk_mb: memory for the contraction's buffers.
        progress: show a bar over the facts.

    Returns:
        scores [N, F, B] in float32 (float64 for a float64 model), or [groups, F, B].

    Raises:
        UnsupportedArchitecture: the model's parts cannot be told apart exactly.
        CorruptWeights: the scores are not finite.
        BadPrompt: an argument out of range.
    """
    plan = _plan(method, ig_steps, rule)
    name, measure = find_metric(metric, facts)
    if name == "kl" and method == "eap":
        raise BadPrompt("KL has no gradient at the clean run, so every EAP score of it is zero; use method='eap-ig'")
    units = len(facts) if groups is None else groups
    if not 1 <= units <= len(facts):
        raise BadPrompt(f"groups must lie between 1 and the number of facts, {len(facts)}; got {groups}")
    parts = view(anatomy(model), kv)
    shape = graph_shape(parts)
    group = np.arange(len(facts)) % units
    device = next(model.parameters()).device
    dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    scores = torch.zeros(units, *shape.mask.shape, dtype=dtype)
    mask = torch.as_tensor(shape.mask)
    clean, corrupt, rank = (torch.zeros(len(facts), dtype=d) for d in (torch.float64, torch.float64, torch.int64))
    contraction = Contraction(parts, shape, dtype, chunk_mb)
    with frozen(model), expanded(parts), tqdm(total=len(facts), unit="fact", disable=not progress, leave=False) as bar:
        for number, batch in enumerate(batches(facts, batch_size, device)):
            ends = _Ends.of(parts, batch, plan.alphas, measure, check=number == 0)
            index = list(batch.indices)
            clean[index], corrupt[index], rank[index] = (
                value.to("cpu", kept.dtype)
                for value, kept in ((ends.clean_metric, clean), (ends.corrupt_metric, corrupt), (ends.rank, rank))
            )
            block = torch.zeros(len(index), len(shape.readers), len(shape.writers), dtype=dtype, device=device)
            for differences, gradients in _pairs(parts, batch, ends, plan, conductance=method == "conductance"):
                contraction.add_scores(block, batch, differences, gradients)
            scores.index_add_(0, torch.as_tensor(group[index]), block.cpu().transpose(1, 2) * mask)
            bar.update(len(index))
    scores /= torch.as_tensor(np.bincount(group, minlength=units), dtype=dtype)[:, None, None]
    if not bool(torch.isfinite(scores).all()):
        raise CorruptWeights("edge scores are not finite; try dtype float32, and check the weights")
    graph = AttributionGraph(
        scores=scores.numpy(),
        shape=shape,
        clean_metric=clean.numpy(),
        corrupt_metric=corrupt.numpy(),
        answer_rank=rank.numpy(),
        group=group,
        labels=tuple(dict(fact.labels) for fact in facts.facts),
        meta={
            "method": method,
            "ig_steps": len(plan.alphas),
            "rule": rule if method == "eap-ig" else "midpoint" if method == "conductance" else "ends",
            "metric": name,
            "prompts": facts.hash,
            "refused": [list(item) for item in facts.refused],
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        },
    )
    logger.info("%s over %d facts: completeness %s", method, len(facts), completeness(graph))
    return graph


def graph_shape(parts: Anatomy) -> GraphShape:
    """The graph of a model."""
    return GraphShape(parts.n_layers, parts.n_heads, parts.n_kv_heads, parts.parallel)


def completeness(graph: AttributionGraph) -> dict[str, float]:
    """Residual of the two outermost cuts, as a share of |metric(corrupt) - metric(clean)|.

    Returns:
        ``input``: (sum over the input's edges - total) / |total|, which path methods drive to 0 with more steps;
        ``logits``: the same for the edges into ``logits``, which only conductance drives to 0.
    """
    cuts = {"input": graph.mean[0].sum(), "logits": graph.mean[:, -1].sum()}
    scale = abs(graph.total)
    return {name: float((cut - graph.total) / scale) if scale else float("nan") for name, cut in cuts.items()}


def _plan(method: str, ig_steps: int, rule: str) -> _Plan:
    if method not in get_args(Method) or rule not in get_args(Rule):
        raise BadPrompt(
            f"unknown method {method!r} or rule {rule!r}; methods: {', '.join(get_args(Method))}; "
            f"rules: {', '.join(get_args(Rule))}"
        )
    if ig_steps < 1:
        raise BadPrompt(f"ig_steps must be at least 1, got {ig_steps}")
    if method == "eap":
        return _Plan((1.0,), (1.0,))
    if method == "clean-corrupted":
        return _Plan((0.0, 1.0), (0.5, 0.5))
    offset = {"left": 0.0, "right": 1.0, "midpoint": 0.5}["midpoint" if method == "conductance" else rule]
    return _Plan(tuple((k + offset) / ig_steps for k in range(ig_steps)), (1 / ig_steps,) * ig_steps)


@dataclass(slots=True)
class _Ends:
    """The corrupt and the clean run of a batch.

    Attributes:
        low, high: the residual stream before layer 0, corrupt and clean.
        corrupt, clean: what was written.
        traces: the runs whose gradient is wanted, by their place on the path.
        metric: from logits to [b].
        corrupt_metric, clean_metric, rank: [b].
    """

    low: Tensor
    high: Tensor
    corrupt: Writers
    clean: Writers
    traces: dict[float, Trace]
    metric: Callable[[Tensor], Tensor]
    corrupt_metric: Tensor
    clean_metric: Tensor
    rank: Tensor

    @classmethod
    def of(cls, parts: Anatomy, batch: Batch, alphas: tuple[float, ...], measure: Metric, *, check: bool) -> "_Ends":
        """Run both, keeping the graph of an end at which the gradient is wanted."""
        with torch.set_grad_enabled(0.0 in alphas):
            corrupt = run(parts, batch, batch.corrupt, readers=0.0 in alphas)
        with torch.set_grad_enabled(1.0 in alphas):
            clean = run(parts, batch, batch.clean, readers=check or 1.0 in alphas)
        if check:
            check_stream(parts, clean)
        logits = clean.logits.detach()
        return cls(
            low=corrupt.stream.detach(),
            high=clean.stream.detach(),
            corrupt=Writers.of(parts, corrupt),
            clean=Writers.of(parts, clean),
            traces={alpha: trace for alpha, trace in ((0.0, corrupt), (1.0, clean)) if alpha in alphas},
            metric=lambda found: measure(found, batch, logits),
            corrupt_metric=measure(corrupt.logits.detach(), batch, logits),
            clean_metric=measure(logits, batch, logits),
            rank=answer_rank(logits, batch),
        )


def _pairs(
    parts: Anatomy, batch: Batch, ends: _Ends, plan: _Plan, *, conductance: bool
) -> Iterator[tuple[Writers, Gradients]]:
    """What is to be multiplied: once for a fixed difference, once a step for conductance."""
    if conductance:
        yield from _increments(parts, batch, ends, plan)
        return
    differences = ends.corrupt - ends.clean
    del ends.corrupt, ends.clean
    gradients = Gradients(parts)
    for alpha, weight in zip(plan.alphas, plan.weights, strict=True):
        known = ends.traces.pop(alpha) if alpha in ends.traces else None
        gradients.add(known or _between(parts, batch, ends, alpha, grad=True), ends.metric, weight)
    yield differences, gradients


def _increments(parts: Anatomy, batch: Batch, ends: _Ends, plan: _Plan) -> Iterator[tuple[Writers, Gradients]]:
    """Each step's own increment of every writer, and the gradient at the step's midpoint."""
    steps = len(plan.alphas)
    start = ends.corrupt
    for number, alpha in enumerate(plan.alphas, 1):
        if number == steps:
            stop = ends.clean
        else:
            stop = Writers.of(parts, _between(parts, batch, ends, number / steps, grad=False))
        gradients = Gradients(parts)
        gradients.add(_between(parts, batch, ends, alpha, grad=True), ends.metric, 1.0)
        yield start - stop, gradients
        start = stop


def _between(parts: Anatomy, batch: Batch, ends: _Ends, alpha: float, *, grad: bool) -> Trace:
    """The run whose input lies a share ``alpha`` of the way from corrupt to clean."""
    with torch.set_grad_enabled(grad):
        return run(parts, batch, batch.clean, stream=ends.low + alpha * (ends.high - ends.low), readers=grad)
