"""Changes that count where both flipped signs and centred units drawn anew say so."""

import numpy as np
import pytest
from scipy import stats as textbook
from scipy.stats import skew

from checkpoints.stats.bootstrap import resampling, upper_share
from checkpoints.stats.changes import (
    ANEW,
    HALVED,
    _halves,
    _student,
    change_p,
    change_test,
    mean_change_p,
    moderated_test,
    smallest_change_q,
    smallest_mean_change_p,
)
from checkpoints.stats.permutation import sign_flip_test
from checkpoints.stats.ttests import difference_test, false_discovery


def anew(difference, draws=999):
    """Statistics [E], and [draws, E] of centred units drawn with replacement, of elements turned to be skewed up."""
    difference = difference * np.where(skew(difference) < 0, -1, 1)
    spread = np.sqrt((difference**2).sum(0))
    s0 = np.median(spread)
    centred = difference - difference.mean(0)
    drawn = [np.repeat(centred, counts.astype(int), axis=0) for counts in resampling(len(difference), draws=draws)]
    statistics = np.array([d.sum(0) / (np.sqrt((d**2).sum(0)) + s0) for d in drawn])
    return difference.sum(0) / (spread + s0), statistics


def alone(own, drawn):
    """[E] twice the smaller tail of each statistic among all that were drawn."""
    tails = [((drawn >= each - 1e-6).sum(), (drawn <= each + 1e-6).sum()) for each in own]
    return np.minimum(1, (2 * np.min(tails, axis=1) + 1) / (drawn.size + 1))


def exponential(rng, units, elements, orders=3.0):
    """Differences of mean 0, each element's skewed its own way, sizes over so many orders."""
    scale = 10.0 ** rng.uniform(-orders, 0, elements) * rng.choice([-1, 1], elements)
    return (rng.exponential(size=(units, elements)) - 1) * scale


def test_the_largest_change_is_held_against_both_tests():
    difference = exponential(np.random.default_rng(1), 12, 40)
    flipped, found = sign_flip_test(difference), change_test(difference)
    own, drawn = anew(difference)
    along, against = (drawn.max(1) >= own.max() - 1e-6).sum(), (drawn.min(1) <= own.min() + 1e-6).sum()
    assert found.largest == pytest.approx(upper_share(2 * int(min(along, against)), 999))
    assert found.largest > flipped.largest
    assert found.energy == flipped.energy
    np.testing.assert_allclose(found.elements, np.maximum(flipped.elements, alone(own, drawn)), rtol=0.02)
    assert (found.elements > flipped.elements).any()
    assert change_p(difference) == min(1.0, 2 * min(found.largest, found.energy))
    assert change_p(-difference) == change_p(difference)


def test_p_of_an_element_is_the_larger_of_its_places_in_both_tests():
    rng = np.random.default_rng(1)
    difference = rng.standard_normal((9, 12)) + np.r_[1.5, np.zeros(11)]
    own, drawn = anew(difference)
    expected = np.maximum(alone(own, drawn), sign_flip_test(difference).elements)
    found, plain = moderated_test(difference.reshape(9, 3, 4)), difference_test(difference)
    np.testing.assert_allclose(found.p.ravel(), expected, atol=2e-3)
    np.testing.assert_array_equal(found.q, np.maximum(false_discovery(found.p), 2**-8))
    np.testing.assert_array_equal(found.low.ravel(), plain.low)
    assert found.p.argmin() == 0


