"""Which facts a checkpoint recalls, how that changes, and the facts a circuit diff is about."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.shares import exchange_p, mcnemar_p, paired_difference
from checkpoints.stats.units import ENOUGH
from circuit_drift.record.groups import class_names
from heads.scores.change import Change

if TYPE_CHECKING:
    import circuits


def recall_by_class(graph: "circuits.AttributionGraph") -> dict[str, tuple[float, int]]:
    """Share of facts whose answer is the top token, by their ``class`` label: class -> (share, n).

    A class whose facts carry several ``batch`` labels (trained on at different times) is told apart by them.
    """
    known = graph.answer_rank == 0
    groups = class_names(graph)
    kinds = dict.fromkeys(groups.tolist())
    return {name: (float(known[groups == name].mean()), int((groups == name).sum())) for name in kinds}


def net_p(a: NDArray[np.bool_], b: NDArray[np.bool_], cluster: NDArray[np.integer] | None = None) -> float:
    """The exact McNemar p that recall neither rises nor falls; of clusters, that of exchanging A and B by cluster.

    Args:
        a: [N] recalled at A.
        b: [N] recalled at B, in the same order.
        cluster: [N] which unit a fact is of; each its own unless given.
    """
    if cluster is None:
        return mcnemar_p(int((~a & b).sum()), int((a & ~b).sum()))
    _, place = np.unique(cluster, return_inverse=True)
    return exchange_p(
        np.bincount(place[b & ~a], minlength=place.max() + 1) - np.bincount(place[a & ~b], minlength=place.max() + 1)
    )


def recall_change(a: NDArray[np.bool_], b: NDArray[np.bool_], cluster: NDArray[np.integer] | None = None) -> Change:
    """Change of the share of facts recalled, over identical facts.

    The p value is the exact McNemar test's (`net_p`), the interval that of the difference of two shares of the same
    facts, or of clusters of them (`checkpoints.stats.shares.paired_difference`).

    Args:
        a: [N] recalled at A.
        b: [N] recalled at B, in the same order.
        cluster: [N] which unit a fact is of; each its own unless given.
    """
    before, after = float(a.mean()), float(b.mean())
    return Change("fact recall", before, after, after - before, *paired_difference(a, b, cluster), net_p(a, b, cluster))


def recalled(
    graphs: "Sequence[circuits.AttributionGraph]", where: str
) -> "tuple[list[circuits.AttributionGraph], str]":
    """Graphs over the facts that at least one of their checkpoints recalls.

    A fact that none knows has a logit difference of arbitrary sign, and its edges are noise in all. The choice looks at
    all graphs alike, so that a diff keeps its antisymmetry. With fewer than eight such facts, or scores kept for groups
    of facts only, all facts are used.

    Args:
        graphs: measured on one set of facts.
        where: how the checkpoints are called in the choice's words, as in ``"at A or B"``.

    Returns:
        the graphs, and the choice in words.
    """
    facts = len(graphs[0])
    kept = recalled_facts(graphs)
    if kept is not None:
        return [graph.only(kept) for graph in graphs], f"the {len(kept)} of {facts} facts recalled {where}"
    few = f" (fewer than {ENOUGH} are recalled {where})" if _fact_by_fact(graphs) else ""
    return list(graphs), f"all {facts} facts{few}"


def recalled_facts(graphs: "Sequence[circuits.AttributionGraph]") -> NDArray[np.integer] | None:
    """[M] positions of the facts that `recalled` keeps; None where it keeps all."""
    if not _fact_by_fact(graphs):
        return None
    ever = np.flatnonzero(np.any([graph.answer_rank == 0 for graph in graphs], axis=0))
    return ever if len(ever) >= ENOUGH else None


def _fact_by_fact(graphs: "Sequence[circuits.AttributionGraph]") -> bool:
    return all(len(graph) == len(graphs[0]) == graph.units for graph in graphs)
