import numpy as np
import pytest
from toys import fake_scores

import heads
from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.stats.bootstrap import widened
from checkpoints.stats.shares import mcnemar_p
from checkpoints.stats.ttests import false_discovery, paired_test, welch_test


def noisy(mean, n=24, seed=0):
    draw = np.random.default_rng(seed)
    return np.clip(draw.normal(mean, 0.03, (n, *np.shape(mean))), 0, 1)


def test_a_result_against_itself_shows_nothing():
    scores = fake_scores(noisy(np.full((3, 4), 0.5)))
    same = heads.diff(scores, scores)
    assert not same.significant
    assert same.n_significant == 0
    assert (same.delta == 0).all()
    assert (same.p == 1).all()
    assert same.gained == same.lost == ()


def test_gained_and_lost_heads_cross_the_threshold_significantly():
    before, after = np.full((2, 3), 0.02), np.full((2, 3), 0.02)
    after[1, 2], before[0, 1] = 0.8, 0.4
    a, b = fake_scores(noisy(before)), fake_scores(noisy(after, seed=1))
    change = heads.diff(a, b)
    assert change.gained == ("a1.h2",)
    assert change.lost == ("a0.h1",)
    assert change.significant
    assert 0.7 < change.low[1, 2] < change.delta[1, 2] < change.high[1, 2] < 0.8
    assert change.to_frame().iloc[0]["name"] == "a1.h2"
    assert "1 gained, 1 lost" in change.verdict
    assert "a1.h2" in change._repr_html_()
    assert len(change.plot().data[1].x) == 2
    back = heads.diff(b, a)
    np.testing.assert_allclose(back.delta, -change.delta)
    np.testing.assert_allclose(back.p, change.p)


def test_a_change_of_the_answer_alone_counts():
    copy = noisy(np.full((2, 2), 0.5))
    rng = np.random.default_rng(1)
    nll = rng.uniform(1, 2, (24, 3))
    change = heads.diff(fake_scores(copy, nll=nll), fake_scores(copy, nll=nll - 0.5 + rng.normal(0, 0.05, (24, 3))))
    assert change.significant
    assert change.n_significant == 0
    assert change.nll.delta == pytest.approx(-0.5, abs=0.05)
    assert change.nll.low < change.nll.delta < change.nll.high < 0


def test_accuracy_is_exchanged_needle_by_needle():
    """Eight needles at three depths: six gain one or two answers, one loses one; every exchange is counted."""
    copy, needle = noisy(np.full((1, 1), 0.5), n=24), np.repeat(np.arange(8), 3)
    net = np.array([1, 2, 1, 1, 2, 1, -1, 0])
    right, wrong = np.zeros((8, 3), dtype=bool), np.zeros((8, 3), dtype=bool)
    for place, change in enumerate(net):
        (right if change > 0 else wrong)[place, : abs(change)] = True
    a, b = (fake_scores(copy, needle=needle, correct=way.ravel()) for way in (wrong, right))
    change = heads.diff(a, b)
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    assert change.accuracy.p == np.mean(np.abs(signs @ net) >= abs(net.sum()))
    assert change.accuracy.delta == pytest.approx(net.sum() / 24)
    by_prompt = heads.diff(a, b, unit="prompt")
    assert by_prompt.accuracy.p == pytest.approx(mcnemar_p(8, 1))
    assert np.isnan(heads.diff(*(fake_scores(copy, needle=needle % 4) for _ in range(2))).accuracy.p)


def test_prompts_of_one_needle_are_one_unit():
    copy = noisy(np.full((1, 1), 0.5), n=40)
    needle = np.repeat(np.arange(10), 4)
    by_needle = heads.diff(fake_scores(copy, needle=needle), fake_scores(copy, needle=needle))
    assert (by_needle.unit, by_needle.n) == ("needle", 10)
    few = heads.diff(fake_scores(copy, needle=needle % 3), fake_scores(copy, needle=needle % 3))
    assert (few.unit, few.n) == ("needle", 3)
    assert np.isnan(few.p).all()
    assert np.isfinite(few.low).all()
    two = heads.diff(fake_scores(copy, needle=needle % 2), fake_scores(copy, needle=needle % 2))
    assert np.isnan(two.low).all()
    assert not two.significant


