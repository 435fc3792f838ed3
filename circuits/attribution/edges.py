"""Edge attribution over a plain model: EAP, EAP-IG and its relatives, information flow routes.

A score of the edge u -> v is the sum over positions of (u(corrupt) - u(clean)) . g_v, where g_v is the gradient of
the metric at v's private copy of the residual stream (Syed et al. 2023; EAP-IG: Hanna et al. 2024, Riemann rule
named). Conductance takes u's own increment along the path instead of the whole difference, so that the scores across
any cut of the graph add up to metric(corrupt) - metric(clean); the residual is kept with every result. Integrated
gradients on activations (Marks et al. 2024) interpolate u's own output, all else live.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, CorruptWeights
from checkpoints.model.anatomy import Anatomy, anatomy
from checkpoints.model.plain import takes_model
from circuits.attribution.ablation import Ablation, find_ablation, fixed_values
from circuits.attribution.backward import Backward, Preset, find_backward, modified
from circuits.attribution.flow import FlowScorer
from circuits.attribution.gqa import KeyValue, expanded, view
from circuits.attribution.integration import PathScorer, Scored
from circuits.attribution.methods import ABLATABLE, Method, Rule, find_quadrature, require_effect, rule_used
from circuits.contraction.contraction import Contraction
from circuits.facts.batch import Batch, batches, make_batch
from circuits.facts.facts import FactSet
from circuits.facts.metrics import Metric, MetricName, find_metric, require_gradient
from circuits.graph.scores import AttributionGraph, completeness
from circuits.graph.shape import GraphShape
from circuits.trace.trace import frozen

logger = logging.getLogger(__name__)

Runs = tuple[tuple[tuple[int, int, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """How edges are scored; the fields are the arguments of `circuits.attribute` of those names."""

    method: Method
    metric: MetricName | Metric
    ig_steps: int
    rule: Rule
    backward: Preset | Backward
    ablation: Ablation
    groups: int | None
    kv: KeyValue
    batch_size: int
    chunk_mb: float | None


@dataclass(frozen=True, slots=True)
class Segments:
    """Parts that the positions of prompts fall into.

    Attributes:
        names: S names.
        runs: for each fact its stretches (part, first position, one after the last); ``None`` for one part of all.
    """

    names: tuple[str, ...] = ("",)
    runs: Runs | None = None

    def split(self, batch: Batch) -> Batch:
        """The batch with its rows' scores kept apart by part."""
        if self.runs is None:
            return batch
        size = len(self.names)
        stretches = tuple(
            tuple((row * size + place, start, stop) for place, start, stop in self.runs[index])
            for row, index in enumerate(batch.indices)
        )
        return replace(batch, segments=size, stretches=stretches)


EVERYWHERE = Segments()


