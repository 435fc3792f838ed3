"""The module map: norms in closed form, projections by head, and what is refused."""

import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy, read_norm

SIZES = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**overrides) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 2, **overrides})).eval()


def test_llama_sizes_and_places():
    parts = anatomy(llama())
    assert (parts.n_layers, parts.n_heads, parts.n_kv_heads, parts.head_dim, parts.d_model) == (2, 4, 2, 4, 16)
    assert not parts.parallel
    block = parts.blocks[1]
    assert block.q.weight.shape == (4, 4, 16)
    assert block.k.weight.shape == (2, 4, 16)
    assert block.output_weight.shape == (4, 4, 16)
    assert block.attention_post_norm is None
    assert block.mlp_norm.module is block.module.post_attention_layernorm


def test_post_norm_families_have_their_norms_where_they_stand():
    olmo = anatomy(Olmo2ForCausalLM(Olmo2Config(**SIZES, num_key_value_heads=2)).eval()).blocks[0]
    assert olmo.attention_norm is None
    assert olmo.mlp_norm is None
    assert olmo.attention_post_norm.module is olmo.module.post_attention_layernorm
    gemma = anatomy(Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=4)).eval()).blocks[0]
    assert gemma.attention_norm.module is gemma.module.input_layernorm
    assert gemma.mlp_norm.module is gemma.module.pre_feedforward_layernorm
    assert gemma.mlp_post_norm.module is gemma.module.post_feedforward_layernorm
    torch.testing.assert_close(gemma.mlp_norm.gain, 1 + gemma.module.pre_feedforward_layernorm.weight)


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=16)),
        GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
        Phi3ForCausalLM(Phi3Config(**SIZES, num_key_value_heads=2)),
        llama(attention_bias=True),
    ],
    ids=["gpt2", "gpt_neox", "phi3", "llama"],
)
def test_projections_split_as_the_attention_does(model):
    """Each head's query, key and value from the map equal what the model's own attention function receives."""
    from transformers import AttentionInterface

    seen = {}

    def spy(module, q, k, v, *args, **kwargs):
        seen.setdefault("q", q), seen.setdefault("k", k), seen.setdefault("v", v)  # of layer 0
        return torch.zeros_like(q).transpose(1, 2), None

    AttentionInterface.register("spy", spy)
    model.eval().set_attn_implementation("spy")
    parts = anatomy(model)
    block = parts.blocks[0]
    with torch.no_grad():
        model(torch.tensor([[3]]))  # position 0, where rotary embeddings do nothing
        ids = torch.tensor([[3]])
        stream = parts.embedding(ids)
        if hasattr(model.base_model, "wpe"):
            stream = stream + model.base_model.wpe.weight[0]
        x = block.attention_norm(stream)[0, 0]
        for letter in "qkv":
            projection = getattr(block, letter)
            expected = projection.weight @ x
            if projection.bias is not None:
                expected = expected + projection.bias
            torch.testing.assert_close(seen[letter][0, :, 0], expected, atol=1e-5, rtol=1e-4)


def test_parallel_blocks_are_told_from_sequential_ones():
    assert anatomy(GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))).parallel
    assert not anatomy(GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, use_parallel_residual=False))).parallel


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_are_recognised_and_pulled_back(kind, dtype):
    module = (nn.LayerNorm(12, eps=1e-5) if kind == "layer" else nn.RMSNorm(12, eps=1e-6)).to(dtype)
    with torch.no_grad():
        module.weight.add_(torch.randn(12) * 0.3)
    norm = read_norm(module, 12)
    assert norm.kind == kind
    if dtype == torch.bfloat16:
        return
    x = torch.randn(5, 12, dtype=dtype, requires_grad=True)
    upstream = torch.randn(5, 12, dtype=dtype)
    (expected,) = torch.autograd.grad((module(x) * upstream).sum(), x)
    torch.testing.assert_close(norm.pull_back(x.detach(), upstream), expected, atol=1e-5, rtol=1e-4)


class Tanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 16))

    def forward(self, x):
        return torch.tanh(x) * self.weight + 0.1 * x.mean(-1, keepdim=True)


def test_a_norm_of_another_kind_is_pulled_back_by_its_own_derivative():
    model = llama()
    model.model.layers[1].input_layernorm = Tanh()
    norm = anatomy(model).blocks[1].attention_norm
    assert norm.kind == "other"
    x = torch.randn(5, 16, requires_grad=True)
    upstream = torch.randn(3, 5, 16)
    for gradient, found in zip(upstream, norm.pull_back(x.detach(), upstream), strict=True):
        (expected,) = torch.autograd.grad((norm.module(x) * gradient).sum(), x)
        torch.testing.assert_close(found, expected)
    with pytest.raises(UnsupportedArchitecture, match="a Tanh computes neither a LayerNorm nor an RMSNorm"):
        norm.spread(x, torch.ones(5, 1))


def test_a_norm_that_mixes_tokens_is_refused_by_name():
    class Mixing(Tanh):
        def forward(self, x):
            return x - x.mean(0)

    model = llama()
    model.model.layers[1].input_layernorm = Mixing()
    with pytest.raises(UnsupportedArchitecture, match="attention norm of layer 1, a Mixing, does not map each vector"):
        anatomy(model)


def test_a_norm_of_another_kind_on_an_attention_output_is_refused_by_name():
    model = Olmo2ForCausalLM(Olmo2Config(**SIZES, num_key_value_heads=2)).eval()
    model.model.layers[1].post_attention_layernorm = Tanh()
    with pytest.raises(UnsupportedArchitecture, match="attention output of layer 1, a Tanh"):
        anatomy(model)


def test_an_adapter_over_a_projection_is_refused_by_name():
    model = llama()
    model.model.layers[0].self_attn.q_proj = nn.Sequential(nn.Linear(16, 16))
    with pytest.raises(UnsupportedArchitecture, match="merge adapters"):
        anatomy(model)


def test_a_missing_part_is_named_with_what_is_there():
    model = llama()
    del model.model.layers[0].mlp
    with pytest.raises(UnsupportedArchitecture, match=r"the MLP of layer 0 was not found in LlamaDecoderLayer"):
        anatomy(model)
