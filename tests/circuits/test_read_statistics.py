"""The statistics under every sentence about circuits, against textbook formulas and values worked out by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats as textbook

from checkpoints.stats.bootstrap import draw_units, upper_share
from checkpoints.stats.permutation import label_p, label_test, sign_flip_p, sign_flip_test, smallest_sign_flip_p
from checkpoints.stats.ttests import difference_test, false_discovery, welch_test
from circuits.comparison.profile import PROFILES, profile_changes, profiler
from circuits.comparison.similarity import (
    ROUNDING,
    Ranked,
    Similarity,
    cross_cosine,
    measure_names,
    measures,
    similarities,
)
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape
from circuits.tracking.changepoints import Products, apart, best_split, cosines, splits
from circuits.tracking.contrasts import contrast

NAN = float("nan")
ONE = GraphShape(1, 1, 1)
"""input->q, k, v, m0, logits; a0.h0->m0, logits; m0->logits: eight edges in that order."""
TWO, WIDE = GraphShape(2, 1, 1), GraphShape(3, 4, 4)
A = np.array([[0.1, 0.4, 1.0], [0.3, 0.2, 1.0], [0.2, 0.9, 1.0], [0.6, 0.5, 1.0], [0.4, 0.5, 1.0]])
B = np.array([[0.5, 0.3, 1.0], [0.9, 0.1, 1.0], [0.3, 1.1, 1.0], [0.6, 0.2, 1.0], [0.45, 0.4, 1.0], [0.7, 0.6, 1.0]])


def test_edge_tests_of_pairs_are_students_with_bh_q():
    difference = B[:5] - A
    found = difference_test(difference)
    expected = textbook.ttest_1samp(difference[:, :2], 0)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.delta, difference.mean(0))
    np.testing.assert_allclose(found.p, [*expected.pvalue, 1.0])
    np.testing.assert_allclose(found.low, [*interval.low, 0.0])
    np.testing.assert_allclose(found.high, [*interval.high, 0.0])
    np.testing.assert_allclose(found.q, textbook.false_discovery_control([*expected.pvalue, 1.0]))
    wide = difference_test(difference, level=0.5)
    np.testing.assert_allclose(wide.high[:2], expected.confidence_interval(0.5).high)
    assert min(expected.pvalue) > 2.0**-4
    np.testing.assert_array_equal(difference_test(np.ones((5, 1))).p, [2.0**-4])
    assert np.isnan(difference_test(np.ones((4, 1))).p).all()


def test_edge_tests_of_different_facts_are_welchs():
    found = welch_test(A, B)
    expected = textbook.ttest_ind(B[:, :2], A[:, :2], equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.delta, B.mean(0) - A.mean(0))
    np.testing.assert_allclose(found.p, [*expected.pvalue, 1.0])
    np.testing.assert_allclose(found.low[:2], interval.low)
    np.testing.assert_allclose(found.high[:2], interval.high)
    np.testing.assert_allclose(found.q, textbook.false_discovery_control([*expected.pvalue, 1.0]))
    assert (found.low[2], found.high[2]) == (0.0, 0.0)
    narrow = welch_test(A, B, level=0.5)
    np.testing.assert_allclose(narrow.low[:2], expected.confidence_interval(0.5).low)


def test_stored_halves_are_summed_in_double_precision():
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal((40, 2)).astype(np.float32) + 1000 for _ in "ab")
    change = (other - one).astype(np.float64)
    found, expected = difference_test(other - one), textbook.ttest_1samp(change, 0)
    np.testing.assert_allclose(found.delta, change.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-10)
    a, b = one.astype(np.float64), other.astype(np.float64)
    found = welch_test(one, other)
    np.testing.assert_allclose(found.delta, b.mean(0) - a.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.p, textbook.ttest_ind(b, a, equal_var=False).pvalue, rtol=1e-8)
    changes = profile_changes(ONE, np.tile(one, 4), np.tile(other, 4), paired=True)
    assert (changes[-1].a, changes[-1].b) == pytest.approx((4 * a.mean(0).sum(), 4 * b.mean(0).sum()), rel=1e-12)


def moderated(change, units):
    """[P, E] |change| over its spread plus the median spread, 0 where no unit changed."""
    spread = np.sqrt((units**2).sum(0))
    return change / (spread + np.median(spread[spread > 0]))


def global_p(contrasts, units):
    """The permutation p written out: the observed contrast first; the larger of two statistics, Bonferroni for two."""
    change = np.abs(np.array(contrasts) @ units)
    largest, energy = moderated(change, units).max(1), (change**2).sum(1)
    reached = [(s >= s[0] * (1 - 1e-6)).sum() for s in (largest, energy)]
    return min(reached), len(contrasts)


@pytest.mark.parametrize("seed", range(4))
def test_few_pairs_are_flipped_in_every_way(seed):
    difference = np.random.default_rng(seed).standard_normal((5, 3)) + 0.6
    patterns = [(1, *signs) for signs in itertools.product((1, -1), repeat=4)]
    reached, total = global_p(sorted(patterns, reverse=True), difference)
    assert total == 16
    assert sign_flip_p(difference) == pytest.approx(min(1.0, 2 * reached / total))


def test_p_of_an_element_is_its_place_among_all_elements_under_all_exchanges():
    difference = np.random.default_rng(3).standard_normal((6, 5)) * [1, 2, 0.1, 5, 0] + [2.0, 0, 0.01, 3, 0]
    patterns = np.array([(1, *signs) for signs in itertools.product((1, -1), repeat=5)])
    found = moderated(np.abs(patterns @ difference[:, :4]), difference[:, :4])
    expected = [(found >= own * (1 - 1e-6)).mean() for own in found[0]]
    told = sign_flip_test(difference).elements
    np.testing.assert_allclose(told, [*expected, 1.0], atol=3 / found.size)
    assert told[3] < told[1]
    assert min(expected) > 0.05 / 4, "none is sure, so that all are counted among all"


def test_elements_that_changed_for_sure_are_not_what_others_are_counted_among():
    """One change of 2 and two of 1, all without noise: exchanged, the first alone often reaches the others' own."""
    difference = np.tile([2.0, 1.0, 1.0, 0, 0, 0, 0, 0, 0], (8, 1))
    found = sign_flip_test(difference).elements
    np.testing.assert_allclose(found, [1 / 257, 1 / 128, 1 / 128, *[1.0] * 6], rtol=1e-6)
    alone = sign_flip_test(difference[:, :3]).elements
    np.testing.assert_allclose(alone, [1 / 384, 11 / 384, 11 / 384], rtol=1e-6)


