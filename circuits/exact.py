"""The ground truth that attribution estimates: one edge, or one node, really corrupted at a time.

A score is metric(that part carries what the corrupt run wrote, all else live) - metric(clean), in logits, with the
sign of `circuits.attribute`. It takes one forward pass a part and a batch, so it is for small models and for checks.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from circuits.evaluation import circuit_metrics
from circuits.graph import Circuit, Floats, GraphShape
from circuits.scores import AttributionGraph

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from circuits.facts import FactSet
    from circuits.metrics import Metric, MetricName


def exact_edges(
    model: "PreTrainedModel",
    facts: "FactSet",
    *,
    edges: Sequence[str] | None = None,
    metric: "MetricName | Metric" = "logit difference",
    batch_size: int = 8,
) -> AttributionGraph:
    """Patch edge by edge.

    Args:
        model: as for `circuits.attribute`.
        facts: N clean/corrupt pairs.
        edges: names of the edges wanted; by default all. Others score 0.
        metric: as for `circuits.attribute`.
        batch_size: facts in one pass.

    Raises:
        BadPrompt: an edge that does not exist.
    """
    from circuits.attribution import attribute

    graph = attribute(model, facts, method="clean-corrupted", metric=metric, batch_size=batch_size)
    places = {name: tuple(place) for name, place in zip(graph.edge_names, np.argwhere(graph.mask), strict=True)}
    wanted = graph.edge_names if edges is None else edges
    if unknown := [name for name in wanted if name not in places]:
        raise BadPrompt(f"{unknown[0]!r} is no edge of this graph; names look like {graph.edge_names[-1]!r}")
    cuts = [_without(graph.shape, [places[name]]) for name in wanted]
    metrics, clean, corrupt = circuit_metrics(model, cuts, facts, metric=metric, batch_size=batch_size)
    scores = np.zeros(graph.scores.shape)
    for name, metric in zip(wanted, metrics, strict=True):
        scores[(slice(None), *places[name])] = metric - clean
    return AttributionGraph(
        scores=scores,
        shape=graph.shape,
        clean_metric=clean,
        corrupt_metric=corrupt,
        answer_rank=graph.answer_rank,
        group=np.arange(len(facts)),
        labels=graph.labels,
        meta={**graph.meta, "method": "exact", "ig_steps": 0, "rule": "none"},
    )


def exact_nodes(
    model: "PreTrainedModel",
    facts: "FactSet",
    *,
    metric: "MetricName | Metric" = "logit difference",
    batch_size: int = 8,
) -> dict[str, Floats]:
    """Patch writer by writer, all its out-edges at once: name -> [N] change of the metric."""
    from checkpoints.anatomy import anatomy
    from circuits.attribution import graph_shape

    shape = graph_shape(anatomy(model))
    cuts = [_without(shape, [(row, j) for j in np.flatnonzero(edges).tolist()]) for row, edges in enumerate(shape.mask)]
    metrics, clean, _ = circuit_metrics(model, cuts, facts, metric=metric, batch_size=batch_size)
    return dict(zip(shape.writers, metrics - clean, strict=True))


def _without(shape: GraphShape, places: Sequence[tuple[int, int]]) -> Circuit:
    mask = shape.mask.copy()
    for row, column in places:
        mask[row, column] = False
    return Circuit(shape, mask)
