"""The record of a pair: two measured checkpoints, and what each measure says of the change from one to the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from circuit_drift.record.record import Point

if TYPE_CHECKING:
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
        facts: which facts the circuits are compared on.
        missing: measure -> why it is not compared.
    """

    a: Point
    b: Point
    q: float
    behaviour: "tuple[Change, ...]" = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    facts: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def span(self) -> str:
        """From where to where, as headings say it."""
        return f"{self.a.label} → {self.b.label}"

    @property
    def heads(self) -> "HeadDiff | None":
        """Head by head; ``None`` where not compared, as for the two below."""
        return self.changes.get("heads")

    @property
    def circuit(self) -> "GraphDiff | None":
        """Edge by edge."""
        return self.changes.get("circuit")

    @property
    def roles(self) -> "tuple[RoleChange, ...] | None":
        """The roles that heads of the circuits gained and lost."""
        return self.changes.get("roles")

    @property
    def significant(self) -> bool:
        """Whether any head, needle readout, or the graph as a whole changed beyond noise."""
        return any(change.significant for change in self.changes.values() if hasattr(change, "significant"))

    def with_change(self, measure: str, change: Any) -> Self:
        """The same pair with another change of one measure."""
        return replace(self, changes={**self.changes, measure: change})
