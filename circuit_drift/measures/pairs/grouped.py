"""The circuits of a pair, one comparison for each group of facts: what moved opposite ways is never averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import circuits
from checkpoints.stats.energy import energy_p
from checkpoints.stats.ttests import difference_test
from checkpoints.stats.units import ENOUGH
from circuit_drift.record.circuit_groups import CircuitGroups, GroupChange
from circuit_drift.record.groups import FactGroup, fact_groups
from circuits.comparison.clusters import clustered
from circuits.comparison.diff import similarity
from circuits.comparison.graph_diff import GraphDiff
from circuits.comparison.reliability import RankBand, reliability_by_rank
from circuits.comparison.similarity import Similarity
from circuits.tracking.contrasts import Contrast, contrast

ALONE = "one {} tells nothing of its noise"
LEAST_FACTS = ENOUGH
"""Facts below which the circuits of a group are not compared."""
LEVEL = 0.05


def compare_groups(
    a: "circuits.AttributionGraph",
    b: "circuits.AttributionGraph",
    *,
    q: float,
    noun: str = "fact",
    cluster: Sequence[str] = (),
    workings: "Workings | None" = None,
) -> CircuitGroups:
    """Compare the circuits of every group of facts.

    Args:
        a: edge scores at A.
        b: at B, of the same facts.
        q: the false discovery rate that edges are held to.
        noun: what a fact is called.
        cluster: labels of facts that are one unit where they agree in them.
        workings: what takes longest in it, where that may be known already.

    Raises:
        CheckpointMismatch: other architectures, methods or facts.
        BadPrompt: fewer than two facts or units in all, or a label that a fact lacks.
    """
    if cluster:
        clustered(a, cluster)
    workings = workings or Workings()
    groups = tuple(compare_group(group, a, b, q=q, cluster=cluster, workings=workings) for group in fact_groups(a, b))
    leads = [each for each in groups if each.diff is not None]
    ways = [each for each in leads if each.group.way] or leads
    if ways:
        learned = [each for each in ways if each.group.way != "neither"] or ways
        best = max(learned, key=lambda each: len(each.group))
        assert best.diff is not None
        before, after = (_units(_over(graph, best.group), cluster) for graph in (a, b))
        lead = replace(best.diff, similarity=workings.alike(best.group, before, after))
        words, ranks = _words(best.group, len(a), noun), workings.ranks(best.group, before, after)
        return CircuitGroups(groups, lead, best.group.facts, words, ranks, cluster=tuple(cluster))
    return CircuitGroups(groups, *_fallback(groups, a, b, q, noun), cluster=tuple(cluster))


def apart_of(group: FactGroup, a: "circuits.AttributionGraph", b: "circuits.AttributionGraph") -> Contrast:
    """Wiring and strength of one group of facts at A and at B."""
    return contrast(a.edge_scores, b.edge_scores, name="A to B", steps=(0, 1), facts=group.name)


def alike_of(_: FactGroup, a: "circuits.AttributionGraph", b: "circuits.AttributionGraph") -> tuple[Similarity, ...]:
    """How alike the circuits of the group that leads are."""
    return similarity(a, b)


def tested_of(_: FactGroup, a: "circuits.AttributionGraph", b: "circuits.AttributionGraph", q: float) -> GraphDiff:
    """The tests of one group's edges; overlaps are of the group that leads alone (`alike_of`)."""
    diff = circuits.diff(a, b, q=q, splits=1, exchanges=0)
    # twice the smaller p of two statistics, as the diff's own, with one of them told more finely
    finer = min(1.0, 2 * energy_p(b.edge_scores - a.edge_scores))
    return replace(diff, global_p=min(diff.global_p, finer))


def ranks_of(_: FactGroup, a: "circuits.AttributionGraph", b: "circuits.AttributionGraph") -> tuple[RankBand, ...]:
    """How reliable edges' ranks are, the less reliable of the two, band after band."""
    bands = zip(reliability_by_rank(a), reliability_by_rank(b), strict=True)
    return tuple(min(pair, key=lambda band: band.reliability) for pair in bands)


