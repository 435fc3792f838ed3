"""The statistics under every sentence about heads, against textbook formulas and values worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as textbook

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import (
    Estimate,
    counted_interval,
    percentiles,
    resampled_means,
    resampling,
    stretched,
    widened,
    wilson_interval,
)
from checkpoints.stats.lines import fisher_interval, pearson, pearson_p
from checkpoints.stats.permutation import order_p
from checkpoints.stats.ttests import false_discovery, mean_interval, paired_test, skewed_interval, welch_test
from checkpoints.stats.units import FEWEST, cluster_means, independent_units, nanmean, nansd
from heads.scores.agreement import agreement, rank_biased_overlap, ranking, spearman
from heads.tracking.correlation import Correlation, align_steps, correlate, read_downstream
from heads.tracking.saturation import BOUNDS, Saturation, Trend, count_bound, deceptive, log_fit, saturation

NAN = float("nan")
A = np.array([[0.10, 0.5], [0.40, NAN], [0.20, 0.3], [0.90, 0.2], [0.50, 0.8], [0.60, 0.1], [0.35, 0.6]])
B = np.array([[0.30, 0.4], [0.45, 0.70], [0.10, 0.6], [1.00, 0.9], [0.85, 0.9], [0.95, 0.2], [0.55, 0.5]])


def test_an_estimate_is_read_with_its_interval():
    assert str(Estimate(0.12345, 0.1, 0.98765, 12)) == "0.123 [0.1, 0.988]"
    assert str(Estimate(0.5, NAN, NAN, 2)) == "0.5 (no interval: too few units)"


def test_means_and_spreads_leave_out_what_does_not_apply():
    values = np.array([[1.0, NAN, NAN], [3.0, 5.0, NAN]])
    np.testing.assert_array_equal(nanmean(values), [2.0, 5.0, NAN])
    np.testing.assert_array_equal(nanmean(values, axis=1), [1.0, 4.0])
    np.testing.assert_array_equal(nansd(values), [math.sqrt(2), NAN, NAN])
    np.testing.assert_array_equal(nansd(values, axis=1), [NAN, math.sqrt(2)])


@pytest.mark.parametrize("needles", [1, 3, 7, 8])
def test_needles_are_the_units_however_few(needles):
    each = np.repeat(np.arange(needles), 2)
    for asked in ("auto", "needle"):
        unit, cluster = independent_units(each, asked)
        assert unit == "needle"
        np.testing.assert_array_equal(cluster, each)
    unit, cluster = independent_units(each, "prompt")
    assert unit == "prompt"
    np.testing.assert_array_equal(cluster, np.arange(2 * needles))


def test_the_interval_of_a_mean_is_students():
    found = mean_interval(A)
    for column in (0, 1):
        own = A[~np.isnan(A[:, column]), column]
        expected = textbook.ttest_1samp(own, 0).confidence_interval(0.95)
        assert (found[0][column], found[1][column]) == pytest.approx((expected.low, expected.high))
    narrow = textbook.ttest_1samp(A[:, 0], 0).confidence_interval(0.5)
    assert mean_interval(A[:, 0], level=0.5) == pytest.approx((narrow.low, narrow.high))
    two = np.array([[1.0, 1.0, NAN], [2.0, NAN, NAN], [NAN, NAN, NAN]])
    assert np.isnan(mean_interval(two)).all()


def test_the_interval_of_clusters_is_that_of_their_means_where_all_are_of_one_size():
    values, cluster = np.arange(12.0) ** 1.5, np.repeat([5, 2, 9, 7], 3)
    expected = textbook.ttest_1samp(values.reshape(4, 3).mean(1), 0).confidence_interval(0.95)
    assert mean_interval(values, cluster) == pytest.approx((expected.low, expected.high))
    # sizes 3 and 1, 1, the sums of residuals by hand: mean 3, residuals -6 + 3, 0, 3
    low, high = mean_interval(np.array([1.0, 2.0, 3.0, 3.0, 6.0]), np.array([0, 0, 0, 1, 2]))
    half = textbook.t.ppf(0.975, 2) * math.sqrt((9 + 0 + 9) * 3 / 2) / 5
    assert (low, high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("units", [3, 6, 12, 24])
def test_intervals_of_clustered_scores_cover(units):
    """Ten depths a needle, half of the variance between needles: 95 % at any number of needles; prompts do not."""
    rng = np.random.default_rng(units)
    scores = rng.standard_normal((units, 1, 1500)) + rng.standard_normal((units, 10, 1500))
    low, high = mean_interval(scores.reshape(-1, 1500), np.repeat(np.arange(units), 10))
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.95, abs=0.02)
    low, high = mean_interval(scores.reshape(-1, 1500))
    assert np.mean((low < 0) & (high > 0)) < 0.75


def test_the_interval_of_a_skewed_mean_reaches_further_on_its_own_side():
    """Units 0, 0, 3: mean 1, m2 = 2, m3 = 2, so that g = 2 / 2^1.5, and the standard error is 1."""
    t = textbook.t.ppf(0.975, 2)
    more = 2 / 2**1.5 * (2 * t**2 + 1) / (6 * math.sqrt(3))
    values = np.array([0.0, 0.0, 3.0])
    assert skewed_interval(values) == pytest.approx((1 - t, 1 + t + more))
    assert skewed_interval(-values) == pytest.approx((-1 - t - more, -1 + t))
    depths, cluster = np.array([0.0, 0.0, -1.0, 1.0, 2.0, 4.0]), np.repeat([4, 1, 9], 2)
    assert skewed_interval(depths, cluster) == pytest.approx((1 - t, 1 + t + more)), "units are clusters, not values"
    even = np.array([[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]])
    np.testing.assert_allclose(skewed_interval(even), mean_interval(even))
    assert np.isnan(skewed_interval(np.array([[1.0, NAN], [2.0, 1.0]]))).all()
    lacking = np.array([[0.0, NAN], [0.0, 5.0], [3.0, 6.0], [NAN, 7.0]])
    found = skewed_interval(lacking)
    assert (found[0][0], found[1][0]) == pytest.approx((1 - t, 1 + t + more))
    assert (found[0][1], found[1][1]) == pytest.approx((6 - t / math.sqrt(3), 6 + t / math.sqrt(3)))


@pytest.mark.parametrize(("units", "least"), [(3, 0.93), (5, 0.925), (8, 0.925), (24, 0.935)])
def test_intervals_of_skewed_scores_cover(units, least):
    """Exponential effects of needles and of their ten depths; Student's t covers less."""
    rng = np.random.default_rng(units)
    effects = [rng.exponential(size=(units, depths, 6000)) - 1 for depths in (1, 10)]
    scores = (0.4**0.5 * effects[0] + 0.6**0.5 * effects[1]).reshape(-1, 6000)
    ends = [find(scores, np.repeat(np.arange(units), 10)) for find in (skewed_interval, mean_interval)]
    covered, by_t = (np.mean((low < 0) & (high > 0)) for low, high in ends)
    assert least <= covered <= 0.97
    assert by_t < covered


