"""The overlap of circuits of different relations in one model: known answers, and where there is none."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from checkpoints.stats.permutation import drawn_p
from circuits.comparison.overlap import overlap, overlap_of_relations, overlap_of_tasks
from circuits.comparison.similarity import Ranked, measures, permuted_p, similarities, strongest
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape

SHAPE = GraphShape(2, 2, 1)
STRONG = {"capital": (0, 1, 2, 3), "colour": (2, 3, 4, 5), "river": (0, 1, 2, 5)}


def graph(counts, *, labels=None):
    relations = [name for name, count in counts.items() for _ in range(count)]
    scores = np.zeros((len(relations), *SHAPE.mask.shape))
    edges = np.random.default_rng(0).normal(0, 0.01, (len(relations), int(SHAPE.mask.sum())))
    for row, name in zip(edges, relations, strict=True):
        row[list(STRONG[name])] -= 1.0
    scores[:, SHAPE.mask] = edges
    units, ones = np.arange(len(relations)), np.ones(len(relations))
    named = tuple(labels or [{"relation": name} for name in relations])
    return AttributionGraph(scores, SHAPE, ones, -ones, units, units, named, {"prompts": "p"})


def test_it_is_the_mean_over_pairs_of_relations():
    """Sets of four share two, three and two of their edges: 2 / 6, 3 / 5 and 2 / 6."""
    even = graph({"capital": 8, "colour": 9, "river": 12})
    assert overlap_of_relations(even, 4) == pytest.approx((2 / 6 + 3 / 5 + 2 / 6) / 3)


def test_relations_of_few_facts_do_not_count_and_one_alone_has_no_other():
    assert overlap_of_relations(graph({"capital": 8, "colour": 9, "river": 7}), 4) == pytest.approx(2 / 6)
    assert math.isnan(overlap_of_relations(graph({"capital": 8, "colour": 7}), 4))


def test_facts_without_the_label_or_scored_in_groups_have_none():
    unnamed = [{"relation": "capital"}] * 8 + [{}] * 8
    assert math.isnan(overlap_of_relations(graph({"capital": 8, "colour": 8}, labels=unnamed), 4))
    assert math.isnan(overlap_of_relations(graph({"capital": 8, "colour": 8}), 4, label="template"))


def test_the_strongest_edges_of_two_tasks_overlap_by_what_both_have():
    capital, colour, river = (graph({name: 8}) for name in STRONG)
    assert overlap_of_tasks(capital, capital, 4) == 1.0
    assert overlap_of_tasks(capital, colour, 4) == pytest.approx(2 / 6)
    assert overlap_of_tasks(capital, river, 4) == pytest.approx(3 / 5)


@pytest.mark.parametrize(("splits", "size"), [(6, 4), (2, 5)])
def test_the_overlap_alone_is_that_of_all_measures_and_tests_it_over_the_same_exchanges(monkeypatch, splits, size):
    monkeypatch.setattr("circuits.comparison.overlap.EXCHANGES", 19)
    a, b = graph({"capital": 5, "colour": 4}), graph({"capital": 1, "river": 8})
    of_three = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])
    a, b = (replace(each, scores=each.scores[:7], group=of_three) for each in (a, b))
    first, second = (each.edge_scores for each in (a, b))
    weights = (a.unit_sizes.astype(float), b.unit_sizes.astype(float))
    how = {"weights": weights, "sizes": [size], "splits": splits, "exchanges": 19}
    expected = similarities(first, second, paired=True, seed=3, **how)[0]
    found = overlap(a, b, n_edges=size, splits=splits, seed=3)
    assert astuple(found) == pytest.approx(astuple(expected), nan_ok=True)
    assert 0 < found.p <= 1
    assert astuple(overlap(a, b, n_edges=size, splits=splits)) != astuple(found), "other halves"
    assert overlap(a, b, seed=3).measure == f"Jaccard, {a.circuit_edges} edges"


def test_of_equal_sizes_the_first_are_the_strongest():
    assert strongest(np.array([1.0, 2.0, 3.0, 2.0, 2.0]), 3).tolist() == [2, 1, 3]
    assert strongest(np.zeros(4), 2).tolist() == [0, 1]


@pytest.mark.parametrize("paired", [True, False])
def test_exchanged_units_are_halved_as_if_they_had_been_moved(paired):
    rng = np.random.default_rng(0)
    base = rng.standard_normal(60)
    a, b = base + rng.standard_normal((7, 60)), 0.4 * base + rng.standard_normal((7 if paired else 9, 60))
    weights = 1 + rng.integers(0, 3, len(a)).astype(float), 1 + rng.integers(0, 3, len(b)).astype(float)
    if paired:
        weights = (weights[0], weights[0])
    rng = np.random.default_rng(len(a))
    orders = [(rng.permutation(len(a)), rng.permutation(len(b))) for _ in range(2)]
    pooled, of = np.concatenate([a, b]), np.concatenate(weights)

    def excess(first, second):
        found = []
        for of_a, of_b in orders:
            own = np.split(first[of_a], [len(of_a) // 2])
            parts = [*own, *np.split(second[of_a if paired else of_b], [len(of_b) // 2])]
            one, two, three, four = (Ranked(np.average(pooled[part], 0, of[part]), [5, 10]) for part in parts)
            within = measures(one, two) + measures(three, four)
            found.append(within - measures(one, four) - measures(two, three))
        return np.mean(found, 0)

    places = np.arange(len(of))
    observed, hits = excess(places[: len(a)], places[len(a) :]), 0
    for _ in range(19):
        if paired:
            moved = rng.integers(0, 2, len(a), dtype=bool)
            first, second = places[:7] + 7 * moved, places[:7] + 7 * ~moved
        else:
            first, second = np.split(rng.permutation(len(of)), [len(a)])
        hits += excess(first, second) >= observed - 1e-9
    found = permuted_p(a, b, weights, [5, 10], splits=2, exchanges=19, paired=paired)
    assert found == pytest.approx([drawn_p(int(hit), 19) for hit in hits])
    assert len({*found.tolist()}) > 2
