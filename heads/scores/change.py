"""One readout before and after, with the test of its change."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A scalar readout in A and B.

    Attributes:
        name: what it is, with its unit.
        before: value in A.
        after: value in B.
        delta: mean difference B - A over the units.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided; NaN with too few units.
    """

    name: str
    before: float
    after: float
    delta: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        change = f"change {self.delta:+.3g} [{self.low:+.3g}, {self.high:+.3g}], p = {self.p:.2g}"
        return f"{self.name} {self.before:.3g} -> {self.after:.3g} ({change})"
