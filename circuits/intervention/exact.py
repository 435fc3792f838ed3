"""The ground truth that attribution estimates: one edge, or one node, really patched at a time.

A score is metric(that part carries what replaces it, all else live) - metric(clean), with the sign of
`circuits.attribute`. Many patches share a pass (`circuits.intervention.patching`), and none runs the layers in front
of it; still it is for small models, samples of edges, and checks.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.model.plain import takes_model
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape
from circuits.intervention.faithfulness_measure import circuit_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from circuits.attribution.ablation import Ablation
    from circuits.attribution.gqa import KeyValue
    from circuits.facts.facts import FactSet
    from circuits.facts.metrics import Metric, MetricName


@takes_model
def exact_edges(
    model: "PreTrainedModel",
    facts: "FactSet",
    *,
    edges: Sequence[str] | None = None,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    kv: "KeyValue" = "groups",
    batch_size: int = 8,
) -> AttributionGraph:
    """Patch edge by edge.

    Args:
        model: as for `circuits.attribute`.
        facts: N clean/corrupt pairs.
        edges: names of the edges wanted; by default all. Others are NaN, not measured, and no circuit takes them.
        metric: as for `circuits.attribute`.
        ablation: what a patched edge carries, as for `circuits.attribute`.
        kv: key and value readers as for `circuits.attribute`; for each of the query heads every edge is a whole run.
        batch_size: facts in one pass.

    Raises:
        BadPrompt: an edge that does not exist, or an argument out of range.
    """
    from checkpoints.model.anatomy import anatomy
    from circuits.attribution.edges import describe, graph_shape
    from circuits.attribution.gqa import view
    from circuits.facts.metrics import find_metric
    from circuits.intervention.patching import run_patches

    parts = anatomy(model)
    shape = graph_shape(view(parts, kv))
    pairs = _pairs(shape, edges)
    apart = shape != graph_shape(parts) or any(block.latent is not None for block in parts.blocks)
    shared = [] if apart else pairs
    patched = run_patches(
        model, facts, lambda patcher: patcher.edges(shared), len(shared),
        metric=metric, ablation=ablation, batch_size=batch_size,
    )  # fmt: skip
    changes = patched.changes
    if len(shared) < len(pairs):
        changes = _unshared(model, facts, Circuit(shape, shape.mask), pairs, metric, ablation, batch_size)
    scores = np.tile(np.where(shape.mask, np.nan, 0.0), (len(facts), 1, 1))
    for pair, change in zip(pairs, changes, strict=True):
        scores[(slice(None), *pair)] = change
    return AttributionGraph(
        scores=scores,
        shape=shape,
        clean_metric=patched.clean,
        corrupt_metric=patched.corrupt,
        answer_rank=patched.rank,
        group=np.arange(len(facts)),
        labels=tuple(dict(fact.labels) for fact in facts.facts),
        meta=describe(
            model,
            facts,
            method="exact",
            ig_steps=0,
            rule="none",
            metric=find_metric(metric, facts)[0],
            backward="none",
            ablation=ablation,
        ),
    )


def _pairs(shape: GraphShape, edges: Sequence[str] | None) -> list[tuple[int, int]]:
    """Places in the mask of the edges wanted; without any, of all.

    Raises:
        BadPrompt: an edge that does not exist.
    """
    names = Circuit(shape, shape.mask).edges
    places = {name: (int(i), int(j)) for name, (i, j) in zip(names, np.argwhere(shape.mask), strict=True)}
    wanted = names if edges is None else tuple(edges)
    if unknown := [name for name in wanted if name not in places]:
        raise BadPrompt(f"{unknown[0]!r} is no edge of this graph; names look like {names[-1]!r}")
    return [places[name] for name in wanted]


@takes_model
def exact_nodes(
    model: "PreTrainedModel",
    facts: "FactSet",
    *,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    batch_size: int = 8,
) -> dict[str, Floats]:
    """Patch writer by writer, all its out-edges at once: name -> [N] change of the metric."""
    from checkpoints.model.anatomy import anatomy
    from circuits.attribution.edges import graph_shape
    from circuits.intervention.patching import run_patches

    writers = graph_shape(anatomy(model)).writers
    patched = run_patches(
        model, facts, lambda patcher: patcher.nodes(range(len(writers))), len(writers),
        metric=metric, ablation=ablation, batch_size=batch_size,
    )  # fmt: skip
    return dict(zip(writers, patched.changes, strict=True))


def _unshared(
    model: "PreTrainedModel",
    facts: "FactSet",
    whole: Circuit,
    pairs: Sequence[tuple[int, int]],
    metric: "MetricName | Metric",
    ablation: "Ablation",
    batch_size: int,
) -> Floats:
    """[P, N] the same by a whole run for each edge, as latent attention and split groups of heads need it."""
    cuts = [Circuit(whole.shape, whole.mask.copy()) for _ in pairs]
    for cut, pair in zip(cuts, pairs, strict=True):
        cut.mask[pair] = False
    metrics, clean, _ = circuit_metrics(model, cuts, facts, metric=metric, ablation=ablation, batch_size=batch_size)
    return np.asarray(metrics - clean)
