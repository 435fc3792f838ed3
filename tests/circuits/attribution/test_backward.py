"""Backward passes by other rules: the published outputs, each rule against its definition, what is restored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from circuit_families import FAMILIES, build, random_facts
from published import published_facts, published_model, published_scores

import circuits
from checkpoints.errors import BadPrompt, CheckpointMismatch, UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from circuits.attribution.backward import (
    GIM,
    PLAIN,
    RELP,
    Backward,
    _WrittenOut,
    modified,
    with_gradient_of,
)
from circuits.facts.batch import make_batch
from circuits.trace.trace import forward, frozen

MIXTURES = {name for name in FAMILIES if "moe" in name or name in ("mixtral", "gpt_oss")}
LINEAR = Backward(freeze_norms=True, freeze_patterns=True, linear_activations=True)


@pytest.mark.parametrize(
    ("published", "rules"),
    [("GIM", replace(GIM, ungated=0.5)), ("RelP", RELP)],  # GIM's code halves plain MLPs too, which it means for gated
)
def test_published_scores(published, rules):
    graph = circuits.attribute(published_model(), published_facts("plain"), method="eap", backward=rules, batch_size=4)
    np.testing.assert_allclose(graph.mean, published_scores()[f"plain/edge/EAP+{published}/logit_diff"], atol=1e-9)


def test_presets_have_names_and_single_rules_are_told():
    model, few = published_model(), published_facts("plain")
    graph = circuits.attribute(model, few, method="eap", backward=RELP)
    assert graph.meta["backward"] == "relp"
    graph = circuits.attribute(model, few, method="eap", backward=Backward(value=0.5))
    assert graph.meta["backward"]["value"] == 0.5


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - MIXTURES))
def test_the_forward_stays_and_everything_is_put_back(family):
    model = build(family)
    batch = make_batch(random_facts(2, ragged=True), [0, 1], torch.device("cpu"))
    implementation = model.config._attn_implementation
    with frozen(model):
        with torch.no_grad():
            before = forward(model, batch, batch.clean)
        with pytest.raises(ZeroDivisionError), modified(anatomy(model), GIM, batch):
            with torch.enable_grad():
                torch.testing.assert_close(forward(model, batch, batch.clean), before, rtol=1e-4, atol=1e-4)
            raise ZeroDivisionError
        assert model.config._attn_implementation == implementation
        assert not any(module._forward_hooks for module in model.modules())
        with torch.no_grad():
            torch.testing.assert_close(forward(model, batch, batch.clean), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - MIXTURES - {"gemma2"}))
def test_relevance_is_conserved_where_every_product_is_frozen(family):
    """Norm scales, patterns and slopes held and constants left out, the model is linear: it loses all that is removed.

    A gated product is of second degree, so half of its gradient completes it. (Gemma 2 caps its logits.)
    """
    model, facts = build(family), random_facts(2, ragged=True)
    zero_constants(model)
    graph = circuits.attribute(model, facts, method="eap", ablation="zero", backward=replace(LINEAR, gated=0.5))
    for cut in (graph.scores[:, 0].sum(1), graph.scores[:, :, -1].sum(1)):
        np.testing.assert_allclose(cut, -graph.clean_metric, rtol=1e-4, atol=1e-4)
    assert np.abs(graph.clean_metric).min() > 1e-2


def zero_constants(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "wpe" in name:
                parameter.zero_()


def test_the_rules_of_attention_are_those_written_down():
    """One head by hand: softmax backward s * (g - <g, s>), s at half the logits; factors on queries, keys, values."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (torch.randn(1, 1, 4, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    causal = torch.full((4, 4), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    reached: set[torch.nn.Module] = set()
    module = torch.nn.Identity()
    output, _ = _WrittenOut(GIM, reached).attend(module, *inputs, causal, scaling=0.5)
    assert reached == {module}
    found = torch.autograd.grad(output.transpose(1, 2), inputs, upstream)
    logits = q @ k.transpose(2, 3) * 0.5 + causal
    pattern, soft = logits.softmax(-1), (logits / 2).softmax(-1)
    inner = upstream @ v.transpose(2, 3)
    inner = soft * (inner - (inner * soft).sum(-1, keepdim=True))
    torch.testing.assert_close(output.transpose(1, 2), pattern @ v)
    torch.testing.assert_close(found[0], 0.25 * 0.5 * inner @ k)
    torch.testing.assert_close(found[1], 0.25 * 0.5 * inner.transpose(2, 3) @ q)
    torch.testing.assert_close(found[2], 0.5 * pattern.transpose(2, 3) @ upstream)


def test_frozen_patterns_leave_queries_and_keys_without_a_score():
    model, few = build("llama_gqa"), random_facts(2)
    graph = circuits.attribute(model, few, method="eap", backward=Backward(freeze_patterns=True))
    columns = [i for i, name in enumerate(graph.readers) if name.endswith(("<q>", "<k>"))]
    assert not graph.scores[:, :, columns].any()
    assert graph.scores.any()


