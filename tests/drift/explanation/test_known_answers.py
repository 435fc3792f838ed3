"""Edits made by hand: the component that was edited is named, and putting it back restores the behaviour."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from checkpoints.errors import BadPrompt
from circuit_drift.explanation.behaviours import Behaviour, facts_behaviour, mass_behaviour
from circuit_drift.explanation.components import Component
from circuit_drift.explanation.explain import explain_line
from circuit_drift.explanation.explanation import Effort, Explanation
from circuit_drift.explanation.line import line_between
from circuit_drift.explanation.patching import random_alike
from circuit_drift.explanation.shares import measure, patched_values
from heads.prompts.needles import NeedlePrompt, NeedleSet
from tests.circuits.circuit_families import build, random_facts

Edit = Callable[[PreTrainedModel, int], tuple[str, ...]]


def zeroed_output(model: PreTrainedModel, draw: int) -> tuple[str, ...]:
    layer, head = draw % 2, draw % 4
    model.model.layers[layer].self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] = 0
    return (f"a{layer}.h{head}.o",)


def exchanged_values(model: PreTrainedModel, draw: int) -> tuple[str, ...]:
    layer = draw % 2
    weight = model.model.layers[layer].self_attn.v_proj.weight
    weight.copy_(torch.cat([weight[8:], weight[:8]]))
    return (f"a{layer}.kv0.v", f"a{layer}.kv1.v")


def scaled_mlp(model: PreTrainedModel, draw: int) -> tuple[str, ...]:
    model.model.layers[draw % 2].mlp.down_proj.weight.mul_(0.5)
    return (f"m{draw % 2}.down",)


def low_rank_layer(model: PreTrainedModel, draw: int) -> tuple[str, ...]:
    generator = torch.Generator().manual_seed(draw)
    for projection in (model.model.layers[1].self_attn.q_proj, model.model.layers[1].self_attn.v_proj):
        out, inputs = projection.weight.shape
        a, b = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((out, 2), (2, inputs)))
        projection.weight.add_(a @ b, alpha=0.1)
    return (*(f"a1.h{head}.q" for head in range(4)), "a1.kv0.v", "a1.kv1.v")


def ten_tokens(model: PreTrainedModel, draw: int) -> tuple[str, ...]:
    generator = torch.Generator().manual_seed(draw)
    model.model.embed_tokens.weight[3:13] += 0.3 * torch.randn((10, 16), generator=generator, dtype=torch.float64)
    return ("embedding",)


def jitter(model: PreTrainedModel, draw: int) -> None:
    generator = torch.Generator().manual_seed(draw)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.003 * parameter.std() * noise)


def edit_beside_jitter(model: PreTrainedModel, draw: int) -> tuple[str, ...]:
    jitter(model, draw)
    return zeroed_output(model, draw)


def explained(edit: Edit, draw: int, *, prompts: int = 24) -> tuple[Explanation, tuple[str, ...]]:
    a, b = build("llama_gqa", seed=draw), build("llama_gqa", seed=draw)
    with torch.no_grad():
        names = edit(b, draw)
    return explain_line(line_between(a, b), own_answers(a, prompts, draw), ("A", "B"), Effort(prompts=prompts)), names


def own_answers(model: PreTrainedModel, prompts: int, seed: int) -> Behaviour:
    """What the model itself would say, as the answer: any damage to it shows."""
    facts = random_facts(prompts, seed=seed, length=8)
    with torch.no_grad():
        said = model(torch.tensor(facts.clean)).logits[:, -1].argmax(-1)
    return facts_behaviour(replace(facts, answer=tuple((int(token),) for token in said)), log_probability=True)


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize(
    "edit", [zeroed_output, exchanged_values, scaled_mlp, low_rank_layer, ten_tokens, edit_beside_jitter]
)
def test_what_was_edited_is_first_and_restores_the_behaviour(edit: Edit, draw: int):
    found, names = explained(edit, draw)
    assert found.residual <= 0.01
    by_size = sorted(found.changed, key=lambda place: -abs(float(found.shares.mean(0)[place])))
    assert found.names[by_size[0]] in names
    assert found.patching is not None
    if edit is edit_beside_jitter:
        assert len(found.changed) == len(found.names)
        assert found.restored(found.patching.single[0]) == pytest.approx(1, abs=0.15)
        return
    assert {found.names[place] for place in found.changed} == set(names)
    assert found.restored(found.patching.inserted[-1]) == pytest.approx(1, abs=0.06)
    if len(names) == 1:
        assert found.patching.inserted[0] == pytest.approx(found.after, abs=1e-9)
        assert found.patching.removed[0] == pytest.approx(found.before, abs=1e-9)
        assert np.abs(found.patching.random - found.before).max() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("draw", range(3))
def test_beside_jitter_the_edited_component_carries_what_the_edit_did_and_no_more(draw: int):
    a, without, b = (build("llama_gqa", seed=draw) for _ in range(3))
    with torch.no_grad():
        jitter(without, draw)
        (name,) = edit_beside_jitter(b, draw)
    behaviour = own_answers(a, 24, draw)
    did = float((measure(b, behaviour) - measure(without, behaviour)).mean())
    line = line_between(a, b)
    edited = [component.name for component in line.components.all].index(name)
    put_in = patched_values(line, behaviour, [edited], 1.0) - measure(a, behaviour)
    assert float(put_in.mean()) == pytest.approx(did, rel=0.05)
    line.move(1.0)
    taken = measure(line.model, behaviour) - patched_values(line, behaviour, [edited], -1.0)
    assert float(taken.mean()) == pytest.approx(did, rel=0.05)


def test_the_sentence_names_the_head_its_share_and_the_proof():
    found, _ = explained(zeroed_output, 1)
    assert found.is_certain
    assert "the weights of a1.h1.o make 100 %" in found.verdict
    assert "Put into A, a1.h1.o of B restores 100 % of it (random components of the same kinds 0 %)" in found.verdict
    assert "in B, 100 % of it goes" in found.verdict
    assert "1 of 37 components differs" in found.verdict
    frame = found.to_frame()
    assert frame["component"].tolist() == ["a1.h1.o"]
    assert frame["percent"].tolist() == pytest.approx([100], abs=1)
    assert frame["restored"].tolist() == pytest.approx([100])
    assert frame["taken_back"].tolist() == pytest.approx([100])
    bars = found.plot().data[0]
    assert list(bars.x)[:2] == ["A", "a1.h1.o"]
    assert bars.y[1] == pytest.approx(found.change.value, rel=0.02)
    assert found.plot_patching().data[1].y == pytest.approx([100])
    assert found.to_json()["claimed"] is True


def test_equal_weights_and_a_behaviour_that_stays_claim_nothing():
    def nothing(_model: PreTrainedModel, _draw: int) -> tuple[str, ...]:
        return ()

    found, _ = explained(nothing, 0)
    assert found.verdict == "A and B have equal weights: there is nothing to explain."
    assert found.to_frame().empty
    assert found.patching is None
    assert found.to_json()["claimed"] is False

    def unread(model: PreTrainedModel, _draw: int) -> tuple[str, ...]:
        model.model.embed_tokens.weight[0] += 1
        return ("embedding",)

    still, _ = explained(unread, 0)
    assert still.change.value == 0
    assert not still.is_certain
    assert "no component is claimed" in still.verdict


def test_parts_of_use_only_together_are_called_co_adapted():
    def keys_and_queries(model: PreTrainedModel, _draw: int) -> tuple[str, ...]:
        own = model.model.layers[1].self_attn
        turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
        for head in range(4):
            own.q_proj.weight[8 * head : 8 * head + 8] = turn @ own.q_proj.weight[8 * head : 8 * head + 8]
        for head in range(2):
            own.k_proj.weight[8 * head : 8 * head + 8] = turn @ own.k_proj.weight[8 * head : 8 * head + 8] * 3
        return ()

    found, _ = explained(keys_and_queries, 0)
    assert {found.kinds[place] for place in found.changed} == {"q", "k"}
    single = [found.restored(values) for values in found.patching.single]
    assert sum(single) != pytest.approx(1, abs=0.2)


def test_a_heads_attention_is_explained_by_its_own_queries_and_keys():
    prompt = NeedlePrompt(
        ids=(1, 5, 6, 7, 8, 9, 5, 6, 7, 8),
        answer_start=8,
        answer_spans=((3, 5),),
        needle_spans=((1, 5),),
        distractor_spans=(),
        question_span=(6, 8),
        depth=0.0,
        requested_depth=0.0,
        needle=0,
    )
    needles = NeedleSet((prompt,), (), 8)
    a, b = build("llama_gqa"), build("llama_gqa")
    with torch.no_grad():
        b.model.layers[1].self_attn.q_proj.weight[8:16] *= 1.5
        b.model.layers[1].self_attn.q_proj.weight[16:24] *= 1.5
        b.model.layers[1].self_attn.o_proj.weight *= 2
    found = explain_line(line_between(a, b), mass_behaviour(needles, 1, 1), ("A", "B"), Effort())
    means = dict(zip(found.names, found.shares.mean(0), strict=True))
    assert means["a1.h1.q"] == pytest.approx(found.change.value, rel=0.01)
    assert means["a1.h2.q"] == 0
    assert means["a1.h1.o"] == 0
    assert abs(found.change.value) > 1e-4
    assert found.behaviour == "needle mass of a1.h1"


def test_random_components_are_of_the_same_kinds_and_layers_where_there_are_others():
    kinds = [("q", 0), ("q", 0), ("q", 1), ("m.down", 0), ("m.down", 1), ("embedding", None)]
    components = [Component(f"{kind}{i}", kind, layer) for i, (kind, layer) in enumerate(kinds)]
    drawn = random_alike(components, [0, 3, 5], np.random.default_rng(0))
    assert drawn == [1, 4]
    assert random_alike(components, [2], np.random.default_rng(0))[0] in (0, 1)


def test_an_explanation_is_kept_and_read_again(tmp_path: Path):
    found, _ = explained(zeroed_output, 0, prompts=6)
    again = Explanation.load(found.save(tmp_path / "why"))
    assert again.verdict == found.verdict
    assert again.to_frame().equals(found.to_frame())


def test_components_are_called_as_everywhere():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    a, b = LlamaForCausalLM(config), LlamaForCausalLM(config)
    names = [component.name for component in line_between(a, b).components.all]
    assert names == [
        "embedding", "a0.h0.q", "a0.h1.q", "a0.kv0.k", "a0.kv0.v", "a0.h0.o", "a0.h1.o", "m0.gate", "m0.up", "m0.down",
        "a0.norm", "m0.norm", "final norm", "unembedding",
    ]  # fmt: skip
    mixture = [component.name for component in line_between(build("mixtral"), build("mixtral")).components.all]
    assert {"m0.router", "m0.e3.gate_up", "m1.e0.down"} <= set(mixture)
    sinks = [component.name for component in line_between(build("gpt_oss"), build("gpt_oss")).components.all]
    assert "a1.h3.sinks" in sinks


def hard(model: PreTrainedModel, prompts: int) -> Behaviour:
    """Whether the model's own answer is the top one: 0 or 1, without a gradient."""
    facts = random_facts(prompts, seed=0, length=8)
    with torch.no_grad():
        said = model(torch.tensor(facts.clean)).logits[:, -1].argmax(-1)
    soft = facts_behaviour(facts)
    return replace(soft, name="accuracy", unit="of facts",
                   value=lambda i, logits, _a: (logits[0].argmax() == said[i]).double())  # fmt: skip


