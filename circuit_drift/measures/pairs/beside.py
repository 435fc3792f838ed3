"""Results of two checkpoints told beside each other, of measures whose change has no test of its own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.results.result import Result
from circuit_drift.measures.pairs.pairing import Compared, Pairing
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point


@dataclass(frozen=True, slots=True)
class Beside:
    """A result at A and one at B; nothing is said of whether they differ significantly."""

    a: Result
    b: Result


@dataclass(frozen=True)
class BesidePairing(Pairing):
    """Both verdicts, A's first.

    Attributes:
        measure: whose results.
        heading: what the sentence begins with.
    """

    measure: str
    heading: str

    noun = "result"

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | None:
        """Both results, where both are there."""
        before, after = (point.results.get(self.measure) for point in (a, b))
        return None if before is None or after is None else Compared(Beside(before, after))

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """What each result says."""
        change = pair.changes.get(self.measure)
        if change is not None:
            yield f"{self.heading}, at A: {change.a.verdict}. At B: {change.b.verdict}."