def test_factors_multiply_what_flows_through_them_alone():
    """Into the last layer's values nothing else flows; its MLP's factor reaches that MLP's column and no later one."""
    model, few = build("llama_gqa"), random_facts(2)
    plain, values, gated = (
        circuits.attribute(model, few, method="eap", backward=rules)
        for rules in (PLAIN, Backward(value=0.5), Backward(gated=0.5))
    )
    columns = [i for i, name in enumerate(plain.readers) if name.startswith("a1.") and name.endswith("<v>")]
    np.testing.assert_allclose(values.scores[..., columns], plain.scores[..., columns] / 2, atol=1e-9)
    last = plain.readers.index("m1")
    np.testing.assert_allclose(gated.scores[..., last], plain.scores[..., last] / 2, atol=1e-9)
    np.testing.assert_allclose(gated.scores[..., -1], plain.scores[..., -1], atol=1e-12)


def test_sinks_and_softcaps_enter_the_written_out_attention():
    for family in ("gpt_oss", "gemma2"):
        graphs = [
            circuits.attribute(build(family), random_facts(2), method="eap", backward=rules)
            for rules in (PLAIN, Backward(softmax_temperature=1.0 + 1e-9))
        ]
        scale = np.abs(graphs[0].scores).max()
        np.testing.assert_allclose(graphs[0].scores, graphs[1].scores, atol=1e-5 * scale)


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_mixtures_are_refused_by_layer(family):
    with pytest.raises(UnsupportedArchitecture, match=r"MLP of layer [01].*use backward='plain'"):
        circuits.attribute(build(family), random_facts(2), method="eap", backward="relp")


def test_unknown_norms_and_attention_that_cannot_be_reached_are_refused(monkeypatch):
    model = build("llama_gqa")
    model.model.layers[1].self_attn.add_module("oddnorm", OddNorm())
    with pytest.raises(UnsupportedArchitecture, match="layer 1 has a OddNorm"):
        circuits.attribute(model, random_facts(2), method="eap", backward=Backward(freeze_norms=True))
    model = build("llama_gqa")
    monkeypatch.setattr(model, "_can_set_attn_implementation", lambda: False)
    with pytest.raises(UnsupportedArchitecture, match="attention interface"):
        circuits.attribute(model, random_facts(2), method="eap", backward="gim")
    assert model.config._attn_implementation == "sdpa"


class OddNorm(torch.nn.Module):
    weight = torch.ones(8)

    def forward(self, x):
        return x.abs()


@pytest.mark.parametrize(
    "bad",
    [
        {"backward": "lrp"},
        {"backward": Backward(softmax_temperature=0.0)},
        {"backward": "gim", "method": "flow"},
        {"ablation": "zero", "method": "eap-ig"},
        {"ablation": "optimal", "method": "eap"},
    ],
)
def test_what_has_no_meaning_is_refused(bad):
    with pytest.raises(BadPrompt):
        circuits.attribute(build("llama_gqa"), random_facts(2), **bad)


def test_a_value_can_borrow_a_gradient():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = with_gradient_of(3 * x, x.detach() ** 2)
    torch.testing.assert_close(y.detach(), x.detach() ** 2, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.full((2,), 3.0))


@pytest.mark.parametrize("rules", ["gim", "relp"])
def test_batching_padding_and_chunks_change_nothing(rules):
    model, facts = build("llama_gqa"), random_facts(5, ragged=True)
    whole = circuits.attribute(model, facts, method="eap", backward=rules, batch_size=5)
    single = circuits.attribute(model, facts, method="eap", backward=rules, batch_size=1, chunk_mb=1e-6)
    np.testing.assert_allclose(single.scores, whole.scores, atol=1e-6 * np.abs(whole.scores).max())
    half = circuits.attribute(build("llama_gqa", dtype=torch.bfloat16), facts, method="eap", backward=rules)
    assert np.corrcoef(half.mean.ravel(), whole.mean.ravel())[0, 1] > 0.95


def test_graphs_of_different_backwards_or_ablations_are_not_compared():
    model, facts = build("llama_gqa"), random_facts(4)
    plain, gim, zero = (
        circuits.attribute(model, facts, method="eap", **how) for how in ({}, {"backward": "gim"}, {"ablation": "zero"})
    )
    with pytest.raises(CheckpointMismatch, match="different backward: 'plain' and 'gim'"):
        circuits.diff(plain, gim)
    with pytest.raises(CheckpointMismatch, match="different ablation: 'corrupt' and 'zero'"):
        circuits.diff(plain, zero)
    older = replace(plain, meta={name: value for name, value in plain.meta.items() if name != "backward"})
    assert not circuits.diff(plain, older).tests.delta.any()


def test_readers_of_single_query_heads_sum_to_their_groups_under_other_rules():
    model, facts = build("llama_gqa"), random_facts(2)
    groups, heads = (
        circuits.attribute(model, facts, method="eap", backward="gim", kv=kv) for kv in ("groups", "query heads")
    )
    for letter in "kv":
        members = heads[f"m0->a1.h2<{letter}>"] + heads[f"m0->a1.h3<{letter}>"]
        assert groups[f"m0->a1.kv1<{letter}>"] == pytest.approx(members, rel=1e-5)
    assert groups["m0->a1.h2<q>"] == pytest.approx(heads["m0->a1.h2<q>"], rel=1e-5)
