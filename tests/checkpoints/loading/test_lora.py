"""Two checkpoints on one base from one copy of it: what factors say is what merged weights say."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from checkpoints import Placement, open_checkpoint
from checkpoints.loading.lora import LowRank, load_on_one_base
from tests.checkpoints.conftest import llama_config, save_model

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft while it saves

CPU = Placement(device="cpu")
PLAIN = {
    "some layers": {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]},
    "ranks of their own": {"target_modules": "all-linear", "rank_pattern": {"q_proj": 3}, "use_rslora": True},
}
OTHER = {
    "DoRA": {"target_modules": ["q_proj"], "use_dora": True},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "an adapted embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "a part of the base": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
}


def adapter(folder: Path, base: Path, seed: int, **given) -> Path:
    """An adapter of rank 2 with random factors."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, **given))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder)
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"base_model_name_or_path": str(base)}))
    return folder


def merged(folder: Path) -> dict[str, torch.Tensor]:
    return dict(open_checkpoint(folder).load().model.named_parameters())


def held_to_merged(a: Path, b: Path) -> set[str]:
    """The names that the factors change, which is all that differs between the merged models."""
    found = load_on_one_base(open_checkpoint(a), open_checkpoint(b), CPU)
    assert found is not None
    loaded, change = found
    assert loaded.checkpoint.path == a
    one, two = merged(a), merged(b)
    for name, parameter in loaded.model.named_parameters():
        torch.testing.assert_close(parameter, one[name], atol=1e-6, rtol=0)
        step = change[name].dense() if name in change else torch.zeros_like(parameter)
        torch.testing.assert_close(step, two[name] - one[name], atol=1e-6, rtol=0)
    return set(change)


@pytest.mark.parametrize("given", PLAIN.values(), ids=PLAIN)
def test_factors_are_the_difference_of_the_merged_models(tmp_path, given):
    base = save_model(tmp_path / "base", llama_config())
    one, two = (adapter(tmp_path / str(seed), base, seed, **given) for seed in (1, 2))
    for pair in ((base, one), (one, base), (one, two)):
        assert all(name.endswith("_proj.weight") for name in held_to_merged(*pair))


def test_factors_of_a_map_that_is_stored_transposed(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=32, n_positions=16))
    model.save_pretrained(tmp_path / "base")
    one = adapter(tmp_path / "1", tmp_path / "base", 1, target_modules=["c_attn"], fan_in_fan_out=True)
    assert held_to_merged(tmp_path / "base", one) == {f"transformer.h.{i}.attn.c_attn.weight" for i in range(2)}


@pytest.mark.parametrize("given", OTHER.values(), ids=OTHER)
def test_what_is_no_product_of_two_factors_is_left_to_a_merge(tmp_path, given):
    base = save_model(tmp_path / "base", llama_config())
    one = adapter(tmp_path / "1", base, 1, **given)
    assert load_on_one_base(open_checkpoint(base), open_checkpoint(one), CPU) is None


def test_without_a_base_in_common_there_is_nothing_to_share(tmp_path):
    base, twin = (save_model(tmp_path / name, llama_config()) for name in ("base", "twin"))
    one = adapter(tmp_path / "1", base, 1, target_modules=["q_proj"])
    for pair in ((twin, one), (base, base)):
        assert load_on_one_base(*map(open_checkpoint, pair), CPU) is None
    tied = save_model(tmp_path / "tied", llama_config(tie_word_embeddings=True))
    head = adapter(tmp_path / "2", tied, 1, target_modules=["lm_head"])
    assert load_on_one_base(open_checkpoint(tied), open_checkpoint(head), CPU) is None


def test_products_with_thin_factors_are_those_with_the_matrix():
    generator = torch.Generator().manual_seed(0)
    left, right, other, x = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((5, 2), (2, 3), (2, 3), (4, 5))
    )
    thin = LowRank(left, right)
    torch.testing.assert_close(x @ thin, x @ thin.dense())
    torch.testing.assert_close(thin.T.dense(), thin.dense().T)
    torch.testing.assert_close(thin.minus(LowRank(left, other)).dense(), left @ (right - other))
