"""What the figures of a report say and draw: titles, curves, error bars and marks, on runs made by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as textbook

from checkpoints.audit import Fault
from checkpoints.results.figure import unbroken
from circuit_drift.measures.figures.heads import behaviour_figure, head_frame, head_lines_figure, head_map_figure
from circuit_drift.measures.figures.lines import lines_figure
from circuit_drift.measures.figures.recall import recall_figure
from circuit_drift.measures.figures.rewiring import rewiring_figure, rewiring_frame
from circuit_drift.measures.figures.roles import roles_figure, roles_frame
from circuit_drift.measures.pairs.roles import roles_of
from circuit_drift.page import theme
from circuit_drift.page.axis import mark_steps
from circuit_drift.report.audit import audit_sections, audit_warnings, branches, series_figure
from tests.drift.handmade import (
    EDGES,
    WIRING_A,
    WIRING_B,
    faithfulness,
    graph,
    point,
    retrieval,
    roles,
    run_of,
    strengths,
)
from tests.looks import looks


def _title(figure) -> tuple[str, str]:
    return unbroken(figure.layout.title.text), unbroken(figure.layout.title.subtitle.text)


def _traces(figure) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data}


@pytest.fixture
def behaved():
    """Four checkpoints of two stages, the second not scored."""
    return run_of(
        point(0, stage="one", heads=retrieval({(0, 1): 0.0625}, accepted=3, correct=2, nll=math.log(4000))),
        point(100, stage="one"),
        point(1000, stage="two", heads=retrieval({(0, 1): 0.75, (1, 0): 0.5}, accepted=9, correct=4, nll=math.log(8))),
        point(
            2000, stage="two", heads=retrieval({(0, 1): 0.625, (1, 1): 0.125}, accepted=8, correct=7, nll=math.log(2))
        ),
    )


def test_the_needle_test_beside_the_perplexity(behaved):
    figure = behaviour_figure(behaved)
    assert _title(figure) == (
        "Needle score 0.30 → 0.80, accuracy 0.20 → 0.70; answer perplexity 4,000.00 → 2.00",
        "10 needle prompts, answers teacher-forced: score = over half of the answer's tokens are the top token, "
        "accuracy = all are",
    )
    lines = _traces(figure)
    assert list(lines) == ["needle score (over half of the answer)", "needle accuracy (all of it)", "answer perplexity"]
    score, accuracy, perplexity = lines.values()
    assert [list(trace.x) for trace in figure.data] == [[0, 2, 3]] * 3
    assert list(score.y) == [0.3, 0.9, 0.8]
    assert list(accuracy.y) == [0.2, 0.4, 0.7]
    assert list(perplexity.y) == pytest.approx([4000, 8, 2], rel=1e-5)
    assert (score.yaxis, accuracy.yaxis, perplexity.yaxis) == ("y", "y", "y2")
    left, right = figure.layout.yaxis, figure.layout.yaxis2
    assert (left.title.text, left.type) == ("share of needle prompts", None)
    assert (right.title.text, right.type) == ("answer perplexity (log)", "log")
    assert list(right.tickvals) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    assert right.ticktext[-1] == "5,000"
    assert [(trace.mode, trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data] == [
        ("lines+markers", theme.SKY, None, "diamond"),
        ("lines+markers", theme.BLUE, None, "circle"),
        ("lines+markers", theme.VERMILLION, "dash", "square"),
    ]
    assert (list(left.range), right.range, right.showgrid) == ([-0.03, 1.03], None, False)


def test_checkpoints_stand_in_their_order_and_stages_begin_between_them(behaved):
    figure = behaviour_figure(behaved)
    axis = figure.layout.xaxis
    assert axis.title.text == "step (checkpoints evenly spaced)"
    assert list(axis.tickvals) == [0, 1, 2, 3]
    assert list(axis.ticktext) == ["0", "100", "1,000", "2,000"]
    assert list(axis.range) == [-0.5, 3.5]
    assert [(a.text, a.x) for a in figure.layout.annotations] == [("two →", 1.5)]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(1.5, 1.5)]


def test_a_suspect_checkpoint_and_missing_ones_are_marked_in_their_place(behaved):
    findings = [
        Fault("off_path", ("two/1000",), "off"),
        Fault("missing_steps", ("one/100", "two/1000"), "two", {"steps": [200, 300]}),
    ]
    figure = behaviour_figure(run_of(*behaved.points, findings=findings))
    assert list(figure.layout.xaxis.ticktext) == ["0", "! 100", "! 1,000", "2,000"]
    bands = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"]
    assert bands == [(0.6, 1.4), (1.6, 2.4)]
    assert [(a.text, a.x) for a in figure.layout.annotations] == [("two →", 1.5), ("2 missing", 1.5)]


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval as its paper of 1927 gives it."""
    z = 1.9599639845
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def test_recall_by_class_with_its_intervals():
    labels = [{"class": "old" if i < 4 else "new"} for i in range(10)]
    told = ([True] * 2 + [False] * 8, [True] * 3 + [False] + [True] * 2 + [False] * 4)
    run = run_of(
        point(0),
        *(
            point(10 * (i + 1), circuit=graph(strengths(WIRING_A), known=known, labels=labels))
            for i, known in enumerate(told)
        ),
    )
    figure = recall_figure(run)
    assert _title(figure) == (
        "Fact recall at the end: old 0.75, new 0.33",
        "share of facts whose answer is the top token of the clean prompt; bars are Wilson 95 % intervals",
    )
    old, new = figure.data
    assert (old.name, new.name) == ("old (n = 4)", "new (n = 6)")
    assert list(old.x) == [1, 2]
    assert list(old.y) == [0.5, 0.75]
    assert list(new.y) == pytest.approx([0, 1 / 3])
    for trace, n in ((old, 4), (new, 6)):
        ends = [_wilson(share, n) for share in trace.y]
        assert list(trace.error_y.array) == pytest.approx([h - y for y, (_, h) in zip(trace.y, ends, strict=True)])
        assert list(trace.error_y.arrayminus) == pytest.approx(
            [y - low for y, (low, _) in zip(trace.y, ends, strict=True)], abs=1e-9
        )
        assert min(trace.error_y.array) > 0
        assert trace.error_y.symmetric is False
    assert figure.layout.yaxis.title.text == "fact recall (top token)"


