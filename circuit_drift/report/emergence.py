"""The report's section on when metrics emerge, and in which order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from circuit_drift.stages.emergence import RunEmergence, run_emergence

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 3


def _plain(found: RunEmergence) -> "pd.DataFrame":
    """The table with empty cells where a bracket is open."""
    frame = found.to_frame().astype(object)
    return frame.where(frame.notna(), "")


def emergence_sections(run: RunRecord) -> Iterator[Section]:
    """One section, where three checkpoints have heads or a circuit; none for runs of several lines of training."""
    looked_at = [p for p in run if p.position is not None and (p.heads is not None or p.circuit is not None)]
    if len(looked_at) < FEWEST:
        return
    try:
        found = run_emergence(run).worded
    except BadPrompt as reason:
        yield Section("emergence", "When things emerge", text=f"Not applicable: {reason}.")
        return
    if not found.found:
        return
    yield Section(
        "emergence",
        "When things emerge",
        points=list(found.findings),
        figure=found.plot(),
        caption="Emerged: from there on beyond 0.1 (a head) or beyond halfway from first to last (all else). Intervals "
        "over needles or facts of this run; other seeds may differ by more.",
        frame=_plain(found),
    )
