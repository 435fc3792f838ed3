"""The record of a pair: two measured checkpoints, and what each measure says of the change from one to the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from circuit_drift.record.questions import Deltas, Floor, Outcome, PairQuestion
from circuit_drift.record.record import Point

if TYPE_CHECKING:
    from circuit_drift.record.circuit_groups import CircuitGroups
    from circuits.comparison.graph_diff import GraphDiff
    from circuits.roles.roles import RoleChange
    from heads.comparison.diff import HeadDiff
    from heads.scores.change import Change


@dataclass(frozen=True, slots=True)
class PairRecord:
    """What changed from checkpoint A to checkpoint B.

    Attributes:
        a, b: the two measured checkpoints.
        q: the false discovery rate the changes are held to.
        behaviour: needle accuracy, answer NLL, fact recall.
        changes: measure -> what changed in it, for each measure that both have and that compares two results.
        facts: which facts the circuits that figures and tables show are compared on.
        missing: measure -> why it is not compared.
        questions: what was asked of the pair, answered at one level for all.
        deltas: the margins that count as no change.
        floor: the same changes among siblings, where some were given.
        weights: how much the weights changed (`circuit_drift.weights`); ``None`` for a pair of a stored run.
        explanations: why behaviours differ, where that was asked (`circuit_drift.explanation`).
    """

    a: Point
    b: Point
    q: float
    behaviour: "tuple[Change, ...]" = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    facts: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[PairQuestion, ...] = ()
    deltas: Deltas = field(default_factory=Deltas)
    floor: Floor | None = None
    weights: Any = None
    explanations: tuple[Any, ...] = ()

    @property
    def span(self) -> str:
        """From where to where, as headings say it; with stages where steps are counted anew."""
        return " → ".join(self.ends)

    @property
    def ends(self) -> tuple[str, str]:
        """How A and B are called beside each other."""
        labels = self.a.label, self.b.label
        return labels if labels[0] != labels[1] else (self.a.place, self.b.place)

    @property
    def heads(self) -> "HeadDiff | None":
        """Head by head; ``None`` where not compared, as for the two below."""
        return self.changes.get("heads")

    @property
    def circuit(self) -> "GraphDiff | None":
        """Edge by edge, over the largest group of facts that has a circuit to read (`facts` says which)."""
        return None if self.groups is None else self.groups.lead

    @property
    def groups(self) -> "CircuitGroups | None":
        """Edge by edge, wiring and strength, for each group of facts: kept, lost, learned, neither, and the classes."""
        return self.changes.get("circuit")

    @property
    def roles(self) -> "tuple[RoleChange, ...] | None":
        """The roles that heads of the circuits gained and lost."""
        return self.changes.get("roles")

    @property
    def outcome(self) -> Outcome | Literal[""]:
        """Whether the pair is different, equivalent within the margins, or undecided; "" where nothing can be said.

        Different where any question is answered so, or a measure without questions says so; equivalent where no
        question with a margin is left open.
        """
        asked = {question.outcome for question in self.questions}
        own = any(
            getattr(change, "significant", False)
            for measure, change in self.changes.items()
            if measure not in ("heads", "circuit")
        )
        if own or "different" in asked:
            return "different"
        return "undecided" if "undecided" in asked else "equivalent" if "equivalent" in asked else ""

    @property
    def significant(self) -> bool:
        """Whether the pair differs: in recall, a head, a readout of the needles, or the circuit of a group of facts."""
        return self.outcome == "different"

    @property
    def exceeds_floor(self) -> bool:
        """Whether the pair differs, and by more than training does anyway where siblings were given to tell that."""
        return self.significant and (self.floor is None or self.floor.outcome in ("beyond", ""))

    def with_change(self, measure: str, change: Any) -> Self:
        """The same pair with another change of one measure."""
        return replace(self, changes={**self.changes, measure: change})
