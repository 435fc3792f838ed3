"""Tiny configs of every architecture that is named as supported."""

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GQA = SMALL | {"num_key_value_heads": 2, "head_dim": 8}


def tiny_configs():
    """Architecture -> a config of two small layers that shows what is particular to it."""
    import transformers as t

    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    windows = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    return {
        "gpt2": t.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1
        ),
        "gpt_neox": t.GPTNeoXConfig(**SMALL),
        "llama": t.LlamaConfig(**GQA),
        "llama_tied": t.LlamaConfig(**GQA, tie_word_embeddings=True),
        "qwen2": t.Qwen2Config(**{k: v for k, v in GQA.items() if k != "head_dim"}),
        "qwen3": t.Qwen3Config(**GQA),
        "mistral": t.MistralConfig(**GQA, sliding_window=4),
        "gemma2": t.Gemma2Config(**GQA, **windows, query_pre_attn_scalar=8),
        "gemma3": t.Gemma3TextConfig(**GQA, **windows, query_pre_attn_scalar=8),
        "olmo2": t.Olmo2Config(**{k: v for k, v in GQA.items() if k != "head_dim"}),
        "olmo3": t.Olmo3Config(**{k: v for k, v in GQA.items() if k != "head_dim"}, **windows),
        "mixtral": t.MixtralConfig(**GQA, num_local_experts=4, num_experts_per_tok=2),
        "qwen3_moe": t.Qwen3MoeConfig(**GQA, **moe),
        "hunyuan_moe": t.HunYuanMoEV1Config(**GQA, num_experts=4, moe_topk=2, moe_intermediate_size=16),
        "gpt_oss": t.GptOssConfig(**GQA, **windows, num_local_experts=4, num_experts_per_tok=2),
    }
