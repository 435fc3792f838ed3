"""The figure of a measure that brings none: each of its numbers over training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TOLD = 3


def lines_figure(run: RunRecord, table: "pd.DataFrame", columns: Sequence[str]) -> "go.Figure | None":
    """A line for each column of numbers; None where there is none.

    Args:
        run: whose table it is.
        table: a row a checkpoint.
        columns: which columns.
    """
    import plotly.graph_objects as go
    from pandas.api.types import is_numeric_dtype

    numbers = {name: table[name].astype(float) for name in columns if is_numeric_dtype(table[name])}
    numbers = {name: values for name, values in numbers.items() if values.notna().any()}
    if not numbers:
        return None
    figure = go.Figure()
    for k, (name, values) in enumerate(numbers.items()):
        figure.add_scatter(
            x=list(range(len(values))),
            y=values,
            name=name,
            mode="lines+markers",
            line={"color": theme.CATEGORIES[k % 8], "dash": theme.DASHES[k % 6]},
            marker={"symbol": theme.SYMBOLS[k % 8]},
        )
    told = [
        f"{name} {values.dropna().iloc[0]:.3g} → {values.dropna().iloc[-1]:.3g}" for name, values in numbers.items()
    ]
    theme.dress(figure, title="; ".join(told[:TOLD]), subtitle="first and last checkpoint that it was measured on")
    return over_checkpoints(figure, run)
