"""The interval of how much a share rises over the same trials: known answers, edges, coverage."""

import numpy as np
import pytest

from checkpoints.stats.shares import paired_difference


def rise(*, both=0, only_a=0, only_b=0, neither=0, cluster=None):
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return paired_difference(a, b, cluster)


def test_all_of_few_is_no_certainty():
    low, high = rise(only_b=8)
    wilson = 1.959964**2 / (8 + 1.959964**2)  # upper end at 0 of 8
    assert (low, high) == pytest.approx((1 - wilson * 2**0.5, 1.0), abs=1e-6)
    assert rise(only_a=8) == pytest.approx((-1.0, -low))
    assert rise(neither=8) == pytest.approx((-wilson, wilson), abs=1e-6)


def test_trials_that_agree_make_it_narrower_and_it_is_antisymmetric():
    apart, together = rise(both=8, only_a=8, only_b=8, neither=8), rise(both=16, neither=16)
    assert together[1] < apart[1] / 2
    low, high = rise(both=10, only_a=3, only_b=12, neither=7)
    assert rise(both=10, only_a=12, only_b=3, neither=7) == pytest.approx((-high, -low))


def test_clusters_count_as_units_and_the_ends_stay_within_what_is_possible():
    cluster = np.repeat(np.arange(4), 8)
    low, high = rise(only_b=32, cluster=cluster)
    assert high == 1.0
    assert low == pytest.approx(1 - 0.6024, abs=1e-3)  # exact, 0 of 4
    assert rise(only_b=32)[0] > low
    assert rise(only_b=8, cluster=np.arange(8)) == rise(only_b=8)
    assert np.isnan(rise(only_b=2)).all()


@pytest.mark.parametrize(("n", "a", "b", "shared"), [(8, 0.3, 0.3, 0.0), (16, 0.25, 0.66, 0.2), (53, 0.25, 0.66, 0.2)])
def test_it_covers(n, a, b, shared):
    rng, held = np.random.default_rng(0), 0
    for _ in range(600):
        first = rng.random(n)
        second = np.where(rng.random(n) < shared, first, rng.random(n))
        low, high = paired_difference(first < a, second < b)
        held += low <= b - a <= high
    assert 0.93 <= held / 600 <= 0.98