@takes_model
def attribute(
    model: PreTrainedModel,
    facts: FactSet,
    *,
    method: Method = "eap-ig",
    metric: MetricName | Metric = "logit difference",
    ig_steps: int = 5,
    rule: Rule = "midpoint",
    backward: Preset | Backward = "plain",
    ablation: Ablation = "corrupt",
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
            that step's own increments; ``activations`` averages it over the path of the writer's own output;
            ``activations-eapig`` over those of all writers, as EAP-IG's code does, to reproduce it; ``flow`` takes no
            gradient but the writers' shares of each reader's stream, in [0, 1] and without a sign.
        metric: ``logit difference``, ``log probability`` of the whole answer, ``kl`` from the clean distribution, or a
            function, as in `circuits.facts.metrics.find_metric`; the sign of scores is that of its rise.
        ig_steps: gradients along the path, for ``eap-ig``, ``conductance`` and ``activations``.
        rule: which point of each step, counted from the corrupt end: ``left`` (0, 1/m, ...), ``right`` (1/m, ..., 1),
            ``midpoint``. Conductance is always at midpoints, ``activations-eapig`` at right ends.
        backward: ``plain`` for the gradient; ``gim`` or ``relp`` for theirs; or single rules. Attention is then
            written out where the rules concern it, and recomputed in the backward pass.
        ablation: what an edge carries instead of u(clean): u(corrupt), ``zero``, or u's mean over the clean prompts,
            ``mean`` over all positions or ``mean-positional``. For ``eap`` and ``activations``.
        groups: keep means over this many disjoint groups of facts instead of every fact's own scores.
        kv: key and value readers for each group of query heads that shares them, or ``query heads`` for each of these,
            as published tools have them; a group's score is the sum of its members'.
        batch_size: facts in one forward pass. Scores do not depend on it.
        chunk_mb: memory for the contraction's buffers.
        progress: show a bar over the facts.

    Returns:
        scores [N, F, B] in float32 (float64 for a float64 model), or [groups, F, B].

    Raises:
        UnsupportedArchitecture: the model's parts cannot be told apart exactly, or a rule of ``backward`` cannot be
            applied to one of them exactly.
        CorruptWeights: the scores are not finite.
        BadPrompt: an argument out of range, or two that exclude each other.
    """
    settings = Settings(
        method, metric, ig_steps, rule, backward, ablation, groups, kv, batch_size=batch_size, chunk_mb=chunk_mb
    )
    (graph,) = score_segments(model, facts, settings, progress=progress).values()
    logger.info("%s over %d facts: completeness %s", method, len(facts), completeness(graph))
    return graph


def score_segments(
    model: PreTrainedModel,
    facts: FactSet,
    settings: Settings,
    segments: Segments = EVERYWHERE,
    *,
    progress: bool = False,
) -> dict[str, AttributionGraph]:
    """One graph for each part of the positions, by its name; arguments, results and errors as `circuits.attribute`."""
    quadrature = find_quadrature(settings.method, settings.ig_steps, settings.rule)
    name, measure = find_metric(settings.metric, facts)
    backward_name, rules = find_backward(settings.backward)
    _check_combination(settings, name, backward_name)
    parts = view(anatomy(model), settings.kv)
    sums = _Sums(facts, graph_shape(parts), settings.groups, len(segments.names), _score_dtype(model))
    contraction = Contraction(parts, sums.shape, sums.scores.dtype, settings.chunk_mb)
    device = next(model.parameters()).device
    with frozen(model), expanded(parts), tqdm(total=len(facts), unit="fact", disable=not progress, leave=False) as bar:
        scorer: FlowScorer | PathScorer = FlowScorer(contraction)
        if quadrature is not None:
            fixed = fixed_values(parts, facts, settings.ablation, settings.batch_size)
            scorer = PathScorer(contraction, quadrature, measure, fixed, rules.freeze_norms)
        with modified(parts, rules, make_batch(facts, [0], device)):
            for number, batch in enumerate(batches(facts, settings.batch_size, model)):
                sums.add(batch, scorer(segments.split(batch), check=number == 0))
                bar.update(len(batch.indices))
    meta = describe(
        model, facts,
        method=settings.method,
        ig_steps=0 if quadrature is None else len(quadrature.alphas),
        rule=rule_used(settings.method, settings.rule),
        metric="none" if quadrature is None else name,
        backward=asdict(rules) if backward_name == "rules" else backward_name,
        ablation="none" if quadrature is None else settings.ablation,
    )  # fmt: skip
    own = {name: {} if segments.runs is None else {"segment": name} for name in segments.names}
    return sums.graphs({name: {**meta, **segment} for name, segment in own.items()})


def _score_dtype(model: PreTrainedModel) -> torch.dtype:
    return torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32


class _Sums:
    """What all batches add up to, unit by unit and segment by segment.

    Args:
        facts: N of them.
        shape: the graph.
        groups: how many units the facts fall in; ``None`` for one each.
        segments: S of them.
        dtype: of the scores.
    """

    def __init__(
        self, facts: FactSet, shape: GraphShape, groups: int | None, segments: int, dtype: torch.dtype
    ) -> None:
        self.facts, self.shape, self.segments = facts, shape, segments
        self.group = facts.units(groups)
        self.sizes = np.bincount(self.group)
        self.mask = torch.as_tensor(shape.mask)
        self.scores = torch.zeros(len(self.sizes) * segments, *shape.mask.shape, dtype=dtype)
        self.clean, self.corrupt = (torch.zeros(len(facts), dtype=torch.float64) for _ in range(2))
        self.rank = torch.zeros(len(facts), dtype=torch.int64)

    def add(self, batch: Batch, scored: Scored) -> None:
        """Take in one batch, whose scores [b * S, B, F] have readers first."""
        index = list(batch.indices)
        for kept, value in (
            (self.clean, scored.clean_metric), (self.corrupt, scored.corrupt_metric), (self.rank, scored.rank)
        ):  # fmt: skip
            kept[index] = value.to("cpu", kept.dtype)
        targets = torch.as_tensor(self.group[index])[:, None] * self.segments + torch.arange(self.segments)
        self.scores.index_add_(0, targets.flatten(), scored.scores.cpu().transpose(1, 2) * self.mask)

    def graphs(self, metas: Mapping[str, Mapping[str, Any]]) -> dict[str, AttributionGraph]:
        """The means over each unit's facts, a graph for each segment; the sums are used up.

        Args:
            metas: segment, in order -> its graph's ``meta``.

        Raises:
            CorruptWeights: the scores are not finite.
        """
        if not bool(torch.isfinite(self.scores).all()):
            raise CorruptWeights("edge scores are not finite; try dtype float32, and check the weights")
        means = self.scores.view(len(self.sizes), self.segments, *self.shape.mask.shape)
        means /= torch.as_tensor(self.sizes, dtype=self.scores.dtype)[:, None, None, None]
        return {
            segment: AttributionGraph(
                scores=means[:, place].numpy(),
                shape=self.shape,
                clean_metric=self.clean.numpy(),
                corrupt_metric=self.corrupt.numpy(),
                answer_rank=self.rank.numpy(),
                group=self.group,
                labels=tuple(dict(fact.labels) for fact in self.facts.facts),
                meta=meta,
            )
            for place, (segment, meta) in enumerate(metas.items())
        }


def graph_shape(parts: Anatomy) -> GraphShape:
    """The graph of a model."""
    return GraphShape(parts.n_layers, parts.n_heads, parts.n_kv_heads, parts.parallel)


def describe(model: PreTrainedModel, facts: FactSet, **how: Any) -> Mapping[str, Any]:
    """The ``meta`` of a result: how it was measured, on which facts, in which precision."""
    return {
        **how,
        "prompts": facts.hash,
        "refused": [list(item) for item in facts.refused],
        "front": None if facts.front is None else list(facts.front),
        "answers": facts.answers,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }


def _check_combination(settings: Settings, metric: str, backward: str) -> None:
    method, ablation = settings.method, settings.ablation
    find_ablation(ablation)
    require_gradient(metric, method)
    if ablation != "corrupt" and method not in ABLATABLE:
        raise BadPrompt(
            f"the path of method={method!r} ends at the corrupt prompt, so ablation={ablation!r} has no meaning for "
            f"it; use one of {', '.join(ABLATABLE)}"
        )
    require_effect(method, {} if backward == "plain" else {"backward": backward})