def test_a_behaviour_without_a_gradient_is_explained_by_patching_alone():
    a, b = build("llama_gqa"), build("llama_gqa")
    with torch.no_grad():
        b.model.layers[1].mlp.down_proj.weight.mul_(-30)
        b.model.layers[0].self_attn.o_proj.weight[:, :8] *= 1 + 1e-9
    line, behaviour = line_between(a, b), hard(a, 24)
    found = explain_line(line, behaviour, ("A", "B"), Effort(prompts=24))
    assert found.before.mean() == 1
    assert found.after.mean() < 0.5
    assert not found.is_attributed
    edited, idle = (found.names.index(name) for name in ("m1.down", "a0.h0.o"))
    assert found.order[0] == edited
    np.testing.assert_array_equal(found.shares[:, edited], found.after - found.before)
    np.testing.assert_array_equal(found.shares[:, idle], 0)
    assert "of m1.down make 100 % [100, 100]" in found.verdict
    assert "m1.down of B restores 100 % of it" in found.verdict
    assert "accuracy has no gradient, so nothing is attributed: shares are exact patches" in found.verdict
    assert "omplete to" not in found.verdict
    assert found.to_json()["attributed"] is False
    with pytest.raises(BadPrompt, match="without a gradient, so shares are not defined; patching alone is"):
        explain_line(line, behaviour, ("A", "B"), Effort(patching=False))


