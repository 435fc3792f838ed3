"""The circuits of two checkpoints, a comparison for each group of facts, as values."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.energy import smallest_energy_p
from circuit_drift.record.groups import FactGroup
from circuit_drift.record.questions import Deltas, Effect, PairQuestion, folded, units_needed
from circuits.comparison.clusters import clustered
from circuits.comparison.graph_diff import GraphDiff
from circuits.comparison.reliability import RankBand, recommended_size
from circuits.comparison.similarity import Similarity
from circuits.tracking.contrasts import STANDS_OUT, Contrast

if TYPE_CHECKING:
    import pandas as pd

    from circuits.graph.scores import AttributionGraph
    from circuits.intervention.transfer import Transfer


@dataclass(frozen=True, slots=True)
class GroupChange:
    """The circuits of one group of facts at A and at B.

    Attributes:
        group: which facts.
        learned: whether there is a circuit to read: a fact recalled at A or B, or the clean prompts prefer the answer
            more than the corrupt ones do, beyond the noise, at either.
        diff: edge by edge; None where the group is too small or nothing was learned.
        contrast: wiring and strength; None in the same cases.
        units: how many of what counts as independent the facts are.
        unit: what that is: ``fact``, or the labels that facts of one unit share.
    """

    group: FactGroup
    learned: bool
    diff: GraphDiff | None = None
    contrast: Contrast | None = None
    units: int = 0
    unit: str = "fact"

    @property
    def stands(self) -> tuple[bool, bool]:
        """Whether a circuit stands out of the noise of the facts at A, and at B."""
        if self.contrast is None:
            return False, False
        return self.contrast.reliability_before > STANDS_OUT, self.contrast.reliability_after > STANDS_OUT

    def effects(self, deltas: Deltas) -> Iterator[Effect]:
        """Change of wiring, of strength and of the edge that changed most; none unless both circuits stand out."""
        found = self.contrast
        if found is None or self.diff is None or self.stands != (True, True):
            return
        size = max(float(np.linalg.norm(self.diff.a)), float(np.linalg.norm(self.diff.b)))
        lowest, highest = (float(end.max()) / size for end in folded(self.diff.tests.low, self.diff.tests.high))
        largest = float(np.abs(self.diff.delta).max()) / size
        wiring, strength = (-1.0, deltas.wiring), (1 / (1 + deltas.strength), 1 + deltas.strength)
        changes: dict[str, tuple[float, float, float, float, tuple[float, float]]] = {
            "wiring": (found.apart, found.low, found.high, 0.0, wiring),
            "strength": (found.strength, found.strength_low, found.strength_high, 1.0, strength),
            "an edge": (largest, lowest, highest, 0.0, (-1.0, deltas.edge)),
        }
        for name, (value, low, high, none, bounds) in changes.items():
            half = max(high - value, value - low)
            needed = units_needed(value, value - half, value + half, none, bounds, found.n)
            yield Effect(f"{name} ({self.group.name})", value, low, high, none, bounds, found.n, self.unit, needed)

    def question(self, deltas: Deltas) -> PairQuestion:
        """Whether the circuits of these facts differ."""
        if self.diff is None:
            return PairQuestion("circuit", self.group.name, float("nan"))
        return PairQuestion(
            "circuit",
            self.group.name,
            self.diff.global_p,
            effects=tuple(self.effects(deltas)),
            after="behaviour" if self.group.chosen else "",
            least=min(1.0, 2 * smallest_energy_p(self.diff.n)),
        )


@dataclass(frozen=True, slots=True, repr=False)
class CircuitGroups:
    """Every group of facts with its comparison, and the one that figures and tables show first.

    Attributes:
        groups: in the order of `fact_groups`.
        lead: the comparison over the largest group that has a circuit to read, before the classes.
        facts: [M] positions of the facts that it is over.
        of: which facts that is, in words.
        cluster: labels of facts that are one unit; none = every fact is.
        transfer_of: which facts the transfer of the circuits is told on, in words; "" without one.
        ranks: how reliable the edges' ranks are at A and B, band after band, the less reliable of the two.
    """

    groups: tuple[GroupChange, ...]
    lead: GraphDiff
    facts: NDArray[np.integer]
    of: str
    ranks: tuple[RankBand, ...] = ()
    transfer_of: str = ""
    cluster: tuple[str, ...] = ()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{each.group.name} {len(each.group.facts)}" for each in self.groups)
        return f"<CircuitGroups of facts: {sizes}>"

    @property
    def overlap(self) -> Similarity | None:
        """The overlap of most edges, up to the circuit's, whose ranks are reliable; None where no size's are."""
        jaccards = [found for found in self.lead.similarity if found.measure.startswith("Jaccard")]
        rank = recommended_size(self.ranks)
        inside = [
            found
            for found in jaccards[: len(jaccards) // 2 + 1]
            if int(found.measure.split()[1].replace(",", "")) <= rank
        ]
        return inside[-1] if inside else None

    @property
    def learned(self) -> bool:
        """Whether any group has a circuit to read."""
        return any(each.learned for each in self.groups)

    def with_transfer(self, transfer: "Transfer", over: NDArray[np.integer]) -> Self:
        """The same with what each circuit does in the other model, on the facts of the group that leads.

        Args:
            transfer: of the two checkpoints.
            over: [N] positions of the facts that it was measured on; where the group's are not all among them, it
                stands as it is, over facts that went different ways.
        """
        places = np.flatnonzero(np.isin(over, self.facts))
        if len(places) < len(self.facts) or len(over) != transfer.metric.shape[-1]:
            return replace(
                self, lead=self.lead.with_transfer(transfer), transfer_of="all facts asked, whatever their way"
            )
        return replace(self, lead=self.lead.with_transfer(transfer.only(places)), transfer_of=self.of)

    def over_lead(self, graph: "AttributionGraph") -> "AttributionGraph":
        """A graph over the facts that the lead is over, in its units."""
        chosen = graph.only(self.facts) if len(self.facts) < len(graph) == graph.units else graph
        return clustered(chosen, self.cluster) if self.cluster and chosen.units == len(chosen) else chosen

    def held(self, adjusted: Mapping[str, float]) -> Self:
        """The same with every p at least the one that holds for the pair as a whole, by group."""
        raised = tuple(
            each if each.diff is None else replace(each, diff=_raised(each.diff, adjusted[each.group.name]))
            for each in self.groups
        )
        held = (new.diff.global_p for new in raised if new.diff is not None and new.diff.a is self.lead.a)
        return replace(self, groups=raised, lead=_raised(self.lead, next(held, float("nan"))))

    def to_frame(self) -> "pd.DataFrame":
        """One row a group: group, facts, wiring (1 - cosine) and strength with intervals, edges changed, p.

        What a group is too small for, or has no circuit for, is missing.
        """
        import pandas as pd

        rows = [_row(each) for each in self.groups]
        return pd.DataFrame(rows)

    def rank_frame(self) -> "pd.DataFrame":
        """One row a band of ranks: first, last, reliability."""
        import pandas as pd

        return pd.DataFrame([asdict(band) for band in self.ranks], columns=["first", "last", "reliability"])


def _raised(diff: GraphDiff, adjusted: float) -> GraphDiff:
    """With a p that is at least the adjusted one; 1 where that is NaN, since nothing could hold for the pair."""
    return replace(diff, global_p=float(np.fmax(diff.global_p, 1.0 if np.isnan(adjusted) else adjusted)))


def _row(each: GroupChange) -> dict[str, object]:
    found, diff = each.contrast, each.diff
    nan = float("nan")
    names = ("apart", "low", "high", "strength", "strength_low", "strength_high")
    numbers = [nan if found is None else getattr(found, name) for name in names]
    named = ("wiring", "wiring_low", "wiring_high", "strength", "strength_low", "strength_high")
    ends = (nan, nan) if found is None else (found.reliability_before, found.reliability_after)
    return {
        "group": each.group.name,
        "facts": len(each.group),
        **({"units": each.units} if each.unit != "fact" else {}),
        **dict(zip(named, numbers, strict=True)),
        "reliability_a": ends[0],
        "reliability_b": ends[1],
        "edges_changed": None if diff is None else diff.n_significant,
        "p": nan if diff is None else diff.global_p,
    }
