"""Nodes, neurons and experts: sums that must hold, single parts against the stock model, and exact runs of circuits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from circuit_families import FAMILIES, build, random_facts
from published import published_facts, published_model, published_scores

import circuits
from checkpoints.errors import BadPrompt, CheckpointMismatch, UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy, linear_weight
from circuits.attribution.mlp_parts import Neurons
from circuits.attribution.nodes import attribute_nodes
from circuits.graph.nodes import NodeCircuit, NodeScores
from circuits.intervention.faithfulness_measure import circuit_metrics
from circuits.intervention.node_forward import node_faithfulness, node_metrics

STEP = 1e-4
MIXTURES = ["mixtral", "qwen3_moe", "gpt_oss", "qwen2_moe", "hunyuan_moe", "deepseek_v2_moe", "deepseek_v3_moe"]
DENSE = ["gpt2", "gpt_neox", "phi", "llama_gqa", "granite", "gemma2", "olmo2", "phi3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_nodes_score_is_the_sum_of_its_edges(family):
    model, facts = build(family), random_facts(3, ragged=True)
    for method in ("eap", "clean-corrupted"):
        graph = circuits.attribute(model, facts, method=method)
        nodes = attribute_nodes(model, facts, method=method, batch_size=2)
        summed = NodeScores.of(graph)
        np.testing.assert_allclose(nodes.scores, summed.scores, atol=2e-5 * np.abs(nodes.scores).max())
        assert summed["m1"] == pytest.approx(graph.nodes()["m1"])
        np.testing.assert_allclose(nodes.clean_metric, graph.clean_metric, rtol=1e-6)


@pytest.mark.parametrize("family", DENSE)
def test_neurons_sum_to_their_mlp(family):
    model, facts = build(family), random_facts(3, ragged=True)
    nodes = attribute_nodes(model, facts, level="neurons", ig_steps=2, groups=2)
    for layer in range(2):
        mlp = nodes.scores[:, nodes.shape.writers.index(f"m{layer}")]
        np.testing.assert_allclose(nodes.inside[:, layer].sum(1), mlp, atol=2e-5 * np.abs(nodes.scores).max())
    assert (np.abs(nodes.inside_mean) > 0).mean() > 0.9


@pytest.mark.parametrize("family", ["gpt2", "granite", "olmo2"])
def test_a_neuron_equals_finite_differences(family):
    """Its difference added to what the stock MLP writes, behind a norm at the scale of each run's whole output."""
    model, facts = build(family), random_facts(2, length=6)
    nodes = attribute_nodes(model, facts, level="neurons", method="eap")
    parts = anatomy(model)
    block = parts.blocks[0]
    down, end = Neurons(parts).module(block), block.mlp_post_norm.module if block.mlp_post_norm else block.mlp
    largest = np.abs(nodes.inside).max()
    for neuron in np.argsort(-np.abs(nodes.inside_mean[0]))[[0, 1, 7]]:
        for i in range(len(facts)):
            change = written(model, down, end, facts.corrupt[i], neuron) - written(
                model, down, end, facts.clean[i], neuron
            )
            ends = []
            for sign in (1, -1):
                handle = end.register_forward_hook(lambda _m, _a, out, s=sign, c=change: out + s * STEP * c)
                ends.append(difference(model, facts, i))
                handle.remove()
            expected = (ends[0] - ends[1]) / (2 * STEP)
            np.testing.assert_allclose(nodes.inside[i, 0, neuron], expected, atol=3e-3 * largest)


