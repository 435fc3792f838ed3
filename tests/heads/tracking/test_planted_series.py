"""A small case of what arXiv 2604.02650 found in a large model, planted by hand, and what the monitor says of it.

Two states of one model with the same two retrieval heads: at ``early`` they look at the right key most of the time with
little of their weight, at ``final`` always with all of it. The needle test is passed at both.
"""

import numpy as np
import pytest
from toys import keyed_prompts, planted_induction

import heads

PAIR = ("a1.h1", "a1.h2")
FEWER = keyed_prompts(count=8)


@pytest.fixture(scope="module")
def planted():
    return {"early": planted_induction(sharpness=0.24), "final": planted_induction(sharpness=0.55)}


@pytest.fixture(scope="module")
def measured(planted):
    return {name: heads.score(model, keyed_prompts()) for name, model in planted.items()}


@pytest.fixture(scope="module")
def followed(measured):
    return heads.track([(100, 1000, measured["early"]), (1600, 16000, measured["final"])], top_k=2)


def test_the_same_two_heads_amplified_and_not_replaced(measured, followed):
    for scores in measured.values():
        assert {head.name for head in scores.top(2)} == set(PAIR)
        assert scores.count() == 2
    curve = followed.curves["initial_set_mean"]
    assert 0.80 < curve.value[0] < 0.90 < 0.99 < curve.value[1]
    assert set(followed.initial_set) == set(PAIR)
    (step,) = followed.transitions
    assert (step.agreement.shared, step.agreement.k, step.born, step.died) == (2, 2, (), ())
    assert "retrieval heads (score > 0.1): 2 (no interval: too few needles) at step 100, 2 " in followed.findings[0]


def test_the_gate_is_passed_by_all_while_the_perplexity_is_still_five(measured):
    early, final = measured["early"], measured["final"]
    assert early.needle_score == final.needle_score == 1.0
    assert 4.5 < early.answer_ppl < 5.5
    assert final.answer_ppl < 1.002
    np.testing.assert_array_equal(early.accepted_mean, early.mean)


def test_two_checkpoints_do_not_call_that_saturation_deceptive(followed):
    saturations = {s.metric: s for s in followed.saturations}
    assert saturations["needle_score"].at.step == 100
    assert saturations["answer_nll"].at is None
    fall = saturations["answer_nll"].trends[0]
    assert fall.slope == pytest.approx(np.log(1.0012 / 4.89) / 4, rel=0.02)
    assert (fall.high < 0, fall.later, fall.moving) == (True, 1, False)
    assert not [s for s in followed.findings if s.startswith("deceptive")], "that takes four later checkpoints"


@pytest.mark.parametrize("state", ["early", "final"])
def test_masking_the_two_heads_ends_retrieval_and_masking_others_does_not(planted, state):
    found = heads.ablate(planted[state], FEWER, top_k=2, controls=2)
    assert set(found.tested.heads) == set(PAIR)
    assert found.causal
    assert (found.baseline.score, found.tested.score) == (1.0, 0.0)
    assert all(control.score == 1.0 for control in found.controls["layer_matched"])
    assert "clean, no head of theirs retrieves" in found.verdict


def test_the_head_that_looks_back_is_needed_and_does_not_retrieve(planted, measured):
    """What a control from an earlier layer may be: no retrieval head, and yet nothing is retrieved without it."""
    assert measured["final"]["a0.h0"].score.value == 0.0
    assert heads.ablate(planted["final"], FEWER, ["a0.h0"], against=()).tested.score == 0.0
    blind = heads.ablate(planted["final"], FEWER, ["a0.h0"], kind="knockout", scope="decode", against=())
    assert blind.tested.score == 1.0


def test_weight_and_argmax_tell_the_two_states_apart(measured):
    """The copy score sees the argmax alone; the mass says how much of each head's weight is there."""
    copy = {name: scores["a1.h2"].score.value for name, scores in measured.items()}
    mass = {name: float(scores.mean_of("needle_mass")[1, 2]) for name, scores in measured.items()}
    assert copy["early"] > 0.85 and mass["early"] < 0.5
    assert copy["final"] == 1.0 and mass["final"] > 0.85