def test_a_behaviour_of_ones_own_is_explained():
    facts = random_facts(4)
    own = Behaviour("first logit", "logits", facts.clean, ((0,),) * 4, lambda _i, logits, _a: logits[0, 0])
    a, b = build("llama_gqa"), build("llama_gqa")
    with torch.no_grad():
        b.lm_head.weight[0] += 1
        b.lm_head.weight[1] += 1
    found = explain_line(line_between(a, b), own, ("A", "B"), Effort(patching=False))
    assert found.shares[:, found.names.index("unembedding")] == pytest.approx(found.after - found.before)
    assert found.patching is None


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "hunyuan_moe"])
def test_switched_experts_are_named_and_no_share_is_claimed_as_if_they_were_not(name: str):
    a, b = build(name), build(name)
    facts = random_facts(12, length=6)
    with torch.no_grad():
        for key, parameter in b.named_parameters():
            if "gate." in key:
                parameter.mul_(-1)  # the experts that were taken last are now taken first
        own = a(torch.tensor(facts.clean)).logits[:, 5]

    def far(index: int, logits: torch.Tensor, _attention: object) -> torch.Tensor:
        return (logits[0] - own[index]).square().sum()

    asked = Behaviour("distance from A", "logits²", facts.clean, ((5,),) * 12, far)
    found = explain_line(line_between(a, b), asked, ("A", "B"), Effort(steps=8))
    assert {found.names[place] for place in found.changed} == {"m0.router", "m1.router"}
    gap = f"{100 * found.residual:.2g} %"
    assert found.residual > 0.05
    assert f"give or take the {gap} of it that shares miss; 2 of" in found.verdict
    assert f"Not complete: shares miss the change by {gap} after 8 gradients" in found.verdict
    assert "; experts switch along the way, where the behaviour jumps, and a jump has no gradient." in found.verdict
    assert found.patching is not None
    np.testing.assert_allclose(found.patching.inserted[-1], found.after, atol=1e-12)  # putting back is exact
