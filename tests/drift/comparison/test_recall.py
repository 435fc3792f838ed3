import numpy as np
import pytest

import circuits
from circuit_drift.measures.pairs.recall import recall_questions
from circuit_drift.record.questions import Deltas, units_needed
from circuit_drift.record.recall import recall_by_class, recall_change
from circuits.graph.shape import GraphShape


def test_no_change_is_certain_to_be_none():
    known = np.array([True, False, True, False])
    change = recall_change(known, known)
    assert (change.delta, change.p) == (0.0, 1.0)


def test_mcnemar_by_hand():
    """Nine gained, one lost of twenty: two-sided binomial p = 2 (C(10,0) + C(10,1)) / 2^10."""
    a = np.array([True] * 1 + [False] * 9 + [True] * 10)
    b = np.array([False] * 1 + [True] * 9 + [True] * 10)
    change = recall_change(a, b)
    assert change.p == pytest.approx(2 * 11 / 2**10)
    assert change.delta == pytest.approx(8 / 20)
    assert change.low < change.delta < change.high


def test_the_sign_turns_with_the_order():
    a, b = np.array([True, False, False, False, True]), np.array([True, True, True, False, False])
    forth, back = recall_change(a, b), recall_change(b, a)
    assert forth.delta == -back.delta
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p == back.p


def test_facts_of_one_relation_change_sides_together():
    """Two relations of five gained facts are two units, not ten: p = 2 / 2^2, and no interval is told of two."""
    a, b = np.zeros(10, dtype=bool), np.ones(10, dtype=bool)
    change = recall_change(a, b, np.repeat([4, 7], 5))
    assert (change.delta, change.p) == (1.0, 0.5)
    assert np.isnan(change.low)
    every = np.arange(10)
    assert recall_change(a, b, every) == recall_change(a, b)


def test_a_turnover_without_an_interval_is_asked_by_name_without_an_effect():
    shape, labels = GraphShape(1, 1, 1), [{"relation": "r1"}, {"relation": "r2"}] * 3
    graphs = [
        circuits.AttributionGraph(
            scores=np.zeros((6, *shape.mask.shape)), shape=shape, clean_metric=np.zeros(6), corrupt_metric=np.zeros(6),
            answer_rank=np.full(6, rank), group=np.arange(6), labels=tuple(labels),
        )
        for rank in (3, 0)
    ]  # fmt: skip
    turnover, net = recall_questions(*graphs, deltas=Deltas(), noun="sentence", cluster=("relation",))
    assert (turnover.family, turnover.name, turnover.effects) == ("behaviour", "sentences that change sides", ())
    assert np.isnan(turnover.p), "two relations are too few"
    assert (net.name, net.p, net.least) == ("recall of all sentences", 0.5, 0.5)


def test_how_many_relations_a_turnover_needs_is_told_by_its_further_end():
    """Of twelve relations of two facts six change sides: a share of a half, known alike from below and above."""
    shape, labels = GraphShape(1, 1, 1), [{"relation": f"r{place // 2}"} for place in range(24)]
    graphs = [
        circuits.AttributionGraph(
            scores=np.zeros((24, *shape.mask.shape)), shape=shape, clean_metric=np.zeros(24),
            corrupt_metric=np.zeros(24), answer_rank=rank, group=np.arange(24), labels=tuple(labels),
        )
        for rank in (np.full(24, 3), np.where(np.arange(24) < 12, 0, 3))
    ]  # fmt: skip
    turnover, _ = recall_questions(*graphs, deltas=Deltas(recall=0.9), cluster=("relation",))
    (effect,) = turnover.effects
    assert effect.value == 0.5
    half = effect.high - 0.5
    assert 0 < effect.low == pytest.approx(0.5 - half)
    assert effect.needed == units_needed(0.5, 0.5 - half, 0.5 + half, 0.0, (-1.0, 0.9), 12)
    assert effect.needed < units_needed(0.5, -effect.low, 1 + effect.low, 0.0, (-1.0, 0.9), 12)


def test_classes_are_told_apart_by_batch_where_they_have_several():
    shape = GraphShape(1, 1, 1)
    labels = [{"class": "known", "batch": 0}] * 2 + [{"class": "new", "batch": 1}] + [{"class": "new", "batch": 2}] * 2
    graph = circuits.AttributionGraph(
        scores=np.zeros((5, *shape.mask.shape)),
        shape=shape,
        clean_metric=np.zeros(5),
        corrupt_metric=np.zeros(5),
        answer_rank=np.array([0, 3, 0, 1, 1]),
        group=np.arange(5),
        labels=tuple(labels),
    )
    assert recall_by_class(graph) == {"known": (0.5, 2), "new 1": (1.0, 1), "new 2": (0.0, 2)}