@dataclass(frozen=True)
class Workings:
    """What takes longest in a comparison, of a group of facts at A and at B, so that a store can be asked first."""

    alike: "Callable[[FactGroup, circuits.AttributionGraph, circuits.AttributionGraph], tuple[Similarity, ...]]" = (
        alike_of
    )
    apart: "Callable[[FactGroup, circuits.AttributionGraph, circuits.AttributionGraph], Contrast]" = apart_of
    tested: "Callable[[FactGroup, circuits.AttributionGraph, circuits.AttributionGraph, float], GraphDiff]" = tested_of
    ranks: "Callable[[FactGroup, circuits.AttributionGraph, circuits.AttributionGraph], tuple[RankBand, ...]]" = (
        ranks_of
    )


def _fallback(
    groups: tuple[GroupChange, ...],
    a: "circuits.AttributionGraph",
    b: "circuits.AttributionGraph",
    q: float,
    noun: str,
) -> tuple[GraphDiff, NDArray[np.integer], str]:
    """The largest group, too small to test or without a circuit, so that figures and tables have something to show."""
    largest = max((each.group for each in groups), key=len)
    if len(largest) < 2 or largest.name == "all" or len(largest) == len(a):
        return circuits.diff(a, b, q=q), np.arange(len(a)), f"all {len(a)} {noun}s"
    diff = circuits.diff(a.only(largest.facts), b.only(largest.facts), q=q)
    return diff, largest.facts, _words(largest, len(a), noun)


def _words(group: FactGroup, of: int, noun: str) -> str:
    told = {
        "kept": "recalled at A and B",
        "lost": "recalled at A alone",
        "learned": "recalled at B alone",
        "neither": "recalled at neither",
    }.get(group.name, f"of the group {group.name}")
    return f"all {of} {noun}s" if len(group) == of and not group.way else f"the {len(group)} of {of} {noun}s {told}"


def compare_group(
    group: FactGroup,
    a: "circuits.AttributionGraph",
    b: "circuits.AttributionGraph",
    *,
    q: float,
    cluster: Sequence[str] = (),
    workings: "Workings | None" = None,
) -> GroupChange:
    """Compare the circuits of one group of facts; `GroupChange` without a diff where there is nothing to compare."""
    before, after = (_over(graph, group) for graph in (a, b))
    learned = group.way in ("kept", "lost", "learned") or _answers(before) or _answers(after)
    unit = " and ".join(cluster) or "fact"
    units = units_of(before, cluster)
    if units < LEAST_FACTS or not learned:
        return GroupChange(group, learned, units=units, unit=unit)
    before, after = (_units(graph, cluster) for graph in (before, after))
    workings = workings or Workings()
    diff = workings.tested(group, before, after, q)  # refuses what was not measured, before anything is worked out
    found = workings.apart(group, before, after)
    return GroupChange(group, learned, diff, found, units, unit)


def units_of(graph: "circuits.AttributionGraph", cluster: Sequence[str]) -> int:
    """How many independent units a graph's facts are: what was scored, or so many clusters."""
    if not cluster:
        return graph.units
    return len({tuple(str(labels.get(name)) for name in cluster) for labels in graph.labels})


def _units(graph: "circuits.AttributionGraph", cluster: Sequence[str]) -> "circuits.AttributionGraph":
    return clustered(graph, cluster) if cluster else graph


def _over(graph: "circuits.AttributionGraph", group: FactGroup) -> "circuits.AttributionGraph":
    """A graph over the facts of a group, where it tells them apart."""
    return graph.only(group.facts) if len(graph) == graph.units else graph


def _answers(graph: "circuits.AttributionGraph") -> bool:
    """Whether a fact is recalled, or the answer is preferred more on the clean prompts than on the corrupt ones."""
    if (graph.answer_rank == 0).any():
        return True
    test = difference_test(graph.clean_metric - graph.corrupt_metric)
    return bool(test.delta > 0 and test.p <= LEVEL)
