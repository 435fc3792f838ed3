"""The first figure of a run marks where its numbers emerge, in their own colours, with the interval of the step."""

import math

import pandas as pd
import pytest

from checkpoints.results.figure import unbroken
from circuit_drift.page import theme
from circuit_drift.report.overview import cards, overview, overview_figure, told
from circuit_drift.report.run_table import run_frame
from tests.drift.handmade import WIRING_A, graph, point, retrieval, run_of, strengths


@pytest.fixture(scope="module")
def run():
    return run_of(
        *(
            point(
                100 * i,
                heads=retrieval({(0, 1): 0.5 * (i > 2)}, correct=10 * (i > 2)),
                circuit=graph(strengths(WIRING_A), facts=20, known=20 * (i > 1)),
            )
            for i in range(5)
        )
    )


def test_a_ring_stands_where_each_number_emerges(run):
    table = run_frame(run)
    figure = overview_figure(run, table, [each for each in told(table) if each.row])
    rings = [trace for trace in figure.data if trace.name == "emerges"]
    assert [(ring.x[0], ring.y[0], ring.text[0]) for ring in rings] == [
        (3, 1.0, "needle accuracy emerges between steps 200 and 300 [95 %: 200 to 300]"),
        (2, 1.0, "recall of facts emerges between steps 100 and 200 [95 %: 100 to 200]"),
        (3, 1, "retrieval heads emerges between steps 200 and 300 [95 %: 200 to 300]"),
    ]
    assert [(ring.error_x.arrayminus[0], ring.error_x.array[0]) for ring in rings] == [(1, 0)] * 3
    colours = {trace.name: trace.line.color for trace in figure.data if trace.mode == "lines+markers"}
    assert [ring.marker.color for ring in rings] == [
        colours[name] for name in ("needle accuracy", "recall of facts", "retrieval heads")
    ]
    assert [ring.showlegend for ring in rings] == [True, False, False]
    assert {(ring.marker.symbol, ring.marker.size, ring.marker.line.width) for ring in rings} == {
        ("circle-open", 15, 2.5)
    }


def test_what_is_there_from_the_first_and_what_has_several_lines_has_no_ring(run):
    def rings(measured):
        return [trace for trace in overview(measured, run_frame(measured)).figure.data if trace.name == "emerges"]

    known = [point(i, circuit=graph(strengths(WIRING_A), facts=20, known=20)) for i in range(3)]
    assert rings(run_of(*known)) == []
    branches = [point(i, branch=name, heads=retrieval(correct=5 * i)) for name in "ab" for i in range(3)]
    assert rings(run_of(*branches)) == []


@pytest.fixture(scope="module")
def staged():
    return run_of(point(0, stage="one"), point(1000, stage="two"), point(2000, stage="two"))


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(
        {
            "step": [0, 1000, 2000],
            "checkpoint": ["a", "b", "c"],
            "loss": [4.0, 1.5, 2.0],
            "needle_accuracy": [0.125, 0.25, 0.5],
            "answer_ppl": [1234.5, math.nan, 9.0],
            "retrieval_heads": [0.0, 1500.0, 12.0],
            "faithfulness": [0.5, 0.875, 0.75],
            "recall_old": [1.0, 0.5, 0.75],
            "recall_new": [0.0, 0.0, 0.0],
            "recall_never": [math.nan] * 3,
        }
    )


def test_cards_tell_the_end_the_start_and_the_best_where_it_is_neither(table):
    found = [(card.label, card.value.replace("\u00a0", " "), card.note.replace("\u00a0", " ")) for card in cards(table)]
    assert found == [
        ("training loss", "2.00", "4.00 at step 0; best 1.50 at step 1,000"),
        ("needle accuracy", "50 %", "12 % at step 0"),
        ("recall, old facts", "75 %", "100 % at step 0"),
        ("answer perplexity", "9.00", "1,234.50 at step 0"),
        ("retrieval heads", "12", "0 at step 0; best 1,500 at step 1,000"),
        ("faithfulness of the circuit", "0.75", "0.50 at step 0"),
    ]
    unnumbered = cards(table.assign(step=math.nan))
    assert [card.note for card in unnumbered][:2] == ["4.00 at a; best 1.50 at b", "12\u00a0% at a"]


