"""Faithfulness of circuits judged on facts that they were not found on."""

from dataclasses import replace

import numpy as np
import pytest
from circuit_families import build, random_facts

import circuits
from circuits.intervention.faithfulness import FaithfulnessCurve
from circuits.intervention.faithfulness_measure import circuit_metrics, faithfulness_curve

SHARES = (0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def model():
    return build("llama_gqa")


def test_where_all_facts_are_alike_it_is_the_faithfulness_in_sample(model):
    facts = random_facts(4).subset([1] * 6)
    curve = faithfulness_curve(model, circuits.attribute(model, facts), facts, shares=SHARES)
    np.testing.assert_allclose(curve.cross_metric, curve.metric, rtol=1e-5)
    assert curve.cross_values == pytest.approx(curve.values, rel=1e-5)


@pytest.fixture(scope="module")
def mixed(model):
    facts = random_facts(7)
    graph = circuits.attribute(model, facts)
    return facts, graph, faithfulness_curve(model, graph, facts, shares=SHARES)


def test_the_whole_model_keeps_everything_on_either_half(mixed):
    _, _, curve = mixed
    assert curve.cross_values[-1] == pytest.approx(1, abs=1e-6)


def test_no_fact_is_judged_in_a_circuit_that_it_helped_to_find(model, mixed):
    """Another score of one fact changes the circuit of its own half, in which the other half is judged, not it."""
    facts, graph, curve = mixed
    scores = graph.edge_scores.copy()
    scores[0] = 1000 * np.roll(scores[0], 7)
    changed = faithfulness_curve(model, replace(graph, scores=scores), facts, shares=SHARES)
    moved = np.abs(changed.cross_metric - curve.cross_metric)[:2].max(axis=0) > 1e-6
    order = np.random.default_rng(0).permutation(7)
    own = next(half for half in (order[:3], order[3:]) if 0 in half)
    assert not moved[own].any()
    assert moved.any()


def test_a_half_judges_as_a_run_of_its_own_does(model, mixed):
    facts, graph, curve = mixed
    order = np.random.default_rng(0).permutation(7)
    known, asked = np.sort(order[:3]), np.sort(order[3:])
    circuit = graph.only(known).prune(int(0.1 * graph.mask.sum()))
    alone, _, _ = circuit_metrics(model, [circuit], facts)
    np.testing.assert_allclose(curve.cross_metric[0, asked], alone[0, asked], atol=1e-6)


@pytest.mark.parametrize("other", ["few", "groups", "mean", "other facts"])
def test_it_is_left_out_where_facts_cannot_be_halved(model, other):
    facts = random_facts(3 if other == "few" else 6)
    graph = circuits.attribute(model, facts, groups=2 if other == "groups" else None)
    asked = random_facts(6, seed=5) if other == "other facts" else facts
    ablation = "mean" if other == "mean" else "corrupt"
    curve = faithfulness_curve(model, graph, asked, shares=(0.1,), ablation=ablation)
    assert curve.cross_metric is None
    assert np.isnan(curve.cross_values).all()
    assert np.isnan(curve.cross_intervals).all()
    assert "cross_fitted" not in curve.to_frame()


def test_it_is_told_and_kept(mixed, tmp_path):
    _, _, curve = mixed
    back = FaithfulnessCurve.load(curve.save(tmp_path / "curve"))
    np.testing.assert_array_equal(back.cross_metric, curve.cross_metric)
    frame = back.to_frame()
    assert frame["cross_fitted"].tolist() == list(curve.cross_values)
    assert (frame["cross_low"] <= frame["cross_high"]).all()
    assert frame["cross_low"].iloc[-1] == pytest.approx(1, abs=1e-6)
