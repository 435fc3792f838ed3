"""Short real training runs, saved as series: what an audit must find nothing wrong with."""

from pathlib import Path

from .conftest import gpt2_config, llama_config

STEPS = (0, 1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112)


def neox_config():
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )


def qwen3_moe_config():
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )


ARCHITECTURES = {
    "gpt2": gpt2_config,
    "llama_tied": lambda: llama_config(tie_word_embeddings=True),
    "neox": neox_config,
    "qwen3_moe": qwen3_moe_config,
}


def train_run(root: Path, config, *, steps=STEPS, dtype="float32", seed=0, lr=3e-3) -> Path:
    """Train on copying random words with Adam, saving `steps` as checkpoint-N under `root`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(max(steps) + 1):
        if step in steps:
            kept = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
            model.save_pretrained(root / f"checkpoint-{step}", state_dict=kept)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 8) * (1 - 0.9 * step / max(steps))
        words = torch.randint(0, 64, (8, 16))
        ids = torch.cat([words, words], dim=1)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return root