def test_an_element_changed_for_sure_from_a_q_of_just_the_level_on(monkeypatch):
    """Left out of what others are counted among, the one that changed makes the next one's p smaller."""
    difference = np.random.default_rng(0).normal(size=(10, 12))
    difference[:, 0] = 3 + 0.1 * difference[:, 0]

    def found(level):
        monkeypatch.setattr("checkpoints.stats.permutation.SURE", level)
        return sign_flip_test(difference).elements

    together = found(-1)
    least, following = false_discovery(together).min(), np.argsort(together)[1]
    np.testing.assert_array_equal(found(least * (1 - 1e-9)), together)
    assert found(least)[following] < together[following]


def test_one_elements_p_is_the_permutation_tests_own():
    difference = np.random.default_rng(0).standard_normal((8, 1)) + 0.5
    patterns = np.array([(1, *signs) for signs in itertools.product((1, -1), repeat=7)])
    change = np.abs(patterns @ difference[:, 0])
    expected = (change >= change[0] * (1 - 1e-6)).mean()
    assert sign_flip_test(difference).elements == pytest.approx([expected], abs=1 / 128)
    assert sign_flip_p(difference) == pytest.approx(min(1.0, 2 * expected))


def test_skewed_differences_without_a_mean_are_called_at_the_level():
    """Centred gamma differences, 16 units: the plain largest t calls a fifth of them, the moderated one no more."""
    rng = np.random.default_rng(7)
    scale = 10.0 ** rng.uniform(-3, 0, 150) * rng.choice([-1, 1], 150)
    draws = [(rng.gamma(4, size=(16, 150)) - 4) * scale for _ in range(150)]
    signs = np.concatenate([np.ones((1, 16)), rng.choice([-1, 1], (99, 16))])

    def plain(difference):
        largest = np.abs(signs @ difference / np.sqrt((difference**2).sum(0))).max(1)
        return (largest >= largest[0]).mean()

    assert np.mean([sign_flip_p(d, draws=199) <= 0.05 for d in draws]) <= 0.1
    assert np.mean([plain(d) <= 0.05 for d in draws]) > 0.15


def test_labels_of_elements_are_permuted_too():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(12, 40)), rng.normal(size=(12, 40))
    b[:, 7] += 4.0
    found = label_test(a, b, draws=199)
    assert found.elements.argmin() == 7
    assert found.elements[7] == pytest.approx(1 / 8000, abs=2 / 8000)
    assert found.elements[np.arange(40) != 7].mean() == pytest.approx(0.5, abs=0.15)
    assert found.whole == label_p(a, b, draws=199) <= 0.05


