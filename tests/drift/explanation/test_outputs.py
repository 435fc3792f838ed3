"""Outputs of one checkpoint in the other at chosen positions, where it is known what they do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import anatomy
from circuit_drift.explanation.behaviours import Behaviour, facts_behaviour
from circuit_drift.explanation.explain import explain_line
from circuit_drift.explanation.explanation import Effort, OutputPatching
from circuit_drift.explanation.line import line_between
from circuit_drift.explanation.outputs import patch_outputs, writer_of
from tests.circuits.circuit_families import build, random_facts

N = 3


def asked() -> Behaviour:
    """Three prompts of other lengths, whose first two tokens are a part of their own."""
    return replace(facts_behaviour(random_facts(N, ragged=True)), spans=({"start": (0, 2)},) * N)


def zeroed(name: str = "llama_gqa") -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model and the same without the output of head 1 of layer 0."""
    a, b = build(name), build(name)
    with torch.no_grad():
        b.model.layers[0].self_attn.o_proj.weight[:, 8:16] = 0
    return a, b


def patched(models: tuple[PreTrainedModel, PreTrainedModel], *names: str) -> OutputPatching:
    found = patch_outputs(line_between(*models), asked(), names)
    assert np.abs(found.after - found.before).min() > 1e-5
    return found


def test_what_a_silenced_head_writes_is_all_of_the_change_and_what_another_writes_none():
    found = patched(zeroed(), "a0.h1", "a0.kv0", "a0", "a0.h0", "embedding")
    assert found.parts == ("all positions", "start", "rest")
    for place in range(3):  # the head, its group, the whole layer
        assert found.inserted[place, 0] == pytest.approx(found.after, abs=1e-12)
        assert found.removed[place, 0] == pytest.approx(found.before, abs=1e-12)
    for place in (3, 4):
        assert found.inserted[place] == pytest.approx(np.tile(found.before, (3, 1)), abs=1e-12)
    assert np.abs(found.inserted[0, 1:] - found.before).max(1).min() > 1e-8  # every part of the prompts does some


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "gemma3", "mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("letter", ["a", "m"])
def test_of_the_last_layer_only_the_position_that_answers_counts(name: str, letter: str):
    a, b = build(name), build(name)
    last = anatomy(b).blocks[-1]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (last.o if letter == "a" else last.mlp).parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=parameter.dtype))
    found = patched((a, b), f"{letter}{last.index}")
    (everywhere, start, rest), (back, *_) = found.inserted[0], found.removed[0]
    assert everywhere == pytest.approx(found.after, abs=1e-9)
    assert back == pytest.approx(found.before, abs=1e-9)
    assert start == pytest.approx(found.before, abs=1e-12)
    assert rest == pytest.approx(found.after, abs=1e-9)


@pytest.mark.parametrize(
    ("component", "writer"),
    [("a18.h6.q", "a18.h6"), ("a1.kv0.v", "a1.kv0"), ("a1.norm", "a1"), ("m3.down", "m3"), ("m1.e3.gate", "m1"),
     ("embedding", "embedding"), ("unembedding", None), ("final norm", None)],
)  # fmt: skip
def test_a_component_acts_through_what_it_writes(component: str, writer: str | None):
    assert writer_of(component) == writer


@pytest.mark.parametrize("name", ["a0.h4", "a2", "m0.h1", "a0.kv2", "norm"])
def test_an_output_that_there_is_not_is_refused_with_those_that_there_are(name: str):
    with pytest.raises(BadPrompt, match=r"there is no output .* 2 layers of 4 heads; write a1\.h0"):
        patch_outputs(line_between(*zeroed()), asked(), [name])


def test_an_explanation_puts_in_the_outputs_of_its_first_components():
    found = explain_line(line_between(*zeroed()), asked(), ("A", "B"), Effort(prompts=N, outputs=2))
    assert found.outputs is not None
    assert found.outputs.nodes == ("a0.h1",)
    assert found.to_json()["outputs"][0]["restored"] == pytest.approx(100)
    named = explain_line(line_between(*zeroed()), asked(), ("A", "B"), Effort(prompts=N, outputs=("m0", "a1")))
    assert named.outputs is not None
    assert named.outputs.nodes == ("m0", "a1")
    assert explain_line(line_between(*zeroed()), asked(), ("A", "B"), Effort(prompts=N)).outputs is None
