"""Intervals of faithfulness: as far as a t interval, and as far as the bootstrap-t where shares are skewed."""

import numpy as np
import pytest

from checkpoints.stats.bootstrap import percentiles, resampling, stretched
from circuits.intervention.faithfulness import has_effect, interval, ratio, resampled

WHOLE = np.array([6.0, 4.0, 7.0, 5.0, 9.0, 3.0, 8.0, 6.0, 5.0])
SHARE = np.array([0.9, 0.95, 0.85, 0.9, 0.2, 1.0, 0.9, 0.8, 0.95])
CORRUPT = np.linspace(-1, 1, 9)
KEPT = CORRUPT + SHARE * WHOLE


def plain(metric, clean, corrupt):
    """The interval without the bootstrap-t."""
    value = np.asarray(ratio(metric, clean, corrupt))
    return percentiles(stretched(value, resampled(metric, clean, corrupt), units=len(metric)))


def studentized(kept, whole):
    """The bootstrap-t interval, draw by draw."""

    def told(rows):
        value = kept[rows].sum() / whole[rows].sum()
        return value, np.sqrt(((kept - value * whole)[rows] ** 2).sum()) / whole[rows].sum()

    value, error = told(np.arange(len(kept)))
    drawn = [np.repeat(np.arange(len(kept)), counts.astype(int)) for counts in resampling(len(kept))]
    away = [(told(rows)[0] - value) / told(rows)[1] for rows in drawn]
    low, high = np.quantile(away, [0.025, 0.975], method="nearest")
    return value - high * error, value - low * error


def test_it_reaches_as_far_as_both_intervals():
    low, high = interval(KEPT, CORRUPT + WHOLE, CORRUPT)
    ends, far = plain(KEPT, CORRUPT + WHOLE, CORRUPT), studentized(KEPT - CORRUPT, WHOLE)
    assert (low, high) == pytest.approx((min(ends[0], far[0]), max(ends[1], far[1])))
    assert far[0] < ends[0], "one fact keeps little, so that the truth may lie far below"


def test_few_facts_have_the_plain_one():
    few = (KEPT[:7], (CORRUPT + WHOLE)[:7], CORRUPT[:7])
    assert interval(*few) == pytest.approx(plain(*few))
    assert np.isnan(interval(KEPT[:2], WHOLE[:2], CORRUPT[:2])).all()


def test_where_every_fact_keeps_the_same_share_nothing_is_left_to_doubt():
    assert interval(0.5 * WHOLE, WHOLE, np.zeros(9)) == pytest.approx((0.5, 0.5))


def test_where_one_fact_alone_is_kept_the_interval_is_finite():
    low, high = interval(np.eye(9)[0], np.ones(9), np.zeros(9))
    assert -1 < low < 1 / 9 < high < 2


def test_an_effect_is_told_from_noise_as_by_a_t_interval():
    """Mean 1.15, half of the t interval 1.30: percentiles of eight facts would find an effect here."""
    apart = np.array([1.0, 2.0, -1.0, 2.0, 3.0, -0.5, 1.0, -1.2])
    nearly, surely = apart + 0.3625, apart + 0.6
    assert np.quantile(resampling(8) @ nearly / 8, 0.025) > 0
    assert not has_effect(nearly, np.zeros(8))
    assert has_effect(surely, np.zeros(8))
    assert has_effect(np.zeros(8), surely)


def test_too_few_facts_for_noise_have_an_effect_where_all_agree():
    assert has_effect(np.ones(1), np.zeros(1))
    assert has_effect(np.zeros(2), np.ones(2))
    assert not has_effect(np.array([1.0, -1.0]), np.zeros(2))
    assert not has_effect(np.ones(5), np.ones(5))
