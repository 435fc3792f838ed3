"""Needle prompts with corrupt twins, and the circuit of retrieval that they give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import circuits
import heads
from checkpoints.errors import BadPrompt
from circuit_drift.twins import SWAPS, key_swaps, question_swaps, value_swaps
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


def differing(one: tuple[int, ...], other: tuple[int, ...]) -> list[int]:
    assert len(one) == len(other)
    return [at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


def test_a_key_swap_says_the_same_value_of_another_key(needles: NeedleSet):
    pairs = key_swaps(needles)
    assert len(pairs) == 6
    for i, prompt in enumerate(needles):
        twin = needles.prompts[(i + 2) % 6]
        places = differing(pairs.clean[i], pairs.corrupt[i])
        assert places
        assert set(places) <= set(range(*prompt.needle_span)) - set(range(*prompt.answer_span))
        start, stop = (at - prompt.needle_span[0] + twin.needle_span[0] for at in (places[0], places[-1] + 1))
        assert pairs.corrupt[i][places[0] : places[-1] + 1] == twin.ids[start:stop]
        assert (pairs.answer[i], pairs.wrong[i]) == (prompt.answer[:1], twin.answer[:1])


def test_a_question_swap_asks_for_another_key_of_the_same_haystack(needles: NeedleSet):
    pairs = question_swaps(needles)
    assert len(pairs) == 6
    for i, prompt in enumerate(needles):
        twin = needles.prompts[(i + 2) % 6]
        assert differing(pairs.clean[i], pairs.corrupt[i])
        assert pairs.corrupt[i] == prompt.ids[: prompt.question_span[0]] + twin.ids[slice(*twin.question_span)]
        assert (pairs.answer[i], pairs.wrong[i]) == (prompt.answer[:1], twin.answer[:1])


def test_of_several_twins_the_one_that_differs_in_most_tokens_is_taken(needles: NeedleSet):
    first, second, third = needles.prompts[0:5:2]
    assert question_swaps(NeedleSet((first, second, third), (), needles.length)).wrong[0] == second.answer[:1]
    own, other = (prompt.ids[slice(*prompt.question_span)] for prompt in (first, second))
    place = second.question_span[0] + differing(own, other)[0]
    shared = replace(second, ids=(*second.ids[:place], own[differing(own, other)[0]], *second.ids[place + 1 :]))
    assert question_swaps(NeedleSet((first, shared, third), (), needles.length)).wrong[0] == third.answer[:1]


def test_twins_of_other_lengths_and_answers_in_parts_are_refused_with_the_reason(needles: NeedleSet):
    first, second = needles.prompts[0], needles.prompts[2]
    start, stop = second.question_span
    shorter = replace(second, ids=second.ids[:start] + second.ids[start + 1 :], answer_start=stop - 1,
                      question_span=(start, stop - 1))  # fmt: skip
    with pytest.raises(BadPrompt, match="no other needle has another question of as many tokens, and another answer"):
        question_swaps(NeedleSet((first, shorter), (), needles.length))
    low, high = second.needle_span
    longer = replace(second, needle_spans=((low - 1, high),))
    with pytest.raises(BadPrompt, match="no other needle has another key in as many tokens, and another answer"):
        key_swaps(NeedleSet((first, longer), (), needles.length))
    parts = replace(first, answer_spans=(first.answer_span, (0, 1)))
    for swaps in SWAPS.values():
        pairs = swaps(NeedleSet((parts, *needles.prompts[2:5:2]), (), needles.length))
        assert len(pairs) == 2
        assert pairs.refused == ((0, "its answer stands in several sentences, and a twin replaces one"),)


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
