"""What the first screen of a run's report shows: its key numbers, and one figure of the whole run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from checkpoints.errors import BadPrompt
from circuit_drift.page import theme
from circuit_drift.page.axis import once, over_checkpoints
from circuit_drift.page.page import Card, Section
from circuit_drift.record.record import RunRecord
from circuit_drift.stages.emergence import run_emergence

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from checkpoints.stats.emergence import Emergence

MOST_GROUPS = 6
FIRST = ("loss", "needle_accuracy")
LOWER_IS_BETTER = ("loss", "answer_ppl")
Unit = Literal["share", "number", "count"]


@dataclass(frozen=True, slots=True)
class Told:
    """A column of the run's table that the first screen tells of.

    Attributes:
        column: its name in the table.
        words: what a reader calls it.
        unit: a share is shown in percent.
        row: of the figure: Behaviour, Heads or Circuit; none = a card alone.
    """

    column: str
    words: str
    unit: Unit
    row: str | None = None


TOLD = (
    Told("loss", "training loss", "number"),
    Told("needle_accuracy", "needle accuracy", "share", "Behaviour"),
    Told("answer_ppl", "answer perplexity", "number"),
    Told("retrieval_heads", "retrieval heads", "count", "Heads"),
    Told("faithfulness", "faithfulness of the circuit", "number", "Circuit"),
)
EMERGING, INSIDE = ("needle_accuracy", "retrieval_heads", "recall"), ("emerged", "gone again")
RING = "emerges"
ROWS: Mapping[str, str] = {"Behaviour": "share", "Heads": "heads", "Circuit": "faithfulness"}


def told(table: "pd.DataFrame") -> list[Told]:
    """The columns that this run's table has; recall by class where facts have one."""
    found = [each for each in TOLD if each.column in table and table[each.column].notna().any()]
    groups = [name for name in table.columns if name.startswith("recall_") and table[name].notna().any()]
    named = groups[:MOST_GROUPS] or [name for name in ("recall",) if name in table and table[name].notna().any()]
    recalls = [Told(name, _recall_words(name), "share", "Behaviour") for name in named]
    first = [each for each in found if each.column in FIRST]
    return [*first, *recalls, *(each for each in found if each not in first)]


def cards(table: "pd.DataFrame") -> list[Card]:
    """One card a number: what it is at the end, where it began, and its best step if that is neither.

    Of the classes of facts the first has a card; the figure has all.
    """
    classes = [each for each in told(table) if each.column.startswith("recall_")]
    return [_card(table, each) for each in told(table) if each not in classes[1:]]


def overview(run: RunRecord, table: "pd.DataFrame") -> Section | None:
    """Behaviour, heads and circuit on one axis of checkpoints; none for a run of fewer than two or without numbers."""
    drawn = [each for each in told(table) if each.row is not None]
    if len(run) < 2 or not drawn:
        return None
    columns = ["step", *(each.column for each in drawn)]
    return Section(
        "overview",
        "The run at a glance",
        figure=overview_figure(run, table, drawn),
        caption="Every panel shares the axis of checkpoints; dotted lines part the stages; a ring is where a number "
        "emerges, with the 95 % interval of the step. Other intervals: in the chapters.",
        frame=table[columns],
    )


