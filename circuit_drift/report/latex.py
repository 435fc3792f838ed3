"""The main results of a run as a table for a paper."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.text import counted
from checkpoints.stats.shares import exact_share_interval
from circuit_drift.record.groups import class_names
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.stages.stages import stage_ends

if TYPE_CHECKING:
    import pandas as pd

ABSENT = "--"
WORDS = ("stage", "best head (score)")  # columns that are no numbers
_MINUS = re.compile(r"(?<![\w\-])-(?=\d)")


def main_results(run: RunRecord) -> "pd.DataFrame":
    """One row for each end of a stage, in words for a paper; 95 % intervals in brackets, shares in percent.

    Columns: step, stage where there is one, needle accuracy (%), retrieval heads, best head (score), recall (%) of each
    class of facts, faithfulness (of the circuit that is drawn; absent where clean and corrupt prompts do not differ
    beyond the noise, so that there is nothing to keep); those that were measured.
    """
    import pandas as pd

    ends = [point.name for pair in stage_ends(run) for point in pair] or [point.name for point in run]
    rows = [dict(_cells(point)) for point in run if point.name in ends]
    return pd.DataFrame(rows).fillna(ABSENT)


def run_latex(run: RunRecord) -> str:
    """`main_results` as LaTeX with booktabs, its caption saying over how many needles and facts."""
    frame = main_results(run)
    over = [
        counted(len(result), noun)
        for noun, name in (("needle prompt", "heads"), ("fact", "circuit"))
        if (result := next((getattr(p, name) for p in run if getattr(p, name) is not None), None)) is not None
    ]
    escaped = frame.rename(columns=_escaped).map(lambda cell: _MINUS.sub("$-$", _escaped(cell)))
    latex: str = escaped.to_latex(
        index=False,
        escape=False,
        column_format="".join("l" if place == 0 or name in WORDS else "r" for place, name in enumerate(frame.columns)),
        caption=f"{_escaped(run.name)} at the ends of its stages, over {' and '.join(over)}; "
        "95\\,\\% intervals in brackets.",
        label=f"tab:{''.join(letter if letter.isalnum() else '-' for letter in run.name)}",
    )
    return latex


def _cells(point: Point) -> Iterator[tuple[str, str]]:
    yield "step", point.label
    if point.stage:
        yield "stage", point.stage
    if point.heads is not None:
        yield "needle accuracy (%)", f"{100 * point.heads.needle_accuracy:.0f}"
        yield "retrieval heads", str(point.heads.count())
        for best in point.heads.top(1):
            yield "best head (score)", f"{best.name} {_within(best.score.value, best.score.low, best.score.high)}"
    if point.circuit is not None:
        known, names = point.circuit.answer_rank == 0, class_names(point.circuit)
        for name in dict.fromkeys(names.tolist()):
            inside = known[names == name]
            low, high = exact_share_interval(int(inside.sum()), len(inside))
            of = "recall (%)" if name == "all" else f"recall of {name} (%)"
            yield of, f"{100 * inside.mean():.0f} [{100 * low:.0f}, {100 * high:.0f}]"
    if point.faithfulness is not None:
        curve, at = point.faithfulness, point.faithfulness.drawn
        if curve.has_effect:
            yield "faithfulness", _within(curve.values[at], *curve.intervals[at])


def _within(value: float, low: float, high: float) -> str:
    return f"{value:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in text)
