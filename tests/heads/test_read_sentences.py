"""What is read of heads, word for word, on values made by hand: verdicts, findings, tables, titles."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats as textbook

from checkpoints.results.figure import unbroken
from checkpoints.stats.bootstrap import Estimate
from heads import Scores
from heads.ablation.ablation import Ablation, Readout
from heads.comparison.diff import HeadDiff, diff
from heads.niah.grid import NeedleMap
from heads.scores.agreement import Agreement
from heads.scores.change import Change
from heads.scores.scores import DetectorScores, retrieves
from heads.tracking.correlation import Correlation
from heads.tracking.head_track import Curve, HeadTrack, Transition
from heads.tracking.saturation import LogFit, Saturation, Trend
from tests.looks import looks

NAN = float("nan")
RIGHT = Change("needle accuracy", 0.2501, 0.7501, 0.5001, 0.2001, 0.8001, 0.304)
NLL = Change("answer NLL (nats per token)", 2.001, 1.501, -0.5001, -0.8001, -0.2001, 0.404)


def comparison(**changed) -> HeadDiff:
    """Heads: up across the threshold, down across it, up within, up across but not for real."""
    values = {
        "before": np.array([[0.05, 0.40], [0.50, 0.02]]),
        "after": np.array([[0.35, 0.04], [0.60, 0.22]]),
        "delta": np.array([[0.30, -0.36], [0.10, 0.20]]),
        "low": np.array([[0.20, -0.50], [0.05, -0.1]]),
        "high": np.array([[0.40, -0.20], [0.15, 0.50]]),
        "p": np.array([[0.001, 0.002], [0.01, 0.2]]),
        "q": np.array([[0.004, 0.004], [0.05, 0.2]]),
        "accuracy": RIGHT,
        "nll": NLL,
        "level": 0.05,
        "threshold": 0.1,
        "pairing": "paired",
        "unit": "needle",
        "n": 12,
    }
    return HeadDiff(**(values | changed))


def test_a_change_is_read_with_its_interval_and_p():
    assert str(RIGHT) == "needle accuracy 0.25 -> 0.75 (change +0.5 [+0.2, +0.8], p = 0.3)"


def test_the_verdict_of_a_comparison_word_for_word():
    found = comparison()
    assert found.gained == ("a0.h0",)
    assert found.lost == ("a0.h1",)
    assert found.verdict == (
        "3 of 4 heads changed their retrieval score (q ≤ 0.05), 1 gained, 1 lost (threshold 0.1); "
        "needle accuracy 0.25 -> 0.75 (change +0.5 [+0.2, +0.8], p = 0.3); "
        "answer NLL (nats per token) 2 -> 1.5 (change -0.5 [-0.8, -0.2], p = 0.4); n = 12 needles, paired"
    )


def test_gained_and_lost_heads_stand_by_the_size_of_their_change():
    zero, one = np.zeros((1, 3)), np.full((1, 3), 0.9)
    sizes = np.array([[0.3, 0.7, -0.5]])
    sure = np.full((1, 3), 0.01)
    assert comparison(before=zero, after=one, delta=sizes, q=sure).gained == ("a0.h1", "a0.h2", "a0.h0")
    assert comparison(before=one, after=zero, delta=sizes, q=sure).lost == ("a0.h1", "a0.h2", "a0.h0")


def test_heads_come_and_go_from_a_q_of_just_the_level_on():
    zero, one, q = np.zeros((1, 2)), np.full((1, 2), 0.9), np.array([[0.05, 0.0501]])
    assert comparison(before=zero, after=one, delta=one, q=q, level=0.05).gained == ("a0.h0",)
    assert comparison(before=one, after=zero, delta=-one, q=q, level=0.05).lost == ("a0.h0",)


@pytest.mark.parametrize(
    ("right", "nll", "differs"),
    [
        (0.025, 0.9, True),  # one at half the level
        (0.03, 0.9, False),
        (0.05, 0.03, True),  # or both at the level
        (0.05, 0.06, False),
        (0.05, 0.025, True),
        (0.9, 0.02, True),
        (NAN, 0.04, False),
        (NAN, NAN, False),
    ],
)
def test_readouts_alone_make_a_difference_at_half_the_level_or_both_at_it(right, nll, differs):
    none = np.full((2, 2), 0.06)
    found = comparison(q=none, accuracy=replace(RIGHT, p=right), nll=replace(NLL, p=nll))
    assert found.n_significant == 0
    assert found.significant is differs


def test_one_head_makes_a_difference():
    found = comparison(q=np.array([[0.9, 0.05], [0.9, NAN]]), accuracy=replace(RIGHT, p=1.0), nll=replace(NLL, p=1.0))
    assert found.n_significant == 1
    assert found.significant is True


def test_the_table_of_a_comparison_has_the_strongest_change_first():
    frame = comparison().to_frame()
    assert list(frame.columns) == [
        "name", "layer", "head", "before", "after", "delta", "low", "high", "p", "q", "status",
    ]  # fmt: skip
    assert frame["name"].tolist() == ["a0.h1", "a0.h0", "a1.h1", "a1.h0"]
    assert frame["status"].tolist() == ["lost", "gained", "", ""]
    assert frame.iloc[0].tolist() == ["a0.h1", 0, 1, 0.4, 0.04, -0.36, -0.5, -0.2, 0.002, 0.004, "lost"]


def test_the_page_of_a_comparison_shows_verdict_and_table():
    page = comparison()._repr_html_()
    assert page.startswith("<p>3 of 4 heads changed their retrieval score (q ≤ 0.05)")
    assert page.count("<tr") == 5
    assert "<td>-0.36</td>" in page


def test_the_figure_of_a_comparison_circles_what_changed():
    figure = comparison().plot()
    heat, rings = figure.data
    assert figure.layout.title.text == "3 heads changed their retrieval score"
    assert figure.layout.title.subtitle.text == "change B − A over 12 needles; circled: q ≤ 0.05"
    np.testing.assert_allclose(heat.z, comparison().delta)
    assert (heat.zmin, heat.zmax, heat.colorbar.title.text) == (-0.36, 0.36, "change")
    assert list(zip(rings.y, rings.x, strict=True)) == [(0, 0), (0, 1), (1, 0)]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")


def scores(copy, *, correct, nll, needle, prompts="p", **meta) -> Scores:
    copy = np.asarray(copy, dtype=np.float32)
    n = len(copy)
    return Scores(
        detectors={"copy": copy, "needle_mass": copy / 2},
        kv_heads=1,
        nll=np.asarray(nll, dtype=np.float32),
        correct=np.asarray(correct, dtype=bool),
        accepted=np.asarray(correct, dtype=bool),
        depth=np.linspace(0, 1, n),
        needle=np.asarray(needle),
        meta={"prompts": prompts, "length": 100, "chance": 0.01} | meta,
    )


def six(shift=0.0, *, correct=(1, 0, 1, 1, 0, 1), **options):
    """Six prompts, two heads of one layer; shift moves head 1 and the NLL."""
    base = np.array([[0.9, 0.1], [0.8, 0.2], [1.0, 0.0], [0.7, 0.1], [0.9, 0.3], [0.8, 0.2]])
    wobble = np.array([0.0, 0.05, 0.02, 0.08, 0.01, 0.04])
    moved = base + np.stack([np.zeros(6), (shift + wobble) * (shift > 0)], axis=1)
    nll = np.stack([np.full(6, 1.0), np.full(6, 2.0) - shift - wobble * (shift > 0)], axis=1)
    return scores(moved[:, None], correct=correct, nll=nll, needle=range(6), **options)


def test_comparing_six_prompts_is_six_paired_t_tests_whose_interval_allows_for_skew():
    a, b = six(), six(0.5, correct=(1, 1, 1, 1, 1, 1))
    found = diff(a, b)
    change = b.copy[:, 0, 1].astype(float) - a.copy[:, 0, 1]
    interval = textbook.ttest_1samp(change, 0).confidence_interval(0.95)
    assert (found.unit, found.n, found.pairing, found.level, found.threshold) == ("needle", 6, "paired", 0.05, 0.1)
    assert found.delta[0] == pytest.approx([0.0, change.mean()])
    t, skew = textbook.t.ppf(0.975, 5), textbook.skew(change)
    assert skew > 0
    further = skew * (2 * t**2 + 1) / (6 * 6**0.5) * textbook.sem(change)
    assert found.low[0, 1] == pytest.approx(interval.low, abs=1e-6)
    assert found.high[0, 1] == pytest.approx(interval.high + further, abs=1e-6)
    assert found.p[0] == pytest.approx([1.0, 2.0**-5])
    assert found.q[0] == pytest.approx([1.0, 2.0**-4])
    assert found.before[0] == pytest.approx([0.85, 0.15])
    assert (found.accuracy.name, found.accuracy.before, found.accuracy.after) == ("needle accuracy", 4 / 6, 1.0)
    # two needles turned right: of the four ways to exchange them two differ as much
    assert found.accuracy.p == pytest.approx(0.5)
    # the answer NLL is the mean over an answer's two tokens: 1.5 before
    assert (found.nll.name, found.nll.before) == ("answer NLL (nats per token)", 1.5)
    assert found.nll.delta == pytest.approx(-(0.5 + 0.2 / 6) / 2, abs=1e-6)
    back = diff(b, a)
    np.testing.assert_allclose(back.delta, -found.delta)
    assert (back.accuracy.before, back.accuracy.after) == (1.0, 4 / 6)


def test_unpaired_comparison_is_welchs_test_over_the_smaller_side():
    a, b = six(), scores(
        [[[0.5, 0.6]], [[0.4, 0.7]], [[0.6, 0.5]], [[0.2, 0.9]], [[0.3, 0.8]]],
        correct=(1, 1, 1, 0, 1), nll=np.full((5, 2), 1.0), needle=range(5), prompts="other",
    )  # fmt: skip
    found = diff(a, b, pairing="unpaired", q=0.01, threshold=0.5)
    expected = textbook.ttest_ind(b.copy[:, 0], a.copy[:, 0], equal_var=False)
    assert (found.n, found.pairing, found.level, found.threshold) == (5, "unpaired", 0.01, 0.5)
    np.testing.assert_allclose(found.p[0], np.maximum(expected.pvalue, 2.0**-4), rtol=1e-5)


def test_the_summary_of_scores_word_for_word():
    found = six()
    assert found.top(1)[0].score.value == pytest.approx(0.85)
    low, high = (f"{end[0, 0]:.3g}" for end in found.interval)
    perplexity = f"{np.exp(1.5):.3g}"
    assert found.verdict == (
        f"2 of 2 heads retrieve (score > 0.1); the best is a0.h0 at 0.85 [{low}, {high}]; needle score 66.7%, "
        f"accuracy 66.7%, answer PPL {perplexity}, over 6 prompts of 100 tokens (intervals over 6 needles)"
    )
    values = np.array([0.9, 0.8, 1.0, 0.7, 0.9, 0.8])
    expected = textbook.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.interval[0][0, 0], found.interval[1][0, 0]], expected, rtol=1e-6)


def test_a_summary_counts_refused_needles_and_leaves_out_what_is_not_there():
    twice = scores(
        np.zeros((16, 1, 2)), correct=[1] * 12 + [0] * 4, nll=np.full((16, 2), NAN), needle=np.repeat(range(8), 2),
        refused=["a", "b", "c"],
    )  # fmt: skip
    said = twice.verdict
    # none of eight needles: the exact interval ends at 1 - .025^(1/8)
    assert said.startswith("0 of 2 heads retrieve (score > 0.1); the best is a0.h0 at 0 [0, 0.369]; needle score 75.0%")
    assert said.endswith("accuracy 75.0%, over 16 prompts of 100 tokens (intervals over 8 needles); 3 needles refused")
    assert "PPL" not in said
    blind = scores(np.full((2, 1, 1), NAN), correct=[1, 0], nll=np.ones((2, 1)), needle=range(2))
    assert "; no layer has attention rows; needle score 50.0%, accuracy 50.0%, answer PPL 2.72, over" in blind.verdict


def test_a_gate_passed_is_not_an_answer_right():
    lenient = replace(six(), accepted=np.array([1, 1, 1, 1, 1, 0], dtype=bool))
    assert (lenient.needle_score, lenient.needle_accuracy) == pytest.approx((5 / 6, 4 / 6))
    assert "needle score 83.3%, accuracy 66.7%" in lenient.verdict
    assert lenient.accepted_mean[0] == pytest.approx([(0.9 + 0.8 + 1.0 + 0.7 + 0.9) / 5, 0.7 / 5])


def test_retrieving_is_strictly_above_the_threshold():
    np.testing.assert_array_equal(retrieves(np.float32([0.1, 0.1001, 0.0999])), [False, True, False])
    close = np.array([0.1 + 4e-7, 0.1 + 6e-7, 0.1 - 6e-7, np.nan, 0.9])
    np.testing.assert_array_equal(retrieves(close), [False, True, False, False, True])
    np.testing.assert_array_equal(retrieves(np.float64(0.2)), True)
    assert six().count(0.15) == 1


def test_tables_of_scores():
    found = six()
    frame = found.to_frame()
    assert list(frame.columns) == [
        "name", "layer", "head", "n", "score", "low", "high", "accepted_mean", "chance", "needle_mass",
    ]  # fmt: skip
    assert frame["score"].tolist() == pytest.approx([0.85, 0.15])
    assert frame["accepted_mean"].tolist() == pytest.approx([(0.9 + 1.0 + 0.7 + 0.8) / 4, 0.1])
    assert frame["n"].tolist() == [6, 6]
    assert frame["needle_mass"].tolist() == pytest.approx([0.425, 0.075])
    statistics = found.statistics()
    assert statistics["sd"].tolist() == pytest.approx(
        [np.std([0.9, 0.8, 1.0, 0.7, 0.9, 0.8], ddof=1), np.std([0.1, 0.2, 0.0, 0.1, 0.3, 0.2], ddof=1)]
    )
    assert statistics["mean"].tolist() == pytest.approx([0.85, 0.15])
    groups = found.statistics(groups="max")
    assert groups["name"].tolist() == ["a0.kv0"]
    assert groups["mean"].tolist() == pytest.approx([0.85])
    assert found.statistics(groups="mean")["mean"].tolist() == pytest.approx([0.5])


def test_the_summary_of_other_detectors_names_the_best_head_of_each():
    values = {"induction": np.array([[[0.1, 0.5]], [[0.3, 0.7]]]), "blank": np.full((2, 1, 2), NAN)}
    found = DetectorScores(detectors=values, kv_heads=2, meta={})
    assert found.verdict == "over 2 prompts, induction: a0.h1 at 0.6 (no interval: too few units)"
    assert repr(found) == "<DetectorScores: over 2 prompts, induction: a0.h1 at 0.6 (no interval: too few units)>"
    page = found._repr_html_()
    assert "<tr><td>a0.h1</td><td>0.600</td><td>too few units</td></tr>" in page
    assert "<th>induction</th><th>95 % interval</th>" in page


def test_titles_of_score_figures():
    figure = six().plot()
    low, high = (f"{end[0, 0]:.3g}" for end in six().interval)
    assert figure.layout.title.text == f"copy: a0.h0 leads with 0.85 [{low}, {high}]"
    assert figure.layout.title.subtitle.text == "mean over 6 prompts; blank = not applicable"
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0.0, 1.0)
    np.testing.assert_allclose(figure.data[0].z, [[0.85, 0.15]], rtol=1e-6)
    half = six().plot(by="needle_mass").data[0]
    assert (half.zmin, half.zmax) == (0.0, pytest.approx(0.425))
    signed = DetectorScores(detectors={"d": np.array([[[-0.4, 0.2]]])}, kv_heads=2, meta={}).plot()
    assert (signed.data[0].zmin, signed.data[0].zmax) == (-0.4, 0.4)
    assert signed.layout.title.text == "d: a0.h1 leads with 0.2 (no interval: too few units)"
    blank = DetectorScores(detectors={"d": np.full((1, 1, 2), NAN)}, kv_heads=2, meta={}).plot()
    assert blank.layout.title.text == "d: not applicable"


STILL = Trend("needle_score", 1000, 0.00104, -0.00204, 0.00404, 0.02, True)
FALLS = Trend("answer_nll", 1000, -0.05, -0.06, -0.04, 0.02, False)
CURVES = {
    "retrieval_heads": ([3, 4, 12], [2, 3, 10], [5, 6, 14]),
    "initial_set_mean": ([0.404, 0.35, 0.254], [0.3, 0.3, 0.204], [0.5, 0.4, 0.304]),
    "current_set_mean": ([0.4, 0.35, 0.25], [0.3, 0.3, 0.2], [0.5, 0.4, 0.3]),
    "all_heads_mean": ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1]),
    "needle_score": ([0.5, 0.9, 0.9], [0.4, 0.8, 0.8], [0.6, 1.0, 1.0]),
    "needle_accuracy": ([0.25, 0.5, 0.75], [0.2, 0.4, 0.7], [0.3, 0.6, 0.8]),
    "answer_nll": ([2.0, 1.5, 1.0], [1.9, 1.4, 0.9], [2.1, 1.6, 1.1]),
    "answer_ppl": ([1234.5, 4.484, 2.72], [1100.0, 4.06, 2.46], [1400.0, 4.95, 3.0]),
    "middle_penalty": ([0.504, 0.3, -0.104], [0.404, 0.2, -0.204], [0.604, 0.4, 0.0504]),
}


def monitored(**changed) -> HeadTrack:
    values = {
        "steps": (100, 1000, 10000),
        "axis": "tokens",
        "position": np.array([1e6, 1e7, 1e8]),
        "curves": {name: Curve(*map(np.array, ends)) for name, ends in CURVES.items()},
        "transitions": (
            Transition(100, 1000, Agreement(2, 4, 0.5, 0.25, 0.1, 0.2, 1.5), ("a0.h0", "a0.h1"), ()),
            Transition(1000, 10000, Agreement(3, 4, 0.75, NAN, 0.1, 0.4, 1.25), ("a1.h0",), ("a0.h0",)),
        ),
        "saturations": (Saturation("needle_score", (STILL,)), Saturation("answer_nll", (FALLS,))),
        "fit": LogFit(-1.5001, 20.04, -1.7501, -1.2501, (0.1, -0.304, 0.2), 0.984),
        "correlations": (Correlation("needle_score", "MMLU", 12, 0.9, 0.8, 0.95, 0.01, 0.02, (0.8, 0.95), 0.1),),
        "threshold": 0.1,
        "initial_set": ("a0.h0", "a1.h1"),
        "unit": "needle",
        "notes": ("no correlation: too short",),
        "margins": {"0-20 %": Curve(np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.0, 0.5]), np.array([4.0, 3.0, 1.5]))},
    }
    return HeadTrack(**(values | changed))


def test_the_findings_of_a_monitor_word_for_word():
    assert monitored().findings == (
        "retrieval heads (score > 0.1): 3 [2, 5] at step 100, 12 [10, 14] at step 10,000; 3 births and 1 death on "
        "the way",
        "the 2 initial retrieval heads score 0.40 at first and 0.25 [0.20, 0.30] at last",
        "needle score saturated at step 1,000 (+0.001 [-0.002, +0.004] per doubling after it, bound +-0.02)",
        "answer PPL has not saturated within +-2 % per doubling: last seen to change after step 1,000, "
        "-4.9 % [-5.8, -3.9] per doubling",
        "deceptive saturation: needle score saturated at step 1,000; answer PPL still falls 4.9 % [3.9, 5.8] per "
        "doubling after it",
        "NLL of answers at 30 to 80 % depth minus that at other depths: +0.5 [+0.4, +0.6] nats per token at step 100, "
        "-0.1 [-0.2, +0.05] at step 10,000",
        "answer PPL = -1.5 [-1.75, -1.25] ln(tokens) +20, R^2 = 0.98, largest residual 0.3",
        "needle_score against MMLU: their changes from checkpoint to checkpoint correlate at +0.10; their levels at "
        "r = +0.90 [+0.80, +0.95], one left out +0.80 to +0.95 (any two curves that rise or fall through training "
        "correlate: r over 12 checkpoints is no evidence)",
        "no correlation: too short",
    )


def test_the_verdict_of_a_monitor_is_its_findings_in_a_row():
    assert monitored().verdict == "; ".join(monitored().findings)


def test_a_monitor_without_a_beginning_a_middle_or_a_fit_says_less():
    curves = {**monitored().curves, "middle_penalty": Curve(*(np.full(3, NAN) for _ in range(3)))}
    found = monitored(curves=curves, initial_set=(), fit=None, correlations=(), notes=(), saturations=())
    assert found.findings[1:] == (
        "no head retrieves at step 100: the mean over the initial set is not applicable; begin the series at a later "
        "step to freeze another set",
    )
    del curves["middle_penalty"]
    assert monitored(curves=curves, saturations=(), fit=None, correlations=(), notes=()).findings[2:] == ()


def test_a_metric_without_a_trend_is_said_to_be_undecided():
    wide = Trend("retrieval_heads", 1000, 0.5, -3.0, 4.0, 0.5, False)
    early = Trend("retrieval_heads", 100, 2.0, 1.0, 3.0, 0.5, False)
    said = monitored(saturations=(Saturation("retrieval_heads", (wide,)),)).findings[2]
    assert said == (
        "the number of retrieval heads has not saturated within +-0.5 per doubling: its intervals include both 0 and "
        "more than that"
    )
    said = monitored(saturations=(Saturation("retrieval_heads", (early, wide)),)).findings[2]
    assert said == (
        "the number of retrieval heads has not saturated within +-0.5 per doubling: last seen to change after step "
        "100, +2 [+1, +3] per doubling"
    )


def test_a_passed_test_and_a_falling_perplexity_deceive_and_the_first_test_that_ended_is_named():
    falls = [Trend("answer_nll", step, -0.05, -0.06, -0.04, 0.02, False) for step in (100, 1000)]
    rises = [replace(trend, slope=0.05, low=0.04, high=0.06) for trend in falls]
    passed = {**monitored().curves, "needle_accuracy": Curve(*np.full((3, 3), 0.95))}
    passed["needle_score"] = passed["needle_accuracy"]
    strict = Saturation("needle_accuracy", (Trend("needle_accuracy", 100, 0.0, 0.0, 0.0, 0.02, True),))
    lenient = Saturation("needle_score", (STILL,))
    perplexity = Saturation("answer_nll", tuple(falls))

    def deceived(*saturations, curves=passed):
        findings = monitored(saturations=saturations, curves=curves).findings
        return [sentence for sentence in findings if sentence.startswith("deceptive")]

    assert deceived(lenient, strict, perplexity) == [
        "deceptive saturation: needle accuracy saturated at step 100; answer PPL still falls 4.9 % [3.9, 5.8] per "
        "doubling after it"
    ]
    assert deceived(lenient, strict, Saturation("answer_nll", tuple(rises))) == []
    failed = {**passed, "needle_accuracy": Curve(*np.zeros((3, 3)))}
    assert deceived(strict, perplexity, curves=failed) == []
    few = Saturation("answer_nll", tuple(replace(trend, later=3) for trend in falls))
    assert deceived(lenient, strict, few) == []
    tie = Saturation("needle_score", (Trend("needle_score", 100, 0.0, 0.0, 0.0, 0.02, True),))
    assert "needle accuracy saturated at step 100" in deceived(tie, strict, perplexity)[0]
    other = Saturation("all_heads_mean", (Trend("all_heads_mean", 100, 0.0, 0.0, 0.0, 0.005, True),))
    assert deceived(other, perplexity) == []


def test_the_tables_of_a_monitor():
    frame = monitored().to_frame()
    assert frame["step"].tolist() == [100, 1000, 10000]
    assert frame["tokens"].tolist() == [1e6, 1e7, 1e8]
    assert frame["retrieval_heads_low"].tolist() == [2, 3, 10]
    assert frame["answer_ppl at 0-20 %_high"].tolist() == [4.0, 3.0, 1.5]
    assert frame["shared"].tolist()[1:] == [2, 3]
    assert np.isnan(frame["shared"][0])
    assert frame["born"].tolist()[1:] == [2, 1]
    assert frame["died"].tolist()[1:] == [0, 1]
    assert frame["by_chance"].tolist()[1:] == [1.5, 1.25]
    table = monitored().table()
    assert table.to_dict("list") == {
        "step": ["100", "1,000", "10,000"],
        "retrieval_heads": ["3 [2, 5]", "4 [3, 6]", "12 [10, 14]"],
        "needle_score": ["0.5 [0.4, 0.6]", "0.9 [0.8, 1]", "0.9 [0.8, 1]"],
        "needle_accuracy": ["0.25 [0.2, 0.3]", "0.5 [0.4, 0.6]", "0.75 [0.7, 0.8]"],
        "answer_ppl": ["1,234 [1,100, 1,400]", "4.48 [4.06, 4.95]", "2.72 [2.46, 3]"],
        "top K shared": ["", "2 of 4 (chance 1.5)", "3 of 4 (chance 1.25)"],
        "spearman": ["", "0.25", "nan"],
        "born": ["", "2", "1"],
        "died": ["", "0", "1"],
    }
    found = monitored()
    lines = repr(found).splitlines()
    assert lines[0] == "<HeadTrack of 3 checkpoints>"
    assert lines[1].startswith("• retrieval heads (score > 0.1): 3 [2, 5]")
    assert len(lines) == 1 + min(12, len(found.findings)) + (len(found.findings) > 12)
    many = replace(found, correlations=found.correlations * 20)
    assert repr(many).splitlines()[-1] == f"• and {len(many.findings) - 12} more in .findings"


def test_the_figure_of_a_monitor_is_titled_by_its_deception_or_its_count():
    figure = monitored().plot()
    assert figure.layout.title.text.startswith("deceptive saturation: needle score saturated at step 1,000")
    assert figure.layout.title.subtitle.text == "bands: 95 % over needles; dotted: saturated from here on"
    lines = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert lines == {
        "retrieval heads": [3, 4, 12],
        "needle score": [0.5, 0.9, 0.9],
        "needle accuracy": [0.25, 0.5, 0.75],
        "answer PPL": [1234.5, 4.484, 2.72],
    }
    assert list(figure.data[0].y) == [5, 6, 14, 10, 3, 2]
    assert list(figure.data[0].x) == [100, 1000, 10000, 10000, 1000, 100]
    assert [shape.x0 for shape in figure.layout.shapes] == [1000]
    assert (figure.layout.xaxis4.type, figure.layout.yaxis4.type) == ("log", "log")
    plain = monitored(saturations=(Saturation("answer_nll", (FALLS,)),)).plot()
    assert plain.layout.title.text.startswith("retrieval heads (score > 0.1): 3 [2, 5] at step 100")
    assert monitored(steps=(0, 1, 2)).plot().layout.xaxis4.type == "linear"


def readout(recall, nll, *, heads=(), text=2.0) -> Readout:
    return Readout(heads, "mean", "all", np.array(recall), np.array(nll), np.full(len(recall), text))


BASELINE = readout([1, 1, 1, 1, 0.6, 0.5], [1.0] * 6)
TESTED = readout([0, 0, 0.6, 0, 0, 1], [2.0, 2.2, 1.9, 2.1, 2.0, 1.8], heads=("a0.h0", "a1.h1"), text=2.1)
SPARED = (
    readout([1, 1, 1, 1, 0.6, 0], [1.1, 1.0, 1.2, 1.0, 1.1, 1.0], heads=("a0.h1", "a1.h0")),
    readout([1, 1, 1, 0, 0, 0], [1.3, 1.0, 1.2, 1.2, 1.1, 1.2], heads=("a0.h1", "a2.h0"), text=2.2),
)


def ablation(**changed) -> Ablation:
    values = {
        "baseline": BASELINE,
        "tested": TESTED,
        "controls": {"same_layers": SPARED},
        "retrieving": ("a0.h0", "a1.h1", "a2.h0"),
        "needle": np.arange(6),
    }
    return Ablation(**(values | changed))


def test_a_readout_is_summed_up():
    assert str(BASELINE) == (
        "nothing ablated: needle score 83.3%, accuracy 66.7%, answer NLL 1, plain-text NLL 2 nats per token, over 6 "
        "prompts"
    )
    assert str(TESTED) == (
        "a0.h0, a1.h1 ablated (mean, all): needle score 33.3%, accuracy 16.7%, answer NLL 2, plain-text NLL 2.1 nats "
        "per token, over 6 prompts"
    )
    figure = TESTED.plot()
    assert unbroken(figure.layout.title.text) == str(TESTED)
    assert [(box.name, list(box.y)) for box in figure.data] == [
        ("answer", list(TESTED.nll)),
        ("plain text", list(TESTED.text_nll)),
    ]


def test_the_table_of_a_readout_holds_every_prompt():
    assert TESTED.to_frame().to_dict("list") == {
        "recall": TESTED.recall.tolist(), "nll": TESTED.nll.tolist(), "text_nll": TESTED.text_nll.tolist()
    }  # fmt: skip


def test_an_ablation_comes_back_as_it_went(tmp_path):
    mixed = {"same_layers": SPARED, "any_layer": SPARED[:1]}
    found = ablation(controls=mixed, notes=("one control of any layer",), meta={"length": 64}, needle=np.arange(6) // 2)
    back = Ablation.load(found.save(tmp_path / "ablation"))
    assert isinstance(back, Ablation)
    np.testing.assert_equal(asdict(back), asdict(found))
    assert (type(back.retrieving), type(back.notes), type(back.tested.heads)) == (tuple, tuple, tuple)
    assert {name: len(draws) for name, draws in back.controls.items()} == {"same_layers": 2, "any_layer": 1}


def test_a_change_beside_the_controls_is_paired_by_prompt():
    change = ablation().change("nll", "same_layers")
    control = np.array([1.2, 1.0, 1.2, 1.1, 1.1, 1.1])
    expected = textbook.ttest_rel(TESTED.nll, control)
    assert (change.before, change.after) == (pytest.approx(control.mean()), 2.0)
    assert change.delta == pytest.approx((TESTED.nll - control).mean())
    assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert change.p == 2.0**-5
    assert change.name == "answer NLL (nats per token)"


def test_the_verdict_of_an_ablation_word_for_word():
    found = ablation(notes=("no controls of any layer: too few heads",))
    before, after = (
        np.clip(textbook.ttest_1samp(passed, 0).confidence_interval(0.95), 0, 1)
        for passed in ([1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 0, 1])
    )
    change = textbook.ttest_rel(TESTED.nll, [1.2, 1.0, 1.2, 1.1, 1.1, 1.1])
    low, high = change.confidence_interval(0.95)
    assert found.causal
    assert found.verdict == (
        "a0.h0, a1.h1 are causal for retrieval here: ablated (mean, all), needle score goes from 83% "
        f"[{100 * before[0]:.0f}, {100 * before[1]:.0f}] to 33% [{100 * after[0]:.0f}, {100 * after[1]:.0f}], "
        "accuracy from 67% to 17%; same-layers controls (2, not clean, 0.5 of each 2 heads retrieve too): needle "
        "score 67% (worst 50%), accuracy 58% (worst 50%), answer NLL (nats per token) 1.12 -> 2 "
        f"(change +0.883 [{low:+.3g}, {high:+.3g}], p = 0.031), plain-text NLL (nats per token) 2.1 -> 2.1 "
        "(change +0 [+0, +0], p = 1); no controls of any layer: too few heads"
    )


def test_without_controls_the_verdict_says_what_was_seen_and_nothing_of_causes():
    told = ablation(controls={}, tested=replace(TESTED, text_nll=np.full(6, 2.12345))).verdict
    assert told.startswith("a0.h0, a1.h1 ablated (mean, all), needle score goes from 83% [")
    assert told.endswith(
        "accuracy from 67% to 17%, answer NLL from 1 to 2, plain-text NLL from 2 to 2.12 nats per token; no controls, "
        "so nothing is said of causes"
    )


def test_heads_are_causal_only_where_the_nll_rises_for_real_above_the_first_control():
    assert not ablation(tested=replace(TESTED, nll=np.array([1.2, 1.0, 1.2, 1.1, 1.1, 1.1]))).causal
    falls = ablation(tested=replace(TESTED, nll=np.array([0.2, 0.1, 0.2, 0.1, 0.3, 0.1])))
    assert not falls.causal
    assert "a0.h0, a1.h1 are not shown to be causal for retrieval here" in falls.verdict
    clean = ablation(controls={"any_layer": SPARED[:1], "same_layers": (TESTED,)})
    assert clean.causal
    assert "any-layer controls (1, clean, no head of theirs retrieves): needle score 83% (worst 83%)" in clean.verdict
    swapped = ablation(controls={"same_layers": (TESTED,), "any_layer": SPARED[:1]})
    assert not swapped.causal


def test_shares_that_all_agree_have_the_exact_interval():
    everything = replace(BASELINE, recall=np.ones(6))
    found = ablation(baseline=everything).estimate(everything)
    exact = textbook.binomtest(6, 6).proportion_ci(0.95, "exact").low
    assert (found.value, found.low, found.high, found.n) == (1.0, pytest.approx(exact), 1.0, 6)
    assert ablation().estimate(BASELINE, "nll") == Estimate(1.0, 1.0, 1.0, 6)


def test_the_table_of_an_ablation():
    frame = ablation().to_frame()
    assert frame["ablation"].tolist() == ["baseline", "tested", "same-layers 1", "same-layers 2"]
    assert frame["heads"].tolist() == ["", "a0.h0, a1.h1", "a0.h1, a1.h0", "a0.h1, a2.h0"]
    assert frame["retrieving"].tolist() == [0, 2, 0, 1]
    assert frame["needle_score"].tolist() == pytest.approx([5 / 6, 2 / 6, 5 / 6, 3 / 6])
    assert frame["needle_accuracy"].tolist() == pytest.approx([4 / 6, 1 / 6, 4 / 6, 3 / 6])
    assert frame["answer_nll"].tolist() == pytest.approx([1.0, 2.0, 6.4 / 6, 7.0 / 6])
    assert frame["text_nll"].tolist() == pytest.approx([2.0, 2.1, 2.0, 2.2])
    assert (frame["answer_nll_low"] <= frame["answer_nll"]).all()
    assert (frame["answer_nll_high"] >= frame["answer_nll"]).all()
    page = ablation()._repr_html_()
    assert page.startswith("<p>a0.h0, a1.h1 are causal for retrieval here")
    assert "<td>1 [1, 1]</td>" in page
    # the t interval of 2, 2.2, 1.9, 2.1, 2, 1.8: 2.571 x .1414 / sqrt(6) = .148
    assert "<td>2 [1.85, 2.15]</td>" in page
    assert repr(ablation()) == f"<Ablation: {ablation().verdict}>"


def test_the_figure_of_an_ablation():
    figure, frame = ablation().plot(), ablation().to_frame()
    assert figure.layout.title.text == ("2 heads ablated: needle score 33%, controls 50% to 83%; causal for retrieval")
    assert figure.layout.title.subtitle.text == "ablation: mean, all; controls: same-layers; NLL in nats per token"
    score = figure.data[0]
    assert list(score.y) == frame["needle_score"].tolist()
    np.testing.assert_allclose(score.error_y.array, frame["needle_score_high"] - frame["needle_score"])
    np.testing.assert_allclose(score.error_y.arrayminus, frame["needle_score"] - frame["needle_score_low"])
    assert [note.text for note in figure.layout.annotations] == [
        "needle score", "accuracy", "answer NLL", "plain-text NLL",
    ]  # fmt: skip
    spared = ablation(tested=replace(TESTED, nll=np.ones(6))).plot()
    assert unbroken(spared.layout.title.text).endswith("not shown to be causal for retrieval")
    alone = ablation(controls={}).plot().layout
    assert alone.title.text == "2 heads ablated: needle score 33%"
    assert alone.title.subtitle.text == "ablation: mean, all; controls: none; NLL in nats per token"


def grid(axes=("length", "depth"), columns=(0.1, 0.5)) -> NeedleMap:
    """Two rows, two columns, two needles; answers of two tokens, the last of one."""
    nll = np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 2.0], [2.0, 3.0], [1.0, 2.0], [2.0, 2.0], [3.0, 3.0], [4.0, NAN]])
    row, column = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    depth = np.array([0.1, 0.1, 0.5, 0.5] * 2)
    right = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=bool)
    return NeedleMap(axes, (512, 1024), columns, row, column, np.tile([0, 1], 4), nll, right, depth)


def test_the_summary_of_a_needle_map_word_for_word():
    cells = np.array([[1.25, 2.25], [1.75, 10 / 3]])
    found = grid()
    np.testing.assert_allclose(found.cell_nll, cells)
    assert found.mean_nll == pytest.approx(cells.mean())
    np.testing.assert_allclose(found.row_nll, cells.mean(1))
    np.testing.assert_allclose(found.column_nll, cells.mean(0))
    # needle 0: 2 and 3 in the middle, 1 and 1.5 outside; needle 1: 2.5 and 4, 1.5 and 2
    penalty = "1.38 (no interval: too few units)"
    assert str(found.middle_penalty()) == penalty
    assert found.verdict == (
        f"answer PPL {np.exp(cells.mean()):.3g} over the map, worst {np.exp(10 / 3):.3g} at length 1024, depth 0.5; "
        f"middle penalty {penalty} nats"
    )
    apart = grid(axes=("distance", "before"), columns=(256, 64))
    assert apart.verdict.endswith(f"worst {np.exp(10 / 3):.3g} at distance 1024, before 64")
    assert str(apart.interference_cost()) == f"-{penalty}"


def test_the_figure_of_a_needle_map():
    figure = grid().plot()
    assert unbroken(figure.layout.title.text) == grid().verdict
    assert figure.layout.title.subtitle.text == "cells: answer PPL and needle accuracy"
    (heat,) = figure.data
    assert (heat.texttemplate, heat.zmin, heat.colorbar.title.text) == ("%{text}", 0, "log10 PPL")
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "category")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("depth", "length")
    np.testing.assert_allclose(figure.data[0].z, np.array([[1.25, 2.25], [1.75, 10 / 3]]) / np.log(10))
    assert [list(row) for row in figure.data[0].text] == [
        ["3.49<br>100%", "9.49<br>50%"],
        ["5.75<br>50%", "28<br>0%"],
    ]
    assert (list(figure.data[0].x), list(figure.data[0].y)) == (["0.1", "0.5"], ["512", "1024"])
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("depth", "length")


def test_how_comparisons_and_ablations_are_drawn():
    assert looks(comparison().plot()) == [
        "hovertemplate=a%{y}.h%{x}: %{z:.3f}<extra></extra> xgap=1 ygap=1 zmax=0.36 zmin=-0.36",
        "hoverinfo=skip color=black width=2 size=12 symbol=circle-open mode=markers showlegend=False",
        "xaxis dtick=1 text=head",
        "yaxis dtick=1 text=layer",
        "layout height=420",
    ]
    words = "%{x}: %{y:.3f}<br>%{customdata[0]}<br>%{customdata[1]} of them retrieve<extra></extra>"
    bars = f"symmetric=False hovertemplate={words} color=['#767676', '#D55E00', '#0072B2', '#0072B2']"
    panels = ("", "2", "3", "4")
    assert looks(ablation().plot()) == [
        *(f"{bars} xaxis=x{panel} yaxis=y{panel}" for panel in panels),
        *(f"{axis}axis{panel}" for panel in panels for axis in "xy"),
        "layout height=460 showlegend=False",
    ]
    assert ablation().plot().layout.margin.t == 120, "room for the titles of the panels"
    assert looks(TESTED.plot()) == [
        "color=#0072B2", "color=#0072B2", "yaxis text=NLL, nats per token", "layout height=441 showlegend=False"
    ]  # fmt: skip


def test_how_a_monitor_is_drawn():
    told = []
    for panel in ("", "2", "3", "4"):
        at = f"xaxis=x{panel} yaxis=y{panel}"
        told.append(f"fill=toself fillcolor=#0072B2 hoverinfo=skip width=0 opacity=0.15 {at}")
        told.append(f"color=#0072B2 mode=lines+markers {at}")
    for panel, title in (("", "retrieval heads"), ("2", "needle score"), ("3", "needle accuracy")):
        told += [f"xaxis{panel} matches=x4 showticklabels=False", f"yaxis{panel} text={title}"]
    assert looks(monitored().plot()) == [
        *told,
        "xaxis4 text=step",
        "yaxis4 text=answer PPL",
        "mark dash=dot x0=1000 x1=1000 xref=x2 y0=0 y1=1 yref=y2 domain",
        "layout height=741 showlegend=False",
    ]
