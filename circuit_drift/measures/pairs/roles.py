"""Roles that heads of the circuits gained and lost from one checkpoint to the other."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from checkpoints.stats.units import FEWEST, cluster_means
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.page.page import Section
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point

if TYPE_CHECKING:
    import pandas as pd

    from circuits.roles.roles import HeadRoles, RoleChange

ROLES_CAPTION = (
    "Mover: what the head writes towards the answer is read from the subject, over 10 times what it reads from the "
    "relation; relation: under a tenth; mixture: between (arXiv 2502.11196); the others by their scores. A role counts "
    "where it holds in 95 % of the resamples of the facts."
)


class RolePairing(Pairing):
    """On the facts that the circuits are compared on, for the heads of those circuits."""

    noun = "role"
    needs = ("circuit",)
    tables = ("roles",)
    place = 1

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | str | None:
        """Roles gained and lost."""
        from circuits.graph.membership import membership
        from circuits.roles.roles import role_changes

        before, after = roles_of(a), roles_of(b)
        if before is None or after is None or a.circuit is None or b.circuit is None:
            return None
        if len(a.circuit) < FEWEST:
            return "two facts tell no spread"
        compared = earlier["circuit"]
        if len(before) == len(after) == len(a.circuit):
            before, after = before.only(compared.facts), after.only(compared.facts)
        circuits = compared.lead.circuit_a, compared.lead.circuit_b
        found = role_changes(before, after, circuits=circuits)
        if found:
            graphs = [compared.over_lead(graph) for graph in (a.circuit, b.circuit)]
            sure = membership(graphs[0]), membership(graphs[1], graphs[0].circuit_edges)
            found = role_changes(before, after, circuits=circuits, membership=sure)
        return Compared(found)

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """Roles gained and lost, in one sentence."""
        from circuits.roles.roles import changes_sentence

        if pair.roles is not None and (pair.groups is None or pair.groups.learned):
            yield changes_sentence(pair.roles)

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """One row a change."""
        if pair.roles is not None:
            yield PairTable("roles", "Roles gained and lost by heads of the circuits", role_frame(pair.roles))

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """The sentence and the table."""
        if pair.roles is not None:
            yield Section(
                f"roles-{anchor}",
                f"Roles of heads {pair.span}",
                text=" ".join(self.sentences(pair)),
                caption=f"{ROLES_CAPTION} Circuits are pruned anew in each. Before and after: the share of "
                "resamples in which the head has the role at A and at B; moved: it only entered or left the circuit.",
                frame=role_frame(pair.roles),
            )


def roles_of(point: Point) -> "HeadRoles | None":
    """A point's roles with what its retrieval scores add to them: a mean of each needle, which is the unit."""
    if point.roles is None or point.heads is None:
        return point.roles
    scores = cluster_means(point.heads.detector(point.heads.leading), point.heads.cluster)
    return point.roles.with_scores("retrieval", scores)


def role_frame(changes: "tuple[RoleChange, ...]") -> "pd.DataFrame":
    """One row a change: head, role, change, in which share of the resamples the head has the role at A and at B, moved.

    ``moved``: whether the change is only that the head entered or left the circuit.
    """
    import pandas as pd

    rows = [asdict(change) for change in changes]
    frame = pd.DataFrame(rows, columns=["head", "role", "gained", "before", "after", "moved"])
    frame["gained"] = frame["gained"].map({True: "gained", False: "lost"})
    return frame.rename(columns={"gained": "change"})
