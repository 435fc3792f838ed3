"""Circuits of two checkpoints: recall of the facts, and group by group of them wiring, strength, edges and nodes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuit_drift.measures.pairs.alike import kept_workings
from circuit_drift.measures.pairs.grouped import ALONE, LEAST_FACTS, compare_groups, units_of
from circuit_drift.measures.pairs.groups_figure import groups_figure
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.measures.pairs.recall import recall_questions, recall_statements
from circuit_drift.page.page import Section
from circuit_drift.record.circuit_groups import CircuitGroups, GroupChange
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, PairQuestion
from circuit_drift.record.recall import recall_change
from circuit_drift.record.record import Point
from circuit_drift.statements.statement import Statement
from circuits.comparison.clusters import clusters_of
from circuits.comparison.graph_diff import STATUSES
from circuits.comparison.overlap import overlap_of_relations, overlap_of_tasks
from circuits.comparison.reliability import recommended_size

if TYPE_CHECKING:
    import pandas as pd

    import circuits

CAPTIONS = {
    "groups": "Each group of facts by itself. Wiring: 1 − cosine of the mean edge scores at A and B; strength: their "
    "length at B over that at A; both from products between different facts, so that prompt noise adds nothing, with "
    "95 % intervals. Missing: fewer than 8 facts, or nothing learned. Reliability: share that is not prompt noise.",
    "similarity": "Value: of the two circuits. Within: between two halves of the facts at one checkpoint, which is the "
    "prompts' noise; across: a half at A with the other at B; each with 90 % of the splits. Random: circuits of that "
    "size on random edges. Excess: within − across.",
    "ranks": "Expected correlation of the edges' scores with those over as many other facts, for edges of these ranks, "
    "the less reliable of A and B. Overlaps of circuits that reach below a half can neither show nor rule out change.",
    "edges": "Those that changed for real, in units of the metric (a logit difference: logits). q is from exchanging "
    "signs of facts and drawing facts anew; intervals are Student's, wider than 95 % ones so as to hold for what was "
    "named (false coverage rate), and may reach across 0.",
    "nodes": "A node's score is the sum over its out-edges. The table holds those that changed for real; q and "
    "intervals as for edges.",
    "profile": "Of the whole graph of |score|, with 95 % intervals of the change: where the work lies, "
    "and over how many edges it spreads.",
    "transfer": "Faithfulness of each checkpoint's circuit in each model: tells other wiring with the same "
    "function from a function that has moved.",
}
DEEP = 8  # layers from which on changes are shown layer by layer too
RANKS = {"first": "from_rank", "last": "to_rank"}
HEADINGS = {"nodes": "Nodes", "ranks": "Reliability by rank", "similarity": "Similarity", "profile": "Depth and spread"}
BASES = {
    "group": "products between different facts; sign flips of facts, of single edges facts drawn anew as well; "
    "Holm over the pair",
    "few": "fewer than 8 facts, or so few that even their smallest possible p would not hold for the pair",
    "unlearned": "no fact recalled, and clean prompts prefer the answer no more than corrupt ones do",
}
SHARED = ("relation", "template")
CHANGED = STATUSES[:5]


@dataclass(frozen=True)
class CircuitPairing(Pairing):
    """See `circuits.diff`; facts that went different ways are groups of their own.

    Attributes:
        cluster: labels of facts that are one unit where they agree in them; none = every fact is.
        store: folder of the store where it is kept how alike circuits are; None = nowhere.
    """

    cluster: tuple[str, ...] = ()
    store: Path | None = None

    noun = "circuit"
    tables = ("groups", "edges", "nodes", "ranks", "similarity", "profile", "transfer")
    place = 0

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | str | None:
        """Group by group, and how the recall of the facts changed."""
        if a.circuit is None or b.circuit is None:
            return None
        if min(a.circuit.units, b.circuit.units) < 2:
            return ALONE.format("fact")
        workings = kept_workings(self.store, (a, b), self.cluster)
        groups = compare_groups(a.circuit, b.circuit, q=q, cluster=self.cluster, workings=workings)
        of = clusters_of(a.circuit, self.cluster) if self.cluster else None
        change = recall_change(a.circuit.answer_rank == 0, b.circuit.answer_rank == 0, of)
        return Compared(groups, readouts=(change,), facts=groups.of)

    def questions(self, a: Point, b: Point, change: CircuitGroups, *, deltas: Deltas) -> Iterator[PairQuestion]:
        """Whether recall turned over, as a whole and by class, and whether the circuit of each group changed."""
        assert a.circuit is not None
        assert b.circuit is not None
        yield from recall_questions(a.circuit, b.circuit, deltas=deltas, cluster=self.cluster)
        for each in change.groups:
            yield each.question(deltas)

    def held(self, change: CircuitGroups, questions: Sequence[PairQuestion]) -> CircuitGroups:
        """With each group's p raised to the one that holds for the pair."""
        return change.held({asked.name: asked.adjusted for asked in questions if asked.family == "circuit"})

    def statements(self, pair: PairRecord) -> Iterator[Statement]:
        """Recall, then each group of facts, then what each circuit does in the other model."""
        groups = pair.groups
        if groups is None:
            return
        yield from recall_statements(pair)
        for each in groups.groups:
            if _told(each, pair) == "group":
                yield _statement(each, pair)
        for kind in ("unlearned", "few"):
            rows = [
                {"group": each.group.name, "facts": len(each.group), "units": each.units, "unit": each.unit}
                for each in groups.groups
                if _told(each, pair) == kind
            ]
            if rows:
                yield Statement(kind, {"groups": rows, "least": LEAST_FACTS}, basis=BASES[kind])
        if groups.ranks and groups.learned:
            yield _ranks(groups, pair)
        if pair.a.circuit is not None and groups.learned:
            yield from _scope(groups, pair.a.circuit, needles=bool({"heads", "retrieval-circuit"} & set(pair.changes)))
        if groups.lead.transfer is not None and groups.learned:
            for sentence in groups.lead.transfer.sentences:
                yield Statement("transfer", {"of": groups.transfer_of}, told=f"On {groups.transfer_of}: {sentence}")

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """Groups, edges and nodes that changed for real, similarity, depth and spread, transfer."""
        groups = pair.groups
        if groups is None:
            return
        diff = groups.lead
        yield PairTable("groups", "Wiring and strength by group of facts", groups.to_frame())
        yield PairTable("edges", "Edges that changed, by group of facts", _edges(groups))
        yield PairTable("nodes", "Nodes, strongest real changes", diff.named_node_frame())
        if groups.ranks:
            yield PairTable("ranks", "Reliability by rank", groups.rank_frame())
        yield PairTable("similarity", "Similarity of the two circuits", diff.similarity_frame())
        yield PairTable("profile", "Depth and spread of the graph", diff.profile_frame())
        if diff.transfer is not None:
            yield PairTable("transfer", "Each circuit in each model", diff.transfer.to_frame())

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """The groups, the circuit's figure, then the tables."""
        groups = pair.groups
        if groups is None:
            return
        diff, shown = groups.lead, {table.name: table.frame for table in self.frames(pair)}
        told = [statement.text for statement in self.statements(pair) if statement.kind != "transfer"]
        yield Section(
            f"groups-{anchor}",
            f"Facts and their circuits {pair.span}",
            points=told,
            figure=groups_figure(shown["groups"], asdict(pair.deltas)),
            caption=CAPTIONS["groups"],
            frame=shown["groups"],
        )
        yield Section(
            f"circuit-{anchor}",
            f"Circuit {pair.span}",
            figure=diff.plot(),
            caption=f"Measured on {groups.of}. {diff.caption}",
            frame=diff.to_frame(),
        )
        if diff.shape.n_layers >= DEEP and diff.n_significant:
            yield Section(
                f"layers-{anchor}",
                f"Where edges changed {pair.span}",
                figure=diff.plot_layers(),
                caption=f"On {groups.of}. Rows read, columns write; hover shows the strongest changes of a cell.",
            )
        caption = CAPTIONS["edges"]
        yield Section(f"edges-{anchor}", f"Edges that changed {pair.span}", caption=caption, frame=shown["edges"])
        for name, heading in HEADINGS.items():
            if name not in shown:
                continue
            caption = f"On {groups.of}. {CAPTIONS.get(name, '')}".strip()
            yield Section(
                f"{name}-{anchor}", f"{heading} {pair.span}", caption=caption, frame=shown[name].rename(columns=RANKS)
            )
        if diff.transfer is not None:
            yield Section(
                f"transfer-{anchor}",
                f"Functional transfer {pair.span}",
                text=diff.transfer.verdict,
                figure=diff.transfer.plot(),
                caption=f"On {groups.transfer_of}. {CAPTIONS['transfer']}",
                frame=shown["transfer"],
            )


