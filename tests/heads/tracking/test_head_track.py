from dataclasses import replace

import numpy as np
import pytest
from toys import fake_scores

import heads
from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.stats.lines import fisher_interval, pearson_p
from checkpoints.stats.permutation import order_p
from heads.scores.agreement import agreement, rank_biased_overlap
from heads.tracking.correlation import correlate, read_downstream
from heads.tracking.head_track import HeadTrack
from heads.tracking.saturation import log_fit

# arXiv 2604.02650, table 4: r and the printed p over six checkpoints
PRINTED = [
    (0.8552, 0.0299),
    (-0.9115, 0.0114),
    (0.8243, 0.0436),
    (0.8956, 0.0158),
    (0.8927, 0.0166),
    (-0.9231, 0.0087),
    (0.8326, 0.0397),
    (0.8469, 0.0334),
    (0.4977, 0.3151),
    (-0.6283, 0.1816),
    (0.5715, 0.2361),
    (0.6210, 0.1882),
]
INTERVALS = [(0.8552, 0.14, 0.98), (-0.9115, -0.99, -0.38), (0.8243, 0.04, 0.98), (0.8956, 0.31, 0.99)]


@pytest.mark.parametrize(("r", "p"), PRINTED)
def test_the_twelve_printed_p_values(r, p):
    rounding = abs(pearson_p(r + 5e-5, 6) - pearson_p(r - 5e-5, 6))
    assert pearson_p(r, 6) == pytest.approx(p, abs=5e-5 + rounding)


@pytest.mark.parametrize(("r", "low", "high"), INTERVALS)
def test_the_printed_intervals(r, low, high):
    assert fisher_interval(r, 6) == pytest.approx((low, high), abs=0.005)


@pytest.mark.parametrize(("r", "p"), PRINTED[8:])
def test_every_longbio_interval_spans_0(r, p):
    low, high = fisher_interval(r, 6)
    assert low < 0 < high


def test_permutation_p_is_exact_at_six():
    line = np.arange(6.0)
    assert order_p(line, line) == pytest.approx(2 / 720)
    assert order_p(line, -(line**2)) == pytest.approx(2 / 720)


def test_permutation_p_is_drawn_beyond_eight():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 20))
    assert order_p(x, y) == pytest.approx(correlate(x, y).p, abs=0.03)


def test_a_correlation_says_what_it_rests_on():
    found = correlate(np.arange(6.0), np.array([0, 1, 2, 3, 4, 9.0]), names=("heads", "RULER"))
    least, greatest = found.leave_one_out
    assert least < found.r < greatest <= 1.0
    assert np.isnan(found.r_differences)
    assert np.isnan(found.p_differences)
    assert "r over 6 checkpoints is no evidence" in str(found)
    many = correlate(*np.random.default_rng(0).normal(size=(2, 12)))
    assert "r over 12 checkpoints is no evidence" in many.warning


def test_random_walks_correlate_but_their_changes_do_not():
    """Independent walks of 19 checkpoints: levels have p <= .05 far too often, changes about as often as stated."""
    draw = np.random.default_rng(1)
    found = [correlate(*draw.normal(size=(2, 19)).cumsum(axis=1)) for _ in range(60)]
    assert np.mean([c.p <= 0.05 for c in found]) > 0.3
    assert np.mean([c.p_differences <= 0.05 for c in found]) <= 0.12


def test_correlations_that_mean_nothing_are_refused():
    with pytest.raises(BadPrompt, match="share 2 checkpoints"):
        correlate(np.array([1, 2, np.nan]), np.arange(3.0))
    with pytest.raises(BadPrompt, match="metric has no value at any of 3 checkpoints"):
        correlate(np.full(3, np.nan), np.arange(3.0))
    with pytest.raises(BadPrompt, match="downstream is the same"):
        correlate(np.arange(4.0), np.ones(4))
    with pytest.raises(BadPrompt, match="downstream is infinite at 1 of 4"):
        correlate(np.arange(4.0), np.array([1, 2, np.inf, 4]))


