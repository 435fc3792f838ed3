"""What a notebook shows of a run and a pair: verdict, one figure, a small table; and figures by name."""

from html import escape

import pytest

from checkpoints.errors import DriftError
from circuit_drift.api.pairs import PairDiff
from circuit_drift.comparison.pair import stored_pair
from circuit_drift.report.run_table import run_html
from circuit_drift.report.verdict import run_verdict
from tests.drift.handmade import WIRING_A, WIRING_B, graph, point, retrieval, run_of, strengths


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    points = [
        point(10 * i, heads=retrieval({(0, 1): 0.75 * (i > 1)}), circuit=graph(strengths(w), facts=20, known=10))
        for i, w in enumerate([WIRING_A, WIRING_A, WIRING_B])
    ]
    return run_of(*points, store=tmp_path_factory.mktemp("shown"))


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    return shown


def test_a_run_shows_its_verdict_a_figure_and_a_table(run, displayed):
    run._ipython_display_()
    html, figure = displayed
    assert html.data == run_html(run)
    told = "</li><li>".join(escape(sentence) for sentence in run_verdict(run))
    head = f"<p><b>{run.name}</b>: {len(run)} checkpoints</p><ul><li>{told}</li></ul><table "
    assert html.data.startswith(head)
    assert figure.layout.title.text == run.plot().layout.title.text
    assert figure.layout.title.text.startswith("needle accuracy")


def test_a_pair_shows_its_verdict_and_what_rewired(run, displayed):
    pair = run.diff(0, 20)
    pair._ipython_display_()
    html, figure = displayed
    assert html.data == pair._repr_html_()
    assert figure.layout.title.text == pair.plot().layout.title.text == pair.circuit.plot().layout.title.text
    assert pair.figure("heads-pair").layout.title.text == pair.heads.plot().layout.title.text


def test_a_figure_is_had_by_its_name_and_an_unknown_one_is_refused_with_those_there_are(run):
    assert run.figure("leading-heads").layout.title.text.startswith("a0.h1 leads")
    with pytest.raises(DriftError, match=r"figure .*'hedas'.*overview.*leading-heads"):
        run.figure("hedas")


def test_one_checkpoint_has_nothing_to_follow(tmp_path):
    with pytest.raises(DriftError, match="overview"):
        run_of(point(0, heads=retrieval()), store=tmp_path).plot()


def test_a_pair_without_circuits_is_drawn_by_its_heads(tmp_path):
    points = [point(i, heads=retrieval({(0, 1): 0.75 * i})) for i in range(2)]
    pair = PairDiff.of(stored_pair(run_of(*points, store=tmp_path), 0, 1))
    assert pair.plot().layout.title.text == pair.heads.plot().layout.title.text


def test_a_long_run_shows_twenty_checkpoints_the_ends_among_them(tmp_path):
    page = run_html(run_of(*(point(i, heads=retrieval()) for i in range(101)), store=tmp_path))
    assert page.count("<tr") == 21
    assert "<td>step0</td>" in page
    assert "<td>step100</td>" in page
    assert page.endswith("<p>20 of 101 checkpoints; <code>to_frame()</code> has all.</p>")
