"""Rotary embeddings that depend on the length of the whole sequence: every number is that of the sequence alone."""

import numpy as np
import pytest
import torch

import circuits
import heads
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.rope import depends_on_length, forget_lengths, of_one_regime
from circuit_drift.behaviour.generation import write_answers
from circuit_drift.behaviour.packing import last_logits
from circuit_drift.behaviour.sft import answered
from circuits.facts.facts import FactSet
from heads.detect.generation import generate
from heads.niah.measure import _document_nll
from heads.prompts.needles import NeedlePrompt, NeedleSet

ROPES = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 32,
        "rope_theta": 10000.0,
        "factor": 2.0,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
}


def build(name, positions=64):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
        rope_parameters=ROPES[name],
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def model():
    """Changes its angles at 32 tokens."""
    return build("longrope")


def ids_of(length, seed):
    return tuple(torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def prompt(length, seed):
    ids = list(ids_of(length, seed))
    ids[10:13] = [61, 62, 63]
    return NeedlePrompt(
        ids=(*ids, 61, 62, 63), answer_start=length, answer_spans=((10, 13),), needle_spans=((8, 15),),
        distractor_spans=(), question_span=(length - 4, length), depth=0.3, requested_depth=0.3, needle=seed,
    )  # fmt: skip


PROMPTS = (prompt(20, 1), prompt(56, 2), prompt(29, 3), prompt(30, 4), prompt(31, 5))


def test_only_such_scalings_keep_lengths_apart(model):
    plain = build("longrope")
    plain.config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    dynamic = build("dynamic", positions=32)
    assert [depends_on_length(one) for one in (model, dynamic, plain)] == [True, True, False]
    dynamic.config.rope_parameters = {**dynamic.config.rope_parameters, "alpha": 1000.0}
    assert depends_on_length(dynamic)  # only HunYuan's models read it
    lengths = [20, 40, 32, 33, 40]
    assert list(of_one_regime(plain, lengths)) == [[0, 1, 2, 3, 4]]
    assert list(of_one_regime(model, lengths)) == [[0, 2], [1, 3, 4]]
    assert list(of_one_regime(dynamic, lengths)) == [[0, 2], [1, 4], [3]]


def test_retrieval_scores_are_those_of_each_prompt_alone(model):
    together = heads.score(model, NeedleSet(PROMPTS, (), 56))
    for place, one in enumerate(PROMPTS):
        alone = heads.score(model, NeedleSet((one,), (), 56))
        np.testing.assert_allclose(together.nll[place], alone.nll[0], rtol=1e-4, atol=1e-5)
        for name in ("copy", "entropy"):
            found, wanted = together.detectors[name][place], alone.detectors[name][0]
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_prefix_is_not_shared(model):
    with pytest.raises(UnsupportedArchitecture, match="prefix='separate'"):
        heads.score(model, NeedleSet(PROMPTS, (), 56), prefix="shared")


def greedy(model, ids, new):
    """Without keys kept: the whole sequence again for every token."""
    ids = list(ids)
    for _ in range(new):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[-new:])


def test_written_answers_are_those_of_the_whole_sequence(model):
    wanted = greedy(model, ids_of(27, 1), 12)
    assert generate(model, ids_of(27, 1), new_tokens=12) == wanted
    assert write_answers(model, [ids_of(27, 1)], new_tokens=12) == (wanted,)


def test_packed_prompts_and_answers_are_as_alone(model):
    shared = ids_of(24, 7)
    asked = [(*shared, *ids_of(length, length)) for length in (2, 4, 30)]
    for places, logits in last_logits(model, asked):
        for place, own in zip(places, logits, strict=True):
            with torch.no_grad():
                alone = model(torch.tensor([asked[place]]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(own, alone, rtol=1e-4, atol=1e-4)
    together = answered(model, PROMPTS)
    alone = [answered(model, [one]).nll[0] for one in PROMPTS]
    np.testing.assert_allclose(together.nll, alone, rtol=1e-4)


def test_the_nll_of_a_text_does_not_depend_on_chunks(model):
    ids = ids_of(50, 3)
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0]
        whole = float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))
        assert _document_nll(model, ids, 16) == pytest.approx(whole, rel=1e-5)


def facts_of(lengths):
    clean = [ids_of(length, length) for length in lengths]
    corrupt = [(ids[0], 61, *ids[2:]) for ids in clean]
    return FactSet.from_ids(clean, corrupt, [5] * len(lengths), [6] * len(lengths))


@pytest.mark.parametrize("name", ROPES)
def test_edge_scores_are_those_of_each_fact_alone(name):
    model = build(name, positions={"longrope": 64, "dynamic": 16}[name])
    forget_lengths(model)
    lengths = (20, 30, 31, 34, 60)
    together = circuits.attribute(model, facts_of(lengths))
    for place, length in enumerate(lengths):
        alone = circuits.attribute(model, facts_of([length]))
        found, wanted = together.clean_metric[place], alone.clean_metric[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_dynamic_scaling_keeps_no_memory_of_longer_texts():
    model = build("dynamic", positions=16)
    forget_lengths(model)
    ids = torch.tensor([ids_of(30, 0)])
    with torch.no_grad():
        before = model(ids).logits
        model(torch.tensor([ids_of(60, 1)]))
        assert torch.equal(model(ids).logits, before)