def _scope(groups: CircuitGroups, graph: "circuits.AttributionGraph", *, needles: bool) -> Iterator[Statement]:
    """What counts as independent, where facts share a relation or a template; needles' results keep no labels."""
    shared = next((name for name in SHARED if _share(graph, name)), "")
    if groups.cluster or shared:
        names = groups.cluster or (shared,)
        numbers = {"by": " and ".join(names), "facts": len(graph), "units": units_of(graph, names)}
        numbers |= {"clustered": bool(groups.cluster), "needles": needles}
        yield Statement("scope", numbers, basis="labels of the facts")


def _share(graph: "circuits.AttributionGraph", name: str) -> bool:
    """Whether every fact has a label, and several facts the same."""
    has = all(name in labels for labels in graph.labels) and len(graph) == graph.units
    return has and 1 < units_of(graph, (name,)) < len(graph)


def _ranks(groups: CircuitGroups, pair: PairRecord) -> Statement:
    """The overlap of the circuits, at a size at which ranks mean something, beside those with other tasks at A."""
    numbers: dict[str, Any] = {"of": groups.of, "rank": recommended_size(groups.ranks), "edges": groups.ranks[-1].last}
    found = groups.overlap
    if found is not None:
        names = ("measure", "value", "across", "within", "random", "p")
        numbers |= {name: getattr(found, name) for name in names} | {"beyond_noise": found.beyond_noise}
        retrieval, size = pair.a.results.get("retrieval-circuit"), int(found.measure.split()[1].replace(",", ""))
        relations = np.nan if pair.a.circuit is None else overlap_of_relations(_of_lead(groups, pair.a.circuit), size)
        numbers |= {} if np.isnan(relations) else {"relations": relations}
        if retrieval is not None and pair.a.circuit is not None:
            numbers["other_task"] = overlap_of_tasks(groups.over_lead(pair.a.circuit), retrieval, size)
    return Statement("overlap", numbers, basis="ranked on a third of the facts, correlated between the two others")


