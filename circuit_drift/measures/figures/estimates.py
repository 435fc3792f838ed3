"""Estimates over training, each a line with its 95 % intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from checkpoints.results.text import label
from checkpoints.stats.bootstrap import Estimate
from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go


def estimates_figure(
    run: RunRecord, lines: Mapping[str, Sequence[Estimate | None]], *, unit: str, log: bool = False
) -> "go.Figure":
    """A line for each name, with error bars where an estimate has an interval; the caller gives it its title.

    Args:
        run: whose checkpoints are on the x axis.
        lines: name -> an estimate a checkpoint; None where there is none.
        unit: what the y axis shows.
        log: draw it on a log scale.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for k, (name, found) in enumerate(lines.items()):
        there = [(x, estimate) for x, estimate in enumerate(found) if estimate is not None]
        figure.add_scatter(
            x=[x for x, _ in there],
            y=[estimate.value for _, estimate in there],
            name=label(name),
            mode="lines+markers",
            line={"color": theme.CATEGORIES[k % 8], "dash": theme.DASHES[k % 6]},
            marker={"symbol": theme.SYMBOLS[k % 8]},
            error_y=_bars([estimate for _, estimate in there]),
        )
    figure.update_yaxes(title_text=unit, type="log" if log else "linear")
    return over_checkpoints(figure, run)


def _bars(estimates: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [estimate.high - estimate.value for estimate in estimates],
        "arrayminus": [estimate.value - estimate.low for estimate in estimates],
        "thickness": 1,
        "width": 2,
    }


def ends(values: Sequence[Estimate | None], form: str = "{:.2f}") -> str:
    """First and last value there is, in words: ``0.12 → 0.34``."""
    there = [form.format(value.value) for value in values if value is not None]
    return " → ".join(dict.fromkeys((there[0], there[-1]))) if there else "not measured"
