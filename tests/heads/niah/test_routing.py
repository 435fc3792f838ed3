"""Expert routing: shares against the models' own routers, and known answers by hand."""

import numpy as np
import pytest
import torch
from families import build
from toys import random_prompts

from checkpoints.errors import BadPrompt, CheckpointMismatch, UnsupportedArchitecture
from heads.niah.routing import ExpertRouting
from heads.niah.routing_measure import expert_routing

GATES = {"mixtral": "gate", "hunyuan_moe": "gate", "qwen3_moe": "gate"}


@pytest.mark.parametrize("name", GATES)
def test_shares_are_the_routers_own_choices(name):
    model, prompts = build(name), random_prompts(vocabulary=60, count=2)
    found = expert_routing(model, prompts, batch_size=3)
    prompt, row = prompts.prompts[-1], len(prompts) - 1
    chosen = []
    gates = [getattr(layer.mlp, GATES[name]) for layer in model.model.layers]
    handles = [gate.register_forward_hook(lambda _m, _i, out: chosen.append(out[2])) for gate in gates]
    with torch.no_grad():
        model(torch.tensor([prompt.ids]))
    for handle in handles:
        handle.remove()
    experts = found.shares.shape[3]
    rows = list(range(prompt.answer_start - 1, len(prompt.ids) - 1))
    for layer, index in enumerate(chosen):
        want = np.bincount(index[rows].ravel().numpy(), minlength=experts) / index[rows].numel()
        np.testing.assert_allclose(found.shares[row, 2, layer], want, atol=1e-6)
        spans = [p for start, stop in prompt.needle_spans for p in range(start, stop)]
        want = np.bincount(index[spans].ravel().numpy(), minlength=experts) / index[spans].numel()
        np.testing.assert_allclose(found.shares[row, 1, layer], want, atol=1e-6)
    np.testing.assert_allclose(found.shares.sum(axis=3), 1, atol=1e-5)
    assert found.meta["experts_a_token"] == chosen[0].shape[1]


def test_a_model_without_experts_is_refused():
    with pytest.raises(UnsupportedArchitecture, match="has no mixture of experts"):
        expert_routing(build("llama"), random_prompts(vocabulary=60, count=1))


def routing(text, answer, *, needles=6):
    """Six needles of a prompt each over one mixture and one dense layer; noise of a 1,000th tells them apart."""
    shares = np.full((needles, 3, 2, 4), np.nan)
    noise = np.linspace(-1, 1, needles)[:, None] / 1000 * np.array([1, -1, 0, 0])
    shares[:, 0, 1], shares[:, 1, 1] = np.array(text), np.array(text)
    shares[:, 2, 1] = np.array(answer) + noise
    return ExpertRouting(shares, np.arange(needles), {"length": 64, "experts_a_token": 2})


def test_evenness_shift_and_drift_by_hand(tmp_path):
    even, one = [0.25] * 4, [0.5, 0.5, 0, 0]
    found = routing(even, one)
    np.testing.assert_allclose(found.entropy("text"), [np.nan, 1.0])
    np.testing.assert_allclose(found.entropy("answer"), [np.nan, 0.5], atol=1e-5)
    np.testing.assert_allclose(found.answer_shift, [np.nan, 0.5], atol=1e-9)
    np.testing.assert_allclose(found.drift(routing([1, 0, 0, 0], one)), [np.nan, 0.75])
    assert found.answer_experts == ("m1.e0", "m1.e1")
    frame = found.to_frame()
    assert frame.layer.unique().tolist() == [1]
    assert frame.delta.tolist() == pytest.approx([0.25, 0.25, -0.25, -0.25])
    assert found.verdict == (
        "4 experts a layer; evenness 1.00 on text, 0.50 on answers; answers move 50% of the slots; 2 experts are used "
        "more for them: m1.e0, m1.e1"
    )
    assert ExpertRouting.load(found.save(tmp_path / "routing")).verdict == found.verdict
    with pytest.raises(BadPrompt, match="no tokens are called 'code'; there are text, needle, answer"):
        found.share("code")
    with pytest.raises(CheckpointMismatch, match="layers x experts"):
        found.drift(ExpertRouting(found.shares[..., :3], found.needle))