def test_few_prompts_prove_nothing():
    a, b = fake_scores(np.zeros((4, 2, 2))), fake_scores(np.full((4, 2, 2), 0.9))
    change = heads.diff(a, b)
    assert np.isnan(change.p).all()
    assert not change.significant


def test_what_cannot_be_compared_is_refused():
    a = fake_scores(np.zeros((6, 2, 2)))
    with pytest.raises(CheckpointMismatch, match="not two checkpoints of one model"):
        heads.diff(a, fake_scores(np.zeros((6, 2, 3))))
    other = fake_scores(np.full((8, 2, 2), 0.5), prompts="others")
    with pytest.raises(CheckpointMismatch, match="different prompts"):
        heads.diff(a, other)
    assert heads.diff(a, other, pairing="unpaired").n == 6
    with pytest.raises(BadPrompt, match="unknown pairing 'pared'; choose from paired, unpaired"):
        heads.diff(a, other, pairing="pared")
    with pytest.raises(BadPrompt, match="q is a false discovery rate"):
        heads.diff(a, a, q=5)


def test_paired_test_is_the_textbook_one():
    from scipy import stats

    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 12, 5))
    test = paired_test(a, b)
    known = stats.ttest_rel(b, a)
    np.testing.assert_allclose(test.p, known.pvalue)
    interval = known.confidence_interval()
    np.testing.assert_allclose([test.low, test.high], [interval.low, interval.high])


def test_unpaired_test_is_the_textbook_one():
    from scipy import stats

    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(9, 5)), draw.normal(size=(14, 5))
    test = welch_test(a, b)
    np.testing.assert_allclose(test.p, stats.ttest_ind(b, a, equal_var=False).pvalue)


def test_identical_differences_are_no_surer_than_their_signs():
    test = paired_test(np.zeros((6, 1)), np.ones((6, 1)))
    assert test.p[0] == 2.0**-5


def test_false_discovery_rates_are_the_textbook_ones():
    from scipy import stats

    p = np.random.default_rng(0).uniform(size=(4, 5)) ** 3
    np.testing.assert_allclose(false_discovery(p).ravel(), stats.false_discovery_control(p.ravel()))
    assert np.isnan(false_discovery(np.array([0.01, np.nan]))[1])


def test_prompts_of_one_needle_count_as_one():
    """Five depths that say the same five times over are no five measurements: the interval is that of the needles."""
    per_needle = np.random.default_rng(0).normal(0.5, 0.2, (10, 1, 1))
    five = fake_scores(np.repeat(per_needle, 5, axis=0), needle=np.repeat(np.arange(10), 5))
    alone = fake_scores(per_needle)
    np.testing.assert_allclose(five.interval, alone.interval, atol=1e-6)
    assert five["a0.h0"].score.low == pytest.approx(alone["a0.h0"].score.low)
    assert five.statistics().high.item() == pytest.approx(alone.statistics().high.item())
    few = fake_scores(np.repeat(per_needle[:4], 5, axis=0), needle=np.repeat(np.arange(4), 5))
    np.testing.assert_array_equal(few.cluster, np.repeat(np.arange(4), 5))
    np.testing.assert_allclose(few.interval, fake_scores(per_needle[:4]).interval, atol=1e-6)


def test_a_share_on_which_all_agree_has_the_exact_interval():
    from scipy.stats import binomtest

    for successes in (0, 12):
        exact = binomtest(successes, 12).proportion_ci(method="exact")
        share = np.float64(successes / 12)
        found = widened(share, share, units=12)
        assert (float(found[0]), float(found[1])) == pytest.approx((exact.low, exact.high))
    assert [float(end) for end in widened(np.float64(0.4), np.float64(0.9), units=12)] == [0.4, 0.9]
