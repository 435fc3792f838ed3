"""Tiny models saved as checkpoints; no network, no tokenizer training beyond a few words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SaveModel = Callable[..., Path]


def llama_config(**changes):
    from transformers import LlamaConfig

    fields = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return LlamaConfig(**(fields | changes))


def gpt2_config(**changes):
    from transformers import GPT2Config

    fields = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2Config(**(fields | changes))


def save_model(folder: Path, config=None, *, seed: int = 0, **options) -> Path:
    """Save a model of random weights drawn from `seed` and return its folder."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config or llama_config())
    model.save_pretrained(folder, **options)
    return folder


def save_tokenizer(folder: Path, words=("a", "b", "c")) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(("[UNK]", *words))}
    core = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]").save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


@pytest.fixture
def checkpoint_folder(tmp_path) -> Path:
    """One tiny Llama-GQA checkpoint."""
    return save_model(tmp_path / "checkpoint-100")


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run of five tiny checkpoints (steps 0, 1, 10, 100, 1000) with one tokenizer at its root."""
    root = tmp_path / "run"
    for step in (0, 1, 10, 100, 1000):
        save_model(root / f"checkpoint-{step}", seed=step)
    save_tokenizer(root)
    return root
