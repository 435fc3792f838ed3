"""Needle prompts with corrupt twins, and the circuit of retrieval that they give."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import circuits
import heads
from checkpoints.errors import BadPrompt
from circuit_drift.twins import value_swaps
from heads.prompts.needles import NeedleSet, load_needles


@pytest.fixture(scope="module")
def needles(tiny_series: Path) -> NeedleSet:
    tokenizer = AutoTokenizer.from_pretrained(tiny_series / "checkpoint-0")
    hidden = load_needles(tiny_series / "needles.jsonl")[:3]
    haystack = (tiny_series / "haystack.txt").read_text()
    return heads.needle_prompts(tokenizer, hidden, haystack, length=48, depths=[0.2, 0.8])


def test_a_twin_says_another_value_and_nothing_else(needles: NeedleSet):
    pairs = value_swaps(needles, tokens=2)
    assert len(pairs) == len(needles) == 6
    for i, prompt in enumerate(needles):
        twin = needles.prompts[(i + 2) % 6]
        differ = [
            at for at, (one, other) in enumerate(zip(pairs.clean[i], pairs.corrupt[i], strict=True)) if one != other
        ]
        assert differ == list(range(*prompt.answer_span))
        assert pairs.clean[i] == prompt.ids[: prompt.answer_start]
        assert [pairs.corrupt[i][at] for at in differ] == list(twin.answer_in_needle)
        assert pairs.answer[i] == prompt.answer[:2]
        assert pairs.wrong[i] == twin.answer[:2]
        assert pairs.segments[i]["needle"] == prompt.needle_span


def test_retrieval_has_a_graph_in_which_a_silenced_head_writes_nothing(needles: NeedleSet, tiny_series: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_series / "checkpoint-0", dtype=torch.float32).eval()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0
    graph = circuits.attribute(model, value_swaps(needles))
    frame = graph.to_frame()
    own = frame[frame["writer"] == "a1.h1"]
    assert len(own)
    assert np.abs(own["score"]).max() == 0
    assert np.abs(frame["score"]).max() > 0


def test_needles_without_a_twin_are_counted_and_none_at_all_is_refused(needles: NeedleSet):
    one = NeedleSet(needles.prompts[:2], (), needles.length)
    with pytest.raises(BadPrompt, match="no other needle"):
        value_swaps(one)
    with pytest.raises(BadPrompt, match="1 or more, got 0"):
        value_swaps(needles, tokens=0)
