"""What is asked of a pair and what comes out: different, equivalent within a stated margin, or undecided."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.stats.units import Floats

Family = Literal["behaviour", "heads", "circuit", "readouts"]
Outcome = Literal["different", "equivalent", "undecided"]
FLOOR_LEVEL = 0.05
"""How often one more sibling may be called beyond the floor, in one change and in all together."""


@dataclass(frozen=True, slots=True)
class Deltas:
    """The largest change that still counts as none, by what is asked; `docs/comparing.md` says why.

    Attributes:
        recall: share of the facts that may change sides.
        heads: change of a head's retrieval score; the default is the score from which a head retrieves.
        nll: change of the answers' negative log-likelihood, in nats per token; 0.05 is 5 % of the perplexity.
        wiring: 1 - cosine of a circuit's mean scores.
        strength: share by which a circuit may grow; the ratio of the two may be from 1 / (1 + this) to 1 + this.
        edge: change of any single edge, as a share of the length of the circuit's mean scores.
    """

    recall: float = 0.1
    heads: float = 0.1
    nll: float = 0.05
    wiring: float = 0.1
    strength: float = 0.25
    edge: float = 0.1

    @classmethod
    def of(cls, given: "Mapping[str, float] | Deltas | None") -> Self:
        """Deltas with some of them set.

        Raises:
            BadPrompt: a name that there is none of, or a value that is not above 0.
        """
        values = {field.name: getattr(given, field.name) for field in fields(cls)} if isinstance(given, Deltas) else {}
        values |= {} if given is None or isinstance(given, Deltas) else dict(given)
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise BadPrompt(f"there is no delta {name!r}; set one of {', '.join(known)}")
            if not 0 < value < np.inf:
                raise BadPrompt(f"the delta {name} must be a number above 0, got {value:g}")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Effect:
    """How large a change is, beside the margin below which it counts as none.

    Attributes:
        name: what changed.
        value: how much.
        low, high: its 95 % interval.
        none: the value where nothing changed.
        bounds: the margin; the change is equivalent to none where the whole interval lies inside. That is the two
            one-sided tests at 2.5 % each.
        n: independent units it rests on.
        unit: what they are.
        needed: units in all from which an interval of that shape would lie on one side of the margin.
    """

    name: str
    value: float
    low: float
    high: float
    none: float
    bounds: tuple[float, float]
    n: int
    unit: str
    needed: int

    @property
    def equivalent(self) -> bool:
        """Whether the whole interval lies inside the margin; False where there is no interval."""
        return self.bounds[0] <= self.low and self.high <= self.bounds[1]

    @property
    def different(self) -> bool:
        """Whether the whole interval lies outside the margin, on one side of it."""
        return self.high < self.bounds[0] or self.low > self.bounds[1]


@dataclass(frozen=True, slots=True)
class PairQuestion:
    """One question of a pair, and its answer.

    Attributes:
        family: questions of a family share their part of the level.
        name: what is asked about.
        p: how probable what was seen is if nothing changed; NaN where there is no test.
        adjusted: the same after Holm over all questions of the pair; NaN until then.
        effects: what must all be equivalent for the answer "equivalent"; empty where only a difference can be shown.
        after: family whose difference must be shown first; "" for none.
        least: the smallest p that so many units can give; what is at it is printed as <=.
        outcome: the answer; "" where there is none to give, as for a test that shows nothing and has no margin.
    """

    family: Family
    name: str
    p: float
    effects: tuple[Effect, ...] = ()
    after: str = ""
    least: float = 0.0
    adjusted: float = float("nan")
    outcome: Outcome | Literal[""] = ""

    @property
    def more(self) -> int:
        """Units more that an undecided question needs, by its most demanding effect; 0 where it is decided."""
        open_ = [effect.needed - effect.n for effect in self.effects if not effect.equivalent]
        return max(open_, default=0) if self.outcome == "undecided" else 0


def units_needed(value: float, low: float, high: float, none: float, bounds: tuple[float, float], n: int) -> int:
    """Units at which an interval that shrinks as 1 / sqrt(n) lies inside the margin, or no longer holds ``none``."""
    half = (high - low) / 2
    inside = min(value - bounds[0], bounds[1] - value)
    room = inside if inside > 0 else abs(value - none)
    return n if half <= room else max(n + 1, round(n * (half / room) ** 2)) if room > 0 else 100 * n


def folded(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Intervals of |x| from those of x, each [...]: from 0 where they hold 0."""
    ends = np.abs(low), np.abs(high)
    return np.where((low <= 0) & (high >= 0), 0.0, np.minimum(*ends)), np.maximum(*ends)


@dataclass(frozen=True, slots=True)
class FloorChange:
    """One change from A to B beside the same change between siblings.

    Attributes:
        name: what changed.
        value: its size from A to B; a ratio as its factor, at least 1.
        low, high: its 95 % interval.
        floor: the largest size between two siblings.
        reach: the largest upper end of the siblings' intervals.
        p: how often one more sibling would change by as much as ``low``, by the scatter of the siblings' changes.
        equivalent: whether from A to B it is within its margin, and so counts as none.
    """

    name: str
    value: float
    low: float
    high: float
    floor: float
    reach: float
    p: float
    equivalent: bool = False

    @property
    def outcome(self) -> Literal["beyond", "within", "undecided"]:
        """Beyond: its whole interval is above every sibling's, and above what one more of them would reach.

        Within: no larger than every sibling's, or within its margin. Undecided: larger, as one more sibling's may be.
        """
        if self.equivalent:
            return "within"
        if self.low > self.reach and self.p <= FLOOR_LEVEL:
            return "beyond"
        return "within" if self.value <= self.floor else "undecided"


@dataclass(frozen=True, slots=True)
class Floor:
    """What training does anyway: the changes among siblings of A, beside those from A to B.

    Attributes:
        names: the siblings.
        pairs: how many pairs of them there are, A included.
        changes: what can be compared, the furthest beyond its floor first.
        p: how probable changes so far above the siblings' are together, were B one more sibling.
        needed: siblings from which on the changes are beyond the floor, as many as there are or, were their changes no
            larger, more; 0 where more would not tell.
        why: why there is none, where there is none.
    """

    names: tuple[str, ...] = ()
    pairs: int = 0
    changes: tuple[FloorChange, ...] = ()
    p: float = float("nan")
    needed: int = 0
    why: str = ""

    @property
    def outcome(self) -> Literal["beyond", "within", "undecided", ""]:
        """Beyond where a change is, and all changes together are at the level; within where all are."""
        found = {change.outcome for change in self.changes}
        if not found:
            return ""
        if "beyond" in found and self.p <= FLOOR_LEVEL:
            return "beyond"
        return "within" if found == {"within"} else "undecided"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, the outcomes too."""
        changes = [asdict(change) | {"outcome": change.outcome} for change in self.changes]
        return asdict(self) | {"changes": changes, "outcome": self.outcome}
