"""The figure of a measure that brings none: each of its numbers over training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from circuit_drift.page import theme
from circuit_drift.page.axis import once, over_checkpoints
from circuit_drift.page.tables import column_in_words
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TOLD = 3


def lines_figure(
    run: RunRecord, table: "pd.DataFrame", columns: Sequence[str], words: Mapping[str, str] | None = None
) -> "go.Figure | None":
    """A line for each column of numbers; None where there is none.

    What stays between -1 and 1, as shares do, has a panel of its own below what goes beyond: on one axis it would lie
    on 0.

    Args:
        run: whose table it is.
        table: a row a checkpoint.
        columns: which columns.
        words: what they are called, with their units; by default their names, without underscores.
    """
    from pandas.api.types import is_numeric_dtype
    from plotly.subplots import make_subplots

    numbers = {name: table[name].astype(float) for name in columns if is_numeric_dtype(table[name])}
    numbers = {name: values for name, values in numbers.items() if values.notna().any()}
    if not numbers:
        return None
    small = {name: bool(values.abs().max() <= 1) for name, values in numbers.items()}
    parted = len(set(small.values()))
    figure = make_subplots(rows=parted, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    called = {name: (words or {}).get(name, column_in_words(name)) for name in numbers}
    for k, (name, values) in enumerate(numbers.items()):
        figure.add_scatter(
            x=list(range(len(values))),
            y=values,
            name=called[name],
            mode="lines+markers",
            line={"color": theme.CATEGORIES[k % 8], "dash": theme.DASHES[k % 6]},
            marker={"symbol": theme.SYMBOLS[k % 8]},
            row=2 if parted == 2 and small[name] else 1,
            col=1,
        )
    told = [
        f"{called[name]} {values.dropna().iloc[0]:.3g} → {values.dropna().iloc[-1]:.3g}"
        for name, values in numbers.items()
    ]
    theme.dress(
        figure,
        title="; ".join(told[:TOLD]),
        subtitle="first and last checkpoint that it was measured on",
        height=420 if parted == 1 else 560,
    )
    over_checkpoints(figure, run)
    figure.layout.annotations = once(figure.layout.annotations)
    if parted == 2:
        figure.update_xaxes(title_text="", row=1, col=1)
        figure.update_yaxes(title_text="value", row=1, col=1).update_yaxes(title_text="share", row=2, col=1)
    return figure
