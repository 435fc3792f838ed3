from dataclasses import replace

import numpy as np
import pytest
import torch

import circuits
from checkpoints.errors import CheckpointMismatch
from checkpoints.model.anatomy import anatomy, linear_weight
from circuits.comparison.alignment import Alignment, align
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape
from tests.circuits.circuit_families import build, random_facts


def graph_of(shape: GraphShape, seed: int, units: int = 6) -> AttributionGraph:
    draw = np.random.default_rng(seed)
    scores = draw.normal(0, 1, (units, *shape.mask.shape)) * shape.mask
    zeros = np.zeros(units)
    return AttributionGraph(
        scores, shape, zeros, zeros + 1, zeros.astype(int), np.arange(units), ({},) * units, {"method": "eap"}
    )


@pytest.mark.parametrize("heads", [(4, 4), (8, 2), (6, 1)])
def test_a_permuted_copy_is_recovered(heads: tuple[int, int]) -> None:
    shape = GraphShape(4, *heads, parallel=False)
    a = graph_of(shape, 0)
    draw = np.random.default_rng(1)
    size = heads[0] // heads[1]
    orders = np.stack(
        [np.concatenate([g * size + draw.permutation(size) for g in draw.permutation(heads[1])]) for _ in range(4)]
    )
    b = Alignment(shape, orders, 0, 0, 0, 0).apply(a)
    found = align(a, b)
    np.testing.assert_array_equal(found.apply(b).scores, a.scores)
    assert found.before < 0.9
    assert found.after == pytest.approx(1.0)
    assert found.null < 0.8


def test_noise_beside_the_permutation_does_not_hide_it() -> None:
    shape = GraphShape(4, 8, 4, parallel=True)
    a = graph_of(shape, 0)
    order = np.stack([np.array([6, 7, 4, 5, 3, 2, 0, 1])] * 4)
    shuffled = Alignment(shape, order, 0, 0, 0, 0).apply(a)
    noise = np.random.default_rng(2).normal(0, 0.7, shuffled.scores.shape) * shape.mask
    b = replace(shuffled, scores=shuffled.scores + noise)
    back = align(a, b)
    np.testing.assert_array_equal(np.take_along_axis(order, back.order, 1), np.tile(np.arange(8), (4, 1)))
    one, other = (table[shape.mask] for table in (a.mean, back.apply(b).mean))
    assert back.after == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-6)


def test_heads_in_their_places_stay_there_and_shuffled_scores_say_what_choice_is_worth() -> None:
    shape = GraphShape(3, 6, 6, parallel=False)
    a, unrelated = graph_of(shape, 0), graph_of(shape, 5)
    assert align(a, a).moved == 0
    chance = align(a, unrelated)
    assert chance.after > chance.before
    assert abs(chance.after - chance.null) < 0.1
    assert "no more than the freedom to choose gives" in chance.verdict


def test_a_model_with_permuted_heads_is_recognised() -> None:
    """Permuting a Llama's query heads within and across its groups, in the weights, changes no output."""
    model, twin, facts = build("llama_gqa"), build("llama_gqa"), random_facts(4)
    block = anatomy(twin).blocks[1]
    with torch.no_grad():
        rows = torch.arange(32).view(2, 2, 8)
        for linear in (block.k.module, block.v.module):
            linear.weight.copy_(linear.weight[torch.arange(16).view(2, 8).flip(0).flatten()])
        swapped = rows.flip(0).flatten()
        block.q.module.weight.copy_(block.q.module.weight[swapped])
        block.o.weight.copy_(linear_weight(block.o)[:, swapped])
    graphs = [circuits.attribute(m, facts, method="eap") for m in (model, twin)]
    found = align(*graphs)
    assert found.order.tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]
    np.testing.assert_allclose(found.apply(graphs[1]).scores, graphs[0].scores, atol=1e-9)


def test_scores_of_other_methods_are_not_matched() -> None:
    shape = GraphShape(2, 4, 4)
    a = graph_of(shape, 0)
    with pytest.raises(CheckpointMismatch, match="different method"):
        align(a, replace(a, meta={"method": "eap-ig"}))
    with pytest.raises(CheckpointMismatch, match="different shapes"):
        align(a, graph_of(GraphShape(2, 4, 2), 0))
