"""The first figure of a run marks where its numbers emerge, in their own colours, with the interval of the step."""

import pytest

from circuit_drift.report.overview import overview, overview_figure, told
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


def test_what_is_there_from_the_first_and_what_has_several_lines_has_no_ring(run):
    def rings(measured):
        return [trace for trace in overview(measured, run_frame(measured)).figure.data if trace.name == "emerges"]

    known = [point(i, circuit=graph(strengths(WIRING_A), facts=20, known=20)) for i in range(3)]
    assert rings(run_of(*known)) == []
    branches = [point(i, branch=name, heads=retrieval(correct=5 * i)) for name in "ab" for i in range(3)]
    assert rings(run_of(*branches)) == []
