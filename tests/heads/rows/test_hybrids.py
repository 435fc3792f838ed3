"""Models whose layers differ: rows where there is attention, none where there is none, refused where unsure."""

import numpy as np
import pytest
import torch
import transformers
from families import MOE, SIZES
from toys import random_prompts

import heads
from checkpoints.errors import UnsupportedArchitecture

MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
HYBRIDS = {
    "Qwen3Next": (MOE | LINEAR | {"layer_types": ["linear_attention", "full_attention"]}, [0]),
    "Jamba": ({"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}, [0]),
    "Bamba": (MAMBA | {"attn_layer_indices": [1]}, [0]),
    "FalconH1": (MAMBA | {"mamba_d_ssm": 64}, []),
    "GraniteMoeHybrid": (
        MAMBA | {"layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1},
        [0],
    ),
    "Lfm2": ({"layer_types": ["conv", "full_attention"]}, [0]),
}
REFUSED = {
    "Mamba2": ({"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1}, "no layer whose attention rows"),
    "Zamba2": (
        {
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "n_mamba_heads": 4,
            "mamba_headdim": 16,
            "attention_head_dim": 16,
        },
        "has no layer index",
    ),
    "Doge": ({}, "works on its attention mask as on a tensor"),
}


def build(name, extra):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SIZES | extra))
    model_class = getattr(transformers, f"{name}ForCausalLM")
    return model_class._from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", HYBRIDS)
def test_rows_where_there_is_attention_and_nothing_where_there_is_none(name):
    extra, without = HYBRIDS[name]
    model, prompts = build(name, extra), random_prompts(count=1, depths=(0.5,))
    found = heads.score(model, prompts)
    assert found.meta["layers_without_rows"] == without
    assert np.isnan(found.copy[:, without]).all()
    prompt = prompts.prompts[0]
    with torch.no_grad():
        plain = model(torch.tensor([prompt.ids]), output_attentions=True)
    maps = [m for m in plain.attentions if m is not None]
    rows = [prompt.answer_start - 1 + t for t in range(len(prompt.answer))]
    nll = torch.nn.functional.cross_entropy(plain.logits[0, rows], torch.tensor(prompt.answer), reduction="none")
    np.testing.assert_allclose(found.nll[0], nll, atol=2e-5)
    having = [layer for layer in range(2) if layer not in without]
    for layer, attention in zip(having, maps, strict=True):
        mass = attention[0][:, rows][:, :, list(prompt.gold)].sum(dim=-1).mean(dim=-1)
        np.testing.assert_allclose(found.needle_mass[0, layer], mass, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_right_is_refused(name):
    extra, reason = REFUSED[name]
    with pytest.raises(UnsupportedArchitecture, match=reason):
        heads.score(build(name, extra), random_prompts(count=1, depths=(0.5,)))


def test_two_calls_of_one_layer_are_refused():
    model = build("Llama", {})
    model.model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(UnsupportedArchitecture, match="two attention calls of one pass say that they are layer 0"):
        heads.score(model, random_prompts(count=1, depths=(0.5,)))
