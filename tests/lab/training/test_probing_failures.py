"""Probes that fail, meddle or cannot be kept: recorded or refused, and training goes on undisturbed."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import circuit_drift
from checkpoints import DriftError
from checkpoints.errors import StoreError, UnsupportedArchitecture
from circuit_drift.behaviour import Knowledge, Reading
from circuit_drift.sweep.workers.tasks import SweepTask
from circuit_drift.training import ProbeCallback, Prober, Schedule, TrainingDisturbed, undisturbed
from tests.lab.small_trainings import prober_of, same, tiny, trainer_of, weights

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


class Broken:
    name = "broken"

    def read(self, loaded):
        raise ValueError("it fell over")


class Vandal:
    name = "vandal"

    def read(self, loaded):
        with torch.no_grad():
            next(loaded.model.parameters()).add_(1.0)
        return Reading({})


class Meddler:
    """Leaves everything changed that a probe might change."""

    name = "meddler"

    def read(self, loaded):
        loaded.model.train()
        loaded.model.set_attn_implementation("eager")
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(True)
        torch.set_grad_enabled(False)
        for draw in (random.random, np.random.rand, lambda: torch.rand(3)):
            draw()
        return Reading({"meddled": 1.0})


def test_a_probe_that_fails_is_recorded_and_training_goes_on(plain, tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Broken(), Knowledge(facts)])
    trainer = trainer_of(tokenizer, facts, tmp_path, callbacks=[ProbeCallback(prober)])
    trainer.train()
    run = circuit_drift.load_run(tmp_path / "store", "live")
    assert run.at(6).failures == {"broken": "ValueError: it fell over"}
    assert "recall" in run.log
    assert same(weights(plain.model).values(), weights(trainer.model).values())


def test_a_missing_tokenizer_is_a_recorded_failure(tokenizer, measures, tmp_path):
    prober = prober_of(None, tmp_path, measures=measures)
    probe = prober.after_step(tiny(tokenizer), step=0)
    assert "has no tokenizer" in probe.point.failures["heads"]
    assert probe.point.failures["faithfulness"] == "needs circuit, which failed"


def test_a_store_that_cannot_be_written_does_not_end_training(tokenizer, facts, tmp_path, monkeypatch, caplog):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)])
    monkeypatch.setattr(type(prober.recorder), "add", lambda *_: (_ for _ in ()).throw(DriftError("disk full")))
    assert prober.after_step(tiny(tokenizer), step=0).scalars
    assert "disk full" in caplog.text


def test_a_result_that_cannot_be_stored_does_not_end_training(tokenizer, measures, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise StoreError("no space left")

    monkeypatch.setattr(SweepTask, "compute", full)
    prober = prober_of(tokenizer, tmp_path, measures=measures[:1])
    probe = prober.after_step(tiny(tokenizer), step=0)
    assert probe.point.failures == {"heads": "no space left"}
    assert probe.point.keys == {}
    assert "no space left" in caplog.text


def test_a_probe_that_writes_to_the_weights_ends_training(tokenizer, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Vandal()])
    with pytest.raises(TrainingDisturbed, match="leave that probe out"):
        prober.after_step(tiny(tokenizer), step=0)


@pytest.mark.parametrize("failing", [False, True])
def test_everything_is_restored(tokenizer, failing):
    model = tiny(tokenizer).train()
    model.model.layers[0].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    gradient = torch.ones_like(model.lm_head.weight)
    model.lm_head.weight.grad = gradient
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    try:
        with torch.no_grad(), undisturbed(model):
            assert torch.is_grad_enabled() and not model.training
            assert not any(parameter.requires_grad for parameter in model.parameters())
            Meddler().read(SimpleNamespace(model=model))
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.config._attn_implementation == "sdpa"
    assert model.lm_head.weight.grad is gradient
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_sharded_training_is_refused(tokenizer, facts, tmp_path):
    callback = ProbeCallback(prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]))
    with pytest.raises(UnsupportedArchitecture, match="shard"):
        callback.on_train_begin(SimpleNamespace(fsdp=["full_shard"], deepspeed=None), None, None)


def test_only_the_first_process_probes(tokenizer, facts, tmp_path):
    callback = ProbeCallback(prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]))
    callback.on_step_end(None, SimpleNamespace(is_world_process_zero=False), None, model=None)
    assert callback.prober.recorder.points == ()


def test_a_prober_needs_something_to_probe(tmp_path):
    with pytest.raises(DriftError, match="nothing to probe"):
        Prober("run", store=tmp_path, schedule=Schedule(every=1))


def test_a_unit_without_its_label_is_a_recorded_failure(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts, unit="town")])
    assert "no label 'town'" in prober.after_step(tiny(tokenizer), step=0).point.failures["knowledge"]
