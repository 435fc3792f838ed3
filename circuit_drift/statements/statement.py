"""One thing found, as a value; the same in a terminal, a notebook, JSON and the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing found.

    Attributes:
        kind: which; those of `circuit_drift.statements.wording.WORDS` are put into words there.
        numbers: everything that the words say, and nothing that they leave out silently.
        basis: what it rests on: units, test, interval.
        told: its words where they are formed elsewhere, as by a measure of somebody else's package.
    """

    kind: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    basis: str = ""
    told: str = ""

    @property
    def text(self) -> str:
        """In words, of at most two lines where nothing is listed."""
        from circuit_drift.statements.wording import WORDS

        return self.told or WORDS[self.kind](self.numbers)

    def over(self, stretch: str) -> Self:
        """The same said of one stretch of training among several, which the words then begin with."""
        return replace(self, numbers={**self.numbers, "over": stretch}, told=f"{stretch}: {self.text}")

    def to_json(self) -> dict[str, Any]:
        """The value and its words."""
        return {"kind": self.kind, **self.numbers, "basis": self.basis, "text": self.text}
