"""One level for many questions, exact shares, and the energy statistic, each against its definition."""

import itertools

import numpy as np
import pytest
from scipy import stats as textbook

from checkpoints.stats.energy import energy_p, smallest_energy_p
from checkpoints.stats.families import holm
from checkpoints.stats.shares import (
    clustered_share,
    exact_share_interval,
    exchange_p,
    mcnemar_p,
    share_above_p,
    trials_to_bound,
)


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_family_of_many_questions_takes_no_more_than_one_of_one():
    """Shares 1/8 each of four, and 1/2 of one: 8 x 0.004; then (1 - 1/8) 0.03 / (1/2), below which nothing falls."""
    p = np.array([0.004, 0.5, 0.5, 0.5, 0.03])
    adjusted = holm(p, ["circuit"] * 4 + ["heads"])
    assert adjusted[[0, 4]] == pytest.approx([0.032, 0.875 * 0.03 * 2])
    assert (adjusted >= p).all()


def test_what_has_no_test_takes_no_share():
    assert holm(np.array([0.02, np.nan])) == pytest.approx([0.02, np.nan], nan_ok=True)
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()
    assert len(holm(np.array([]))) == 0


def test_what_cannot_be_called_whatever_the_data_say_takes_no_share():
    """Seven groups of eight facts, whose p is 2^-6 at least, beside one whose p may be anything (Tarone 1990)."""
    p, least = np.array([0.02] + [2**-6] * 7), np.array([0.0] + [2**-6] * 7)
    assert holm(p, least=least) == pytest.approx([0.02] + [np.nan] * 7, nan_ok=True)
    few = holm(np.array([0.02, 2**-6]), ["a", "b"], least=np.array([0.0, 2**-6]))
    assert few == pytest.approx([2 * 2**-6] * 2), "below its half of the level"
    none = holm(np.array([0.02, 0.03]), ["a", "b"], least=np.array([0.0, 0.03]))
    assert none == pytest.approx([0.02, np.nan], nan_ok=True), "a family that cannot be called leaves its share too"


def test_any_false_call_is_held_to_the_level():
    """Uniform p of four families of five: the smallest adjusted p is at most .05 in 5 % of draws, or fewer."""
    rng = np.random.default_rng(0)
    families = np.repeat(["a", "b", "c", "d"], 5).tolist()
    called = np.mean([holm(rng.uniform(size=20), families).min() <= 0.05 for _ in range(2000)])
    assert 0.035 < called < 0.06


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (3, 20), (20, 20)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(hits, trials):
    told = textbook.binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert exact_share_interval(hits, trials) == pytest.approx((told.low, told.high))


def test_turnover_is_tested_against_its_margin():
    """45 gained and 50 lost of 220: certainly more than a tenth; none of 36 lies below it, none of 35 does not."""
    assert share_above_p(95, 220, 0.1) < 1e-30
    assert share_above_p(2, 3, 0.1) == pytest.approx(3 * 0.01 * 0.9 + 0.001)
    assert trials_to_bound(0, 20, 0.1) == 36
    assert exact_share_interval(0, 35)[1] > 0.1 >= exact_share_interval(0, 36)[1]
    assert trials_to_bound(36, 36, 0.1) == 36
    assert (mcnemar_p(45, 50), mcnemar_p(0, 0)) == (pytest.approx(textbook.binomtest(45, 95).pvalue), 1.0)


def test_units_of_several_facts_are_exchanged_as_wholes():
    """Three relations gain 2, 1 and 0 facts, one loses 3: all 8 patterns reach |0|, two |6|."""
    assert exchange_p(np.array([2, 1, 0, -3])) == 1.0
    assert exchange_p(np.array([2, 1, 0, 3])) == pytest.approx(2 / 8)
    assert exchange_p(np.array([3, 1, 1])) == pytest.approx(2 / 8)
    assert exchange_p(np.zeros(4, dtype=int)) == 1.0
    single = np.r_[np.ones(9, dtype=int), -1]
    assert exchange_p(single) == pytest.approx(mcnemar_p(9, 1))


def test_a_share_of_clusters_has_the_interval_of_their_sums():
    """Four clusters of two: sums 2, 1, 1, 0, share .5; r_c = 1, 0, 0, -1, so that the error is sqrt(4 / 3 * 2) / 8."""
    hit, cluster = np.array([1, 1, 1, 0, 0, 1, 0, 0], dtype=bool), np.repeat(np.arange(4), 2)
    low, high, p = clustered_share(hit, cluster, 0.1)
    error = (4 / 3 * 2) ** 0.5 / 8
    assert (low, high) == pytest.approx((0.0, 1.0)), "0.5 +- 3.18 * 0.204 reaches beyond both ends"
    assert p == pytest.approx(textbook.t.sf(0.4 / error, 3))
    assert clustered_share(np.zeros(8, dtype=bool), cluster, 0.1) == (0.0, pytest.approx(1 - 0.025**0.25), 1.0)
    assert clustered_share(np.ones(8, dtype=bool), cluster, 0.1)[2] == 2**-4
    assert np.isnan(clustered_share(hit[:4], cluster[:4], 0.1)).all(), "two clusters tell no spread"


def test_the_energys_p_is_its_place_among_all_flips():
    difference = np.random.default_rng(3).normal(size=(8, 5)) + 0.4
    energy = [
        ((np.array((1, *signs)) @ difference) ** 2).sum() for signs in itertools.product((1, -1), repeat=7)
    ]  # fmt: skip
    assert energy_p(difference) == np.mean(np.array(energy) >= energy[0] * (1 - 1e-9))
    assert energy_p(np.ones((8, 5))) == smallest_energy_p(8) == 2**-7


def test_many_units_are_flipped_at_random_to_a_fine_p():
    assert energy_p(np.ones((20, 3))) == smallest_energy_p(20) == pytest.approx(1 - 0.05 ** (1 / 19_999))
    rng = np.random.default_rng(0)
    called = np.mean([energy_p(rng.normal(size=(9, 30))) <= 0.05 for _ in range(400)])
    assert 0.025 < called < 0.08
