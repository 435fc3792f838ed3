"""The record of a run: its checkpoints with the result of every measure, and where all of it came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.audit import AuditReport
from checkpoints.errors import StoreError
from checkpoints.results.text import counted

if TYPE_CHECKING:
    import circuits
    import heads
    from circuits.intervention.faithfulness import FaithfulnessCurve
    from circuits.roles.roles import HeadRoles


@dataclass(frozen=True, slots=True, repr=False)
class Point:
    """One checkpoint of a run with its results.

    Attributes:
        name, step, tokens, stage, branch: as the checkpoint says.
        keys: store key of each result there is.
        results: measure -> its result, where it was asked for and did not fail.
        failures: measure -> why there is no result.
        weights: hash of the weights; "" where it is not known.
    """

    name: str
    step: int | None
    tokens: int | None
    stage: str | None
    keys: Mapping[str, str]
    results: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    branch: str | None = None
    weights: str = ""

    def __repr__(self) -> str:
        failed = f"; failed: {', '.join(self.failures)}" if self.failures else ""
        return f"<Point {self.place}: {', '.join(self.results) or 'no measure'}{failed}>"

    @property
    def heads(self) -> "heads.Scores | None":
        """Retrieval scores; ``None`` where not asked for or failed, as for the three below."""
        return self.results.get("heads")

    @property
    def circuit(self) -> "circuits.AttributionGraph | None":
        """Edge scores fact by fact."""
        return self.results.get("circuit")

    @property
    def faithfulness(self) -> "FaithfulnessCurve | None":
        """How much of the behaviour circuits of several sizes keep."""
        return self.results.get("faithfulness")

    @property
    def roles(self) -> "HeadRoles | None":
        """What the heads are known for."""
        return self.results.get("roles")

    def with_result(self, measure: str, result: Any) -> "Point":
        """The same point with another result of one measure; ``None`` takes it away."""
        results = {**self.results, measure: result}
        return replace(self, results={name: found for name, found in results.items() if found is not None})

    @property
    def label(self) -> str:
        """How it is called in tables: its step where it has one, with its branch."""
        step = f"{self.step:,}" if self.step is not None else self.name
        return f"{self.branch}/{step}" if self.branch else step

    @property
    def position(self) -> int | None:
        """Where it stands on its line: its step, or the tokens seen where the run counts those alone."""
        return self.step if self.step is not None else self.tokens

    @property
    def place(self) -> str:
        """How the audit calls it, as `Checkpoint.label`: stage, branch and step."""
        if self.step is None:
            return self.name
        return "/".join(part for part in (self.stage, self.branch, str(self.step)) if part)


@dataclass(frozen=True, slots=True, repr=False)
class RunRecord:
    """The measured checkpoints of a series, in order.

    Attributes:
        name: the series' name.
        points: one for each checkpoint.
        store: where the results live.
        origins: where the needles and the facts came from.
        log: the training log beside the series as CSV, if it has one; see `circuit_drift.record.training_log`.
        audit: what was found when the series was audited; None where no series was.
        parents: place -> places of the checkpoints that it continues.
        unread: results that the record names and the store could not give, each with the reason.
    """

    name: str
    points: tuple[Point, ...]
    store: Path
    origins: Mapping[str, str]
    log: str | None = None
    audit: AuditReport | None = None
    parents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        measures = ", ".join(dict.fromkeys(name for point in self.points for name in point.results)) or "no measure"
        ends = f", {self.points[0].place} to {self.points[-1].place}" if self.points else ""
        return f"<{type(self).__name__} of {self.name}: {counted(len(self), 'checkpoint')}{ends}; {measures}>"

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def at(self, step: int | str) -> Point:
        """The point of a step (``9000``, ``"9,000"``), a name or a place, ``"first"`` or ``"last"``.

        Raises:
            StoreError: no such point, or several stages or branches have that step; names those there are.
        """
        text = str(step).strip()
        if text in ("first", "last"):
            return self.points[0 if text == "first" else -1]
        found = [point for point in self.points if text in (point.name, point.place)]
        if not found:
            number = text.replace(",", "")
            found = [p for p in self.points if p.label == text or (number.isdigit() and p.step == int(number))]
        if len(found) == 1:
            return found[0]
        known = ", ".join(point.place for point in found or self.points)
        if found:
            raise StoreError(f"step {text} of the run {self.name} is ambiguous: name one of {known}")
        raise StoreError(f"the run {self.name} has no checkpoint {text}; it has {known}")


def point_record(point: Point) -> dict[str, Any]:
    """What the store remembers of one point: its identity, and the keys of its results."""
    return {
        "name": point.name,
        "step": point.step,
        "tokens": point.tokens,
        "stage": point.stage,
        "branch": point.branch,
        "failures": dict(point.failures),
        "keys": dict(point.keys),
        "weights": point.weights,
    }
