"""The published outputs on a tiny GPT-2 (fixtures/README.md), and the model and facts they are of, in float64."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from circuits.facts.facts import FactSet

FIXTURES = Path(__file__).parent / "fixtures"


@cache
def published_model() -> PreTrainedModel:
    """The model; not to be changed."""
    return AutoModelForCausalLM.from_pretrained(FIXTURES / "gpt2", dtype=torch.float64)


@cache
def published_scores() -> dict[str, np.ndarray]:
    """Score tables by name."""
    return load_file(FIXTURES / "gpt2_scores.safetensors")


def published_facts(kind: str) -> FactSet:
    """``plain``: six prompts of ten tokens; ``padded``: of seven to ten."""
    data = load_file(FIXTURES / "data.safetensors")
    lengths = data["lens_pad" if kind == "padded" else "lens"]
    clean, corrupt = ([row[:n] for row, n in zip(data[key], lengths, strict=True)] for key in ("clean", "corr"))
    return FactSet.from_ids(clean, corrupt, data["labels"][:, 0], data["labels"][:, 1])
