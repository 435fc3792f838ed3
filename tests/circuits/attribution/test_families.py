"""Edge scores of every family against brute force, and the identities that must hold in each."""

import numpy as np
import pytest
import torch
from brute_force import displaced, eap_edges, metric
from circuit_families import FAMILIES, REFUSED, build, random_facts, residual_parts

import circuits
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from circuits.graph.circuit import Circuit
from circuits.graph.scores import completeness
from circuits.intervention.faithfulness_measure import circuit_metrics

MIXTURES = {"mixtral", "qwen3_moe", "qwen2_moe", "hunyuan_moe", "gpt_oss", "deepseek_v2_moe", "deepseek_v3_moe"}
STEEP = {"granite": 60}
"""Steps of a path on which 30 are too few for what is to add up within 6 %."""


def reader_key(name: str) -> tuple[int, str, int]:
    """A reader's name as the oracle wants it."""
    if name == "logits":
        return (-1, "logits", 0)
    if name.startswith("m"):
        return (int(name[1:]), "mlp", 0)
    node, kind = name[:-1].split("<")
    layer, part = node.split(".")
    return (int(layer[1:]), kind, int(part.lstrip("hkv")))


def assert_equals_finite_differences(model, facts, graph, *, samples: int = 14) -> None:
    """Edges drawn at random, and two late ones, against the oracle."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(graph.mask)
    upstream = pairs[rng.choice(len(pairs), samples, replace=False)]
    same_layer = [(graph.writers.index("a1.h2"), graph.readers.index("logits"))]
    if not graph.shape.parallel:
        same_layer.append((graph.writers.index("a1.h2"), graph.readers.index("m1")))
    largest = np.abs(graph.scores).max()
    assert largest > 1e-3
    chosen = [*upstream, *same_layer]
    oracle = eap_edges(model, facts, [(int(row), reader_key(graph.readers[column])) for row, column in chosen])
    for (row, column), expected in zip(chosen, oracle, strict=True):
        np.testing.assert_allclose(graph.scores[:, row, column], expected, atol=3e-3 * largest, rtol=3e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_eap_equals_finite_differences_on_the_stock_model(family):
    model, facts = build(family), random_facts(2, length=6)
    graph = circuits.attribute(model, facts, method="eap")
    assert_equals_finite_differences(model, facts, graph)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_circuit_is_the_clean_run_and_empty_the_corrupt_one(family):
    model, facts = build(family, dtype=torch.float32), random_facts(3, ragged=True)
    graph = circuits.attribute(model, facts, method="eap")
    whole = Circuit(graph.shape, graph.mask)
    nothing = Circuit(graph.shape, np.zeros_like(graph.mask))
    metrics, clean, corrupt = circuit_metrics(model, [whole, nothing], facts)
    np.testing.assert_array_equal(metrics[0], clean)
    np.testing.assert_array_equal(metrics[1], corrupt)
    np.testing.assert_array_equal(clean, graph.clean_metric)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - MIXTURES))
def test_conductance_is_complete_where_the_model_is_continuous(family):
    """Top-k routing jumps along the path, and no gradient sees a jump; everything else adds up."""
    model, facts = build(family), random_facts(2, length=6)
    graph = circuits.attribute(model, facts, method="conductance", ig_steps=STEEP.get(family, 30))
    spread = np.abs(graph.corrupt_metric - graph.clean_metric).max()
    first, last = graph.scores[:, 0].sum(1), graph.scores[:, :, -1].sum(1)
    for cut in (first, last):
        np.testing.assert_allclose(cut, graph.corrupt_metric - graph.clean_metric, atol=0.06 * spread)


@pytest.mark.parametrize(
    "family", ["llama_gqa", "gpt2", "gpt_neox", "olmo2", "gemma2", "mixtral", "deepseek_v2_moe", "deepseek_v3_moe"]
)
def test_one_edge_out_equals_running_the_reader_on_its_own_stream(family):
    """The mixed run with a single edge left out is the stock model with that reader displaced by the difference."""
    model, facts = build(family), random_facts(2, length=6)
    shape, parts = circuits.attribute(model, facts, method="eap").shape, anatomy(model)
    edges = [("a0.h1", "a1.h2<q>"), ("input", "m1"), ("m0", "logits"), ("input", shape.readers[shape.n_heads])]
    for writer, reader in edges:
        row, column = shape.writers.index(writer), shape.readers.index(reader)
        mask = shape.mask.copy()
        mask[row, column] = False
        metrics, _, _ = circuit_metrics(model, [Circuit(shape, mask)], facts)
        for i in range(len(facts)):
            clean, corrupt = list(facts.clean[i]), list(facts.corrupt[i])
            change = residual_parts(model, corrupt)[row] - residual_parts(model, clean)[row]
            with displaced(parts, reader_key(reader), change):
                expected = metric(model, clean, int(facts.answer_id[i]), int(facts.wrong_id[i]))
            np.testing.assert_allclose(metrics[0, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", REFUSED)
def test_unsupported_architectures_are_refused_by_name(family):
    with pytest.raises(UnsupportedArchitecture, match="ForCausalLM"):
        anatomy(build(family, dtype=torch.float32))


@pytest.mark.parametrize("family", ["deepseek_v2_moe", "deepseek_v3_moe", "llama_gqa", "olmo2"])
def test_circuits_of_padded_batches_are_those_of_single_facts(family):
    model, facts = build(family), random_facts(4, ragged=True)
    graph = circuits.attribute(model, facts)
    chosen = [graph.prune(n) for n in (25, 60, 90)]
    together, clean, corrupt = circuit_metrics(model, chosen, facts, batch_size=4)
    single, *_ = circuit_metrics(model, chosen, facts, batch_size=1)
    np.testing.assert_allclose(together, single, rtol=1e-6, atol=1e-6)
    assert not np.allclose(together[1], clean)
    assert not np.allclose(together[1], corrupt)


def test_latents_made_in_another_way_are_refused():
    """A factor behind the latent's norm, as LongCat has it, is not in the weights."""
    model, facts = build("deepseek_v3_moe"), random_facts(1)
    up = model.model.layers[1].self_attn.kv_b_proj
    handle = up.register_forward_pre_hook(lambda _m, args: (1.5 * args[0],))
    with pytest.raises(UnsupportedArchitecture, match="not made as in multi-head latent"):
        circuits.attribute(model, facts)
    handle.remove()
    circuits.attribute(model, facts)
    model.model.layers[1].self_attn.indexer = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedArchitecture, match="attention to chosen tokens"):
        anatomy(model)