def test_six_classes_of_facts_are_drawn_at_most(table):
    more = table.assign(**{f"recall_{i}": 0.5 for i in range(7)})
    recalls = [each.column for each in told(more) if each.column.startswith("recall")]
    assert recalls == ["recall_old", "recall_new", "recall_0", "recall_1", "recall_2", "recall_3"]
    whole = table.drop(columns=["recall_old", "recall_new", "recall_never"]).assign(recall=0.5)
    assert [each.words for each in told(whole)][2] == "recall of facts"


def test_the_run_at_a_glance_has_a_panel_each_for_behaviour_heads_and_circuit(staged, table):
    section = overview(staged, table)
    assert (section.slug, section.title) == ("overview", "The run at a glance")
    assert list(section.frame) == [
        "step", "needle_accuracy", "recall_old", "recall_new", "retrieval_heads", "faithfulness"
    ]  # fmt: skip
    figure = section.figure
    assert unbroken(figure.layout.title.text).replace("\u00a0", " ") == (
        "needle accuracy 12 % → 50 %; recall, old facts 100 % → 75 %; recall, new facts 0 % → 0 %"
    )
    assert unbroken(figure.layout.title.subtitle.text) == "first → last checkpoint; every number over training"
    names = [
        "needle accuracy",
        "recall, old facts",
        "recall, new facts",
        "retrieval heads",
        "faithfulness of the circuit",
    ]
    assert [trace.name for trace in figure.data] == names
    assert [trace.yaxis for trace in figure.data] == ["y", "y", "y", "y2", "y3"]
    assert {tuple(trace.x) for trace in figure.data} == {(0, 1, 2)}
    assert [list(trace.y)[-1] for trace in figure.data] == [0.5, 0.75, 0.0, 12.0, 0.75]
    looks = [(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data]
    assert looks == list(zip(theme.CATEGORIES[:5], theme.DASHES[:5], theme.SYMBOLS[:5], strict=True))
    assert {(trace.mode, trace.connectgaps) for trace in figure.data} == {("lines+markers", False)}
    axes = [figure.layout.yaxis, figure.layout.yaxis2, figure.layout.yaxis3]
    assert [axis.title.text for axis in axes] == ["share", "heads", "faithfulness"]
    assert [axis.range for axis in axes] == [(-0.03, 1.03), None, None]
    tall = [axis.domain[1] - axis.domain[0] for axis in axes]
    assert tall == pytest.approx([(1 - 2 * 0.06) * share for share in (0.5, 0.25, 0.25)]), "behaviour twice as tall"
    steps = [figure.layout.xaxis, figure.layout.xaxis2, figure.layout.xaxis3]
    assert [axis.title.text for axis in steps] == ["", "", "step (checkpoints evenly spaced)"]
    assert [(mark.text, mark.x) for mark in figure.layout.annotations] == [("two →", 0.5)], "once, not once a panel"
    lines = 21 * figure.layout.title.text.count("<br>") + 16 * figure.layout.title.subtitle.text.count("<br>")
    assert figure.layout.height - lines == 200 + 4 * 140


def test_a_run_of_one_checkpoint_or_without_such_numbers_has_no_glance(staged, table):
    assert overview(run_of(staged.points[0]), table.head(1)) is None
    assert overview(staged, table[["step", "checkpoint", "loss", "answer_ppl"]]) is None
    heads = overview(staged, table[["step", "retrieval_heads"]]).figure
    assert (heads.layout.yaxis.title.text, heads.layout.yaxis.range) == ("heads", None)
    assert heads.layout.xaxis.title.text == "step (checkpoints evenly spaced)"
