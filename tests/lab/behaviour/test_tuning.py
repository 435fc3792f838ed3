"""The short fine-tune: adapters or all parameters, and a state that a killed one goes on from."""

from dataclasses import replace

import pytest
import torch

from checkpoints.errors import UnsupportedArchitecture
from circuit_drift.behaviour import tuning as module
from circuit_drift.behaviour.sft import answered
from circuit_drift.behaviour.tuning import Resumable, fine_tune
from tests.lab.behaviour.test_sft import TUNING, prompts_of, tiny
from tests.packed_weights import pack


def test_adapters_teach_and_leave_the_model_as_it_is(tokenizer):
    model, prompts = tiny(tokenizer), prompts_of(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = fine_tune(model, prompts, replace(TUNING, steps=40, lora=4))
    assert type(tuned) is type(model)
    assert tuned.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(tuned.model.embed_tokens.weight, model.model.embed_tokens.weight)
    change = tuned.model.layers[0].mlp.up_proj.weight - model.model.layers[0].mlp.up_proj.weight
    assert 0 < torch.linalg.matrix_rank(change, rtol=1e-4) <= 4
    assert (answered(tuned, prompts).nll < answered(model, prompts).nll).all()


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_are_not_tuned(tokenizer, bits, lora):
    with pytest.raises(UnsupportedArchitecture, match=r"a fine-tune changes weights, and those of this .* quantised"):
        fine_tune(pack(tiny(tokenizer), bits), prompts_of(tokenizer), replace(TUNING, lora=lora))


@pytest.mark.parametrize("lora", [0, 4])
def test_a_killed_fine_tune_goes_on_to_the_very_same_weights(tokenizer, tmp_path, monkeypatch, caplog, lora):
    caplog.set_level("INFO", "circuit_drift.progress")
    model, prompts = tiny(tokenizer), prompts_of(tokenizer)
    how = replace(TUNING, steps=6, lora=lora)
    whole = fine_tune(model, prompts, how).state_dict()
    resume, taken, logits = Resumable(tmp_path / "state", seconds=0.0), [], module.answer_logits

    def killed(twin, batch):
        taken.append(len(taken))
        if len(taken) == 4:
            raise KeyboardInterrupt
        return logits(twin, batch)

    monkeypatch.setattr(module, "answer_logits", killed)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, prompts, how, resume=resume)
    again = fine_tune(model, prompts, how, resume=resume).state_dict()
    assert len(taken) == 4 + 3
    assert caplog.messages == ["the fine-tune goes on after step 3 of 6"]
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    resume.done()
    assert not (tmp_path / "state").exists()


def test_a_state_that_cannot_be_read_costs_itself_alone(tokenizer, tmp_path, caplog):
    model, prompts, resume = tiny(tokenizer), prompts_of(tokenizer), Resumable(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"half of it")
    again = fine_tune(model, prompts, TUNING, resume=resume)
    assert "cannot be read, it begins anew" in caplog.text
    assert torch.equal(again.lm_head.weight, fine_tune(model, prompts, TUNING).lm_head.weight)
