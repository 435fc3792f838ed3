"""When metrics emerge, on curves whose step is known, on noise, and on runs written by hand."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from checkpoints.errors import BadPrompt
from checkpoints.results.figure import unbroken
from checkpoints.stats.emergence import Emergence, Order, emergence, order, order_over_runs
from circuit_drift.page.page import Section
from circuit_drift.report.emergence import emergence_sections
from circuit_drift.stages.emergence import RunEmergence, metric_in_words
from tests.drift.handmade import CLEAN, graph, point, retrieval, run_of, strengths
from tests.looks import looks

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000, 4000, 6000, 8000, 10000)


def drawn(rng, value, noise, n=24, draws=400):
    """[C] means of n noisy units around a curve, and the same on resampled units."""
    units = value + rng.normal(0, noise, (n, len(value)))
    weights = rng.multinomial(n, [1 / n] * n, size=draws) / n
    return units.mean(0), weights @ units


def sigmoid(steps, middle):
    return 1 / (1 + np.exp(-3 * (np.log(np.maximum(steps, 0.5)) - np.log(middle))))


@pytest.mark.parametrize("middle", [24, 700, 2500])
def test_the_interval_holds_the_true_step(middle):
    rng = np.random.default_rng(middle)
    curve, held = sigmoid(np.array(STEPS), middle), 0
    for _ in range(100):
        found = emergence("x", STEPS, *drawn(rng, curve, 0.5))
        held += found.low is not None and found.high is not None and found.low <= middle <= found.high
    assert held >= 93


def test_a_clean_step_is_a_bracket():
    value = np.where(np.array(STEPS) >= 1000, 0.9, 0.1)
    found = emergence("recall", STEPS, value, np.tile(value, (50, 1)))
    assert (found.outcome, found.threshold, found.after, found.by) == ("emerged", pytest.approx(0.5), 512, 1000)
    assert (found.low, found.high) == (512, 1000)
    assert str(found) == "recall emerges between steps 512 and 1,000 [95 %: 512 to 1,000]"
    falls = emergence("answer_nll", STEPS, -value, np.tile(-value, (50, 1)))
    assert (falls.outcome, falls.after, falls.by) == ("emerged", 512, 1000)


def test_noise_does_not_emerge():
    rng = np.random.default_rng(0)
    flat = [emergence("x", STEPS, *drawn(rng, np.zeros(len(STEPS)), 1.0)) for _ in range(60)]
    assert np.mean([found.outcome == "emerged" for found in flat]) <= 0.1
    fixed = [emergence("x", STEPS, *drawn(rng, np.zeros(len(STEPS)), 0.2), threshold=0.5) for _ in range(20)]
    assert {found.outcome for found in fixed} == {"not by the end"}
    assert str(fixed[0]) == "x has not emerged by the last checkpoint, step 10,000"
    assert (fixed[0].by, fixed[0].high) == (None, None)


def test_what_is_there_or_goes_again_is_said_so():
    there = np.full(len(STEPS), 0.9)
    found = emergence("x", STEPS, there, np.tile(there, (9, 1)), threshold=0.1)
    assert (found.outcome, found.after, found.by) == ("there from the first", None, 0)
    bump = np.where((np.array(STEPS) > 10) & (np.array(STEPS) < 3000), 0.9, 0.0)
    found = emergence("head", STEPS, bump, np.tile(bump, (9, 1)), threshold=0.1)
    assert (found.outcome, found.after, found.by) == ("gone again", 8, 16)
    assert str(found).endswith(", and is gone again at the end")
    spike = np.where(np.array(STEPS) == 16, 0.9, 0.0)
    assert emergence("x", STEPS, spike, np.tile(spike, (9, 1)), threshold=0.1).outcome == "not by the end"
    assert emergence("x", STEPS, spike, np.tile(spike, (9, 1))).outcome == "no change"


def test_where_resamples_disagree_with_each_other_or_with_the_whole_nothing_is_told():
    steps = np.array(STEPS)
    first, middle, never = np.full(len(STEPS), 0.9), np.where(steps >= 16, 0.9, 0.0), np.zeros(len(STEPS))

    def outcome(own, *drawn):
        return emergence("x", STEPS, own, np.repeat(drawn, 10, axis=0), threshold=0.1).outcome

    assert outcome(middle, middle) == "emerged"
    assert outcome(middle, middle, first) == "cannot be told"
    assert outcome(middle, middle, never) == "cannot be told"
    assert outcome(first, middle) == "cannot be told"
    assert outcome(never, middle) == "cannot be told"


def test_order_needs_brackets_that_do_not_overlap():
    def at(name, place):
        value = np.where(np.arange(len(STEPS)) >= place, 1.0, 0.0)
        return emergence(name, STEPS, value, np.tile(value, (40, 1)))

    early, late = at("heads", 5), at("accuracy", 9)
    assert (order(early, late).before, order(early, late).after) == (1.0, 0.0)
    assert (
        str(order(early, late)) == str(order(late, early)) == "heads before accuracy (100% of resamples of the prompts)"
    )
    tie = order(early, at("other", 5))
    assert (tie.before, tie.after, tie.outcome) == (0.0, 0.0, "cannot be told")
    assert "which of heads and other emerges first cannot be told" in str(tie)
    one = Order("a", "b", 0.99, 0.0)
    assert order_over_runs([one] * 5) == pytest.approx(2 / 2**5)
    assert order_over_runs([one] * 6 + [tie]) == pytest.approx(2 / 2**6)
    assert order_over_runs([tie]) == 1.0


def test_few_checkpoints_and_missing_values_are_refused():
    with pytest.raises(BadPrompt, match="needs three"):
        emergence("x", (1, 2), np.zeros(2), np.zeros((4, 2)))
    with pytest.raises(BadPrompt, match="on three units"):
        emergence("x", (1, 2, 3), np.zeros(3), np.full((4, 3), np.nan))


@pytest.fixture
def learning(tmp_path):
    """Five checkpoints, ten needles and facts: head a1.h0 from the second, facts the third, the test the fourth on."""
    labels = [{"class": "old" if i < 4 else "new"} for i in range(10)]
    points = [
        point(
            100 * i,
            heads=retrieval({(1, 0): 0.8 if i >= 1 else 0.0}, correct=10 * (i >= 3), nll=3.0 - 0.5 * i),
            circuit=graph(strengths(["a0.h0->logits"] if i >= 2 else []), known=10 if i >= 2 else 0, labels=labels),
        )
        for i in range(5)
    ]
    return run_of(*points, store=tmp_path)


def test_a_run_tells_what_emerges_when_and_in_which_order(learning):
    assert CLEAN == 3.0
    found = learning.emergence()
    table = found.to_frame().set_index("metric")
    assert list(table.index) == [
        "recall",
        "retrieval_heads",
        "head:a1.h0",
        "needle_score",
        "needle_accuracy",
        "answer_nll",
    ]
    assert table.loc["recall", ["after", "by", "low", "high"]].tolist() == [100, 200, 100, 200]
    assert table.loc["head:a1.h0", ["after", "by"]].tolist() == [0, 100]
    assert table.loc["head:a1.h0", "threshold"] == 0.1
    assert table.loc["needle_accuracy", ["after", "by"]].tolist() == [200, 300]
    assert table.loc["needle_score", "outcome"] == "no change"
    order = found.findings[-1]
    assert order.startswith("In this order, in all resamples of the prompts: ")
    assert "; head a1.h0 before recall, needle accuracy, answer NLL; recall before needle accuracy" in order
    pairs = found.order_frame().set_index(["first", "second"])["outcome"]
    assert pairs["recall", "retrieval_heads"] == "after"
    assert found.plot().layout.title.text == str(found.found[0])


def test_metrics_are_asked_for_by_name(learning):
    found = learning.emergence(
        ["recall:old", "edge:a0.h0->logits", "node:a0.h0", "answer_nll"], thresholds={"answer_nll": 9}
    )
    assert [one.by for one in found.found] == [200, 200, 200, None]
    assert found.found[3].outcome == "not by the end"
    missing = learning.emergence(["role:induction:a0.h0", "recall"])
    assert missing.notes == ("role:induction:a0.h0 is not followed: no checkpoint has it; measure it first",)
    for name, said in (
        ("luck", "no metric 'luck'"),
        ("recall:odd", "no fact is of the class 'odd'"),
        ("node:x", "no writer"),
    ):
        with pytest.raises(BadPrompt, match=said):
            learning.emergence([name])


def test_the_report_and_the_command_show_it(learning, monkeypatch, tmp_path):
    from circuit_drift.cli import stored
    from circuit_drift.cli.commands import app

    (section,) = emergence_sections(learning)
    assert "Recall emerges between steps 100 and 200 [95 %: 100 to 200]." in section.points
    assert len(section.frame) == 6
    assert learning.report(tmp_path / "page.html").stat().st_size > 0
    late = run_of(*learning.points[:3], store=tmp_path)
    (open_ended,) = emergence_sections(late)
    assert (open_ended.frame.set_index("metric").loc["needle accuracy", ["by", "high"]] == "").all()
    assert late.report(tmp_path / "late.html").stat().st_size > 0
    monkeypatch.setattr(stored, "_stored_run", lambda *_: learning)
    shown = CliRunner().invoke(app, ["track", "--emergence", "recall,needle_accuracy"])
    assert shown.exit_code == 0, shown.output
    assert "Recall emerges between steps 100 and 200" in shown.output
    assert "recall before needle accuracy" in " ".join(shown.output.split())


def test_the_report_tells_metrics_in_words_and_their_order_in_one_sentence(learning):
    (section,) = emergence_sections(learning)
    told = " ".join(section.points)
    assert told.startswith(
        "Recall emerges between steps 100 and 200 [95 %: 100 to 200]. Number of retrieval heads emerg"
    )
    assert "In this order, in all resamples of the prompts: number of retrieval heads before recall, " in told
    assert "; head a1.h0 before recall, needle accuracy, answer NLL; recall" in told
    assert [trace.name for trace in section.figure.data if trace.showlegend is not False][:3] == [
        "recall",
        "number of retrieval heads",
        "head a1.h0",
    ]
    assert section.frame["metric"].tolist()[-1] == "answer NLL" and "_" not in told
    assert section.points == list(learning.emergence().findings), "a notebook and a terminal say the same"
    assert [metric_in_words(name) for name in ("recall:50 % new", "role:mover:a0.h1")] == [
        "recall of 50 % new",
        "role mover a0.h1",
    ]


def test_every_metric_is_drawn_from_its_first_value_to_its_last_above_its_interval():
    def found(metric, low, high):
        return Emergence(metric, "emerged", 1.5, 1, 2, low, high, (1, 2, 4), np.array([1]))

    values = {
        "risen": np.array([1.0, 2.0, 3.0]),
        "fallen": np.array([8.0, 2.0, 4.0]),
        "level": np.array([5.0, 6.0, 5.0]),
    }
    followed = (found("risen", 1, 2), found("fallen", None, 2), found("level", 2, 4))
    figure = RunEmergence(followed, values).plot()
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("risen", [1, 2, 4], [0.0, 0.5, 1.0]),
        ("risen", [1, 2], [-0.1, -0.1]),
        ("fallen", [1, 2, 4], [0.0, 1.5, 1.0]),
        ("level", [1, 2, 4], [0.0, 1.0, 0.0]),
        ("level", [2, 4], pytest.approx([-0.3, -0.3])),
    ]
    assert looks(figure) == [
        "color=#0072B2 dash=solid symbol=circle",
        "color=#0072B2 width=6 mode=lines showlegend=False",
        "color=#D55E00 dash=dash symbol=square",
        "color=#009E73 dash=dot symbol=diamond",
        "color=#009E73 width=6 mode=lines showlegend=False",
        "xaxis tickformat=, text=step",
        "yaxis text=share of its way from first to last",
        "layout height=480",
    ]
    assert list(figure.layout.yaxis.tickvals) == [0, 0.5, 1]
    assert unbroken(figure.layout.title.text) == "risen emerges between steps 1 and 2 [95 %: 1 to 2]"
    assert figure.layout.title.subtitle.text == "bars: 95 % intervals of the step of emergence"
    assert RunEmergence((), {}).plot().layout.title.text == "nothing to follow"


def test_the_section_of_a_report_and_why_there_is_none(learning):
    (section,) = emergence_sections(learning)
    assert (section.slug, section.title, section.text) == ("emergence", "When things emerge", "")
    assert section.caption == (
        "Emerged: from there on beyond 0.1 (a head) or beyond halfway from first to last (all else). Intervals over "
        "needles or facts of this run; other seeds may differ by more."
    )
    lines = run_of(*(replace(each, stage=stage) for each, stage in zip(learning, "ababb", strict=True)))
    with pytest.raises(BadPrompt) as reason:
        lines.emergence()
    assert list(emergence_sections(lines)) == [
        Section("emergence", "When things emerge", text=f"Not applicable: {reason.value}.")
    ]
    assert list(emergence_sections(run_of(*learning.points[:2]))) == []
