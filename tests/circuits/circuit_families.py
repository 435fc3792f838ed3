"""Tiny random models of the families whose graphs differ, in float64, and a slow honest oracle for their edges.

The oracle splits every reader's input by hand: it re-runs the stock model with one reader's private stream displaced
along one writer's difference and takes a central finite difference of the metric. It shares no formula with the
engine: norms, projections and attention are the model's own.
"""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from checkpoints.model.anatomy import anatomy
from circuits.facts.facts import FactSet

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 5,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_gqa": ("Llama", {}),
    "llama_mha": ("Llama", {"num_key_value_heads": 4}),
    "llama_mqa": ("Llama", {"num_key_value_heads": 1, "attention_bias": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "smollm3": ("SmolLM3", {}),
    "granite": ("Granite", {"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 3.0}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {**WINDOWED, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {**WINDOWED, "query_pre_attn_scalar": 5}),
    "olmo": ("Olmo", {"hidden_size": 32}),
    "olmo2": ("Olmo2", {"hidden_size": 32}),
    "olmo3": ("Olmo3", {**WINDOWED, "hidden_size": 32}),
    "glm4": ("Glm4", {}),
    "cohere": ("Cohere", {}),
    "phi": ("Phi", {"hidden_size": 32, "num_key_value_heads": 4}),
    "phi3": ("Phi3", {"hidden_size": 32}),
    "gpt2": ("GPT2", {"n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 64}),
    "gpt_neox": ("GPTNeoX", {"hidden_size": 32}),
    "gpt_neox_sequential": ("GPTNeoX", {"hidden_size": 32, "use_parallel_residual": False}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "sliding_window": None}),
    "qwen3_moe": ("Qwen3Moe", MOE),
    "qwen2_moe": ("Qwen2Moe", {**MOE, "shared_expert_intermediate_size": 16}),
    "hunyuan_moe": ("HunYuanMoEV1", {"num_experts": 4, "moe_topk": 2, "moe_intermediate_size": 16}),
    "deepseek_v2_moe": ("DeepseekV2", {**LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1}),
    "deepseek_v3_moe": ("DeepseekV3", {**LATENT, "n_group": 2, "topk_group": 1, "attention_bias": True}),
    "deepseek_v3": ("DeepseekV3", {**LATENT, "first_k_dense_replace": 2, "v_head_dim": 16}),
    "gpt_oss": ("GptOss", {**WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("OPT", {"word_embed_proj_dim": 16, "ffn_dim": 24}),
    "mamba": ("Mamba", {"state_size": 4}),
}


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, **overrides: Any) -> PreTrainedModel:
    """A model in eval mode with weights large enough to attend unevenly."""
    prefix, extra = (FAMILIES | REFUSED)[name]
    config_class = getattr(transformers, "Gemma3TextConfig" if prefix == "Gemma3" else f"{prefix}Config")
    model_class = getattr(transformers, "GPT2LMHeadModel" if prefix == "GPT2" else f"{prefix}ForCausalLM")
    skip = {"head_dim"} if prefix in {"OPT", "Phi", "Phi3", "GPTNeoX", "GPT2", "Mamba"} else set()
    skip |= {"num_key_value_heads"} if prefix in {"GPTNeoX", "GPT2"} else set()
    sizes = {key: value for key, value in SIZES.items() if key not in skip}
    torch.manual_seed(seed)
    model: PreTrainedModel = model_class(config_class(**{**sizes, **extra, **overrides}))
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.35 if parameter.ndim > 1 else 0.2
            parameter.add_(torch.randn(parameter.shape) * scale)
    if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped one has no float64
    return model.to(dtype).eval()


def random_facts(n: int = 3, *, length: int = 7, seed: int = 0, ragged: bool = False, vocab: int = 40) -> FactSet:
    """Random prompt pairs that differ in two places."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length - (i % 3 if ragged else 0) for i in range(n)]
    clean = [torch.randint(3, vocab, (size,), generator=generator).tolist() for size in lengths]
    corrupt = [[*row] for row in clean]
    for row in corrupt:
        for place in (1, 3):
            row[place] = 3 + (row[place] + 7) % (vocab - 3)
    return FactSet.from_ids(clean, corrupt, [5 + i for i in range(n)], [15 + i for i in range(n)])


def stock_logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """[vocab] logits after a prompt."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1]


def residual_parts(model: PreTrainedModel, ids: list[int]) -> list[torch.Tensor]:
    """What every writer adds to the stream, [F] tensors of [t, d], found by differences of the stream itself.

    A head's share is found by zeroing the other heads' z in front of the stock output projection and letting the
    stock modules carry it to the stream; where a post-norm follows, its scale is held by linear rescaling.
    """
    parts = anatomy(model)
    record: dict[Any, torch.Tensor] = {}
    handles = []
    for block in parts.blocks:

        def keep_in(_m, args, kwargs, i=block.index):
            record["in", i] = (args[0] if args else kwargs["hidden_states"]).detach()

        def keep_z(_m, args, i=block.index):
            record["z", i] = args[0].detach()

        def keep_mlp(_m, _args, output, i=block.index):
            record["m", i] = (output[0] if isinstance(output, tuple) else output).detach()

        handles.append(block.module.register_forward_pre_hook(keep_in, with_kwargs=True))
        handles.append(block.o.register_forward_pre_hook(keep_z))
        end = block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module
        handles.append(end.register_forward_hook(keep_mlp))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    found = [record["in", 0][0]]
    for block in parts.blocks:
        z = record["z", block.index]
        with torch.no_grad():
            whole, nothing = block.o(z), block.o(torch.zeros_like(z))
            for head in range(parts.n_heads):
                only = torch.zeros_like(z)
                span = slice(head * parts.head_dim, (head + 1) * parts.head_dim)
                only[..., span] = z[..., span]
                share = block.o(only) - nothing
                if block.attention_post_norm is not None:
                    norm = block.attention_post_norm.module
                    scale = norm(whole) / whole  # elementwise gain / rms, the same for every summand
                    share = share * scale
                found.append(share[0] * block.residual_scale)
        found.append(record["m", block.index][0] * block.residual_scale)
    return found
