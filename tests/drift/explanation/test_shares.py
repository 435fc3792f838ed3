"""Shares of components along the line between two checkpoints, held against finite differences and known answers."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from checkpoints.errors import BadPrompt, CheckpointMismatch, DriftError, UnsupportedArchitecture
from checkpoints.loading.lora import LowRank
from circuit_drift.explanation.behaviours import Behaviour, facts_behaviour, text_behaviour
from circuit_drift.explanation.line import Line, line_along, line_between
from circuit_drift.explanation.shares import integrate, lobatto, measure, one_by_one, patched_values
from circuit_drift.explanation.taps import _moving
from tests.circuits.circuit_families import FAMILIES, build, random_facts
from tests.packed_weights import pack

ROUTED = {"mixtral", "qwen3_moe", "qwen2_moe", "hunyuan_moe", "gpt_oss", "deepseek_v2_moe", "deepseek_v3_moe"}


def moved(name: str, scale: float, **overrides) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A tiny model and the same with every weight moved a little."""
    a, b = build(name, **overrides), build(name, **overrides)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * scale)
    return a, b


def asked() -> Behaviour:
    return facts_behaviour(random_facts(3, ragged=True))


def where(line: Line, name: str) -> int:
    return [component.name for component in line.components.all].index(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_shares_of_every_family_add_up_and_all_components_together_are_the_other_model(name: str):
    a, b = moved(name, 0.0003 if name in ROUTED else 0.01)
    wanted = measure(b, asked())
    line = line_between(a, moved(name, 0.0003 if name in ROUTED else 0.01)[1])
    assert line.changed == tuple(range(len(line.components.all)))
    assert patched_values(line, asked(), line.changed, 1.0) == pytest.approx(wanted, abs=2e-6)
    path = integrate(line, asked(), steps=5)
    assert path.along[-1] == pytest.approx(wanted, abs=2e-6)
    assert path.residual < (1e-3 if name in ROUTED else 1e-5)
    assert np.abs(path.shares.sum((1, 2)) - path.change).max() < 1e-2 * np.abs(path.change).max()


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "phi3", "deepseek_v3", "gpt_oss"])
def test_each_share_of_a_short_line_is_the_finite_difference_of_its_component(name: str):
    line = line_between(*moved(name, 1e-5))
    places = line.changed
    found = integrate(line, asked(), steps=2).shares.sum(1)
    line.move(0.5)
    for place in places:
        up, down = (patched_values(line, asked(), [place], by) for by in (20.0, -20.0))
        slope = (up - down) / 40
        assert found[:, place] == pytest.approx(slope, rel=2e-3, abs=2e-7), line.components.all[place].name


def test_shares_agree_with_components_put_back_alone_and_the_better_the_shorter_the_line():
    gaps = []
    for scale in (0.002, 0.02):
        line = line_between(*moved("llama_gqa", scale))
        path = integrate(line, asked())
        shares, after = path.shares.sum(1), path.along[-1]
        taken = np.stack([after - patched_values(line, asked(), [place], -1.0) for place in line.changed], 1)
        put_in = one_by_one(line, asked()).shares.sum(1)
        assert np.corrcoef(put_in.ravel(), shares.ravel())[0, 1] > 0.97
        both = (put_in + taken) / 2
        assert np.corrcoef(both.ravel(), shares.ravel())[0, 1] > 0.999
        gaps.append(np.array([np.abs(each - shares).max() for each in (put_in, both)]) / np.abs(shares).max())
    assert gaps[0][0] < gaps[1][0] / 5  # of first order in the length of the line
    assert gaps[0][1] < gaps[1][1] / 50  # of second order


def test_the_residual_falls_as_the_order_of_the_rule_says():
    residuals = []
    for steps in (2, 3, 4):
        line = line_between(build("gpt_neox"), moved("gpt_neox", 0.02)[1])
        residuals.append(integrate(line, asked(), steps=steps).residual)
    assert residuals[0] > 10 * residuals[1] > 100 * residuals[2]


def test_the_rule_holds_both_ends_and_is_exact_to_its_degree():
    known = {2: ([0, 1], [1 / 2, 1 / 2]), 3: ([0, 1 / 2, 1], [1 / 6, 2 / 3, 1 / 6])}
    known[5] = (
        [0, (1 - (3 / 7) ** 0.5) / 2, 1 / 2, (1 + (3 / 7) ** 0.5) / 2, 1],
        [1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20],
    )
    for nodes, (places, weights) in known.items():
        assert lobatto(nodes)[0] == pytest.approx(places, abs=1e-15)
        assert lobatto(nodes)[1] == pytest.approx(weights, abs=1e-15)
    for nodes in (4, 6, 11, 30):
        places, weights = lobatto(nodes)
        assert [places[0], places[-1]] == [0, 1]
        for degree in range(2 * nodes - 2):
            assert weights @ places**degree == pytest.approx(1 / (degree + 1), abs=1e-13)
        assert abs(weights @ places ** (2 * nodes - 2) - 1 / (2 * nodes - 1)) > 1e-17