def _of_lead(groups: CircuitGroups, graph: "circuits.AttributionGraph") -> "circuits.AttributionGraph":
    """A graph over the facts that the lead is over, each by itself where it was scored so."""
    return graph.only(groups.facts) if graph.units == len(graph) else graph


def _told(each: GroupChange, pair: PairRecord) -> str:
    """The kind of statement that a group is told in."""
    if min(each.units, len(each.group)) < LEAST_FACTS:
        return "few"
    if not each.learned:
        return "unlearned"
    return "few" if np.isnan(_asked(each, pair).adjusted) else "group"


def _asked(each: GroupChange, pair: PairRecord) -> PairQuestion:
    return next(q for q in pair.questions if q.family == "circuit" and q.name == each.group.name)


def _statement(each: GroupChange, pair: PairRecord) -> Statement:
    """What became of the circuit of one group."""
    group, found, diff, asked = each.group, each.contrast, each.diff, _asked(each, pair)
    assert diff is not None
    assert found is not None
    about: dict[str, Any] = {"group": group.name, "facts": len(group), "units": each.units, "unit": each.unit}
    about |= {
        "wiring": found.apart,
        "wiring_interval": (found.low, found.high),
        "margin": pair.deltas.wiring,
        "strength": found.strength,
        "strength_interval": (found.strength_low, found.strength_high),
        "stands": each.stands,
        "outcome": asked.outcome,
        "equivalent": asked.outcome == "equivalent",
        "p": asked.adjusted,
        "smallest": asked.adjusted if asked.p <= asked.least * (1 + 1e-9) else 0.0,
        "gated": bool(asked.after)
        and not any(q.family == asked.after and q.outcome == "different" for q in pair.questions),
        "significant": diff.significant,
        "changed": diff.n_significant,
        "statuses": {name: diff.counts[name] for name in CHANGED},
        "edges": diff.to_frame().query("changed")["edge"].tolist(),
    }
    return Statement("group", about, basis=BASES["group"])


def _edges(groups: CircuitGroups) -> "pd.DataFrame":
    """Edges that changed, group after group, the strongest of each first."""
    import pandas as pd

    found = []
    for each in groups.groups:
        if each.diff is not None:
            frame = each.diff.named_frame()
            frame.insert(0, "group", each.group.name)
            found.append(frame)
    columns = ["group", "edge", "a", "b", "delta", "low", "high", "q", "status"]
    full = [frame for frame in found if len(frame)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
