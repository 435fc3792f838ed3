"""What a measure says of two checkpoints: one object a measure, so that nobody else lists what can be compared."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from circuit_drift.page.page import Section
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, PairQuestion
from circuit_drift.record.record import Point
from circuit_drift.statements.statement import Statement

if TYPE_CHECKING:
    import pandas as pd

    from heads.scores.change import Change


@dataclass(frozen=True, slots=True)
class Compared:
    """Two results of one measure, compared.

    Attributes:
        change: the comparison itself; its ``significant``, if it has one, says whether the pair differs in it, unless
            the pairing asks `Pairing.questions`.
        readouts: changes of what the checkpoints do, told before everything else.
        facts: which facts it is about, in words; empty where it is about none.
    """

    change: Any
    readouts: "tuple[Change, ...]" = ()
    facts: str = ""


@dataclass(frozen=True, slots=True)
class PairTable:
    """One table.

    Attributes:
        name: its key in JSON.
        title: its heading.
        frame: its rows, the strongest first where that means something.
    """

    name: str
    title: str
    frame: "pd.DataFrame"


class Pairing(ABC):
    """How a measure compares its results at two checkpoints, and how the change is told; all but `compare` optional.

    Attributes:
        noun: what changes, as in "no head changed significantly".
        needs: measures whose comparison `compare` wants to see; one that needs none is missed where it is lacking.
        tables: names of its tables, which JSON holds as null where there are none.
        place: where its sections stand on a pair's page, low first.
    """

    noun: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    tables: ClassVar[tuple[str, ...]] = ()
    place: ClassVar[int] = 2

    @abstractmethod
    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | str | None:
        """Compare two points that both have the measure's result; None where that says nothing.

        Args:
            a: results at A.
            b: results at B; positive changes mean that B has more.
            q: the false discovery rate that changes are held to.
            earlier: changes of the measures in `needs`.
        """

    def questions(self, a: Point, b: Point, change: Any, *, deltas: Deltas) -> Iterable[PairQuestion]:
        """What is asked of the change, each with its p; all questions of a pair share one level. None by default."""
        return ()

    def held(self, change: Any, questions: Sequence[PairQuestion]) -> Any:
        """The change with nothing named that does not hold for the pair as a whole; by default as it is.

        Args:
            change: what `compare` found.
            questions: of this measure, answered.
        """
        return change

    def parts(self, change: Any) -> Iterable[str]:
        """What changed, in words, of a measure without questions; by default the noun, where it is significant."""
        return [f"the {self.noun}"] if getattr(change, "significant", False) else []

    def sentences(self, pair: PairRecord) -> Iterable[str]:
        """What the pair's verdict says of the measure, in words of its own; nothing by default."""
        return ()

    def statements(self, pair: PairRecord) -> Iterable[Statement]:
        """What the pair's verdict says of the measure, as values; by default its `sentences`."""
        for sentence in self.sentences(pair):
            yield Statement(self.noun, told=sentence)

    def frames(self, pair: PairRecord) -> Iterable[PairTable]:
        """Tables for the terminal, the notebook and JSON; none by default."""
        return ()

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterable[Section]:
        """Sections of the pair's page, their slugs ending in the anchor; by default its sentences and tables."""
        for table in self.frames(pair):
            yield Section(
                f"{table.name}-{anchor}",
                f"{table.title} {pair.span}",
                text=" ".join(self.sentences(pair)),
                frame=table.frame,
            )