def test_the_same_change_in_every_unit_is_as_sure_as_so_many_units_can_be():
    same = np.tile([0.5, 0.0, 0.0, 0.0], (8, 1))
    assert change_test(same).largest == 2**-7
    found = moderated_test(same)
    assert found.q[0] == pytest.approx(4 * 2**-7)
    assert list(found.p[1:]) == [1.0, 1.0, 1.0]
    assert moderated_test(np.full((8, 5), 0.5)).q == pytest.approx([2**-7] * 5)
    assert smallest_change_q(8) == 2**-7
    assert smallest_change_q(40) == 1 / 1000
    together = moderated_test(np.random.default_rng(0).standard_normal((20, 30)) + 3)
    assert together.q.min() == 1 / 1000, "many sure elements are no surer than the draws can tell"
    assert np.isnan(moderated_test(same[:4]).p).all(), "four units are too few for a p"
    assert change_test(np.zeros((8, 3))).whole == 1.0


def test_what_does_not_apply_adds_nothing_to_a_change():
    rng = np.random.default_rng(2)
    difference = rng.standard_normal((12, 6)) + 0.4
    lacking = difference.copy()
    lacking[3, 2] = np.nan
    found = moderated_test(lacking)
    assert np.isfinite(found.p).all()
    np.testing.assert_allclose(found.p, moderated_test(np.nan_to_num(lacking)).p)


def test_skewed_changes_without_a_mean_are_called_at_the_level():
    """Exponential differences over three orders, 16 units: sign flips alone call a quarter of them or more."""
    rng = np.random.default_rng(7)
    drawn = [exponential(rng, 16, 150) for _ in range(100)]
    assert np.mean([change_p(d, draws=199) <= 0.05 for d in drawn]) <= 0.1
    assert np.mean([sign_flip_test(d, draws=199).whole <= 0.05 for d in drawn]) > 0.2


@pytest.mark.parametrize("units", [12, 24])
def test_a_skewed_element_is_not_named_where_none_changed(units):
    """144 exponential elements: t tests name one in a fifth of the draws or more."""
    rng = np.random.default_rng(3)
    drawn = [exponential(rng, units, 144, orders=0.0) for _ in range(40)]
    assert np.mean([(moderated_test(d).q <= 0.05).any() for d in drawn]) <= 0.1
    assert np.mean([(difference_test(d).q <= 0.05).any() for d in drawn]) > 0.2


def test_students_t_of_sums_is_that_of_the_units():
    units = np.array([[0.9, 0.4, 1.3, 0.2, 0.7], [0.5, -0.5, 2.0, -2.0, 0.0], [0.1, 0.1, 0.1, 0.1, 0.1], [0.0] * 5])
    found = _student(units.sum(1), (units**2).sum(1), 5)
    expected = textbook.ttest_1samp(units[0], 0).statistic
    np.testing.assert_allclose(found, [expected, 0.0, np.inf, 0.0])
    assert _student(np.array(-0.5), np.array(0.05), 5) == -np.inf


def test_one_mean_is_held_against_both_tests():
    difference = np.array([0.9, 0.4, 1.3, 0.2, 0.7, -0.1, 0.5])
    signs = 1 - 2 * ((np.arange(128)[:, None] >> np.arange(7)) & 1)
    flipped = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
    centred = difference - difference.mean()
    drawn = [np.repeat(centred, counts.astype(int)) for counts in resampling(7, draws=ANEW)]
    with np.errstate(all="ignore"):
        anew = np.array([d.mean() / d.std(ddof=1) * 7**0.5 for d in drawn])
    own = difference.mean() / difference.std(ddof=1) * 7**0.5
    tail = min(int((anew >= own).sum()), int((anew <= own).sum()))
    assert mean_change_p(difference) == pytest.approx(max(flipped, 2 * upper_share(tail, ANEW)))
    assert mean_change_p(difference) == mean_change_p(-difference) == mean_change_p(np.r_[difference, np.nan])


def test_one_mean_at_the_edges():
    assert mean_change_p(np.zeros(9)) == 1
    assert mean_change_p(np.ones(8)) == smallest_mean_change_p(8) == 2**-7  # every unit alike is no certainty
    assert mean_change_p(np.ones(30)) == smallest_mean_change_p(30) == pytest.approx(2 * upper_share(0, ANEW))
    assert np.isnan(mean_change_p(np.ones(4)))
    assert np.isnan(mean_change_p(np.r_[np.ones(4), np.nan, np.nan]))