def test_top_k_overlaps_as_the_paper_counts_them():
    draw = np.random.default_rng(0)
    a = np.zeros((32, 32))
    a.flat[:100] = np.sort(draw.uniform(0.2, 1, 100))[::-1]
    for kept in (24, 28, 29, 30):
        b = a.copy()
        b.flat[kept:30] = 0.05
        found = agreement(a, b, top_k=30)
        assert (found.shared, found.k) == (kept, 30)
    assert found.tied == pytest.approx(924 / 1024)
    assert found.spearman == pytest.approx(1.0)


def test_zeros_are_never_ranked():
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[0, 0] = a[1, 1] = b[0, 0] = 0.9
    found = agreement(a, b, top_k=10)
    assert (found.shared, found.k) == (1, 2)
    nothing = agreement(np.zeros((2, 2)), np.zeros((2, 2)))
    assert np.isnan(nothing.spearman)
    assert np.isnan(nothing.rank_biased)
    assert nothing.tied == 1


def test_rank_biased_overlap_has_its_known_answers():
    assert rank_biased_overlap([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert rank_biased_overlap([1, 2], [3, 4]) == pytest.approx(0)
    assert rank_biased_overlap([1, 2, 3], [1, 2]) == rank_biased_overlap([1, 2], [1, 2, 3])
    swapped_low = rank_biased_overlap([1, 2, 3, 4], [1, 2, 4, 3])
    swapped_high = rank_biased_overlap([1, 2, 3, 4], [2, 1, 3, 4])
    assert swapped_high < swapped_low < 1
    # d = 1: 0/1, d = 2: 2/2, extrapolated at p = 0.5: (1-p)/p * (0 + p^2) + p^2
    assert rank_biased_overlap([1, 2], [2, 1], persistence=0.5) == pytest.approx(0.25 + 0.25)


def test_log_fit_recovers_its_line():
    tokens = np.array([0, 20, 50, 100, 150, 200]) * 1e9
    fit = log_fit(tokens, np.where(tokens > 0, 5 - 0.1 * np.log(np.maximum(tokens, 1)), 99))
    assert (fit.a, fit.b) == pytest.approx((-0.1, 5))
    assert len(fit.residuals) == 5
    assert log_fit(tokens[:3], np.arange(3.0)) is None
    assert log_fit(np.full(3, 2e9), np.arange(3.0)) is None


def series(*, fall=0.15, n=16, seed=0):
    """Eight checkpoints: accuracy saturates at the fourth, the answer NLL falls by `fall` per doubling to the end."""
    draw = np.random.default_rng(seed)
    hardness = draw.normal(0, 0.05, (n, 1))
    out = []
    for i in range(8):
        step = 100 * 2**i
        copy = np.full((n, 2, 3), 0.02) + draw.uniform(0, 0.02, (n, 2, 3))
        copy[:, 1, 2] = min(1, 0.3 * i) * draw.uniform(0.9, 1, n)
        nll = 3 - 0.6 * min(i, 3) - fall * max(i - 3, 0) + hardness + draw.normal(0, 0.01, (n, 3))
        correct = np.arange(n) < n * min(i, 3) / 3
        out.append((step, 64 * step, fake_scores(copy, nll=nll, correct=correct)))
    return out


def test_deceptive_saturation_is_found_and_measured():
    run = heads.track(series(fall=0.15))
    by_name = {s.metric: s for s in run.saturations}
    assert by_name["needle_accuracy"].at.step == 800
    assert by_name["answer_nll"].at is None
    trend = by_name["answer_nll"].after(800)
    assert trend.low < -0.15 < trend.high
    (unsettled,) = [s for s in run.findings if s.startswith("answer PPL has not saturated within +-2 % per doubling")]
    assert ": last seen to change after step 800, -13.9 % [" in unsettled
    (said,) = [s for s in run.findings if s.startswith("deceptive")]
    assert "needle accuracy saturated at step 800; answer PPL still falls 13.9 % [" in said


def test_honest_saturation_deceives_nobody():
    run = heads.track(series(fall=0.0))
    assert {s.metric: s.at.step for s in run.saturations if s.metric in ("needle_accuracy", "answer_nll")} == {
        "needle_accuracy": 800,
        "answer_nll": 800,
    }
    assert not [s for s in run.findings if s.startswith("deceptive")]


def test_counts_births_and_sets():
    run = heads.track(series())
    assert run.curves["retrieval_heads"].value.tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert run.transitions[0].born == ("a1.h2",)
    assert not any(t.died for t in run.transitions)
    assert np.isnan(run.curves["initial_set_mean"].value).all()
    assert "no head retrieves at step 100" in " ".join(run.findings)
    later = heads.track(series()[2:])
    assert later.initial_set == ("a1.h2",)
    assert later.curves["initial_set_mean"].value[-1] > 0.9
    assert np.isnan(later.curves["retrieval_heads"].low).all(), "so few needles that agree leave other counts open"
    for curve in (curve for name, curve in later.curves.items() if name != "retrieval_heads"):
        assert (curve.low <= curve.value + 1e-9).all()
        assert (curve.value <= curve.high + 1e-9).all()


def test_perplexity_is_the_exponential_of_the_mean():
    checkpoints = series()
    run = heads.track(checkpoints)
    np.testing.assert_allclose(run.curves["answer_ppl"].value, [s.answer_ppl for _, _, s in checkpoints], rtol=1e-5)
    np.testing.assert_allclose(run.curves["needle_accuracy"].value, [s.needle_accuracy for _, _, s in checkpoints])


def test_steps_stand_in_for_unknown_tokens():
    run = heads.track([(step, None, scores) for step, _, scores in series()])
    assert run.axis == "steps"
    by_tokens = heads.track(series())
    assert by_tokens.axis == "tokens"
    assert by_tokens.position.tolist() == [float(tokens) for _, tokens, _ in series()]
    assert run.position.tolist() == [100 * 2**i for i in range(8)]


def test_downstream_scores_from_a_table(tmp_path):
    table = tmp_path / "scores.csv"
    rows = [f"{100 * 2**i},{i * i + 1},{7}" for i in range(6)]
    table.write_text("step,RULER,constant\n" + "\n".join(rows) + "\n999,,\n")
    run = heads.track(series(), downstream=read_downstream(table))
    ruler = {c.metric: c for c in run.correlations}
    assert -0.8 < ruler["answer_ppl"].r < -0.7
    assert ruler["answer_ppl"].n == 6
    assert any("constant is the same at all 6 checkpoints" in note for note in run.findings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", r"'step' column .* it has the columns \['a', 'b'\] and 1 rows"),
        ("step;x\n1;2\n", r"separated by commas.* \['step;x'\]"),
        ("", r"the columns \[\] and 0 rows"),
        ("step,x\n", "and 0 rows"),
        ("step\n1\n", r"the columns \['step'\]"),
        ("step,x,x\n1,2,3\n", "a column of its own name"),
        ("step,x\n1,much\n", r"line 2, column 'x': 'much' is no number"),
        ("step,x\n1,inf\n", r"line 2, column 'x': 'inf' is not finite"),
        ("step,x\nnan,1\n", r"column 'step': 'nan' is not finite"),
        ("step,x\n1.5,1\n", r"column 'step': '1.5' is no whole number"),
        ("step,x\n1,2\n\n1,3\n", r"line 4 gives step 1 again, which line 2 has"),
        ("step,x\n1,2,3\n", "line 2 has 3 cells where the header names 2 columns"),
        ("x,step\n3\n", "line 2 has 1 cells"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, reason):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(BadPrompt, match=reason):
        read_downstream(path)


def test_tables_as_spreadsheets_write_them(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("step, RULER ,MRCR\r\n1000.0, 0.5,nan\r\n\r\n2000,,0.25\r\n", encoding="utf-8-sig")
    assert read_downstream(path) == {"RULER": {1000: 0.5}, "MRCR": {2000: 0.25}}


def test_a_saved_monitor_comes_back_identical(tmp_path):
    run = heads.track(series(), downstream={"RULER": {100 * 2**i: float(i) for i in range(8)}})
    back = HeadTrack.load(run.save(tmp_path / "monitor"))
    assert back.findings == run.findings
    assert back.transitions[1:] == run.transitions[1:]
    assert back.saturations == run.saturations
    assert back.fit == run.fit
    for name, curve in run.curves.items():
        np.testing.assert_array_equal(back.curves[name].value, curve.value)


def test_frame_figure_and_html():
    run = heads.track(series())
    frame = run.to_frame()
    assert list(frame.step) == list(run.steps)
    assert frame.born.sum() == 1
    assert "deceptive saturation" in run.plot().layout.title.text
    assert "<li>" in run._repr_html_()


def by_depth(*, needles=10, penalty=0.5):
    """Two checkpoints on five depths: the second answers worse by ``penalty`` nats in the middle of the haystack."""
    depth = np.tile(np.array([0.1, 0.3, 0.5, 0.7, 0.9], dtype=np.float32), needles)
    hardness = np.repeat(np.random.default_rng(0).normal(0, 0.1, needles), 5)
    middle = (depth >= 0.3) & (depth <= 0.8)
    out = []
    for step, cost in ((100, 0.0), (200, penalty)):
        nll = np.tile((1 + hardness + cost * middle)[:, None], (1, 3))
        scores = fake_scores(np.zeros((len(depth), 1, 2)), nll=nll, needle=np.repeat(np.arange(needles), 5))
        out.append((step, step, replace(scores, depth=depth)))
    return out, float(np.exp(1 + hardness.mean()))


def test_margins_by_depth_and_the_middle_penalty(tmp_path):
    checkpoints, ppl = by_depth(penalty=0.5)
    run = heads.track(checkpoints)
    penalty = run.curves["middle_penalty"]
    np.testing.assert_allclose(penalty.value, [0, 0.5], atol=1e-5)
    np.testing.assert_allclose([penalty.low[1], penalty.high[1]], 0.5, atol=1e-5)
    assert list(run.margins) == ["0-20 %", "20-40 %", "40-60 %", "60-80 %", "80-100 %"]
    worse = np.exp(0.5)
    np.testing.assert_allclose([m.value[1] / ppl for m in run.margins.values()], [1, worse, worse, worse, 1], rtol=1e-5)
    first = run.margins["0-20 %"]
    assert first.low[0] < first.value[0] < first.high[0]
    assert "+0.5 [+0.5, +0.5] at step 200" in " ".join(run.findings)
    assert run.to_frame()["answer_ppl at 40-60 %"].iloc[1] == pytest.approx(worse * ppl, rel=1e-5)
    back = HeadTrack.load(run.save(tmp_path / "monitor"))
    np.testing.assert_array_equal(back.margins["20-40 %"].high, run.margins["20-40 %"].high)
    assert list(back.margins) == list(run.margins)


def test_generated_answers_have_no_perplexity_and_are_followed_all_the_same():
    written = [(step, None, replace(s, nll=np.full_like(s.nll, np.nan))) for step, _, s in series()]
    run = heads.track(written)
    assert np.isnan(run.curves["answer_ppl"].value).all()
    assert {s.metric for s in run.saturations} >= {"needle_score", "retrieval_heads"}
    assert not {s.metric for s in run.saturations} & {"answer_nll"}


def test_the_table_shows_every_number_with_its_noise():
    run = heads.track(series())
    table = run.table()
    assert table.needle_accuracy[0] == "0 [0, 0.206]", "sixteen needles, none answered: 1 - 0.025^(1/16)"
    assert table.needle_accuracy[7] == "1 [0.794, 1]"
    assert table["top K shared"][7] == "6 of 6 (chance 6)", "lists as long as the model tell nothing"
    assert "6 of 6 (chance 6)" in run._repr_html_()
    one = heads.track(series(), top_k=2)
    assert one.table()["top K shared"][7].endswith("of 2 (chance 0.667)")


def test_neighbours_are_compared_unless_the_length_of_their_lists_is_none():
    whole, curves = heads.track(series()), heads.track(series(), top_k=None)
    assert (len(whole.transitions), curves.transitions) == (len(whole.steps) - 1, ())
    assert repr(curves.saturations) == repr(whole.saturations)
    for name, curve in whole.curves.items():
        np.testing.assert_array_equal(curves.curves[name].high, curve.high)


def test_dotted_lines_stand_where_their_own_metric_saturated():
    strict = series(fall=0.15)
    run = heads.track([(s, t, replace(x, accepted=np.full(len(x), i > 0))) for i, (s, t, x) in enumerate(strict)])
    figure = run.plot()
    lines = {shape.yref.split()[0]: shape.x0 for shape in figure.layout.shapes}
    panels = {figure.layout[axis].title.text: axis.replace("yaxis", "y") for axis in ("yaxis", "yaxis2", "yaxis3")}
    at = {saturation.metric: saturation.at.step for saturation in run.saturations if saturation.at}
    assert lines[panels["needle score"]] == at["needle_score"]
    assert lines[panels["needle accuracy"]] == at["needle_accuracy"] != at["needle_score"]
    assert len(figure.layout.shapes) == len(lines)


def test_series_that_cannot_be_followed_are_refused():
    checkpoints = series()
    with pytest.raises(BadPrompt, match="at least two"):
        heads.track(checkpoints[:1])
    with pytest.raises(BadPrompt, match="rise"):
        heads.track(checkpoints[::-1])
    with pytest.raises(BadPrompt, match="unknown metric in bounds 'luck'; choose from "):
        heads.track(checkpoints, bounds={"luck": 1.0})
    other = fake_scores(np.zeros((16, 2, 3)), prompts="others")
    with pytest.raises(CheckpointMismatch, match="step 99999"):
        heads.track([*checkpoints, (99999, 1, other)])


def test_the_lenient_needle_test_deceives_before_the_strict_one():
    """Half of each answer is right from step 200 on, all of it only at the end; the perplexity keeps falling."""
    strict = series(fall=0.15)
    lenient = [
        (step, tokens, replace(scores, accepted=np.full(len(scores), i > 0)))
        for i, (step, tokens, scores) in enumerate(strict)
    ]
    run = heads.track(lenient)
    by_name = {s.metric: s for s in run.saturations}
    assert by_name["needle_score"].at.step < by_name["needle_accuracy"].at.step
    (said,) = [s for s in run.findings if s.startswith("deceptive")]
    assert f"needle score saturated at step {by_name['needle_score'].at.step:,}; answer PPL still falls" in said


def test_a_metric_whose_intervals_are_too_wide_is_not_said_to_move():
    draw = np.random.default_rng(0)
    noisy = [
        (step, tokens, replace(s, nll=np.asarray(draw.normal(2, 1.5, s.nll.shape), dtype=np.float32)))
        for step, tokens, s in series()
    ]
    findings = " ".join(heads.track(noisy, bounds={"answer_nll": 0.001}).findings)
    assert "per doubling: its intervals include both 0 and more than that" in findings


def test_needles_are_drawn_with_the_seed_0_unless_told_otherwise():
    def ends(**seed):
        return heads.track(series()[:3], draws=50, **seed).to_frame()["answer_nll_low"].tolist()

    assert ends() == ends(seed=0) != ends(seed=1)