class Squashing(torch.nn.Module):
    """Neither a LayerNorm nor an RMSNorm, and no multiple of one."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x - 0.3 * x.amax(-1, keepdim=True)) * self.weight


def test_norms_of_another_kind_are_exact_through_their_own_derivative():
    model, facts = build("llama_gqa"), random_facts(2, length=6)
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = Squashing(16).double(), Squashing(16).double()
    model.model.norm = Squashing(16).double()
    assert_equals_finite_differences(model, facts, circuits.attribute(model, facts, method="eap"), samples=20)
    graph = circuits.attribute(model, facts, method="conductance", ig_steps=30)
    assert max(abs(v) for v in completeness(graph).values()) < 0.02


def test_grouped_key_value_readers_sum_what_repeated_heads_share_out():
    """GQA is MHA with repeated key/value heads: the group's reader scores what its members score together."""
    grouped = build("llama_gqa")
    repeated = build("llama_mha")
    weights = grouped.state_dict()
    for name in list(weights):
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weights[name].view(2, 8, -1).repeat_interleave(2, 0).reshape(32, -1)
    repeated.load_state_dict(weights)
    facts = random_facts(3)
    a, b = (circuits.attribute(m, facts, method="eap-ig", ig_steps=2) for m in (grouped, repeated))
    for writer in ("input", "m0", "a0.h3"):
        for letter in "kv":
            members = b[f"{writer}->a1.h2<{letter}>"] + b[f"{writer}->a1.h3<{letter}>"]
            assert a[f"{writer}->a1.kv1<{letter}>"] == pytest.approx(members, rel=1e-5)


def test_permuting_heads_permutes_scores():
    model, facts = build("gpt2"), random_facts(3)
    before = circuits.attribute(model, facts)
    order = [2, 0, 3, 1]
    block = model.transformer.h[1].attn
    with torch.no_grad():
        columns = torch.cat([torch.arange(h * 4, h * 4 + 4) for h in order])
        fused = torch.cat([columns + 16 * part for part in range(3)])
        block.c_attn.weight.copy_(block.c_attn.weight[:, fused].clone())
        block.c_attn.bias.copy_(block.c_attn.bias[fused].clone())
        block.c_proj.weight.copy_(block.c_proj.weight[columns].clone())
    after = circuits.attribute(model, facts)
    for new, old in enumerate(order):
        assert after[f"m0->a1.h{new}<v>"] == pytest.approx(before[f"m0->a1.h{old}<v>"], rel=1e-9)
        assert after[f"a1.h{new}->m1"] == pytest.approx(before[f"a1.h{old}->m1"], rel=1e-9)