def test_one_skewed_mean_is_called_no_more_often_than_the_level():
    """Exponential differences of mean 0 at 12 units: Student's t calls .08 to .10 of them."""
    rng = np.random.default_rng(3)
    drawn = rng.exponential(size=(400, 12)) - 1
    called = np.mean([mean_change_p(one) <= 0.05 for one in drawn])
    assert called <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    assert np.mean(difference_test(drawn.T).p <= 0.05) > 0.075
    assert np.mean([mean_change_p(one) <= 0.05 for one in rng.normal(1, 1, size=(200, 12))]) > 0.75


def test_a_change_along_its_skew_counts_and_one_against_it_does_not():
    """As many units, as large a mean and spread: only what scales a skewed score moves it along its skew."""
    rng = np.random.default_rng(5)
    others = exponential(rng, 16, 300, orders=0.0)
    units = rng.exponential(size=16)
    units = (units - units.mean()) / units.std()
    p = [change_test(np.column_stack([others, units + mean])).elements[-1] for mean in (1.2, -1.2)]
    assert 10 * p[0] < p[1]


@pytest.mark.parametrize("units", [8, 16, 53])
def test_few_of_the_named_are_false_beside_skewed_elements_that_did_not_change(units):
    """Ten of 300 elements move by two standard deviations; the others' differences are exponential, of mean 0."""
    rng, named = np.random.default_rng(7), []
    for _ in range(12):
        scale = 10.0 ** rng.uniform(-3, 0, 300)
        difference = (rng.exponential(size=(units, 300)) - 1) * scale * rng.choice([-1, 1], 300)
        moved = np.argsort(-scale)[:10]
        difference[:, moved] += 2 * scale[moved] * rng.choice([-1, 1], 10)
        q = [false_discovery(test(difference, draws=199).elements) for test in (change_test, sign_flip_test)]
        real = np.isin(np.arange(300), moved)
        named.append([[np.sum((own <= 0.05) & real), np.sum((own <= 0.05) & ~real)] for own in q])
    (found, false), (_, by_flips) = np.sum(named, axis=0)
    assert found >= {8: 80, 16: 110, 53: 120}[units]
    assert false / (found + false) <= 0.05 + 2 * (0.05 * 0.95 / (found + false)) ** 0.5
    assert by_flips > 2 * false


def test_a_few_skewed_elements_do_not_set_the_bar_for_the_others():
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(40, 3_000))
    difference[:, 2_700:] = rng.lognormal(sigma=2.5, size=(40, 300)) - np.exp(2.5**2 / 2)
    difference -= difference.mean(0)
    difference[:, 0] += 1.5
    together = np.concatenate([difference[:, :900], difference[:, 2_700:2_790]], axis=1)  # too few to be halved
    assert change_test(together).elements[0] > 1e-4
    test = change_test(difference)
    assert test.elements[0] == test.elements.min() < 5e-6
    assert list(np.flatnonzero(false_discovery(test.elements) <= 0.05)) == [0]


def test_many_elements_are_halved_by_how_skewed_they_are():
    rng = np.random.default_rng(1)
    skewed = rng.exponential(size=(30, HALVED)) ** rng.uniform(1, 3, HALVED)
    halves = _halves(np.concatenate([skewed, rng.normal(size=(30, HALVED))], axis=1))
    assert halves.sum() == HALVED
    assert halves[:HALVED].mean() > 0.9
    assert not _halves(skewed[:, 1:]).any()
    assert not _halves(np.zeros((5, HALVED))).any()


def test_a_mean_with_an_infinite_unit_has_no_p():
    assert np.isnan(mean_change_p(np.array([1.0, -np.inf, 2.0, 3.0, 4.0, 5.0])))
    assert mean_change_p(np.array([1.0, np.nan, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 2**5)
