"""Edge scores against TransformerLens: its attribution patching, and a bridge with every head's input split apart."""

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    attribution_patch,
    cache_activation_and_gradient,
    capture_writer_outputs,
)

import circuits
from checkpoints.model.bridge import build_bridge

# TransformerLens refuses shared key/value heads, and post-norms: there a head's result is not what it writes
MULTI_HEAD = {
    "gpt2": {},
    "gpt_neox": {},
    "gpt_neox_sequential": {},
    "llama_mha": {},
    "mixtral": {"num_key_value_heads": 4},
}
GROUPED = ["llama_gqa", "llama_mqa", "qwen2", "qwen3", "mistral", "smollm3", "mixtral"]
WRITERS = {"embed": "input", "attn_head_out": "a{layer}.h{head}", "mlp_out": "m{layer}"}
READERS = {"mlp_in": "m{layer}", "logits": "logits"} | {f"{r}_input": f"a{{layer}}.h{{head}}<{r}>" for r in "qkv"}


def stock_bridge(model):
    bridge = build_bridge(model, attention="stock")
    bridge.set_use_split_qkv_input(True)
    bridge.set_use_attn_result(True)
    bridge.set_use_hook_mlp_in(True)
    return bridge


def pairs(facts):
    for clean, corrupt, answer, wrong in zip(facts.clean, facts.corrupt, facts.answer_id, facts.wrong_id, strict=True):

        def metric(logits, answer=int(answer), wrong=int(wrong)):
            return logits[0, -1, answer] - logits[0, -1, wrong]

        yield torch.tensor([clean]), torch.tensor([corrupt]), metric


def name_of(node, names):
    return names[node.kind].format(layer=node.layer, head=node.head)


@pytest.mark.parametrize("name", MULTI_HEAD)
def test_edge_scores_are_those_of_transformer_lens_attribution_patching(name):
    """Its gradient is taken at its corrupt run and its difference points to its clean one: the roles are exchanged."""
    model, facts = build(name, **MULTI_HEAD[name]), random_facts(2)
    graph = circuits.attribute(model, facts, method="eap")
    bridge = build_bridge(model, attention="stock")
    for scores, (clean, corrupt, metric) in zip(graph.scores, pairs(facts), strict=True):
        found = attribution_patch(bridge, corrupt, clean, metric, EdgeAttributionConfig(granularity="edge"))
        summed, edges = np.zeros(graph.mask.shape), np.zeros(graph.mask.shape, dtype=bool)
        for (writer, reader), score in found.edge_scores.items():
            place = graph.writers.index(name_of(writer, WRITERS)), graph.readers.index(name_of(reader, READERS))
            summed[place] += score
            edges[place] = True
        np.testing.assert_array_equal(edges, graph.mask)
        np.testing.assert_allclose(scores, summed, atol=2e-6 * np.abs(summed).max())


def split_input_scores(bridge, clean, corrupt, metric, graph):
    """[F, B]: the writers' differences times the gradients at every reader's own copy of the stream."""
    shape = graph.shape
    hooks = {"q": "hook_q_input", "k": "hook_k_input", "v": "hook_v_input"}
    readers = [f"blocks.{layer}.attn.{hook}" for layer in range(shape.n_layers) for hook in hooks.values()]
    readers += [f"blocks.{layer}.hook_mlp_in" for layer in range(shape.n_layers)]
    end = f"blocks.{shape.n_layers - 1}.hook_resid_post"
    at_clean = cache_activation_and_gradient(bridge, clean, metric, [*readers, end, "hook_embed"]).gradients
    before, after = capture_writer_outputs(bridge, clean), capture_writer_outputs(bridge, corrupt)
    change = {name: after[name][0] - before[name][0] for name in before}
    written, read = [change["hook_embed"]], []
    for layer in range(shape.n_layers):
        written += [*change[f"blocks.{layer}.attn.hook_result"].unbind(1), change[f"blocks.{layer}.hook_mlp_out"]]
        for hook in hooks.values():
            read += at_clean[f"blocks.{layer}.attn.{hook}"][0].unbind(1)
        read.append(at_clean[f"blocks.{layer}.hook_mlp_in"][0])
    read.append(at_clean[end][0])
    return torch.einsum("ftd,btd->fb", torch.stack(written), torch.stack(read)).numpy() * shape.mask


@pytest.mark.parametrize("name", ["gpt2", *GROUPED])
def test_edge_scores_are_those_of_a_bridge_with_split_inputs(name):
    model, facts = build(name), random_facts(2)
    graph = circuits.attribute(model, facts, method="eap")
    bridge = stock_bridge(model)
    floor = 1e-13 if name == "gpt2" else 2e-6  # transformers' RMS norms and rotary tables are float32 in any model
    for scores, (clean, corrupt, metric) in zip(graph.scores, pairs(facts), strict=True):
        expected = split_input_scores(bridge, clean, corrupt, metric, graph)
        np.testing.assert_allclose(scores, expected, atol=floor * np.abs(expected).max())