def test_many_pairs_are_flipped_at_random_and_the_upper_end_is_taken():
    difference = np.random.default_rng(3).standard_normal((11, 4)) + 0.35
    signs = np.random.default_rng(5).choice([-1, 1], size=(99, 11))
    reached, _ = global_p([np.ones(11), *signs], difference)
    assert 1 < reached < 40
    upper = textbook.beta.ppf(0.95, reached, 99 - (reached - 1))
    assert sign_flip_p(difference, draws=99, seed=5) == pytest.approx(2 * upper)
    default = np.random.default_rng(0).choice([-1, 1], size=(999, 11))
    reached, _ = global_p([np.ones(11), *default], difference)
    assert sign_flip_p(difference) == pytest.approx(2 * textbook.beta.ppf(0.95, reached, 1000 - reached))


def test_ten_pairs_are_listed_and_eleven_are_drawn():
    same = np.full((10, 1), 0.5)
    assert sign_flip_p(same) == pytest.approx(2 / 2**9)
    assert smallest_sign_flip_p(10) == pytest.approx(2 / 2**9)
    assert sign_flip_p(np.full((11, 1), 0.5)) == pytest.approx(2 * textbook.beta.ppf(0.95, 2, 998), rel=0.7)
    assert smallest_sign_flip_p(11) == pytest.approx(2 * (1 - 0.05 ** (1 / 999)))
    assert [smallest_sign_flip_p(n) for n in (1, 2, 3, 6)] == [1.0, 1.0, 0.5, 0.0625]


def test_nothing_that_changes_is_no_change():
    found = sign_flip_test(np.zeros((4, 2)))
    assert (found.largest, found.energy, found.whole, found.elements.tolist()) == (1.0, 1.0, 1.0, [1.0, 1.0])
    assert sign_flip_p(np.zeros((4, 2))) == 1.0


