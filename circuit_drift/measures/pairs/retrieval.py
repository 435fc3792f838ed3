"""The circuits of retrieval of two checkpoints: needles kept, lost and learned are groups of their own, as of facts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

from checkpoints.results.text import counted
from circuit_drift.measures.pairs.grouped import ALONE, LEAST_FACTS, compare_groups
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.measures.pairs.recall import recall_questions
from circuit_drift.page.page import Section
from circuit_drift.record.circuit_groups import CircuitGroups, GroupChange
from circuit_drift.record.groups import ways_of
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, PairQuestion
from circuit_drift.record.record import Point
from circuit_drift.statements.phrases import p_text

MEASURE = "retrieval-circuit"
EDGES = ["edge", "a", "b", "delta", "low", "high", "q", "status"]
NODES = ["node", "a", "b", "delta", "low", "high", "q", "in_a", "in_b"]
NAMED = 5
PREFIX = "needles "


class RetrievalCircuitPairing(Pairing):
    """See `circuits.diff`, of the needles' graphs; needles that went different ways are groups of their own."""

    noun = "circuit of retrieval"
    tables = ("retrieval_groups", "retrieval_edges", "retrieval_nodes")
    place = 1

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | str | None:
        """Group by group, over identical needles."""
        before, after = (point.results.get(MEASURE) for point in (a, b))
        if before is None or after is None:
            return None
        if min(before.units, after.units) < 2:
            return ALONE.format("needle")
        groups = compare_groups(before, after, q=q, noun="needle")
        return Compared(replace(groups, groups=tuple(_named(each) for each in groups.groups)))

    def questions(self, a: Point, b: Point, change: CircuitGroups, *, deltas: Deltas) -> Iterator[PairQuestion]:
        """Whether needles change sides, whether more are retrieved, and whether the circuit of each group changed."""
        yield from recall_questions(a.results[MEASURE], b.results[MEASURE], deltas=deltas, noun="needle")
        for each in change.groups:
            yield each.question(deltas)

    def held(self, change: CircuitGroups, questions: Sequence[PairQuestion]) -> CircuitGroups:
        """With each group's p raised to the one that holds for the pair."""
        return change.held({asked.name: asked.adjusted for asked in questions if asked.family == "circuit"})

    def parts(self, change: CircuitGroups) -> Iterator[str]:
        """The circuit, where that of any group changed at the level of the pair."""
        if any(each.diff is not None and each.diff.significant for each in change.groups):
            yield f"the {self.noun}"

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """How many needles went which way; then by group how many edges changed, and the nodes whose writing did."""
        change: CircuitGroups | None = pair.changes.get(MEASURE)
        if change is None:
            return
        before, after = (point.results[MEASURE].answer_rank == 0 for point in (pair.a, pair.b))
        ways = {way: int(chosen.sum()) for way, chosen in ways_of(before, after).items()}
        went = ", ".join(f"{n} {way}" for way, n in ways.items() if n)
        swap = pair.a.results[MEASURE].meta["swap"]
        told = "; ".join(_told(each, pair) for each in change.groups)
        yield f"Retrieval circuit ({swap} swap), of {counted(len(before), 'needle')} {went}: {told}."

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """Groups, and the edges and nodes that changed for real."""
        change: CircuitGroups | None = pair.changes.get(MEASURE)
        if change is None:
            return
        edges, nodes = change.lead.to_frame(), change.lead.node_frame()
        groups = change.to_frame().rename(columns={"facts": "needles"})
        yield PairTable("retrieval_groups", "Circuit of retrieval by group of needles", groups)
        yield PairTable("retrieval_edges", "Edges of retrieval that changed", edges.loc[edges["changed"], EDGES])
        yield PairTable("retrieval_nodes", "Nodes of retrieval that changed", nodes.loc[nodes["changed"], NODES])

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """The figure of the diff, then the tables."""
        change: CircuitGroups | None = pair.changes.get(MEASURE)
        if change is None:
            return
        yield Section(
            f"retrieval-circuit-{anchor}",
            f"Circuit of retrieval {pair.span}",
            text=" ".join(self.sentences(pair)),
            figure=change.lead.plot(),
            caption=f"Measured on {change.of}. {change.lead.caption.replace('facts', 'needles')}",
            frame=change.lead.to_frame(),
        )
        for table in self.frames(pair):
            yield Section(f"{table.name.replace('_', '-')}-{anchor}", f"{table.title} {pair.span}", frame=table.frame)


def _named(each: GroupChange) -> GroupChange:
    """With a name that no group of facts has."""
    return replace(each, group=replace(each.group, name=PREFIX + each.group.name))


def _told(each: GroupChange, pair: PairRecord) -> str:
    name = each.group.name.removeprefix(PREFIX)
    asked = next(q for q in pair.questions if q.family == "circuit" and q.name == each.group.name)
    if each.diff is None and len(each.group) >= LEAST_FACTS:
        return f"{name}: nothing is retrieved, so there is no circuit to read"
    if each.diff is None or isnan(asked.adjusted):
        return f"{name} ({len(each.group)}): too few to show a change of their circuit at the level of the pair"
    if not each.diff.significant:
        return f"{name}: no edge changed beyond the noise ({p_text(asked.adjusted, asked.least)})"
    frame = each.diff.node_frame()
    moved = frame[frame["changed"]].head(NAMED)
    named = ", ".join(f"{row.node} {row.a:+.2g} → {row.b:+.2g}" for row in moved.itertuples(index=False))
    sign = "below 0: corrupting it lowers the metric"
    nodes = f"; nodes, by the sum of their edges ({sign}): {named}" if named else ""
    return f"{name}: {each.diff.n_significant} of {counted(len(each.diff.a), 'edge')} changed{nodes}"