def test_stretched_resamples_end_where_the_t_interval_does():
    values = np.random.default_rng(0).normal(size=5)
    draws = np.random.default_rng(1).normal(values.mean(), values.std() / math.sqrt(5), 200_000)
    ends = percentiles(stretched(values.mean(), draws, units=5))
    np.testing.assert_allclose(ends, mean_interval(values), atol=0.02)
    assert np.isnan(stretched(np.float64(0.0), draws, units=FEWEST - 1)).all()
    assert np.isfinite(stretched(np.float64(0.0), draws, units=FEWEST)).all()


def test_a_cluster_counts_once():
    values = np.array([[1.0], [NAN], [4.0], [6.0]])
    np.testing.assert_array_equal(cluster_means(values, np.array([7, 7, 3, 3])), [[5.0], [1.0]])


def test_resampling_draws_as_many_units_as_there_are():
    weights = resampling(5, draws=40, seed=3)
    np.testing.assert_array_equal(weights, np.random.default_rng(3).multinomial(5, [0.2] * 5, size=40))
    assert not weights.flags.writeable
    assert resampling(5).shape == (2000, 5)
    np.testing.assert_array_equal(resampling(3), np.random.default_rng(0).multinomial(3, [1 / 3] * 3, size=2000))


def test_means_of_resampled_clusters_by_hand():
    values = np.array([[1.0, NAN], [2.0, NAN], [9.0, 4.0]])
    weights = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    found = resampled_means(values, np.array([5, 5, 8]), weights)
    np.testing.assert_allclose(found, [[1.5, NAN], [4.0, 4.0], [9.0, 4.0]])


