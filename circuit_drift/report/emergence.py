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
WORDS = {"answer_nll": "answer NLL", "retrieval_heads": "number of retrieval heads"}
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
    sentences = [*map(str, found.found), *_in_order(found), *found.notes]
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences]


def _in_order(found: RunEmergence) -> list[str]:
    """What comes before what, those that are certain, with the least share of resamples that say so."""
    told = [one for one in found.orders if one.outcome != "cannot be told"]
    if not told:
        return []
    later: dict[str, list[str]] = {}
    for one in told:
        first, second = (one.first, one.second) if one.outcome == "before" else (one.second, one.first)
        later.setdefault(first, []).append(second)
    least = min(max(one.before, one.after) for one in told)
    order = "; ".join(f"{first} before {', '.join(others)}" for first, others in later.items())
    return [f"in this order, in {least:.0%}{' or more' if least < 1 else ''} of resamples of the prompts: {order}"]


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