def test_pieces_are_halved_until_the_shares_are_complete():
    line = line_between(build("llama_gqa"), build("llama_gqa", seed=3))
    path = integrate(line, asked())
    assert path.residual < 0.01
    assert path.steps > 8
    assert path.at[0] == 0
    assert path.at[-1] == 1
    assert (path.steps - 5) % 6 == 0  # a half takes over the gradients at its ends
    assert len(path.at) == path.steps  # every gradient is taken at a place of its own, and the ends are among them
    line.move(float(path.at[1]))
    assert path.along[1] == pytest.approx(measure(line.model, asked()), abs=1e-6)


def test_from_b_to_a_every_share_is_the_negative():
    there = integrate(line_between(*moved("llama_gqa", 0.02)), asked(), steps=5)
    back = integrate(line_between(*reversed(moved("llama_gqa", 0.02))), asked(), steps=5)
    assert there.shares == pytest.approx(-back.shares, abs=1e-9)


def test_prompts_together_or_alone_and_parts_of_prompts_give_the_same_shares():
    behaviour = asked()
    together = integrate(line_between(*moved("llama_gqa", 0.01)), behaviour, steps=2).shares
    alone = [
        integrate(line_between(*moved("llama_gqa", 0.01)), behaviour.subset([i]), steps=2).shares for i in range(3)
    ]
    assert together == pytest.approx(np.concatenate(alone), abs=1e-12)
    spans = ({"start": (0, 2)},) * 3
    split = Behaviour(behaviour.name, behaviour.unit, behaviour.prompts, behaviour.rows, behaviour.value, spans=spans)
    line = line_between(*moved("llama_gqa", 0.01))
    parted = integrate(line, split, steps=2).shares
    assert split.parts == ("start", "rest", "not told apart")
    assert parted.sum(1) == pytest.approx(together.sum(1), abs=1e-12)
    assert np.abs(parted[:, 0]).max() > 0
    assert not parted[:, 2].any()
    assert not parted[:, 0, where(line, "unembedding")].any()


def test_positions_without_a_gradient_have_no_share_and_cost_nothing():
    gradient = torch.zeros(2, 3, 4)
    gradient[1, 2, 0] = -1.0
    assert _moving(gradient).tolist() == [5]
    gradient[0, 0, 3] = 1.0
    assert _moving(gradient) is None


def test_fewer_prompts_are_of_every_depth():
    ids = tuple((3, 4 + i % 5) for i in range(240))
    behaviour = Behaviour("m", "", ids, ((1,),) * 240, lambda _i, logits, _a: logits[0, 0])
    few = behaviour.thinned(12)
    assert len(few) == 12
    assert len({prompt[1] for prompt in few.prompts}) >= 4
    assert behaviour.thinned(12).prompts == few.prompts
    assert behaviour.thinned(240) is behaviour


def test_an_embedding_of_one_token_has_its_share_where_that_token_stands():
    facts = random_facts(3)
    token = facts.clean[1][2]
    a, b = build("llama_gqa"), build("llama_gqa")
    with torch.no_grad():
        b.model.embed_tokens.weight[token] += 0.1
    line = line_between(a, b)
    behaviour = facts_behaviour(facts)
    spans = tuple({"token": (2, 3)} for _ in range(3))
    behaviour = Behaviour("m", "", behaviour.prompts, behaviour.rows, behaviour.value, spans=spans)
    shares = integrate(line, behaviour, steps=3).shares
    assert [line.components.all[place].name for place in line.changed] == ["embedding"]
    assert abs(shares[1, 0].sum()) > 1e-4
    assert [bool(shares[i].any()) for i in range(3)] == [token in prompt for prompt in facts.clean]