def test_percentiles_are_the_two_tails():
    draws = np.arange(101.0)[:, None] * [1, 2]
    low, high = percentiles(draws)
    np.testing.assert_allclose([low, high], [[2.5, 5.0], [97.5, 195.0]])
    low, high = percentiles(draws, level=0.8)
    np.testing.assert_allclose([low, high], [[10.0, 20.0], [90.0, 180.0]])
    low, high = percentiles(np.array([[NAN], [1.0], [3.0]]), level=0.5)
    np.testing.assert_allclose([low, high], [[1.5], [2.5]])


def test_a_share_on_which_all_agree_reaches_as_far_as_the_binomial_allows():
    low, high = widened(np.array([1.0, 0.0, 0.2]), np.array([1.0, 0.0, 0.7]), units=10)
    exact = textbook.binomtest(10, 10).proportion_ci(0.95, "exact").low
    np.testing.assert_allclose(low, [exact, 0.0, 0.2])
    np.testing.assert_allclose(high, [1.0, 1 - exact, 0.7])
    low, _ = widened(np.array([1.0]), np.array([1.0]), units=10, level=0.8)
    np.testing.assert_allclose(low, textbook.binomtest(10, 10).proportion_ci(0.8, "exact").low)


def test_a_count_without_a_spread_has_ends_where_units_rule_another_out():
    """35 units alike leave a share of .1001 that did otherwise, 36 one of .0974."""
    low, high = np.array([0.0, 2.0]), np.array([0.0, 4.0])
    for units, known in ((35, False), (36, True)):
        ends = counted_interval(low, high, units=units, threshold=0.1)
        np.testing.assert_array_equal(ends, [[0.0 if known else NAN, 2.0], [0.0 if known else NAN, 4.0]])


def test_the_paired_test_is_students():
    found = paired_test(A, B)
    for column in (0, 1):
        applies = ~np.isnan(A[:, column])
        expected = textbook.ttest_rel(B[applies, column], A[applies, column])
        interval = expected.confidence_interval(0.95)
        floor = 2.0 ** (1 - applies.sum())
        assert found.delta[column] == pytest.approx(np.mean(B[applies, column] - A[applies, column]))
        assert (found.low[column], found.high[column]) == pytest.approx((interval.low, interval.high))
        assert found.p[column] == pytest.approx(max(expected.pvalue, floor))
        assert found.p[column] > 0.01


def test_a_paired_p_is_bounded_by_the_signs_and_needs_five_units():
    five = paired_test(np.zeros(5), np.array([1.0, 1.01, 0.99, 1.0, 1.0]))
    assert five.p == 2.0**-4
    assert np.isnan(paired_test(np.zeros(4), np.arange(1.0, 5.0)).p)
    still = paired_test(np.ones((5, 1)), np.ones((5, 1)))
    assert (still.delta[0], still.low[0], still.high[0], still.p[0]) == (0.0, 0.0, 0.0, 1.0)