def test_facts_of_one_class_are_told_once():
    run = run_of(point(0, circuit=graph(strengths(WIRING_A), known=10)))
    assert _title(recall_figure(run))[0] == "Fact recall at the end: all 1.00"


def test_the_map_of_heads_over_the_checkpoints(behaved):
    figure = head_map_figure(behaved)
    assert _title(figure) == (
        "Retrieval heads (score > 0.1): 0 at the start, 2 at most, 2 at the end",
        "mean share of the needle a head copies; move the slider over the checkpoints; the scale is fixed",
    )
    maps = [[[0, 0.0625], [0, 0]], [[0, 0.75], [0.5, 0]], [[0, 0.625], [0, 0.125]]]
    assert [frame.data[0].z.tolist() for frame in figure.frames] == maps
    assert [frame.name for frame in figure.frames] == ["step0", "step1000", "step2000"]
    (shown,) = figure.data
    assert shown.z.tolist() == maps[-1]
    assert list(shown.x) == ["h0", "h1"]
    assert list(shown.y) == ["layer 0", "layer 1"]
    assert (shown.zmin, shown.zmax) == (0, 1)
    (slider,) = figure.layout.sliders
    assert slider.active == 2
    assert slider.currentvalue.prefix == "step "
    shows = {step.label: list(step.args[0]) for step in slider.steps}
    assert shows == {"0": ["step0"], "1,000": ["step1000"], "2,000": ["step2000"]}
    fewer = head_map_figure(run_of(behaved.points[2], replace(behaved.points[0], step=3000)))
    assert _title(fewer)[0] == "Retrieval heads (score > 0.1): 2 at the start, 2 at most, 0 at the end"


