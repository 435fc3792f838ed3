"""Facts that share a relation or a template are not independent: such facts as one unit of a comparison."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.stats.units import cluster_means
from circuits.graph.scores import AttributionGraph


def clustered(graph: AttributionGraph, labels: str | Sequence[str]) -> AttributionGraph:
    """The same graph with facts of equal labels as one unit, whose score is the mean over its facts.

    Every unit counts once, however many facts it has, so that what is found is found of such units: of other relations,
    and not only of other facts of these.

    Args:
        graph: with its scores fact by fact.
        labels: of the facts; of several, facts agree in all of them.

    Raises:
        BadPrompt: scores of groups of facts, a label that a fact lacks, or all facts in one unit.
    """
    if graph.units < len(graph):
        raise BadPrompt(f"{len(graph)} facts were scored in {graph.units} groups, which cannot be told apart")
    group = clusters_of(graph, labels)
    if group.max(initial=0) < 1:
        names = labels if isinstance(labels, str) else " and ".join(labels)
        raise BadPrompt(f"all {len(graph)} facts have the same {names}, and one unit tells no noise")
    return replace(graph, scores=cluster_means(graph.edge_scores, group), group=group)


def clusters_of(graph: AttributionGraph, labels: str | Sequence[str]) -> NDArray[np.integer]:
    """[N] which unit each fact is of, if facts that agree in these labels are one; in order of their first facts.

    Raises:
        BadPrompt: a label that a fact lacks.
    """
    names = (labels,) if isinstance(labels, str) else tuple(labels)
    for name in names:
        lacking = sum(name not in label for label in graph.labels)
        if lacking:
            there = ", ".join(sorted({known for label in graph.labels for known in label})) or "none"
            raise BadPrompt(
                f"{lacking} of {len(graph)} facts have no label {name!r} to be clustered by; labels: {there}"
            )
    values = [str([label[name] for name in names]) for label in graph.labels]
    units = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([units[value] for value in values], dtype=np.intp)
