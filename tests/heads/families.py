"""Tiny random models of every family the attention interface serves, in float32, by name."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": 12}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "sliding_window": None}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {**WINDOWED, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {**WINDOWED, "query_pre_attn_scalar": 5}),
    "gpt_oss": ("GptOss", {**WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": ("GPTNeoX", {}),
    "deepseek_v3": ("DeepseekV3", MLA),
    "hunyuan_moe": ("HunYuanMoEV1", {"num_experts": 4, "moe_topk": 2}),
    "hunyuan_dense": ("HunYuanDenseV1", {}),
    "cohere2": ("Cohere2", WINDOWED),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", WINDOWED),
    "granite": ("Granite", {"attention_multiplier": 0.3}),
    "phi3": ("Phi3", {}),
    "qwen3_moe": ("Qwen3Moe", MOE),
    "smollm3": ("SmolLM3", {}),
    "glm4": ("Glm4", {}),
    "llama4_text": ("Llama4", {"num_local_experts": 2, "attention_chunk_size": 16, "intermediate_size_mlp": 48}),
}
OUTSIDE = {
    "bloom": ("Bloom", {"n_layer": 2, "n_head": 4}),
    "falcon": ("Falcon", {"alibi": True}),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
}


def build(name: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A float32 model in eval mode with eager attention and weights large enough to attend unevenly."""
    prefix, extra = (FAMILIES | OUTSIDE)[name]
    config_class = getattr(transformers, f"{prefix}TextConfig" if prefix in {"Gemma3", "Llama4"} else f"{prefix}Config")
    torch.manual_seed(seed)
    model_class = getattr(transformers, "GPT2LMHeadModel" if prefix == "GPT2" else f"{prefix}ForCausalLM")
    foreign = {"Falcon": ["head_dim"], "GPTNeoX": ["num_key_value_heads"], "GPT2": ["num_key_value_heads"]}
    sizes = {k: v for k, v in SIZES.items() if k not in foreign.get(prefix, [])}
    config = config_class(**(sizes | extra | overrides))
    model: PreTrainedModel = model_class._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
    return model.eval()