@pytest.mark.parametrize(("draws", "seed"), [(60, 2), (80, 3), (999, 0)])
def test_labels_are_permuted_where_facts_differ(draws, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal([3, 0, 0], size=(5, 3)), rng.normal([3.4, 0.4, 0.3], size=(7, 3))
    pooled = np.concatenate([a, b])
    observed = np.r_[np.full(5, -1 / 5), np.full(7, 1 / 7)]
    order = np.random.default_rng(seed)
    drawn = [observed, *(order.permutation(observed) for _ in range(draws))]
    reached, _ = global_p(drawn, pooled - pooled.mean(0))
    assert 0.03 < reached / draws < 0.45
    expected = 2 * textbook.beta.ppf(0.95, reached, draws - (reached - 1))
    options = {} if draws == 999 else {"draws": draws, "seed": seed}
    assert label_p(a, b, **options) == pytest.approx(min(1.0, expected))
    assert label_p(a, a, **options) == 1.0


def test_the_upper_end_of_a_share_is_the_exact_one():
    assert upper_share(0, 19) == pytest.approx(1 - 0.05 ** (1 / 19))
    assert upper_share(3, 20) == pytest.approx(textbook.binomtest(3, 20).proportion_ci(0.90, "exact").high)
    assert upper_share(3, 20, level=0.5) == pytest.approx(textbook.beta.ppf(0.5, 4, 17))
    assert upper_share(7, 7) == 1.0


def test_the_profile_of_a_graph_by_hand():
    assert PROFILES == ("centre of mass, layers", "effective edges", "effective nodes", "total |score|")
    profile = profiler(TWO)
    scores = np.zeros(int(TWO.mask.sum()))
    names = Circuit(TWO, TWO.mask).edges
    for name, value in (("input->logits", 2.0), ("a0.h0->logits", -1.0), ("m1->logits", 1.0), ("a1.h0->m1", 2.0)):
        scores[names.index(name)] = value
    # writers a0.h0, a1.h0 and m1 weigh 1, 2 and 1 in layers 0, 1 and 1; shares of edges 2, 1, 1, 2 of 6
    entropy = -2 * (1 / 3 * np.log(1 / 3) + 1 / 6 * np.log(1 / 6))
    np.testing.assert_allclose(profile(scores), [3 / 4, np.exp(entropy), np.exp(entropy), 6.0])
    scores[names.index("a0.h0->m0")] = 2.0
    nodes = np.array([2, 3, 2, 1]) / 8
    edges = np.array([2, 1, 2, 2, 1]) / 8
    expected = [3 / 6, np.exp(-(edges * np.log(edges)).sum()), np.exp(-(nodes * np.log(nodes)).sum()), 8.0]
    np.testing.assert_allclose(profile(np.stack([scores, -scores])), [expected, expected])


def sums_over(scores):
    """Of mean scores over `ONE`'s edges: each writer's summed |score|, then the sum of |score| log |score|."""
    writer = np.nonzero(ONE.mask)[0]
    size = np.abs(scores)
    return np.array([*(size[writer == w].sum() for w in np.unique(writer)), (size * np.log(size)).sum()])


def spreads(sums):
    """Effective edges, effective nodes and total from such sums, written out."""
    nodes, times_log = np.maximum(sums[:-1], 0), sums[-1]
    total, inside = nodes.sum(), nodes[nodes > 0]
    entropy = np.log(total) - (inside * np.log(inside)).sum() / total
    return np.array([np.exp(np.log(total) - times_log / total), np.exp(entropy), total])


def freed(x, exponent):
    """Sums without the bias that falls as n^-exponent, from the halves that the module draws."""
    n, rng = len(x), np.random.default_rng(len(x))
    orders = [rng.permutation(n) for _ in range(8)]
    halves = np.mean([(sums_over(x[o[: n // 2]].mean(0)) + sums_over(x[o[n // 2 :]].mean(0))) / 2 for o in orders], 0)
    whole = sums_over(x.mean(0))
    return whole - (halves - whole) / (2**exponent - 1)


def jackknifed(x):
    """Each number with one unit left out, about the freed sums."""
    without = np.array([sums_over(np.delete(x, i, 0).mean(0)) for i in range(len(x))])
    return np.array([spreads(freed(x, 0.7) + w - without.mean(0)) for w in without])


def test_a_profile_change_is_the_jackknifes_with_a_t_interval():
    rng = np.random.default_rng(4)
    a = np.abs(rng.standard_normal((6, 8))) + np.arange(6)[:, None]
    b = a + 0.5
    (*_, total) = profile_changes(ONE, a, b, paired=True)
    assert (total.name, total.a, total.b) == (
        "total |score|",
        pytest.approx(a.mean(0).sum()),
        pytest.approx(b.mean(0).sum()),
    )
    # every unit grows by 0.5 on each of 8 edges, so whichever facts are drawn, the total grows by 4
    assert (total.delta, total.low, total.high) == pytest.approx((4.0, 4.0, 4.0))
    # the total of positive scores is a mean over units, without a bias, whose jackknife is the mean itself
    (*_, loose) = profile_changes(ONE, a, b, paired=False)
    expected = textbook.ttest_ind(b.sum(1), a.sum(1), equal_var=False).confidence_interval(0.95)
    assert (loose.low, loose.high) == pytest.approx((expected.low, expected.high))
    assert loose.delta == pytest.approx(4.0)
    few = profile_changes(ONE, a[:2], b[:2], paired=True)[-1]
    assert few.delta == pytest.approx(4.0)
    assert np.isnan([few.low, few.high]).all(), "two units tell no spread"


@pytest.mark.parametrize("paired", [True, False])
def test_a_profile_change_by_hand(paired):
    rng = np.random.default_rng(7)
    a, b = 3 + rng.standard_normal((6, 8)), 1 + rng.standard_normal((6 if paired else 4, 8))
    found = profile_changes(ONE, a, b, paired=paired)[1:]
    values = [np.minimum(spreads(freed(x, 0.7)), [8, np.inf, np.inf]) for x in (a, b)]
    units = [jackknifed(x) for x in (a, b)]
    np.testing.assert_allclose([[c.a for c in found], [c.b for c in found]], values)
    if paired:
        change = units[1] - units[0]
        variance, freedom = 5 / 6 * ((change - change.mean(0)) ** 2).sum(0), np.full(3, 5)
    else:
        parts = [(len(u) - 1) / len(u) * ((u - u.mean(0)) ** 2).sum(0) for u in units]
        variance, freedom = sum(parts), sum(parts) ** 2 / (parts[0] ** 2 / 5 + parts[1] ** 2 / 3)
    unknown = [spreads(freed(b, e)) - spreads(freed(a, e)) for e in (0.6, 0.9)]
    half = textbook.t.ppf(0.975, freedom) * np.sqrt(variance + (1.25 * (unknown[0] - unknown[1])) ** 2)
    np.testing.assert_allclose([c.high - c.low for c in found], 2 * half, rtol=1e-6)
    np.testing.assert_allclose([c.low for c in found], values[1] - values[0] - half, rtol=1e-6)
    assert [c.name for c in found] == list(PROFILES[1:])


def test_intervals_of_a_profile_cover_what_many_facts_show():
    """Edges over four orders of size whose facts scatter by their mean; 16 facts at A, other 16 at B."""
    rng = np.random.default_rng(5)
    truth = np.exp(2 * rng.normal(size=(1, int(WIDE.mask.sum()))) + 0.5 * rng.normal(size=(2, int(WIDE.mask.sum()))))
    change = np.diff(profiler(WIDE)(truth), axis=0)[0]
    inside = []
    for _ in range(80):
        a, b = (mean * (1 + rng.normal(size=(16, len(mean)))) for mean in truth)
        found = profile_changes(WIDE, a, b, paired=False)
        inside.append([c.low <= true <= c.high for c, true in zip(found, change, strict=True)])
    np.testing.assert_array_less(0.88, np.mean(inside, axis=0))


@pytest.mark.parametrize("facts", [8, 48])
def test_noise_that_grows_is_no_change_of_spread(facts):
    """The same mean scores, twice the noise at B: means over few facts look more spread there, and are not."""
    rng = np.random.default_rng(3)
    truth = np.exp(2 * rng.normal(size=int(WIDE.mask.sum())))
    inside = []
    for _ in range(60):
        a, noise = truth * (1 + rng.normal(size=(2, facts, len(truth))))
        _, edges, *_ = profile_changes(WIDE, a, a + noise - truth, paired=True)
        inside.append(edges.low <= 0 <= edges.high)
    assert np.mean(inside) > 0.88


def test_noise_makes_no_graph_look_more_spread():
    """One pattern, 32 noisy units: means over them are 1.5 times as spread; the jackknife takes some of that back."""
    truth = np.r_[4.0, np.full(7, 0.05)]
    spread = profiler(ONE)(truth)[1]
    rng = np.random.default_rng(0)
    draws = [truth + rng.normal(size=(32, 8)) for _ in range(80)]
    plain = np.mean([profiler(ONE)(x.mean(0))[1] for x in draws])
    freed = np.mean([profile_changes(ONE, x, x, paired=True)[1].a for x in draws])
    assert plain - spread > 0.5
    assert abs(freed - spread) < 0.75 * (plain - spread)


def test_the_cosine_of_shared_prompts_takes_products_of_different_ones():
    """Noise that both checkpoints share makes orthogonal circuits look alike; between different prompts it does not."""
    rng = np.random.default_rng(0)
    first, second = np.repeat([[3.0, 0.0]], 200, 1), np.repeat([[0.0, 3.0]], 200, 1)
    noise = rng.normal(0, 6, (12, 400))
    a, b, ones = first + noise, second + noise + rng.normal(size=noise.shape), np.ones(12)
    plain = a.mean(0) @ b.mean(0) / np.linalg.norm(a.mean(0)) / np.linalg.norm(b.mean(0))
    assert plain > 0.3
    assert cross_cosine(a, b, ones) == pytest.approx(0.0, abs=0.1)
    assert cross_cosine(a, a, ones) == pytest.approx(1.0)
    assert cross_cosine(a, -2 * a, ones) == pytest.approx(-1.0)
    assert np.isnan(cross_cosine(np.array([[1.0], [-1.0]]), np.ones((2, 1)), np.ones(2)))
    x, y = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]]), np.array([[2.0, 0.0], [1.0, -1.0], [2.0, 1.0]])
    weights = np.array([1.0, 2.0, 3.0])

    def products(one, other):
        return sum(
            weights[i] * weights[j] * one[i] @ other[j] for i in range(3) for j in range(3) if i != j
        )  # fmt: skip

    assert cross_cosine(x, y, weights) == pytest.approx(products(x, y) / np.sqrt(products(x, x) * products(y, y)))


def test_overlaps_are_tested_by_exchanging_the_checkpoints():
    rng = np.random.default_rng(2)
    pattern, other = rng.normal(size=(2, 200))
    noise = rng.normal(0, 1.5, (2, 20, 200))
    ones = (np.ones(20), np.ones(20))
    same = similarities(pattern + noise[0], pattern + noise[1], weights=ones, sizes=[40])
    moved = similarities(pattern + noise[0], 0.7 * pattern + 0.3 * other + noise[1], weights=ones, sizes=[40])
    assert all(found.p > 0.05 and not found.beyond_noise for found in same)
    assert moved[-1].p == pytest.approx(1 - 0.05 ** (1 / 99)), "no exchange reached it"
    assert moved[-1].beyond_noise
    assert moved[-1].across > moved[-1].within_low, "which single splits do not tell"
    untested = similarities(pattern + noise[0], pattern + noise[1], weights=ones, sizes=[40], exchanges=0)
    assert all(np.isnan(found.p) for found in untested)
    assert [found.within for found in untested] == [found.within for found in same]


def test_measures_of_similarity_by_hand():
    a, b = (
        Ranked(np.array([4.0, -3.0, 2.0, 1.0, 0.5]), [1, 2, 4]),
        Ranked(np.array([1.0, 5.0, -4.0, 0.0, 2.0]), [1, 2, 4]),
    )
    assert a.order.tolist() == [0, 1, 2, 3]
    found = measures(a, b)
    # top 1: {0} {1}; top 2: {0, 1} {1, 2}; top 4: {0, 1, 2, 3} {0, 1, 2, 4}
    np.testing.assert_allclose(found[:3], [0.0, 1 / 3, 3 / 5])
    shares = np.array([[4, 3, 0], [0, 5, 4]]) / np.array([[10.5], [12.0]])
    assert found[3] == pytest.approx(shares.min(0).sum() / shares.max(0).sum())
    assert found[4] == pytest.approx(np.corrcoef([3, 1, 2], [2, 3, 1])[0, 1])
    # orders 0 1 2 3 and 1 2 4 0: agreement 0, 1/2, 2/3, 3/4, weighing 1/2 less at each depth
    depths = np.array([0.0, 1 / 2, 2 / 3, 3 / 4])
    weights = 0.5 ** np.arange(4)
    assert found[5] == pytest.approx(depths @ weights / weights.sum())
    assert found[6] == pytest.approx((4 - 15 - 8 + 0 + 1) / np.sqrt(30.25 * 46))
    assert measure_names([1, 2, 4]) == (
        "Jaccard, 1 edges", "Jaccard, 2 edges", "Jaccard, 4 edges", "weighted Jaccard, 2 edges", "Spearman, 2 edges",
        "rank-biased overlap, 2 edges", "cosine, all edges",
    )  # fmt: skip
    nothing = Ranked(np.zeros(5), [1, 2, 4])
    assert measures(nothing, nothing)[[3, 4, 6]].tolist() == [0.0, 0.0, 0.0]


def test_similarity_beside_halves_of_the_facts():
    a, b = (np.abs(np.random.default_rng(seed).normal(np.arange(12) / 6, size=(6, 12))) for seed in (2, 7))
    weights = (np.array([1.0, 1.0, 2.0, 1.5, 1.0, 3.0]), np.ones(6))
    found = similarities(a, b, weights=weights, sizes=[5], splits=20, seed=2)[0]

    def top(scores, weight):
        return set(np.argsort(-(weight @ scores) / weight.sum())[:5].tolist())

    def jaccard(one, other):
        return len(one & other) / len(one | other)

    rng = np.random.default_rng(2)
    within, across = [], []
    for _ in range(20):
        order = rng.permutation(6)
        halves = [
            [top(scores[half], weight[half]) for half in (order[:3], order[3:])]
            for scores, weight in zip((a, b), weights, strict=True)
        ]
        within += [jaccard(*pair) for pair in halves]
        across += [jaccard(halves[0][0], halves[1][1]), jaccard(halves[0][1], halves[1][0])]
    assert found.value == pytest.approx(jaccard(top(a, weights[0]), top(b, weights[1])))
    assert found.within == pytest.approx(np.mean(within))
    assert (found.within_low, found.within_high) == pytest.approx(tuple(np.quantile(within, [0.05, 0.95])))
    assert found.across == pytest.approx(np.mean(across))
    assert (found.across_low, found.across_high) == pytest.approx(tuple(np.quantile(across, [0.05, 0.95])))
    shuffled = (set(np.argsort(-rng.permutation(b.mean(0)))[:5].tolist()) for _ in range(8))
    chance = [jaccard(top(a, weights[0]), one) for one in shuffled]
    assert found.random == pytest.approx(np.mean(chance))


@pytest.mark.parametrize("paired", [True, False])
def test_the_cosine_alone_is_of_products_of_different_facts_where_they_are_shared(paired):
    a, b = np.random.default_rng(1).normal(np.arange(12) / 6, size=(2, 6, 12))
    ones = np.ones(6)
    found = similarities(a, b, weights=(ones, ones), sizes=[3, 5], splits=1, exchanges=0, paired=paired)
    plain = measures(Ranked(a.mean(0), [3, 5]), Ranked(b.mean(0), [3, 5]))
    cosine = cross_cosine(a, b, ones) if paired else plain[-1]
    assert [each.value for each in found] == pytest.approx([*plain[:-1], cosine])
    assert cross_cosine(a, b, ones) != pytest.approx(plain[-1])
    assert [each.measure for each in found] == list(measure_names([3, 5]))


def test_unpaired_similarity_splits_each_side_by_itself():
    a, b = np.eye(4) + 0.01 * np.arange(4), np.vstack([np.eye(4), np.eye(4)[:2]]) + 0.01 * np.arange(4)
    found = similarities(a, b, weights=(np.ones(4), np.ones(6)), sizes=[2], splits=3, paired=False, seed=1)[0]
    rng = np.random.default_rng(1)
    across = []

    def best(scores):
        return set(np.argsort(-scores.mean(0), kind="stable")[:2].tolist())

    for _ in range(3):
        first, second = rng.permutation(4), rng.permutation(6)
        one, other = [best(a[h]) for h in (first[:2], first[2:])], [best(b[h]) for h in (second[:3], second[3:])]
        across += [len(x & y) / len(x | y) for x, y in ((one[0], other[1]), (one[1], other[0]))]
    assert found.across == pytest.approx(np.mean(across))


def test_less_alike_than_the_floor_is_beyond_the_noise():
    found = Similarity("Jaccard", 0.5, 0.8, 0.6, 0.9, 0.55, 0.4, 0.7, 0.1)
    assert found.excess == pytest.approx(0.25)
    assert found.beyond_noise
    assert not Similarity("Jaccard", 0.5, 0.8, 0.6, 0.9, 0.6, 0.4, 0.7, 0.1).beyond_noise
    assert not Similarity("Jaccard", 0.5, 0.8, 0.6, 0.9, 0.6 - ROUNDING, 0.4, 0.7, 0.1).beyond_noise


FIRST = np.array([[2, 0], [3, 0], [4, 1], [1, 0], [5, 2], [2, 1], [3, -1], [4, 0]], dtype=float)
SECOND = np.array([[0, 2], [1, 3], [0, 4], [2, 5], [3, 6], [0, 3], [1, 1], [4, 4]], dtype=float)


def between_facts(one, other, weights=(1.0,) * 8):
    """Weighted mean inner product over all ordered pairs of different facts."""
    pairs = [(u, v) for u in range(len(one)) for v in range(len(one)) if u != v]
    shares = [weights[u] * weights[v] for u, v in pairs]
    return sum(s * (one[u] @ other[v]) for s, (u, v) in zip(shares, pairs, strict=True)) / sum(shares)


def test_products_are_between_different_facts():
    products = Products([FIRST, SECOND])
    both = (FIRST, SECOND)
    np.testing.assert_allclose(products.kernel(), [[between_facts(x, y) for y in both] for x in both])
    weights = np.array([2.0, 1.0, 1.0, 0.0, 3.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(products.kernel(weights), [[between_facts(x, y, weights) for y in both] for x in both])
    means = np.array([x.mean(0) for x in both])
    expected = [between_facts(x, x) / (mean @ mean) for x, mean in zip(both, means, strict=True)]
    np.testing.assert_allclose(products.reliability(), expected)
    assert np.isnan(Products([np.zeros((8, 2)), FIRST]).reliability()[0])


def test_cosines_and_distance_from_a_kernel_by_hand():
    kernel = np.array([[4.0, 3.0, 1.0], [3.0, 9.0, 0.0], [1.0, 0.0, 1.0]])
    np.testing.assert_allclose(cosines(kernel), [[1, 0.5, 0.5], [0.5, 1, 0], [0.5, 0, 1]])
    # sums of unit vectors on both sides of the cut: {0} | {1, 2}: (.5 + .5) / sqrt(1 * 2)
    assert apart(kernel, 1) == pytest.approx(1 - 1 / np.sqrt(2))
    assert apart(kernel, 2) == pytest.approx(1 - 0.5 / np.sqrt(3))
    noise = np.array([[-1.0, 0.5], [0.5, 4.0]])
    assert np.isnan(cosines(noise)[0]).all()
    assert cosines(noise)[1, 1] == 1.0
    assert np.isnan(apart(noise, 1))
    np.testing.assert_allclose(cosines(np.array([[1.0, 7.0], [7.0, 1.0]])), np.ones((2, 2)))
    np.testing.assert_allclose(cosines(np.array([[1.0, -7.0], [-7.0, 1.0]])), [[1, -1], [-1, 1]])


def test_the_best_cut_lowers_the_scatter_most():
    kernel = np.kron(np.eye(2), np.ones((2, 2)))
    # one stretch: 4 - 8 / 4 = 2; cut in the middle 0 + 0; after one 0 + (3 - 5 / 3)
    assert best_split(kernel) == (2, pytest.approx(2.0))
    uneven = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.9], [0.0, 0.9, 1.0]])
    # whole: 3 - 4.8 / 3; after the first: 2 - 3.8 / 2; after the second: 2 - 2 / 2
    assert best_split(uneven) == (1, pytest.approx(1.4 - 0.1))


def test_a_planted_change_is_found_with_the_least_p_and_its_interval():
    rng = np.random.default_rng(0)
    patterns = [rng.standard_normal(12) for _ in "ab"]
    scores = [patterns[i >= 3] + 0.1 * rng.standard_normal((6, 12)) for i in range(6)]
    found = splits(Products(scores), draws=99)
    assert [(s.index, s.low, s.high) for s in found] == [(3, 3, 3)]
    assert found[0].p == pytest.approx(1 - 0.05 ** (1 / 99)), "none of the 99 drawn reaches it"
    assert splits(Products(scores[:3]), draws=39) == ()
    assert splits(Products(scores[:1]), draws=9) == ()


def test_circuits_of_one_edge_are_alike_where_it_is_the_same():
    one, same, other = (Ranked(np.array(scores), [1]) for scores in ([3.0, 1.0], [2.0, 0.5], [0.5, 2.0]))
    assert measures(one, same)[0] == 1
    assert measures(one, other)[0] == 0


def test_a_shuffle_is_of_every_fact_by_itself():
    scores = [FIRST, SECOND, FIRST - SECOND, 2 * SECOND]
    rng = np.random.default_rng(3)
    orders = np.stack([rng.permutation(3) for _ in range(8)], axis=1) + 1
    moved = [np.stack([scores[place][fact] for fact, place in enumerate(order)]) for order in orders]
    found = Products(scores).shuffled(slice(1, 4), np.random.default_rng(3))
    np.testing.assert_allclose(found, Products(moved).kernel())


def test_changes_are_told_in_order_and_tested_with_199_draws_unless_asked_otherwise():
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((3, 12))
    scores = [patterns[place // 4] + 0.1 * rng.standard_normal((6, 12)) for place in range(12)]
    found = splits(Products(scores))
    assert [split.index for split in found] == [4, 8]
    assert min(split.p for split in found) == pytest.approx(1 - 0.05 ** (1 / 199))


def planted(change, checkpoints=6):
    """Six facts over twelve edges, another pattern from one checkpoint on."""
    rng = np.random.default_rng(0)
    patterns = [rng.standard_normal(12) for _ in "ab"]
    return Products([patterns[i >= change] + 0.1 * rng.standard_normal((6, 12)) for i in range(checkpoints)])


@pytest.mark.parametrize("change", [1, 5])
def test_a_change_behind_the_first_or_before_the_last_checkpoint_is_found(change):
    assert [split.index for split in splits(planted(change), draws=99)] == [change]


def test_sides_that_differ_by_just_a_tenth_differ(monkeypatch):
    for distance, found in ((0.1, [3]), (0.0999, [])):
        monkeypatch.setattr("circuits.tracking.changepoints.apart", lambda *_, distance=distance: distance)
        assert [split.index for split in splits(planted(3), draws=99)][:1] == found


def test_resamples_draw_as_many_units_as_there_are():
    drawn = draw_units(np.random.default_rng(5), 4, 200)
    np.testing.assert_array_equal(drawn, np.random.default_rng(5).multinomial(4, [0.25] * 4, size=200))


def test_a_contrast_by_hand():
    found = contrast(FIRST, SECOND, name="tuning", steps=(100, 300), facts="old", seed=4)
    first, second, cross = between_facts(FIRST, FIRST), between_facts(SECOND, SECOND), between_facts(FIRST, SECOND)
    assert (found.name, found.facts, found.n, found.before, found.after) == ("tuning", "old", 8, 100, 300)
    assert found.apart == pytest.approx(1 - cross / np.sqrt(first * second))
    assert found.strength == pytest.approx(np.sqrt(second / first))
    assert found.reliability_before == pytest.approx(first / (FIRST.mean(0) @ FIRST.mean(0)))
    assert found.reliability_after == pytest.approx(second / (SECOND.mean(0) @ SECOND.mean(0)))
    drawn = np.random.default_rng(4).multinomial(8, [1 / 8] * 8, size=200)
    lengths = np.array([[between_facts(x, x, w) for x in (FIRST, SECOND)] for w in drawn])
    grown = np.sqrt(lengths[:, 1] / lengths[:, 0])
    moved = 1 - np.array([between_facts(FIRST, SECOND, w) for w in drawn]) / np.sqrt(lengths.prod(1))
    assert (found.strength_low, found.strength_high) == pytest.approx(tuple(np.quantile(grown, [0.025, 0.975])))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(np.clip(moved, 0, 2), [0.025, 0.975])))
    patterns = [(1, *signs) for signs in itertools.product((1, -1), repeat=7)]
    reached, total = global_p(patterns, SECOND - FIRST)
    assert found.p == pytest.approx(min(1.0, 2 * reached / total))
    reached, total = global_p(patterns, SECOND / np.sqrt(second) - FIRST / np.sqrt(first))
    assert found.p_wiring == pytest.approx(min(1.0, 2 * reached / total))


def test_a_circuit_of_the_same_wiring_is_not_apart_and_grows_by_its_factor():
    found = contrast(FIRST, 3 * FIRST, name="s", steps=(0, 1))
    assert found.facts == "all facts"
    assert (found.apart, found.strength) == pytest.approx((0.0, 3.0))
    assert (found.strength_low, found.strength_high) == pytest.approx((3.0, 3.0))
    assert found.p_wiring == 1.0
    turned = contrast(FIRST, -FIRST, name="s", steps=(0, 1))
    assert turned.apart == pytest.approx(2.0)
    assert turned.strength == pytest.approx(1.0)


def test_a_contrast_with_noise_has_no_strength():
    noise = np.array([[1, 0], [-1, 0], [0, 0], [0, 0], [0, 1], [0, -1], [2, 0], [-2, 0]], dtype=float)
    found = contrast(noise, FIRST, name="s", steps=(0, 1))
    assert np.isnan([found.apart, found.strength, found.strength_low, found.strength_high]).all()
    assert found.reliability_before == 0.0
    assert 0 <= found.p_wiring <= 1
