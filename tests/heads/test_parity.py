"""The published detector's own outputs (nightdessert/Retrieval_Head, commit 3ac171a) on a random tiny Llama."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from heads.readings import copy_readings
from heads.rows import RowRequest, capture_rows

FIXTURE = Path(__file__).parent / "fixtures" / "random_tiny"
TRIALS = json.loads((FIXTURE / "reference.json").read_text())["trials"]


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM.from_pretrained(FIXTURE, dtype=torch.float32).eval()


@pytest.mark.parametrize("trial", TRIALS, ids=lambda t: str(len(t["prompt_ids"])))
def test_one_forward_reproduces_the_published_detector(model, trial):
    prompt, generated = trial["prompt_ids"], trial["generated_ids"]
    span = (trial["needle_start"], trial["needle_end"])
    ids = torch.tensor([prompt + generated])
    rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)[None]

    def needle(rows, keys):
        return ((keys >= span[0]) & (keys < span[1]))[None, None, :, None]

    layers = {}
    with torch.no_grad(), capture_rows(model, RowRequest(rows, needle), layers.__setitem__):
        logits = model(ids, use_cache=False).logits[0]
    assert logits[rows[0]].argmax(-1).tolist() == generated
    for layer, stats in layers.items():
        assert stats.argmax[0].T.tolist() == [step["argmax"][layer] for step in trial["steps"]]
        masses = np.array([step["needle_mass"][layer] for step in trial["steps"]])
        np.testing.assert_allclose(stats.mass[0, :, :, 0].T, masses, atol=1e-4)
        scores = copy_readings(stats.argmax[0].numpy(), ids[0].numpy(), np.array(generated), np.arange(*span))
        np.testing.assert_allclose(scores["copy_count"], trial["retrieval_score"][layer], atol=1e-12)
