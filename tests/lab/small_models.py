"""Llamas of random weights over a tokenizer of the lab."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase


def small_llama(
    tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, width: int = 32, layers: int = 1, **config: float
) -> LlamaForCausalLM:
    """In eval mode; two heads in a layer that share their keys and values, or in two layers four of two groups."""
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2 * layers,
        num_key_value_heads=layers,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **config,
    )
    return LlamaForCausalLM(shape).eval()
