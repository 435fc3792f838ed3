"""Circuits run in other models."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts

import circuits
from checkpoints.errors import BadPrompt
from circuits.graph.circuit import Circuit
from circuits.intervention.transfer import Transfer, transfer


@pytest.fixture(scope="module")
def pair():
    facts = random_facts(6)
    first, second = build("llama_gqa", dtype=torch.float32), build("llama_gqa", dtype=torch.float32)
    with torch.no_grad():
        second.model.layers[1].self_attn.v_proj.weight.mul_(0.2)
    graphs = [circuits.attribute(model, facts) for model in (first, second)]
    return (first, second), graphs, facts


def test_the_diagonal_is_each_models_own_faithfulness(pair):
    models, graphs, facts = pair
    chosen = [graph.prune(50) for graph in graphs]
    moved = transfer(iter(models), chosen, facts, names=["before", "after"])
    for i, (model, circuit) in enumerate(zip(models, chosen, strict=True)):
        own = circuits.faithfulness(model, circuit, facts, n_random=0)
        np.testing.assert_allclose(moved.metric[i, i], own.metric, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(moved.clean_metric[i], own.clean_metric, rtol=1e-5, atol=1e-7)
        assert moved.loss(i, i)[0] == 0.0
    assert np.isnan(moved.values).all(), "random weights: no effect of which a circuit keeps a share"
    told = replace(moved, clean_metric=moved.corrupt_metric + np.linspace(1, 2, len(facts)))
    kept = told.metric.mean(axis=-1) - told.corrupt_metric.mean(axis=-1)
    np.testing.assert_allclose(told.values, kept / 1.5)
    assert told.loss(0, 1)[0] == pytest.approx(told.values[1, 1] - told.values[0, 1], abs=1e-9)
    assert list(moved.to_frame()["circuit"]) == ["before", "before", "after", "after"]
    assert "circuit of before" in moved.verdict


def test_the_full_circuit_does_everything_everywhere(pair):
    models, graphs, facts = pair
    whole = Circuit(graphs[0].shape, graphs[0].mask)
    moved = transfer(models, [whole, whole], facts)
    np.testing.assert_array_equal(moved.metric, np.broadcast_to(moved.clean_metric, (2, *moved.clean_metric.shape)))
    clean = moved.corrupt_metric + np.linspace(1, 2, len(facts))  # twins that make a difference
    told = replace(moved, clean_metric=clean, metric=np.broadcast_to(clean, moved.metric.shape))
    np.testing.assert_array_equal(told.values, np.ones((2, 2)))
    assert "it still does the work" in told.verdict


def test_one_model_is_alive_at_a_time(pair):
    _, graphs, facts = pair
    alive = []

    def models():
        for _ in graphs:
            gc.collect()
            alive.append(sum(model() is not None for model in seen))
            held = [build("llama_gqa", dtype=torch.float32)]
            seen.append(weakref.ref(held[0]))
            yield held.pop()

    seen: list[weakref.ref] = []
    transfer(models(), [graph.prune(50) for graph in graphs], facts)
    assert alive == [0, 0]


def test_a_diff_carries_its_transfer(pair, tmp_path):
    models, graphs, facts = pair
    moved = transfer(models, [graph.prune(50) for graph in graphs], facts)
    back = Transfer.load(moved.save(tmp_path / "transfer"))
    np.testing.assert_array_equal(back.metric, moved.metric)
    told = circuits.diff(*graphs).with_transfer(back)
    assert told.verdict.endswith(moved.verdict)
    assert "heatmap" in str(moved.plot().to_dict())


def test_numbers_of_models_and_circuits_must_agree(pair):
    models, graphs, facts = pair
    with pytest.raises(BadPrompt, match="2 models, 1 circuits"):
        transfer(models, [graphs[0].prune(10)], facts)