def test_the_unpaired_test_is_welchs():
    one, other = A[:, :1], np.concatenate([B[:, :1], [[0.2], [0.95]]])
    found, expected = welch_test(one, other), textbook.ttest_ind(other, one, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.delta == pytest.approx(other.mean() - one.mean())
    assert (found.low[0], found.high[0]) == pytest.approx((interval.low[0], interval.high[0]))
    assert found.p == pytest.approx(expected.pvalue)
    found = welch_test(A, B)
    for column in (0, 1):
        one = A[:, column][~np.isnan(A[:, column])]
        expected = textbook.ttest_ind(B[:, column], one, equal_var=False)
        assert found.delta[column] == pytest.approx(B[:, column].mean() - one.mean())
        assert found.high[column] == pytest.approx(expected.confidence_interval(0.95).high)
        assert found.p[column] == pytest.approx(expected.pvalue)


def test_an_unpaired_p_is_bounded_by_the_smaller_side_which_needs_five_units():
    apart = welch_test(np.array([0.0, 0.01, 0.0, 0.01, 0.0]), np.array([1.0, 1.01, 1.0, 1.01, 1.0, 1.01]))
    assert apart.p == 2.0**-4
    assert np.isnan(welch_test(np.arange(4.0), np.arange(9.0)).p)
    assert np.isnan(welch_test(np.arange(9.0), np.arange(4.0)).p)
    assert welch_test(np.ones(5), np.ones(6)).p == 1.0
    assert welch_test(np.zeros(5), np.ones(6)).p == 2.0**-4


def test_q_values_by_hand():
    p = np.array([[0.04, 0.01, NAN], [0.03, 0.9, 0.9]])
    # sorted .01 .03 .04 .9 .9, times 5 over the rank: .05 .075 .0667 1.125 .9; then the least from there on
    expected = [[0.2 / 3, 0.05, NAN], [0.2 / 3, 0.9, 0.9]]
    np.testing.assert_allclose(false_discovery(p), expected)
    np.testing.assert_allclose(false_discovery(np.array([0.02, 0.5])), [0.04, 0.5])
    assert np.isnan(false_discovery(np.array([NAN, NAN]))).all()
    assert false_discovery(np.array([0.7])) == 0.7
    rng = np.random.default_rng(0).random(50)
    np.testing.assert_allclose(false_discovery(rng), textbook.false_discovery_control(rng))


def test_agreement_of_two_rankings_by_hand():
    a = np.array([[0.9, 0.5, 0.3], [0.0, 0.0, NAN]])
    b = np.array([[0.4, 0.8, 0.0], [0.2, 0.0, 0.5]])
    found = agreement(a, b, top_k=2)
    assert (found.shared, found.k) == (2, 2)
    assert found.by_chance == pytest.approx(2 * 2 / 5)
    assert found.tied == pytest.approx(1 / 5)
    ranks_a, ranks_b = [5, 4, 3, 1.5, 1.5], [4, 5, 1.5, 3, 1.5]
    assert found.spearman == pytest.approx(np.corrcoef(ranks_a, ranks_b)[0, 1])
    assert np.isnan(found.spearman_top)
    # depths 1, 2, 3 share 0, 2, 2 heads, at p = 0.9
    depth = 0.1 / 0.9 * (2 / 2 * 0.81 + 2 / 3 * 0.729) + 2 / 3 * 0.729
    assert found.rank_biased == pytest.approx(depth)
    wide = agreement(a, b, top_k=3)
    assert (wide.shared, wide.k) == (2, 3)
    assert wide.spearman_top == pytest.approx(np.corrcoef([4, 3, 2, 1], [3, 4, 1, 2])[0, 1])
    assert agreement(a, b).by_chance == pytest.approx(3 * 3 / 5)
    nothing = agreement(np.full((1, 2), NAN), np.ones((1, 2)))
    assert (nothing.shared, nothing.k) == (0, 0)
    assert all(np.isnan([nothing.tied, nothing.by_chance, nothing.rank_biased, nothing.spearman]))


def test_rankings_hold_what_scores_above_zero_best_first():
    assert ranking(np.array([0.1, 0.0, 0.7, 0.1, -0.2])).tolist() == [2, 0, 3]


def test_rank_correlation_needs_three_values_that_vary():
    assert spearman(np.array([1.0, 2.0, 4.0]), np.array([3.0, 9.0, 5.0])) == pytest.approx(0.5)
    assert np.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert np.isnan(spearman(np.ones(3), np.arange(3.0)))
    assert np.isnan(spearman(np.arange(3.0), np.ones(3)))


def test_rank_biased_overlap_of_uneven_lists_by_hand():
    # X_1 = 1, X_2 = 1, X_3 = 2; s = 2, l = 3 (Webber et al. 2010, eq. 32)
    p = 0.5
    total = 1 * p + 1 / 2 * p**2 + 2 / 3 * p**3 + 1 * (3 - 2) / (2 * 3) * p**3
    expected = (1 - p) / p * total + ((2 - 1) / 3 + 1 / 2) * p**3
    assert rank_biased_overlap([1, 2], [1, 3, 2], persistence=p) == pytest.approx(expected)
    assert rank_biased_overlap([1, 3, 2], [1, 2], persistence=p) == pytest.approx(expected)
    assert np.isnan(rank_biased_overlap([], [1]))


def test_still_bounds_are_the_ones_that_are_written_down():
    assert BOUNDS == {
        "needle_score": 0.02,
        "needle_accuracy": 0.02,
        "answer_nll": 0.02,
        "initial_set_mean": 0.02,
        "all_heads_mean": 0.005,
    }
    assert count_bound(np.array([3.0, 40.0, NAN])) == 2.0
    assert count_bound(np.array([3.0, 4.0])) == 0.5


def test_a_trend_is_the_least_squares_slope_per_doubling():
    doublings, values = np.array([0.0, 1.0, 3.0]), np.array([0.2, 0.5, 0.51])
    draws = values + np.array([[0, 0, -0.01], [0, 0, 0], [0, 0, 0.01]])
    found = saturation("needle_score", [10, 20, 80], doublings, values, draws, bound=0.02)
    assert found.metric == "needle_score"
    assert [trend.step for trend in found.trends] == [10, 20]
    assert found.trends[0].slope == pytest.approx(textbook.linregress(doublings, values).slope)
    last = found.trends[1]
    assert (last.slope, last.bound) == (pytest.approx(0.005), 0.02)
    slopes = [0.0, 0.005, 0.01]
    assert (last.low, last.high) == pytest.approx(tuple(np.quantile(slopes, [0.025, 0.975])))
    assert (found.trends[0].saturated, last.saturated) == (False, True)
    assert found.at is last
    assert found.after(10) is found.trends[0]
    assert found.after(80) is None


@pytest.mark.parametrize(
    ("values", "spread", "still"),
    [
        ([0.5, 0.5, 0.5], 0.0, True),
        ([0.5, 0.525, 0.5], 0.0, False),  # strays beyond the bound within one doubling
        ([0.5, 0.5, 0.535], 0.0, True),  # 0.035 in two doublings, 0.0175 a doubling
        ([0.5, 0.5, 0.5], 0.1, False),  # the interval reaches beyond +-0.02
    ],
)
def test_still_means_within_the_bound_and_never_astray(values, spread, still):
    values = np.array(values)
    draws = values + spread * np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    found = saturation("m", [1, 2, 4], np.array([0.0, 1.0, 2.0]), values, draws, bound=0.02)
    assert found.trends[0].saturated is still


def test_scatter_between_checkpoints_is_part_of_the_error():
    time, values = np.arange(6.0), np.array([0.0, 0.3, -0.2, 0.25, 0.0, 0.1])
    draws = values + np.linspace(-0.01, 0.01, 101)[:, None] * time
    found = saturation("m", list(range(6)), time, values, draws, bound=0.02).trends[0]
    line = textbook.linregress(time, values)
    half = math.hypot(0.0095, textbook.t.ppf(0.975, 4) * line.stderr)
    assert (found.low, found.high) == pytest.approx((line.slope - half, line.slope + half))
    few = saturation("m", list(range(4)), time[:4], values[:4], draws[:, :4], bound=0.02).trends[0]
    assert few.high - few.low == pytest.approx(2 * 0.0095)
    assert (found.later, few.later) == (5, 3)


def test_a_converged_run_is_said_to_move_no_more_often_than_stated():
    """Jitter of .05 nats between checkpoints and needles that all say the same: needles alone are always sure."""
    rng = np.random.default_rng(0)
    time, moving = np.arange(8.0), []
    for _ in range(200):
        values = 1.0 + rng.normal(0, 0.05, 8)
        draws = values + rng.normal(0, 0.001, (50, 1))
        moving.append(saturation("answer_nll", list(range(8)), time, values, draws, bound=0.002).trends[0].moving)
    assert np.mean(moving) <= 0.1


def test_the_interval_of_a_share_is_wilsons():
    cases = ((0, 8), (3, 8), (8, 8), (1, 40), (20, 25))
    for level in (0.95, 0.9):
        low, high = wilson_interval(*np.array(cases, dtype=float).T, level=level)
        for place, (hits, trials) in enumerate(cases):
            expected = textbook.binomtest(hits, trials).proportion_ci(level, "wilson")
            assert (low[place], high[place]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert np.isnan(wilson_interval(np.zeros(1), np.zeros(1))).all()


def test_a_trend_whose_interval_ends_at_0_does_not_move():
    for low, high, moving in ((0.0, 0.2, False), (-0.2, 0.0, False), (0.1, 0.2, True), (-0.2, -0.1, True)):
        assert Trend("m", 1, 0.1, low, high, 0.02, saturated=False).moving is moving


def test_an_interval_of_which_an_end_is_not_there_is_not_written():
    assert str(Estimate(0.5, NAN, 0.7, 8)) == str(Estimate(0.5, 0.2, NAN, 8)) == str(Estimate(0.5, NAN, NAN, 8))
    assert str(Estimate(0.5, 0.2, 0.7, 8)) != str(Estimate(0.5, NAN, NAN, 8))


@pytest.mark.parametrize("change", [-0.03125, 0.03125])
def test_a_change_of_just_the_bound_is_still(change):
    values = np.array([0.5, 0.5 + change])
    found = saturation("m", [1, 2], np.array([0.0, 1.0]), values, np.tile(values, (3, 1)), bound=0.03125)
    assert (found.trends[0].low, found.trends[0].high) == (change, change)
    assert found.trends[0].saturated


def test_rankings_are_compared_over_thirty_heads_unless_asked_otherwise():
    scores = np.arange(40.0).reshape(5, 8)
    assert agreement(scores, scores).k == 30


def test_a_curve_strays_by_doublings_from_the_checkpoint_not_from_the_first_token():
    values = np.array([0.5, 0.525, 0.5])
    found = saturation("m", [1, 2, 4], np.array([10.0, 11.0, 12.0]), values, np.tile(values, (3, 1)), bound=0.02)
    assert not found.trends[0].saturated


def test_draws_that_are_not_there_make_no_interval():
    found = saturation("m", [1, 2], np.array([0.0, 1.0]), np.zeros(2), np.full((4, 2), NAN), bound=0.02).trends[0]
    assert np.isnan([found.low, found.high]).all()
    assert not found.saturated


def test_moving_excludes_zero_and_is_not_still():
    assert Trend("m", 1, 0.05, 0.03, 0.07, 0.02, False).moving
    assert Trend("m", 1, -0.05, -0.07, -0.03, 0.02, False).moving
    assert not Trend("m", 1, 0.05, -0.01, 0.07, 0.02, False).moving
    assert not Trend("m", 1, 0.01, 0.005, 0.015, 0.02, True).moving


def test_deception_pairs_what_is_still_with_what_moves_after_it():
    still = Saturation("a", (Trend("a", 1, 0.3, 0.2, 0.4, 0.02, False), Trend("a", 2, 0.0, 0.0, 0.0, 0.02, True)))
    moves = Saturation("b", (Trend("b", 1, 0.3, 0.2, 0.4, 0.02, False), Trend("b", 2, -0.3, -0.4, -0.2, 0.02, False)))
    rests = Saturation("c", (Trend("c", 1, 0.3, 0.2, 0.4, 0.02, False), Trend("c", 2, 0.0, -0.4, 0.2, 0.02, False)))
    assert deceptive([rests, moves, still]) == ((still.trends[1], moves.trends[1]),)
    assert deceptive([moves, rests]) == ()
    short = Saturation("d", (Trend("d", 1, 0.3, 0.2, 0.4, 0.02, False),))
    assert deceptive([still, short]) == ()
    assert short.at is None


def test_the_logarithmic_fit_is_the_regression_on_ln_tokens():
    tokens, values = np.array([0.0, 10.0, 100.0, 500.0, 1000.0]), np.array([99.0, 9.0, 7.2, NAN, 5.0])
    found = log_fit(tokens, values)
    x, y = np.log([10.0, 100.0, 1000.0]), np.array([9.0, 7.2, 5.0])
    line = textbook.linregress(x, y)
    half = textbook.t.ppf(0.975, 1) * line.stderr
    assert (found.a, found.b) == pytest.approx((line.slope, line.intercept))
    assert (found.a_low, found.a_high) == pytest.approx((line.slope - half, line.slope + half))
    assert found.residuals == pytest.approx(y - line.slope * x - line.intercept)
    assert found.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert log_fit(tokens[:3], values[:3]) is None


def test_a_correlation_beside_the_textbook():
    x = np.array([1.0, 2.0, NAN, 4.0, 5.0, 7.0])
    y = np.array([2.0, 1.0, 9.0, 3.0, 6.0, NAN])
    found = correlate(x, y, names=("needle_score", "MMLU"))
    u, v = np.array([1.0, 2.0, 4.0, 5.0]), np.array([2.0, 1.0, 3.0, 6.0])
    expected = textbook.pearsonr(u, v)
    interval = expected.confidence_interval(0.95)
    assert (found.metric, found.downstream, found.n) == ("needle_score", "MMLU", 4)
    assert (found.r, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    orders = [abs(np.corrcoef(u, v[list(order)])[0, 1]) for order in itertools.permutations(range(4))]
    assert found.p_permutation == pytest.approx(np.mean(np.array(orders) >= orders[0] - 1e-12))
    rest = [np.corrcoef(np.delete(u, i), np.delete(v, i))[0, 1] for i in range(4)]
    assert found.leave_one_out == pytest.approx((min(rest), max(rest)))
    assert found.r_differences == pytest.approx(np.corrcoef(np.diff(u), np.diff(v))[0, 1])


def test_the_ends_of_correlation():
    assert pearson(np.array([1.0, 2.0]), np.array([5.0, 5.0])).__repr__() == "nan"
    assert pearson(np.array([1.0, 2.0]), np.array([5.0, 1.0])) == -1.0
    assert pearson_p(1.0, 5) == 0.0
    assert pearson_p(-1.0, 5) == 0.0
    assert fisher_interval(0.9, 3) == (-1.0, 1.0)
    assert fisher_interval(1.0, 9) == (1.0, 1.0)
    half = textbook.norm.ppf(0.95) / math.sqrt(6)
    assert fisher_interval(0.5, 9, level=0.9) == pytest.approx(
        (math.tanh(math.atanh(0.5) - half), math.tanh(math.atanh(0.5) + half))
    )
    np.testing.assert_array_equal(align_steps({10: 0.5, 30: 0.7}, [10, 20, 30]), [0.5, NAN, 0.7])


def test_permutations_are_all_up_to_eight_and_drawn_beyond():
    assert order_p(np.arange(8.0), np.arange(8.0)) == pytest.approx(2 / math.factorial(8))
    x, y = np.arange(9.0), np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 7.0])
    rng = np.random.default_rng(0)
    drawn = rng.permuted(np.tile(np.arange(9), (20_000, 1)), axis=1)
    reached = np.abs((y - 4)[drawn] @ (x - 4)) >= (y - 4) @ (x - 4) - 1e-9
    assert 0 < reached.sum() < 20
    assert order_p(x, y) == pytest.approx(textbook.beta.ppf(0.95, reached.sum() + 1, 20_000 - reached.sum()))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0], "score and MMLU share 2 checkpoints: a correlation needs three"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "score is the same at all 3 checkpoints: nothing to correlate"),
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], "MMLU is the same at all 3 checkpoints: nothing to correlate"),
        ([1.0, 2.0, np.inf], [1.0, 2.0, 3.0], "score is infinite at 1 of 3 checkpoints: leave them out"),
    ],
)
def test_what_cannot_be_correlated_is_named(x, y, said):
    with pytest.raises(BadPrompt) as refused:
        correlate(np.array(x), np.array(y), names=("score", "MMLU"))
    assert str(refused.value) == said