def test_the_leading_heads_over_the_checkpoints(behaved):
    figure = head_lines_figure(behaved, k=3)
    assert _title(figure) == (
        "a0.h1 leads: 0.06 at the start, 0.75 at its peak, 0.62 at the end",
        "the 3 heads with the highest peak; dotted line: the 0.1 threshold",
    )
    lines = _traces(figure)
    assert {name: list(trace.y) for name, trace in lines.items()} == {
        "a0.h1": [0.0625, 0.75, 0.625], "a1.h0": [0, 0.5, 0], "a1.h1": [0, 0, 0.125]
    }  # fmt: skip
    assert list(lines) == ["a0.h1", "a1.h0", "a1.h1"]
    assert {tuple(trace.x) for trace in lines.values()} == {(0, 2, 3)}
    assert next((shape.y0, shape.y1) for shape in figure.layout.shapes) == (0.1, 0.1)
    assert len(head_lines_figure(behaved).data) == 4
    looks = [(trace.mode, trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data]
    assert looks == [("lines+markers", theme.CATEGORIES[j], theme.DASHES[j], theme.SYMBOLS[j]) for j in range(3)]
    axis, (threshold, *_) = figure.layout.yaxis, figure.layout.shapes
    assert (axis.title.text, list(axis.range)) == ("retrieval score", [-0.03, 1.03])
    assert (threshold.line.color, threshold.line.dash, threshold.line.width) == (theme.GREY, "dot", 1)


def test_eight_heads_lead_each_with_a_look_of_its_own():
    scores = retrieval({(i // 4, i % 4): 0.5 + i / 64 for i in range(12)}, shape=(3, 4))
    figure = head_lines_figure(run_of(point(0, heads=scores), point(1, heads=scores)))
    assert [trace.name for trace in figure.data] == [f"a{i // 4}.h{i % 4}" for i in range(11, 3, -1)]
    assert len({(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data}) == 8
    assert _title(figure)[1] == "the 8 heads with the highest peak; dotted line: the 0.1 threshold"
    every = head_lines_figure(run_of(point(0, heads=scores), point(1, heads=scores)), k=12)
    assert every.data[8].line.color == theme.CATEGORIES[0]
    assert every.data[6].line.dash == theme.DASHES[0]
    assert every.data[8].marker.symbol == theme.SYMBOLS[0]


def test_a_head_to_which_the_score_does_not_apply_never_leads():
    scores = retrieval({(0, 0): [float("nan")] * 10, (1, 1): 0.25})
    figure = head_lines_figure(run_of(point(0, heads=scores), point(1, heads=scores)))
    assert [trace.name for trace in figure.data] == ["a1.h1", "a0.h1", "a1.h0", "a0.h0"]
    assert _title(figure)[0] == "a1.h1 leads: 0.25 at the start, 0.25 at its peak, 0.25 at the end"


def test_the_numbers_behind_the_map():
    """Needles of .25, .25, .75, .75: mean .5, standard error 1/sqrt(48), t(3) = 3.18; two needles have no interval."""
    run = run_of(
        point(0),
        point(1000, heads=retrieval({(0, 1): [0.25, 0.25, 0.75, 0.75]}, prompts=4)),
        point(2000, heads=retrieval({(1, 1): [0.5, 1.0]}, prompts=2)),
    )
    frame = head_frame(run)
    assert list(frame) == ["step", "name", "layer", "head", "n", "score", "low", "high"]
    assert frame.drop(columns=["low", "high"]).values.tolist() == [
        ["1,000", "a0.h0", 0, 0, 4, 0],
        ["1,000", "a0.h1", 0, 1, 4, 0.5],
        ["1,000", "a1.h0", 1, 0, 4, 0],
        ["1,000", "a1.h1", 1, 1, 4, 0],
        ["2,000", "a0.h0", 0, 0, 2, 0],
        ["2,000", "a0.h1", 0, 1, 2, 0],
        ["2,000", "a1.h0", 1, 0, 2, 0],
        ["2,000", "a1.h1", 1, 1, 2, 0.75],
    ]
    half = 3.182446 / math.sqrt(48)
    assert frame[["low", "high"]].values[1] == pytest.approx([0.5 - half, 0.5 + half], abs=1e-6)
    assert frame[["low", "high"]].values[[0, 2, 3]] == pytest.approx(np.array([[0, 1 - 0.025 ** (1 / 4)]] * 3))
    assert np.isnan(frame[["low", "high"]].values[4:]).all()


def _window(first: int, second: int):
    """A graph of two facts, each with a window of 20 of the 46 edges; the second fact weighs more, so that both
    together have its window. Two windows d places apart share (20 - d) / (20 + d)."""
    facts = np.tile(np.arange(1, len(EDGES) + 1) / 2**20, (2, 1))
    for scores, start, size in zip(facts, (first, second), (1, 2), strict=True):
        scores[start : start + 20] = -size
    return graph(facts)


def _shared(distance: int) -> float:
    return (20 - distance) / (20 + distance)


@pytest.fixture(scope="module")
def rewired():
    """Windows at 0 and 2, 10 and 14, 11 and 13, 26 and 26: the middle step alone is within the noise of the prompts."""
    return run_of(
        point(5),
        point(10, circuit=_window(0, 2), faithfulness=faithfulness([0.125, 0.25], [0.25, 0.5], random=(0.75, 0.0625))),
        point(100, circuit=_window(10, 14), faithfulness=faithfulness([0.5, 0.5], [0.5, 1.0], random=(0.75, 0.125))),
        point(1000, circuit=_window(11, 13), faithfulness=faithfulness([0.5, 1], [1, 0.875], random=(0.75, 0.25))),
        point(2000, circuit=_window(26, 26)),
    )


@pytest.fixture(scope="module")
def overlaps(rewired):
    return rewiring_frame(rewired)


def test_circuits_beside_the_noise_of_their_prompts(overlaps):
    """Overlap across is one half here with the other half there, that of the floor one half with the other here."""
    frame = overlaps.set_index("step")
    assert list(frame) == [
        "to_previous", "to_last", "floor", "floor_low", "floor_high", "chance",
        "edges", "faithfulness", "low", "high", "random_circuits",
    ]  # fmt: skip
    assert list(frame.index) == ["10", "100", "1,000", "2,000"]
    within = [_shared(2), _shared(4), _shared(2), 1]
    assert list(frame["to_previous"])[1:] == pytest.approx(
        [(_shared(14) + _shared(8)) / 2, _shared(3), (_shared(15) + _shared(13)) / 2]
    )
    assert math.isnan(frame["to_previous"].iloc[0])
    assert list(frame["to_last"]) == pytest.approx(
        [0, (_shared(16) + _shared(12)) / 2, (_shared(15) + _shared(13)) / 2, 1]
    )
    pairs = [(0, 3), (0, 1), (1, 2), (2, 3)]
    for name, of in (("floor", lambda a, b: (a + b) / 2), ("floor_low", min), ("floor_high", max)):
        assert list(frame[name]) == pytest.approx([of(within[a], within[b]) for a, b in pairs]), name
    # 20 of 46 and 20 of 46 at random share about 20 * 20 / 46
    expected = (400 / 46) / (40 - 400 / 46)
    assert all(abs(value - expected) < 0.1 for value in frame["chance"])


def test_faithfulness_and_random_circuits_are_of_the_largest_size(overlaps):
    frame = overlaps.set_index("step")
    assert frame["edges"].tolist()[:3] == [10, 10, 10]
    assert frame["faithfulness"].tolist()[:3] == [0.375, 0.75, 0.9375]
    assert frame[["low", "high"]].isna().all(axis=None), "two facts tell no spread"
    assert frame["random_circuits"].tolist()[:3] == [0.0625, 0.125, 0.25]
    assert frame.loc["2,000", ["edges", "faithfulness", "low", "high", "random_circuits"]].isna().all()


def test_the_figure_counts_the_steps_that_rewire_more_than_noise(rewired, overlaps):
    frame = overlaps
    figure = rewiring_figure(rewired, frame)
    assert _title(figure) == (
        "2 of 3 steps between neighbours overlap less than two halves of the facts do",
        "facts that either of two checkpoints recalls, together; inside the band a line neither shows nor rules out a "
        "change",
    )
    lines = _traces(figure)
    assert {tuple(trace.x) for trace in figure.data} == {(1, 2, 3, 4)}
    band = [trace for trace in figure.data if trace.line.width == 0]
    assert [trace.fill for trace in band] == [None, "tonexty"]
    np.testing.assert_array_equal(band[0].y, frame["floor_high"])
    np.testing.assert_array_equal(band[1].y, frame["floor_low"])
    assert band[1].name == "noise floor: halves of the facts, one checkpoint (5–95 %)"
    np.testing.assert_array_equal(lines["edge overlap with the previous"].y, frame["to_previous"])
    np.testing.assert_array_equal(lines["edge overlap with the last"].y, frame["to_last"])
    kept = lines["faithfulness of the circuit"]
    assert list(kept.y)[:3] == [0.375, 0.75, 0.9375]
    assert np.isnan([*kept.error_y.array, *kept.error_y.arrayminus]).all(), "two facts tell no spread"
    assert list(lines["random circuits of that size"].y)[:3] == [0.0625, 0.125, 0.25]
    assert figure.layout.yaxis.title.text == "edge overlap (Jaccard)"
    assert figure.layout.yaxis2.title.text == "faithfulness"
    assert [trace.yaxis for trace in figure.data] == ["y"] * 4 + ["y2"] * 2
    looks = {name: (t.mode, t.line.color, t.line.dash, t.marker.symbol) for name, t in lines.items() if t.marker.symbol}
    assert looks == {
        "edge overlap with the previous": ("lines+markers", theme.BLUE, theme.DASHES[0], theme.SYMBOLS[0]),
        "edge overlap with the last": ("lines+markers", theme.VERMILLION, theme.DASHES[1], theme.SYMBOLS[1]),
        "faithfulness of the circuit": ("lines+markers", theme.GREEN, "solid", "diamond"),
        "random circuits of that size": ("lines+markers", theme.GREY, "dot", "x"),
    }
    assert (band[0].showlegend, band[0].hoverinfo) == (False, "skip"), "the upper edge is part of the band below"
    assert {trace.mode for trace in band} == {"lines"}
    assert (kept.error_y.type, kept.error_y.symmetric) == ("data", False)
    assert (figure.layout.height, list(figure.layout.yaxis.range)) == (656, [-0.03, 1.03]), "640, and a line of words"
    assert list(figure.layout.yaxis2.range) == [-0.3, 1.3]
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text) == (
        "", "step (checkpoints evenly spaced)",
    )  # fmt: skip
    bare = run_of(*(point(step, circuit=_window(0, 0)) for step in (1, 2)))
    alone = rewiring_frame(bare)
    assert "faithfulness" not in alone
    assert len(rewiring_figure(bare, alone).data) == 4


def test_overlaps_are_of_the_facts_that_are_recalled():
    """Eight facts have one window throughout; the strong ones of four that are never recalled move."""

    def circuit(elsewhere: int):
        facts = np.tile(np.arange(1, len(EDGES) + 1) / 2**20, (12, 1))
        facts[:8, :20] = -1
        facts[8:, elsewhere : elsewhere + 20] = -4
        return graph(facts, known=8)

    frame = rewiring_frame(run_of(point(1, circuit=circuit(20)), point(2, circuit=circuit(26))))
    assert frame["to_previous"].tolist()[1:] == frame["to_last"].tolist()[1:] == [1.0]
    assert frame["to_last"].iloc[0] == 1.0
    assert frame[["floor", "floor_low", "floor_high"]].values.tolist() == [[1.0] * 3] * 2


def test_a_difference_of_rounding_is_no_rewiring(rewired, overlaps):
    near = overlaps.assign(to_previous=overlaps["floor_low"] - 1e-12)
    assert _title(rewiring_figure(rewired, near))[0].startswith("0 of 4 steps ")
    far = overlaps.assign(to_previous=overlaps["floor_low"] - 1e-6)
    assert _title(rewiring_figure(rewired, far))[0].startswith("4 of 4 steps ")


def test_the_circuit_of_another_task_is_a_floor_of_overlaps(rewired):
    """Windows of the facts at 0 and 2, then 10 and 14; of both needles at 4."""
    other = {"retrieval-circuit": _window(4, 4)}
    run = run_of(*(replace(p, results={**p.results, **other}) for p in rewired.points[1:3]))
    frame = rewiring_frame(run)
    expected = [(_shared(4) + _shared(2)) / 2, (_shared(6) + _shared(10)) / 2]
    assert frame["other_task_overlap"].tolist() == pytest.approx(expected)
    line = _traces(rewiring_figure(run, frame))["edge overlap with the circuit of another task, retrieval"]
    assert list(line.y) == pytest.approx(expected)
    assert (line.mode, line.line.color, line.line.dash, line.line.width) == ("lines", theme.GREY, "dashdot", 1)
    assert line.yaxis == "y"


def test_error_bars_run_from_the_interval_to_the_value():
    """Kept 0 on one fact and 0.25 on the other three times over: uneven ends."""
    curve = faithfulness([0.0, 0.25])
    curve = replace(
        curve,
        metric=np.array([[1.0, 1.0, 1.0, 3.0]]),
        random_metric=np.ones((1, 1, 4)),
        clean_metric=np.full(4, 3.0),
        corrupt_metric=np.full(4, 1.0),
    )
    run = run_of(point(1, circuit=_window(0, 2), faithfulness=curve), point(2, circuit=_window(0, 2)))
    frame = rewiring_frame(run)
    assert frame["faithfulness"].iloc[0] == 0.25
    # four draws of four: none holds the one that is kept in (3/4)^4 = 32 %, three or more in 5 %
    # percentiles 0 and 0.75, moved away from 0.25 as far as a t interval of four reaches
    reach = (4 / 3) ** 0.5 * textbook.t.ppf(0.975, 3) / textbook.norm.ppf(0.975)
    assert (frame["low"].iloc[0], frame["high"].iloc[0]) == pytest.approx((0.25 - 0.25 * reach, 0.25 + 0.5 * reach))
    bars = _traces(rewiring_figure(run, frame))["faithfulness of the circuit"].error_y
    assert (bars.array[0], bars.arrayminus[0]) == pytest.approx((0.5 * reach, 0.25 * reach))
    assert (bars.thickness, bars.width) == (1, 2)


def _cast(step: int, wiring=WIRING_A, *, known: int = 0, heads=None, **of: str):
    return point(step, circuit=graph(strengths(wiring), known=known), roles=roles(**of), heads=heads)


def test_a_role_of_retrieval_is_resampled_by_needles_and_not_by_their_depths():
    """Three needles of five depths, one scored .5 and two 0: (2/3)^3 of the resamples hold the two alone."""
    three = retrieval({(1, 0): [0.5] * 5 + [0.0] * 10}, prompts=15)
    found = roles_of(_cast(0, heads=replace(three, needle=np.repeat([3, 8, 9], 5))))
    np.testing.assert_allclose(found.scores["retrieval"][:, 1, 0], [0.5, 0.0, 0.0])
    assert found.certainty()["retrieval"][1, 0] == pytest.approx(1 - (2 / 3) ** 3, abs=0.05)
    scores = retrieval({(1, 0): [0.5] * 5 + [0.0] * 5})
    two = roles_of(_cast(0, heads=replace(scores, needle=np.repeat([3, 8], 5)))).certainty()["retrieval"]
    assert np.isnan(two).all(), "two needles tell no spread"
    alone = roles_of(_cast(0, heads=scores)).certainty()["retrieval"]
    assert alone[1, 0] == pytest.approx(1 - (1 + 10 + 45) / 2**10, abs=0.03), "three of ten needles, else at most .1"


def test_roles_of_the_heads_of_each_circuit():
    """a1.h1 is outside the second wiring's circuit, so that its role there does not count."""
    run = run_of(
        _cast(0, a0_h0="relation"),
        point(10),
        _cast(1000, a0_h0="mover", a1_h1="mover"),
        _cast(2000, WIRING_B, a0_h0="mover", a1_h1="mover"),
    )
    frame = roles_frame(run)
    assert frame.values.tolist() == [
        ["0", "a0.h0", "relation"],
        *(["0", head, "mixture"] for head in ("a0.h1", "a1.h0", "a1.h1")),
        ["1,000", "a0.h0", "mover"],
        *(["1,000", head, "mixture"] for head in ("a0.h1", "a1.h0")),
        ["1,000", "a1.h1", "mover"],
        ["2,000", "a0.h0", "mover"],
        *(["2,000", head, "mixture"] for head in ("a0.h1", "a1.h0")),
    ]
    figure = roles_figure(run, frame)
    assert _title(figure) == (
        "The first mover head stands out at step 1,000; the last circuit has 1",
        "facts that some checkpoint recalls, together; roles certain in 95 % of resamples of them",
    )
    lines = _traces(figure)
    assert {name: list(trace.y) for name, trace in lines.items()} == {
        "relation": [1, 0, 0], "mixture": [3, 2, 2], "mover": [0, 2, 1]
    }  # fmt: skip
    assert {tuple(trace.x) for trace in lines.values()} == {(0, 2, 3)}
    assert list(lines["mover"].text) == ["none", "a0.h0, a1.h1", "a0.h0"]
    assert figure.layout.yaxis.title.text == "heads of the circuit"


def test_a_run_without_a_mover_says_so_and_retrieval_is_a_role():
    run = run_of(_cast(0, a0_h0="relation"), _cast(10, heads=retrieval({(0, 1): 0.5})))
    frame = roles_frame(run)
    assert _title(roles_figure(run, frame))[0] == "No head of a circuit is certainly a mover"
    assert frame.loc[frame["role"] == "retrieval"].values.tolist() == [["10", "a0.h1", "retrieval"]]
    lost = run_of(_cast(0, a0_h0="mover"), _cast(10))
    assert _title(roles_figure(lost, roles_frame(lost)))[0] == (
        "The first mover head stands out at step 0; the last circuit has 0"
    )


def test_roles_are_those_over_the_facts_that_are_recalled():
    """On the eight facts that are recalled a0.h0 is a mover, on the others it writes only from the relation."""
    first = _cast(0, known=8)
    subject = first.roles.subject.copy()
    subject[:, 0, 0] = [100] * 8 + [-400] * 12
    run = run_of(first.with_result("roles", replace(first.roles, subject=subject)), _cast(10, known=8))
    assert ["0", "a0.h0", "mover"] in roles_frame(run).values.tolist()


def test_stages_are_marked_where_they_change_and_nowhere_else():
    import plotly.graph_objects as go

    figure = theme.mark_stages(go.Figure(), [None, "one", "one", "two", "two", "one"])
    assert [(a.text, a.x) for a in figure.layout.annotations] == [("one →", 0.5), ("two →", 2.5), ("one →", 4.5)]
    assert not theme.mark_stages(go.Figure(), ["one"] * 3).layout.annotations


def test_marks_on_axes_that_name_steps_stand_at_the_checkpoints_shown():
    import plotly.graph_objects as go

    findings = [Fault("non_finite", ("3000",), "NaN")]
    run = run_of(*(point(step) for step in (1000, 2000, 3000)), findings=findings)
    labels = ["1000", "3000"]
    figure = mark_steps(go.Figure(go.Heatmap(z=np.eye(2), x=labels, y=labels)), run)
    assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == ["1,000", "✕ 3,000"]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(0.6, 1.4)]


def test_how_needles_and_heads_are_drawn(behaved):
    steps = "xaxis range=[-0.5, 3.5] tickmode=array text=step (checkpoints evenly spaced)"
    stage = "mark color=#767676 dash=dot width=1 x0=1.5 x1=1.5 xref=x y0=0 y1=1 yref=y domain"
    assert looks(behaviour_figure(behaved)) == [
        "color=#56B4E9 symbol=diamond mode=lines+markers xaxis=x yaxis=y",
        "color=#0072B2 symbol=circle mode=lines+markers xaxis=x yaxis=y",
        "color=#D55E00 dash=dash symbol=square mode=lines+markers xaxis=x yaxis=y2",
        steps,
        "yaxis range=[-0.03, 1.03] text=share of needle prompts",
        "yaxis2 overlaying=y showgrid=False side=right text=answer perplexity (log)",
        stage,
        "layout height=457",
    ]
    assert looks(head_map_figure(behaved)) == [
        "hovertemplate=%{y}, %{x}: %{z:.3f}<extra></extra> xgap=1 ygap=1 zmax=1 zmin=0", "layout height=360"
    ]  # fmt: skip
    (slider,) = head_map_figure(behaved).layout.sliders
    assert (slider.active, slider.currentvalue.prefix, slider.pad.t) == (2, "step ", 40)
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    assert [(step.label, step.method, list(step.args)) for step in slider.steps] == [
        (label, "animate", [(name,), at_once])
        for label, name in (("0", "step0"), ("1,000", "step1000"), ("2,000", "step2000"))
    ]
    assert looks(head_lines_figure(behaved, k=3)) == [
        "color=#0072B2 dash=solid symbol=circle mode=lines+markers",
        "color=#D55E00 dash=dash symbol=square mode=lines+markers",
        "color=#009E73 dash=dot symbol=diamond mode=lines+markers",
        "yaxis range=[-0.03, 1.03] text=retrieval score",
        steps,
        "mark color=#767676 dash=dot width=1 x0=0 x1=1 xref=x domain y0=0.1 y1=0.1 yref=y",
        stage,
        "layout height=420",
    ]


def test_how_rewiring_is_drawn(rewired, overlaps):
    bars = "symmetric=False thickness=1 width=2"
    assert looks(rewiring_figure(rewired, overlaps)) == [
        "hoverinfo=skip width=0 mode=lines showlegend=False xaxis=x yaxis=y",
        "fill=tonexty fillcolor=rgba(118,118,118,0.22) width=0 mode=lines xaxis=x yaxis=y",
        "color=#0072B2 dash=solid symbol=circle mode=lines+markers xaxis=x yaxis=y",
        "color=#D55E00 dash=dash symbol=square mode=lines+markers xaxis=x yaxis=y",
        f"{bars} color=#009E73 dash=solid symbol=diamond mode=lines+markers xaxis=x2 yaxis=y2",
        "color=#767676 dash=dot symbol=x mode=lines+markers xaxis=x2 yaxis=y2",
        "xaxis matches=x2 range=[-0.5, 4.5] showticklabels=False tickmode=array text=",
        "yaxis range=[-0.03, 1.03] text=edge overlap (Jaccard)",
        "xaxis2 range=[-0.5, 4.5] tickmode=array text=step (checkpoints evenly spaced)",
        "yaxis2 range=[-0.3, 1.3] text=faithfulness",
        "layout height=656",
    ]


def test_the_series_as_a_graph_says_how_many_branches_it_has():
    points = [
        point(0, stage="one"),
        *(point(step, stage="two", branch=branch) for branch in ("a", "b") for step in (1, 2)),
    ]
    parents = {
        "two/a/1": ["one/0"], "two/a/2": ["two/a/1"], "two/b/1": ["one/0"], "two/b/2": ["two/b/1"]
    }  # fmt: skip
    findings = [Fault("off_path", ("two/b/2",), "off"), Fault("non_finite", ("two/a/1",), "NaN")]
    figure = series_figure(run_of(*points, parents=parents, findings=findings))
    assert _title(figure) == (
        "5 checkpoints in 2 branches",
        "an arrow leads from a checkpoint to those that continue it",
    )
    one = series_figure(run_of(*points[:3], parents={"one/0": [], "two/a/1": ["one/0"], "two/a/2": ["two/a/1"]}))
    assert _title(one)[0] == "3 checkpoints in 1 branch"
    drawn = {
        trace.name: list(zip(trace.customdata, trace.x, trace.y, trace.text, strict=True)) for trace in figure.data[1:]
    }
    assert drawn == {
        "nothing found": [("one/0", 0, 0, "0"), ("two/a/2", 2, -1, "2"), ("two/b/1", 1, -2, "1")],
        "warning": [("two/b/2", 2, -2, "2")],
        "error": [("two/a/1", 1, -1, "1")],
    }
    ends = [((0, 0), (1, -1)), ((1, -1), (2, -1)), ((0, 0), (1, -2)), ((1, -2), (2, -2))]
    assert list(figure.data[0].x) == [x for (start, _), (end, _) in ends for x in (start, end, None)]
    assert list(figure.data[0].y) == [y for (_, start), (_, end) in ends for y in (start, end, None)]
    arrows = "angleref=previous size=[0, 9, 0, 0, 9, 0, 0, 9, 0, 0, 9, 0] standoff=6 symbol=arrow"
    at = "hovertemplate=%{customdata}<extra></extra>"
    assert looks(figure) == [
        f"hoverinfo=skip color=#767676 width=1 {arrows} mode=lines+markers",
        f"{at} color=#0072B2 size=11 symbol=circle mode=markers+text textposition=top center",
        f"{at} color=#E69F00 size=11 symbol=diamond mode=markers+text textposition=top center",
        f"{at} color=#D55E00 size=11 symbol=x mode=markers+text textposition=top center",
        "xaxis showgrid=False text=checkpoints from the start zeroline=False",
        "yaxis range=[-2.6, 0.6] showgrid=False zeroline=False",
        "layout height=430",
    ]
    assert list(figure.layout.yaxis.tickvals) == [0, -1, -2]
    assert list(figure.layout.yaxis.ticktext) == ["trunk", "a", "b"]


def test_the_section_of_the_audit_has_its_verdict_its_faults_and_the_graph_of_a_series_that_branches():
    points = [point(step) for step in (0, 1, 2)]
    fault = Fault("non_finite", ("1",), "weights of 1 hold NaN")
    forked = {"0": [], "1": ["0"], "2": ["0"]}
    (clean,), (wrong,), (drawn,), (none,) = (
        list(audit_sections(run))
        for run in (
            run_of(*points),
            run_of(*points, findings=[fault]),
            run_of(*points, parents=forked),
            run_of(*points, audit=None),
        )
    )
    assert {(each.slug, each.title) for each in (clean, wrong, drawn, none)} == {("audit", "Audit of the series")}
    assert clean.text == "3 checkpoints of handmade (samples examined): nothing found."
    assert wrong.text == "3 checkpoints of handmade (samples examined): 1 error, 0 warnings."
    assert (clean.caption, clean.frame, clean.figure, wrong.figure) == ("", None, None, None)
    assert wrong.caption == (
        "Each fault with the public series that had it. ✕: an error of the audit names this checkpoint; !: a warning; "
        "dashed line: steps are missing there."
    )
    assert wrong.frame["kind"].tolist() == ["non_finite"]
    assert _title(drawn.figure)[0] == "3 checkpoints in 0 branches"
    assert (none.text, none.frame) == ("No audit is on record for this run.", None)
    assert audit_warnings(run_of(*points, findings=[fault])) == [f"audit, {fault.sentence}"]
    assert audit_warnings(run_of(*points, audit=None)) == []


def test_a_series_is_more_than_a_line_where_it_forks_or_merges():
    def forked(parents):
        return branches(run_of(*(point(step) for step in (0, 1, 2)), parents=parents))

    assert not forked({"0": [], "1": ["0"], "2": ["1"]})
    assert forked({"0": [], "1": ["0"], "2": ["0"]})
    assert forked({"0": [], "1": [], "2": ["0", "1"]})


def test_the_figure_of_a_measure_that_brings_none_has_a_line_for_each_number():
    run = run_of(point(0), point(100), point(200))
    table = pd.DataFrame(
        {
            "own": [None, 0.12345, 20.0],
            "words": ["a", "b", "c"],
            "never": [math.nan] * 3,
            "count": [1, 2, 3],
            "flat": [5.0, math.nan, math.nan],
            "last": [1.0, 2.0, 1234.5],
        }
    )
    figure = lines_figure(run, table, ["own", "words", "never", "count", "flat", "last"])
    assert _title(figure) == (
        "own 0.123 → 20; count 1 → 3; flat 5 → 5",
        "first and last checkpoint that it was measured on",
    )
    assert [trace.name for trace in figure.data] == ["own", "count", "flat", "last"]
    assert {tuple(trace.x) for trace in figure.data} == {(0, 1, 2)}
    assert [list(trace.y)[-1] for trace in figure.data if trace.name != "flat"] == [20.0, 3.0, 1234.5]
    assert {trace.mode for trace in figure.data} == {"lines+markers"}
    assert [trace.line.color for trace in figure.data] == list(theme.CATEGORIES[:4])
    assert [trace.line.dash for trace in figure.data] == list(theme.DASHES[:4])
    assert [trace.marker.symbol for trace in figure.data] == list(theme.SYMBOLS[:4])
    assert list(figure.layout.xaxis.ticktext) == ["0", "100", "200"]
    assert lines_figure(run, table, ["words", "never"]) is None
    table["own_share"] = [0.25, 0.5, 1.0]
    both = lines_figure(run, table, ["own_share", "last"], {"last": "effect, logits"})
    assert _title(both)[0] == "own share 0.25 → 1; effect, logits 1 → 1.23e+03"
    assert [trace.yaxis for trace in both.data] == ["y2", "y"]
    assert [axis.title.text for axis in (both.layout.yaxis, both.layout.yaxis2)] == ["value", "share"]
