"""The report's section on when metrics emerge, and in which order."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from circuit_drift.stages.emergence import RunEmergence, run_emergence

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 3
WORDS = {"answer_nll": "answer NLL"}
OF = {"recall": "recall of"}


def in_words(metric: str) -> str:
    """A metric as a reader names it: ``head:a1.h2`` is head a1.h2, ``recall:old`` recall of old."""
    kind, _, rest = metric.partition(":")
    return WORDS.get(metric, metric.replace("_", " ")) if not rest else f"{OF.get(kind, kind)} {rest.replace(':', ' ')}"


def _worded(found: RunEmergence) -> RunEmergence:
    return RunEmergence(
        tuple(replace(one, metric=in_words(one.metric)) for one in found.found),
        {in_words(metric): value for metric, value in found.values.items()},
        found.notes,
    )


def _told(found: RunEmergence) -> list[str]:
    """When each emerges, then in one sentence what comes before what."""
    order = "; ".join(str(one) for one in found.orders if one.outcome != "cannot be told")
    sentences = [*map(str, found.found), *([f"in this order: {order}"] if order else []), *found.notes]
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences]


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
        found = _worded(run_emergence(run))
    except BadPrompt as reason:
        yield Section("emergence", "When things emerge", text=f"Not applicable: {reason}.")
        return
    if not found.found:
        return
    yield Section(
        "emergence",
        "When things emerge",
        points=_told(found),
        figure=found.plot(),
        caption="Emerged: from there on beyond 0.1 (a head) or beyond halfway from first to last (all else). Intervals "
        "over needles or facts of this run; other seeds may differ by more.",
        frame=_plain(found),
    )