def written(model, down, end, prompt, neuron):
    """[t, d] a neuron's share of the output of ``end``: the rest of it is what is left when its weight is zero."""
    seen = {}
    handles = [
        down.register_forward_pre_hook(lambda _m, args: seen.update(a=args[0].detach())),
        down.register_forward_hook(lambda _m, _a, out: seen.update(raw=out.detach())),
        end.register_forward_hook(lambda _m, _a, out: seen.update(out=out.detach())),
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    share = seen["a"][..., neuron, None] * linear_weight(down).detach()[:, neuron]
    return share * (seen["out"] / seen["raw"])  # elementwise gain / rms, where a norm stands behind


def difference(model, facts, i):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([facts.clean[i]])).logits[0, -1]
    return float(logits[facts.answer_id[i]] - logits[facts.wrong_id[i]])


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_sum_to_their_block(family):
    model, facts = build(family), random_facts(3, ragged=True)
    nodes = attribute_nodes(model, facts, level="experts", ig_steps=2)
    plain = attribute_nodes(model, facts, ig_steps=2)
    np.testing.assert_allclose(nodes.scores, plain.scores, atol=1e-9)
    scale = np.abs(nodes.scores).max()
    layers = [1] if family.startswith("deepseek") else [0, 1]  # the first of those is dense
    assert np.isnan(nodes.inside).any() == (len(layers) == 1)
    for layer in layers:
        mlp = nodes.scores[:, nodes.shape.writers.index(f"m{layer}")]
        np.testing.assert_allclose(nodes.inside[:, layer].sum(1), mlp, atol=1e-5 * scale)
    shares = nodes.inside[:, layers]
    shared = ("qwen2_moe", "hunyuan_moe", "deepseek_v2_moe", "deepseek_v3_moe")
    assert (np.abs(shares[..., -1]).max() > 1e-2 * scale) == (family in shared)
    assert (np.abs(shares[..., :-1]).max((0, 1)) > 1e-3 * scale).all()
    frame = nodes.inside_frame()
    assert list(frame.columns) == ["node", "expert", "score", "stderr", "clean_weight", "corrupt_weight"]
    assert frame["score"].sum() == pytest.approx(sum(nodes[f"m{layer}"] for layer in layers), abs=1e-4 * scale)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "qwen2_moe"])
def test_an_experts_share_is_its_own_output_along_the_gradient(family):
    """Leaving an expert's weights at zero takes exactly its share out of what the block writes."""
    model, facts = build(family), random_facts(1)
    nodes = attribute_nodes(model, facts, level="experts", method="eap")
    block = anatomy(model).blocks[1].mlp

    def outputs(prompt):
        seen = {}
        handle = block.register_forward_hook(lambda _m, _a, out: seen.update(out=out))
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        handle.remove()
        return seen["out"], logits[facts.answer_id[0]] - logits[facts.wrong_id[0]]

    out, metric = outputs(facts.clean[0])
    (gradient,) = torch.autograd.grad(metric, out)
    with torch.no_grad():
        for expert in range(4):
            kept = block.experts.down_proj[expert].clone()
            whole = [outputs(prompts[0])[0] for prompts in (facts.corrupt, facts.clean)]
            block.experts.down_proj[expert] = 0
            without = [outputs(prompts[0])[0] for prompts in (facts.corrupt, facts.clean)]
            block.experts.down_proj[expert] = kept
            own = [a - b for a, b in zip(whole, without, strict=True)]
            expected = float(((own[0] - own[1]) * gradient).sum())
            assert nodes.inside[0, 1, expert] == pytest.approx(expected, abs=1e-5)
    weights = nodes.routing
    assert weights.shape == (2, 2, 4)
    if family == "mixtral":  # whose weights are made to sum to 1
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "granite", "mixtral"])
def test_a_circuit_of_nodes_is_that_of_the_edges_among_them(family):
    heads = {"num_key_value_heads": 4} if family == "gemma2" else {}  # whose norm behind attention spans all heads
    model, facts = build(family, **heads), random_facts(3, ragged=True)
    nodes = attribute_nodes(model, facts, method="eap")
    some = np.isin(nodes.shape.writers, ["input", "a0.h0", "a0.h2", "m0", "a1.h1", "m1"])
    chosen = [NodeCircuit(nodes.shape, some), nodes.prune(7, rule="lowers"), nodes.prune(99), nodes.prune(0)]
    ours, clean, corrupt = node_metrics(model, chosen, facts)
    theirs, *_ = circuit_metrics(model, [circuit.edges() for circuit in chosen], facts)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[2:], [clean, corrupt])
    assert not np.allclose(ours[0], clean)
    assert not np.allclose(ours[0], corrupt)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_circuit_of_neurons_is_the_stock_run_with_the_others_replaced(family):
    model, facts = build(family), random_facts(2, length=6)
    nodes = attribute_nodes(model, facts, level="neurons", method="eap")
    whole, most = nodes.prune_neurons(10**6), nodes.prune_neurons(40)
    assert most.size == 40
    metrics, clean, _ = node_metrics(model, [whole, most], facts)
    np.testing.assert_array_equal(metrics[0], clean)
    if family == "gpt2":
        for i in range(len(facts)):
            np.testing.assert_allclose(metrics[1, i], patched(model, facts, i, most), rtol=1e-9)
    result = node_faithfulness(model, most, facts, n_random=1)
    told = replace(result, clean_metric=result.corrupt_metric + np.array([1.0, 1.5]))  # twins that make a difference
    assert "with 40 heads and neurons" in str(told)
    assert result.metric.tolist() == metrics[1].tolist()


