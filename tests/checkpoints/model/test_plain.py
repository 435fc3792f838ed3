"""A TransformerLens bridge is taken wherever a model is, and measured as the model under it."""

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM

import circuits
import heads
from checkpoints import DriftError
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.bridge import build_bridge
from checkpoints.model.plain import plain_model
from circuits.facts.facts import FactSet
from heads.prompts.needles import NeedlePrompt, NeedleSet
from tests.checkpoints.architectures import tiny_configs

BRIDGED = [name for name in tiny_configs() if name != "hunyuan_moe"]  # TransformerLens has no adapter for it
FACTS = FactSet.from_ids(clean=[[5, 6, 7]], corrupt=[[5, 8, 7]], answer=[9], wrong=[10])


def build(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_configs()[name]).eval()


def stock(model):
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def needles():
    prompt = NeedlePrompt(
        ids=(*range(2, 22), 6, 7),
        answer_start=20,
        answer_spans=((4, 6),),
        needle_spans=((3, 8),),
        distractor_spans=(),
        question_span=(16, 20),
        depth=0.2,
        requested_depth=0.2,
        needle=0,
    )
    return NeedleSet((prompt,), (), 20)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BRIDGED)
def test_the_model_under_a_stock_bridge_is_the_model_it_was_made_of(name: str):
    model, twin = build(name), build(name)
    plain = plain_model(stock(twin))
    assert type(plain) is type(model)
    ids = torch.arange(8)[None]
    torch.testing.assert_close(plain(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    expected = dict(model.named_parameters())
    assert dict(plain.named_parameters()).keys() == expected.keys()
    assert {id(p) for p in plain.parameters()} <= {id(p) for p in twin.parameters()}
    assert not any("transformer_lens" in type(module).__module__ for module in plain.modules())


@pytest.mark.filterwarnings("ignore")
def test_scores_through_a_bridge_are_the_models():
    model, twin = build("llama"), build("llama")
    bridge = stock(twin)
    through, direct = (circuits.attribute(m, FACTS, method="eap") for m in (bridge, model))
    np.testing.assert_allclose(through.edge_scores, direct.edge_scores, atol=1e-6)
    by_bridge, by_model = (heads.score(m, needles()) for m in (bridge, model))
    np.testing.assert_allclose(by_bridge.answer_nll, by_model.answer_nll, atol=1e-5)
    whole = direct.prune(6)
    assert circuits.faithfulness(bridge, whole, FACTS).value == pytest.approx(
        circuits.faithfulness(model, whole, FACTS).value, abs=1e-4
    )


def test_our_own_bridge_stands_over_the_very_model():
    model = build("llama")
    bridge = build_bridge(model)
    assert plain_model(bridge) is model
    assert plain_model(model) is model
    assert sum(p.numel() for p in bridge.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore")
def test_weights_edited_through_either_are_the_others():
    bridge = stock(build("llama"))
    plain = plain_model(bridge)
    assert plain_model(bridge) is plain
    with torch.no_grad():
        next(bridge.parameters()).mul_(2)
    ids = torch.arange(8)[None]
    torch.testing.assert_close(plain(ids).logits, bridge(ids), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_bridge_that_computes_something_else_than_its_model_is_refused():
    bridge = stock(build("llama"))
    bridge.add_hook("blocks.0.hook_resid_post", lambda value, hook: value * 2)
    with pytest.raises(UnsupportedArchitecture, match=r"logits differ .* reset_hooks\(\)"):
        heads.score(bridge, needles())
    bridge.reset_hooks()
    assert np.isfinite(heads.score(bridge, needles()).answer_nll).all()


def test_a_hooked_transformer_is_refused_with_the_way_out():
    kind = type("HookedTransformer", (torch.nn.Module,), {"__module__": "transformer_lens.HookedTransformer"})
    with pytest.raises(DriftError, match=r"HookedTransformer holds converted copies .*boot_transformers\(NAME\)"):
        circuits.attribute(kind(), FACTS)


def test_anything_else_is_refused():
    with pytest.raises(DriftError, match="Linear is no model of transformers"):
        heads.score(torch.nn.Linear(1, 1), needles())
