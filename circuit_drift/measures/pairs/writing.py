"""What the heads of two checkpoints write towards the answers that they copy, head by head."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import heads
from checkpoints.results.text import counted
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point
from heads.comparison.diff import HeadDiff

WRITTEN = "copy_written"
COLUMNS = ["name", "before", "after", "delta", "low", "high", "q"]
NAMED = 5


class WritingPairing(Pairing):
    """See `heads.diff`, of direct writes in the place of retrieval scores."""

    noun = "head's write"
    tables = ("writing",)
    place = 4

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | None:
        """Head by head, over identical prompts."""
        found = [point.results.get("writing") for point in (a, b)]
        if None in found:
            return None
        before, after = (replace(scores, detectors={"copy": scores.detectors[WRITTEN]}) for scores in found if scores)
        return Compared(heads.diff(before, after, q=q))

    def parts(self, change: HeadDiff) -> Iterator[str]:
        """How many heads write otherwise."""
        if change.n_significant:
            yield f"what {counted(change.n_significant, 'head')} writes"

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """How many heads changed what they write, and the strongest of them."""
        change: HeadDiff | None = pair.changes.get("writing")
        if change is None:
            return
        frame = change.to_frame()
        real = frame[frame.q <= change.level].head(NAMED)
        named = ", ".join(f"{row.name} {row.before:+.2f} → {row.after:+.2f}" for row in real.itertuples(index=False))
        yield (
            f"Writes: {change.n_significant} of {change.delta.size} heads changed what they write towards the copied "
            f"answer, in logits, over {counted(change.n, change.unit)}{f': {named}' if named else ''}."
        )

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """The strongest changes, in logits."""
        if "writing" in pair.changes:
            frame = pair.changes["writing"].to_frame()[COLUMNS]
            yield PairTable("writing", "Heads' writes towards the answer (logits), strongest changes", frame)