def overview_figure(run: RunRecord, table: "pd.DataFrame", drawn: Sequence[Told]) -> "go.Figure":
    """One panel each for behaviour, heads and circuit, those that were measured."""
    from plotly.subplots import make_subplots

    rows = [row for row in ROWS if any(each.row == row for each in drawn)]
    weights = [2.0 if row == "Behaviour" else 1.0 for row in rows]
    figure = make_subplots(rows=len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=weights)
    for number, each in enumerate(drawn):
        figure.add_scatter(
            x=list(range(len(run))),
            y=table[each.column].tolist(),
            name=each.words,
            mode="lines+markers",
            connectgaps=False,
            line={
                "color": theme.CATEGORIES[number % len(theme.CATEGORIES)],
                "dash": theme.DASHES[number % len(theme.DASHES)],
            },
            marker={"symbol": theme.SYMBOLS[number % len(theme.SYMBOLS)]},
            row=1 + rows.index(str(each.row)),
            col=1,
        )
    _mark_emergence(figure, run, table, drawn, rows)
    theme.dress(
        figure,
        title="; ".join(_change(table, each) for each in drawn[:3]),
        subtitle="first → last checkpoint; every number over training",
        height=200 + 140 * int(sum(weights)),
    )
    over_checkpoints(figure, run)
    figure.layout.annotations = once(figure.layout.annotations)
    for place, row in enumerate(rows, start=1):
        figure.update_yaxes(title_text=ROWS[row], row=place, col=1)
        if place < len(rows):
            figure.update_xaxes(title_text="", row=place, col=1)
    if "Behaviour" in rows:
        figure.update_yaxes(range=[-0.03, 1.03], row=1 + rows.index("Behaviour"), col=1)
    return figure


def emerged(run: RunRecord, drawn: Sequence[Told]) -> dict[str, "Emergence"]:
    """Column -> when it emerges, of those drawn that do so within this run, on one line of training."""
    found: dict[str, Sequence[Emergence]] = {}
    for each in drawn:
        metric = each.column.replace("recall_", "recall:", 1)
        if each.row is None or metric.partition(":")[0] not in EMERGING:
            continue
        with suppress(BadPrompt):
            found[each.column] = run_emergence(run, [metric]).found
    return {column: one for column, every in found.items() for one in every if one.outcome in INSIDE}


def _mark_emergence(
    figure: "go.Figure", run: RunRecord, table: "pd.DataFrame", drawn: Sequence[Told], rows: Sequence[str]
) -> None:
    """A ring where a line's number emerges, its bar the 95 % interval of the step, each in the colour of its line."""
    at = {point.position: place for place, point in enumerate(run)}
    found = emerged(run, drawn)
    for number, each in enumerate(drawn):
        one = found.get(each.column)
        if one is None or one.by is None:
            continue
        place = at[one.by]
        low, high = (place if end is None else at[end] for end in (one.low, one.high))
        figure.add_scatter(
            x=[place],
            y=[table[each.column].iloc[place]],
            error_x={"type": "data", "symmetric": False, "array": [high - place], "arrayminus": [place - low]},
            mode="markers",
            marker={"symbol": "circle-open", "size": 15, "line": {"width": 2.5}},
            marker_color=theme.CATEGORIES[number % len(theme.CATEGORIES)],
            name=RING,
            text=[str(one).replace(one.metric, each.words, 1)],
            hovertemplate="%{text}<extra></extra>",
            showlegend=each.column == next(iter(found)),
            legendgroup=RING,
            row=1 + rows.index(str(each.row)),
            col=1,
        )


def _recall_words(column: str) -> str:
    group = column.removeprefix("recall").removeprefix("_")
    return f"recall, {group} facts" if group else "recall of facts"


def _card(table: "pd.DataFrame", each: Told) -> Card:
    values = table[each.column].dropna()
    first, last = values.iloc[0], values.iloc[-1]
    note = f"{_shown(first, each.unit)} at {_place(table, values.index[0])}"
    best = values.idxmin() if each.column in LOWER_IS_BETTER else values.idxmax()
    if each.column != "faithfulness" and values[best] not in (first, last):
        note += f"; best {_shown(values[best], each.unit)} at {_place(table, best)}"
    return Card(each.words, _shown(last, each.unit), note)


def _change(table: "pd.DataFrame", each: Told) -> str:
    values = table[each.column].dropna()
    return f"{each.words} {_shown(values.iloc[0], each.unit)} → {_shown(values.iloc[-1], each.unit)}"


def _place(table: "pd.DataFrame", index: int) -> str:
    step = table["step"][index]
    return f"step\u00a0{int(step):,}" if step == step and step is not None else str(table["checkpoint"][index])


def _shown(value: float, unit: Unit) -> str:
    match unit:
        case "share":
            return f"{100 * value:.0f}\u00a0%"
        case "count":
            return f"{int(value):,}"
        case "number":
            return f"{value:,.2f}"
