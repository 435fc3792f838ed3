"""Retrieval heads of two checkpoints: head by head, needle accuracy and the answers' likelihood."""

from collections.abc import Iterator, Mapping
from typing import Any

import heads
from checkpoints.results.text import counted
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.page.page import Section
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point
from heads.comparison.diff import HeadDiff

COLUMNS = ["name", "before", "after", "delta", "low", "high", "q", "status"]


class HeadPairing(Pairing):
    """See `heads.diff`."""

    noun = "head"
    tables = ("heads",)
    place = 3

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | None:
        """Head by head, over identical prompts."""
        if a.heads is None or b.heads is None:
            return None
        compared = heads.diff(a.heads, b.heads, q=q)
        return Compared(compared, readouts=(compared.accuracy, compared.nll))

    def parts(self, change: HeadDiff) -> Iterator[str]:
        """Heads or, where none did, what is read off the answers.

        The readouts' level is Hochberg's for two: where one of them is significant, so is every one below the
        level itself.
        """
        if change.n_significant:
            yield counted(change.n_significant, "head")
        elif change.significant:
            yield from (readout.name for readout in (change.accuracy, change.nll) if readout.p <= change.level)

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """How many heads changed, and which began or ceased to retrieve."""
        change = pair.heads
        if change is None:
            return
        crossed = [
            f"{len(names)} {what} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
            if names
            else f"none {what}"
            for what, names in (("gained", change.gained), ("lost", change.lost))
        ]
        yield (
            f"Heads: {change.n_significant} of {change.delta.size} changed their retrieval score, over "
            f"{counted(change.n, change.unit)}; retrieval heads (score > {change.threshold}): {', '.join(crossed)}."
        )

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """The strongest changes."""
        if pair.heads is not None:
            yield PairTable("heads", "Retrieval heads, strongest changes", pair.heads.to_frame()[COLUMNS])

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """All heads before and after."""
        if pair.heads is not None:
            yield Section(
                f"heads-{anchor}",
                f"Retrieval heads {pair.span}",
                text=pair.heads.verdict,
                figure=pair.heads.plot(),
                frame=pair.heads.to_frame(),
            )
