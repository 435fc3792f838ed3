"""Intervals of scores between 0 and 1 over few units: known answers, what they leave alone, coverage."""

import numpy as np
import pytest

from checkpoints.stats.shares import bounded_mean, exact_share_interval, score_interval
from checkpoints.stats.ttests import skewed_interval

NAN = float("nan")


@pytest.mark.parametrize("units", [3, 5, 24])
def test_units_that_agree_have_the_exact_interval_of_a_share_that_none_missed(units):
    """All of n at 1: 1 - P with (1 - P)^n = .025; at .5 others may have been 0, or 1, as often as that."""
    values = np.repeat([[0.0, 1.0, 0.5]], units, axis=0)
    seen = 1 - 0.025 ** (1 / units)
    low, high = score_interval(values, np.arange(units))
    np.testing.assert_allclose(low, [0, 1 - seen, 0.5 - seen / 2], atol=1e-12)
    np.testing.assert_allclose(high, [seen, 1, 0.5 + seen / 2], atol=1e-12)
    assert (low[1], high[1]) == pytest.approx(exact_share_interval(units, units))


def test_prompts_of_a_needle_are_one_unit_and_rounding_is_no_disagreement():
    values = np.full((6, 2, 1), 0.2, dtype=np.float32)
    values[0] += np.float32(1e-8)
    low, high = score_interval(values, np.repeat([4, 2, 9], 2))
    assert low.shape == (2, 1)
    np.testing.assert_allclose(
        [low, high], [np.full((2, 1), 0.2 * 0.025 ** (1 / 3)), np.full((2, 1), 1 - 0.8 * 0.025 ** (1 / 3))], atol=1e-6
    )


def test_bounds_of_units_that_are_0_or_1_are_those_of_a_share():
    for hits, units in ((2, 3), (4, 5), (3, 11)):
        ends = bounded_mean(np.sort((np.arange(units) < hits).astype(float))[:, None])
        np.testing.assert_allclose(np.ravel(ends), exact_share_interval(hits, units), atol=0.015)


def test_bounds_mirror_each_other():
    units = np.array([[0.1], [0.4], [0.5], [0.9]])
    low, high = bounded_mean(units)
    np.testing.assert_allclose(bounded_mean(1 - units[::-1]), (1 - high, 1 - low), atol=0.02)


def test_scores_away_from_the_ends_of_the_range_keep_their_interval():
    values = np.array([[0.5, 0.2], [0.6, 0.3], [0.55, 0.28], [0.52, 0.22]])
    np.testing.assert_array_equal(score_interval(values, np.arange(4)), skewed_interval(values))


def test_an_interval_that_runs_out_at_one_end_reaches_as_far_inwards_as_is_known():
    """Three needles near 1 say little of one that is missed; twelve that scatter say how far they do."""
    near = np.array([0.9, 0.99, 1.0])
    low, high = score_interval(near, np.arange(3))
    assert high == 1
    assert low == pytest.approx(float(bounded_mean(near[:, None])[0][0]))
    assert low < float(skewed_interval(near)[0]) - 0.1
    many = np.tile(near, 4)
    np.testing.assert_array_equal(score_interval(many, np.arange(12)), np.clip(skewed_interval(many), 0, 1))


def test_what_does_not_apply_is_left_out_and_too_few_have_no_interval():
    values = np.array([[1.0, 1.0, NAN], [1.0, NAN, NAN], [1.0, 1.0, 1.0], [NAN, 1.0, 1.0], [1.0, 1.0, NAN]])
    low, high = score_interval(values, np.arange(5))
    np.testing.assert_allclose(low, [0.025**0.25, 0.025**0.25, NAN])
    np.testing.assert_allclose(high, [1, 1, NAN])


@pytest.mark.parametrize("units", [3, 5])
def test_scores_that_are_nearly_always_1_are_covered(units):
    """Before, .87 and .89 of beta (4, .5), .70 and .87 of means of five answers."""
    rng = np.random.default_rng(units)
    drawn = rng.beta(4, 0.5, (units, 1500)), rng.binomial(5, rng.beta(2, 0.3, (units, 1500))) / 5
    for values, mean in zip(drawn, (8 / 9, 20 / 23), strict=True):
        low, high = score_interval(values, np.arange(units))
        assert ((low <= mean) & (mean <= high)).mean() >= 0.945
