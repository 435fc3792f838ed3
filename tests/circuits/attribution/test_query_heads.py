"""Key and value readers for each query head: the same model as with repeated heads, and what groups sum up."""

import numpy as np
import pytest
import torch
from circuit_families import FAMILIES, build, random_facts

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import anatomy
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape
from circuits.intervention.exact import exact_edges
from circuits.intervention.faithfulness_measure import circuit_metrics

SHARING = [
    name
    for name in FAMILIES
    if name not in ("llama_mha", "phi", "gpt2", "gpt_neox", "gpt_neox_sequential")  # one key for each query already
    and not name.startswith("deepseek")
]


def summed(scores: np.ndarray, ungrouped: GraphShape, grouped: GraphShape) -> np.ndarray:
    """Add up the members of every group."""
    total = np.zeros((*scores.shape[:-1], len(grouped.readers)))
    for j, reader in enumerate(ungrouped.readers):
        node, _, kind = reader.partition("<")
        if kind in ("k>", "v>"):
            layer, head = node.split(".h")
            group = int(head) // (grouped.n_heads // grouped.n_kv_heads)
            column = grouped.readers.index(f"{layer}.kv{group}<{kind}")
        else:
            column = grouped.readers.index(reader)
        total[..., column] += scores[..., j]
    return total


@pytest.mark.parametrize("family", SHARING)
def test_members_sum_to_their_group(family):
    model, facts = build(family), random_facts(3, ragged=True)
    before = {name: tuple(p.shape) for name, p in model.named_parameters()}
    groups = circuits.attribute(model, facts, ig_steps=2)
    heads = circuits.attribute(model, facts, ig_steps=2, kv="query heads")
    assert heads.shape.n_kv_heads == heads.shape.n_heads
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == before
    scale = np.abs(groups.scores).max()
    np.testing.assert_allclose(summed(heads.scores, heads.shape, groups.shape), groups.scores, atol=1e-5 * scale)
    np.testing.assert_allclose(heads.clean_metric, groups.clean_metric, rtol=1e-5)
    value = [heads.readers.index(f"a1.h{h}<v>") for h in (0, 1)]
    assert not np.allclose(heads.mean[:, value[0]], heads.mean[:, value[1]], atol=1e-3 * scale)
    again = circuits.attribute(model, facts, ig_steps=2)
    np.testing.assert_array_equal(again.scores, groups.scores)


def repeated(family: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A GQA model, and the MHA model with the same weights written out for every query head."""
    grouped, other = build(family), build(family, num_key_value_heads=4)
    weights = grouped.state_dict()
    for name in list(weights):
        if any(part in name for part in ("k_proj", "v_proj")) or (family == "olmo2" and "k_norm" in name):
            kept = weights[name].shape[1:]
            weights[name] = weights[name].view(2, 8, *kept).repeat_interleave(2, 0).reshape(32, *kept)
    other.load_state_dict(weights)
    return grouped, other


@pytest.mark.parametrize("family", ["llama_gqa", "qwen3", "olmo2"])
def test_scores_and_circuits_are_those_of_the_model_with_repeated_heads(family):
    grouped, other = repeated(family)
    facts = random_facts(3)
    a = circuits.attribute(grouped, facts, method="eap", kv="query heads")
    b = circuits.attribute(other, facts, method="eap")
    assert a.shape == b.shape
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5 * np.abs(b.scores).max())
    circuit = b.prune(60)
    ours, clean, corrupt = circuit_metrics(grouped, [circuit], facts)
    theirs, *_ = circuit_metrics(other, [circuit], facts)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert not np.allclose(ours[0], clean)
    assert not np.allclose(ours[0], corrupt)


def test_edges_into_query_heads_are_patched_as_in_the_model_with_repeated_heads():
    grouped, other = repeated("llama_gqa")
    facts = random_facts(2, length=5)
    names = ["input->a1.h0<k>", "a0.h1->a1.h3<v>", "m0->a1.h2<k>", "a0.h0->a1.h1<q>", "m0->logits"]
    found = exact_edges(grouped, facts, edges=names, kv="query heads")
    expected = exact_edges(other, facts, edges=names)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5 * np.nanmax(np.abs(expected.scores)))
    assert np.nanmax(np.abs(found.scores)) > 0
    with pytest.raises(BadPrompt, match="no edge"):
        exact_edges(grouped, facts, edges=names)
    with pytest.raises(BadPrompt, match="kv"):
        exact_edges(grouped, facts, kv="heads")


def test_full_circuit_is_the_clean_run_and_empty_the_corrupt_one():
    model, facts = build("phi3", dtype=torch.float32), random_facts(3, ragged=True)
    graph = circuits.attribute(model, facts, method="eap", kv="query heads")
    whole = Circuit(graph.shape, graph.mask)
    nothing = Circuit(graph.shape, np.zeros_like(graph.mask))
    metrics, clean, corrupt = circuit_metrics(model, [whole, nothing], facts)
    np.testing.assert_array_equal(metrics, [clean, corrupt])


def test_the_model_is_put_back_also_after_an_error():
    model, facts = build("olmo2"), random_facts(1)
    attention = model.model.layers[0].self_attn
    with pytest.raises(ZeroDivisionError):
        circuits.attribute(model, facts, metric=lambda *_: 1 / 0, kv="query heads")
    assert attention.num_key_value_groups == 2
    assert attention.k_norm.weight.shape == (16,)
    assert not attention.k_proj._forward_hooks
    assert anatomy(model).n_kv_heads == 2
    with pytest.raises(BadPrompt, match="unknown kv"):
        circuits.attribute(model, facts, kv="pairs")