def test_a_tied_head_has_two_shares_of_one_change():
    a, b = moved("llama_gqa", 0.01, tie_word_embeddings=True)
    line = line_between(a, b)
    path = integrate(line, asked(), steps=5)
    mean = np.abs(path.shares.sum((0, 1)))
    assert mean[where(line, "embedding")] > 0
    assert mean[where(line, "unembedding")] > 0
    assert path.residual < 1e-5


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "phi3"])
def test_factors_give_the_shares_and_patches_of_the_matrices_that_they_make(name: str):
    whole, thin = build(name), build(name)
    generator = torch.Generator().manual_seed(2)
    change = {}
    with torch.no_grad():
        for key, parameter in whole.named_parameters():
            if parameter.ndim == 2 and not key.startswith(("lm_head", "model.embed", "transformer.w")):
                left, right = (
                    torch.randn(size, generator=generator, dtype=torch.float64)
                    for size in ((len(parameter), 2), (2, parameter.shape[1]))
                )
                change[key] = LowRank(0.02 * left, right)
                parameter.add_(change[key].dense())
    dense, factors = line_between(build(name), whole), line_along(thin, change)
    assert dense.changed == factors.changed
    assert len(dense.changed) > 20
    some = dense.changed[::3]
    for by in (1.0, -0.5):
        wanted = patched_values(dense, asked(), some, by)
        assert patched_values(factors, asked(), some, by) == pytest.approx(wanted, abs=1e-12)
    there, here = (integrate(line, asked(), steps=3) for line in (dense, factors))
    assert np.abs(there.shares).max() > 1e-3
    assert here.shares == pytest.approx(there.shares, abs=1e-12)
    assert here.along == pytest.approx(there.along, abs=1e-12)


def test_switched_experts_leave_a_gap_that_is_told():
    path = integrate(line_between(*moved("mixtral", 0.05)), asked(), most=24)
    assert path.residual > 0.01
    assert path.steps <= 24


def test_equal_weights_have_no_share():
    line = line_between(build("llama_gqa"), build("llama_gqa"))
    path = integrate(line, text_behaviour([[3, 4, 5, 6]]))
    assert line.changed == ()
    assert not path.shares.any()
    assert path.residual == 0


def test_what_lies_on_no_line_is_refused_with_its_reason():
    with pytest.raises(CheckpointMismatch, match=r"lm_head.*embedding"):
        line_between(build("llama_gqa"), build("llama_gqa", tie_word_embeddings=True))
    with pytest.raises(CheckpointMismatch, match=r"in A and .* in B"):
        line_between(build("llama_gqa"), build("llama_gqa", intermediate_size=32))
    far = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    for name, form in {
        "rope_parameters": far,
        "rms_norm_eps": {"rms_norm_eps": 0.1},
        "hidden_act": {"hidden_act": "relu"},
    }.items():
        with pytest.raises(CheckpointMismatch, match=f"{name} is .* even with equal weights"):
            line_between(build("llama_gqa"), build("llama_gqa", **form))
    alike = {
        "max_position_embeddings": 4096,
        "use_cache": False,
        "attention_dropout": 0.5,
        "rms_norm_eps": 1e-6 * (1 + 1e-7),
    }
    assert line_between(build("llama_gqa", rms_norm_eps=1e-6), build("llama_gqa", **alike)).changed == ()
    with pytest.raises(DriftError, match="float32"):
        line_between(build("llama_gqa", dtype=torch.bfloat16), build("llama_gqa", dtype=torch.bfloat16))
    a, b = build("deepseek_v3_moe"), build("deepseek_v3_moe")
    bias = next(buffer for name, buffer in b.named_buffers() if name.endswith("correction_bias"))
    bias += 1
    with pytest.raises(UnsupportedArchitecture, match="correction_bias"):
        line_between(a, b)
    quantised = LlamaForCausalLM(LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9))
    quantised.lm_head.weight = torch.nn.Parameter(torch.ones(9, 8, dtype=torch.int8), requires_grad=False)
    for packed in (quantised, *(pack(build("llama_gqa"), bits) for bits in (4, 8))):
        with pytest.raises(UnsupportedArchitecture, match="quantised"):
            line_between(packed, build("llama_gqa"))
        with pytest.raises(UnsupportedArchitecture, match="quantised"):
            line_along(packed, {})
    with pytest.raises(BadPrompt, match="steps"):
        integrate(line_between(*moved("llama_gqa", 0.01)), asked(), steps=1)


def test_a_value_without_a_gradient_is_told_to_be_patched():
    behaviour = asked()
    hard = Behaviour("rank", "", behaviour.prompts, behaviour.rows, lambda _i, logits, _a: logits.argmax().float())
    with pytest.raises(BadPrompt, match="patching"):
        integrate(line_between(build("llama_gqa"), build("llama_gqa", seed=1)), hard)
