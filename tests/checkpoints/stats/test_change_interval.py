"""Intervals of changes of scores between 0 and 1, over few units that all changed alike: known answers."""

import numpy as np
import pytest

from checkpoints.stats.shares import change_interval, exact_share_interval, others_change_interval, score_interval
from checkpoints.stats.ttests import skewed_interval, welch_test


@pytest.mark.parametrize("units", [3, 12, 48])
def test_units_that_change_alike_leave_open_what_was_not_seen(units):
    """Of n units none did otherwise: P with (1 - P)^n = .025 may, each by as much as scores can change."""
    seen = 1 - 0.025 ** (1 / units)
    change = np.repeat([[0.0, 0.5, -1.0]], units, axis=0)
    low, high = change_interval(change, *skewed_interval(change))
    np.testing.assert_allclose(low, [-seen, 0.5 - 1.5 * seen, -1.0], atol=1e-12)
    np.testing.assert_allclose(high, [seen, 0.5 + 0.5 * seen, -1.0 + 2 * seen], atol=1e-12)
    assert high[0] == pytest.approx(exact_share_interval(0, units)[1])


def test_units_that_differ_and_too_few_are_left_as_they_are():
    change = np.random.default_rng(0).uniform(-0.1, 0.1, (9, 4))
    np.testing.assert_array_equal(change_interval(change, *skewed_interval(change)), skewed_interval(change))
    two = np.zeros((2, 1))
    np.testing.assert_array_equal(change_interval(two, *skewed_interval(two)), np.full((2, 1), np.nan))
    half = np.where(np.arange(9)[:, None] < [2, 3], 0.0, np.nan)  # two and three of nine units apply
    np.testing.assert_allclose(change_interval(half, *skewed_interval(half))[1], [np.nan, 1 - 0.025 ** (1 / 3)])


def test_other_units_that_agree_on_a_side_have_the_ends_of_both_sides():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.2, 0.4, (7, 3)), rng.uniform(0.5, 0.9, (9, 3))
    a[:, 0], b[:, 0], b[:, 1] = 0.0, 0.0, 1.0
    test = welch_test(a, b)
    low, high = others_change_interval(a, b, test.low, test.high)
    unseen = 1 - 0.025 ** (1 / np.array([7, 9]))
    assert (low[0], high[0]) == pytest.approx((-unseen[0], unseen[1])), "0 at A and at B, of so many units each"
    up_to = score_interval(a[:, 1:2], np.arange(7))[1][0] - a[:, 1].mean()
    assert low[1] == pytest.approx(test.delta[1] - np.hypot(unseen[1], up_to))
    assert (low[2], high[2]) == (test.low[2], test.high[2])