def patched(model, facts, i, circuit):
    """GPT-2 with the inputs of its projections replaced by hand."""
    corrupt = {}
    modules = [m for layer in model.transformer.h for m in (layer.attn.c_proj, layer.mlp.c_proj)]
    handles = [
        module.register_forward_pre_hook(lambda m, args: corrupt.update({m: args[0]}))
        for module in (*modules, model.transformer.h[0])
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([facts.corrupt[i]]))
    for handle in handles:
        handle.remove()
    kept = {}
    for layer in range(2):
        heads = circuit.nodes[1 + layer * 5 : 5 + layer * 5]
        kept[model.transformer.h[layer].attn.c_proj] = torch.as_tensor(np.repeat(heads, 4))
        kept[model.transformer.h[layer].mlp.c_proj] = torch.as_tensor(circuit.neurons[layer])
    if not circuit.nodes[0]:
        kept[model.transformer.h[0]] = torch.tensor(False)

    def replace(module, args):
        return (torch.where(kept[module], args[0], corrupt[module]), *args[1:])

    handles = [module.register_forward_pre_hook(replace) for module in kept]
    value = difference(model, facts, i)
    for handle in handles:
        handle.remove()
    return value


def test_what_does_not_come_apart_is_refused_by_name():
    facts = random_facts(2)
    with pytest.raises(UnsupportedArchitecture, match="use level='experts'"):
        attribute_nodes(build("mixtral"), facts, level="neurons")
    with pytest.raises(UnsupportedArchitecture, match="no mixture of experts"):
        attribute_nodes(build("gpt2"), facts, level="experts")
    model = build("llama_gqa")
    nodes = attribute_nodes(model, facts)
    with pytest.raises(BadPrompt, match="stop at nodes"):
        nodes.inside_frame()
    with pytest.raises(BadPrompt, match="not by 'conductance'"):
        attribute_nodes(model, facts, method="conductance")
    with pytest.raises(BadPrompt, match="unknown rule"):
        nodes.prune(3, rule="greedy")
    with pytest.raises(BadPrompt, match="no edges of their own"):
        attribute_nodes(model, facts, level="neurons").prune_neurons(5).edges()
    with pytest.raises(CheckpointMismatch, match="different shapes"):
        node_metrics(build("gpt2"), [nodes.prune(3)], facts)


def test_node_scores_survive_the_disk(tmp_path):
    nodes = attribute_nodes(build("mixtral"), random_facts(2), level="experts", ig_steps=1)
    back = NodeScores.load(nodes.save(tmp_path / "nodes"))
    np.testing.assert_array_equal(back.inside, nodes.inside)
    np.testing.assert_array_equal(back.routing, nodes.routing)
    assert (back.level, back.shape, back.meta) == (nodes.level, nodes.shape, nodes.meta)
    assert back.to_frame().equals(nodes.to_frame())
    assert "<b>Node scores</b>: 2 facts" in back._repr_html_()


@pytest.mark.parametrize("kind", ["plain", "padded"])
def test_nodes_agree_where_the_published_code_is_right(kind):
    """Its MLPs take the gradient at the MLP's input; every other node, and every node patched exactly, is right."""
    model, reference, facts = published_model(), published_scores(), published_facts(kind)
    nodes = attribute_nodes(model, facts, method="eap", level="neurons")
    mlps = np.array([name.startswith("m") for name in nodes.shape.writers])
    np.testing.assert_allclose(nodes.mean[~mlps], reference[f"{kind}/node/EAP/logit_diff"][~mlps], atol=1e-9)
    np.testing.assert_allclose(nodes.mean, reference[f"{kind}/edge/EAP/logit_diff"].sum(1), atol=1e-9)
    np.testing.assert_allclose(nodes.inside_mean.sum(1), nodes.mean[mlps], atol=1e-12)
    single = [NodeCircuit(nodes.shape, np.arange(len(mlps)) != i) for i in range(len(mlps))]
    metrics, clean, _ = node_metrics(model, single, facts)
    np.testing.assert_allclose((metrics - clean).mean(1), reference[f"{kind}/node/exact/logit_diff"], atol=1e-9)