def test_a_correlation_is_told_with_its_warning():
    few = Correlation("needle_score", "MMLU", 6, 0.912, 0.381, 0.991, 0.01, 0.0125, (0.85, 0.97), -0.2)
    told = (
        "needle_score against MMLU: their changes from checkpoint to checkpoint correlate at -0.20{}; their levels at "
    )
    told += "r = +0.91 [+0.38, +0.99], one left out +0.85 to +0.97 ({})"
    warning = "any two curves that rise or fall through training correlate: r over 6 checkpoints is no evidence"
    assert few.warning == warning
    assert str(few) == told.format("", warning)
    tested = Correlation("needle_score", "MMLU", 6, 0.912, 0.381, 0.991, 0.01, 0.0125, (0.85, 0.97), -0.2, 0.412)
    assert str(tested) == told.format(" (permutation p = 0.41)", warning)


def test_downstream_scores_are_read_by_column_and_step(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("step,MMLU,ARC\n100,0.25,\n1e3,0.5,nan\n2000,1,0.75\n")
    assert read_downstream(path) == {"MMLU": {100: 0.25, 1000: 0.5, 2000: 1.0}, "ARC": {2000: 0.75}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at,MMLU\n1,2\n", "the columns ['at', 'MMLU'] and 1 rows"),
        ("step\n1\n", "the columns ['step'] and 1 rows"),
        ("step,a,a\n1,2,3\n", "the columns ['step', 'a', 'a'] and 1 rows"),
        ("step,a\n", "the columns ['step', 'a'] and 0 rows"),
        ("step,a\n1,2,3\n", "line 2 has 3 cells where the header names 2 columns"),
        ("step,a\n1,2\n1,3\n", "line 3 gives step 1 again, which line 2 has: keep one row a checkpoint"),
        ("step,a\n1.5,2\n", "line 2, column 'step': '1.5' is no whole number"),
        ("step,a\n1,x\n", "line 2, column 'a': 'x' is no number"),
        ("step,a\n1,2\n2,inf\n", "line 3, column 'a': 'inf' is not finite"),
    ],
)
def test_downstream_scores_that_cannot_be_read_name_line_and_column(tmp_path, text, said):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(BadPrompt) as refused:
        read_downstream(path)
    assert str(refused.value).endswith(said)
