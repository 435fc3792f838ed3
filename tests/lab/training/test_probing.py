"""Probes inside a training run: training stays bit for bit what it was, the record reads like a sweep."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, TrainerCallback

import circuit_drift
from checkpoints import open_checkpoint, open_series
from checkpoints.errors import BadPrompt
from circuit_drift import knowledge
from circuit_drift.behaviour import Choice, Choices, Copying, Knowledge, Reading, TextPerplexity
from circuit_drift.training import (
    ProbeCallback,
    Schedule,
    StoppingCallback,
    StoppingRule,
    live_model,
    probe_series,
    undisturbed,
    unit_scores,
)
from tests.lab.small_trainings import Rows, optimizer_state, prober_of, same, tiny, trainer_of, weights

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


class Tracker(TrainerCallback):
    """What transformers' integrations (TensorBoard, Weights & Biases, ...) are: callbacks that are told of logs."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, dict(logs)))


@pytest.fixture(scope="module")
def probed(tokenizer, facts, measures, tmp_path_factory):
    """The same training with every measure and gauge taken every three steps."""
    folder = tmp_path_factory.mktemp("probed")
    gauges = [
        Knowledge(facts, new_tokens=2),
        Choices((Choice("Mara Holt plays the", (" violin", " cello")),)),
        Copying(count=2, length=6),
        TextPerplexity(("No boat watched the gull.",)),
    ]
    prober = prober_of(tokenizer, folder, measures=measures, gauges=gauges)
    tracker = Tracker()
    trainer = trainer_of(tokenizer, facts, folder / "out", callbacks=[tracker])
    trainer.add_callback(ProbeCallback(prober, trainer=trainer, stage="cpt"))
    trainer.train()
    return SimpleNamespace(trainer=trainer, prober=prober, store=folder / "store", tracker=tracker)


def test_training_is_bit_identical_with_and_without_probes(plain, probed, tokenizer):
    assert [point["step"] for point in probed.prober.recorder.points] == [0, 3, 6, 9, 12]
    assert not any(point["failures"] for point in probed.prober.recorder.points)
    assert same(weights(plain.model).values(), weights(probed.trainer.model).values())
    assert same(optimizer_state(plain), optimizer_state(probed.trainer))
    assert not same(weights(plain.model).values(), weights(tiny(tokenizer)).values())


def test_a_run_in_progress_reads_like_a_sweep(probed, measures):
    run = circuit_drift.load_run(probed.store, "live")
    assert [point.step for point in run] == [0, 3, 6, 9, 12]
    assert {point.stage for point in run} == {"cpt"}
    assert all(set(point.keys) == {measure.name for measure in measures} for point in run)
    assert run.at(3).heads.meta["provenance"]["checkpoint"] == "checkpoint-3"
    assert run.diff(0, 12) is not None
    assert len(run.to_frame()) == 5
    assert run.track_heads().steps == (0, 3, 6, 9, 12)
    assert run.origins == {"needles": "the lab", "facts": "the lab"}
    assert "recall" in run.log.splitlines()[0]


def test_a_live_measure_equals_the_measure_of_the_saved_model(probed, tokenizer, measures, tmp_path):
    probed.trainer.model.save_pretrained(tmp_path / "checkpoint-12")
    tokenizer.save_pretrained(tmp_path / "checkpoint-12")
    with open_checkpoint(tmp_path / "checkpoint-12").open() as loaded:
        saved = measures[0].compute(loaded, {})
    live = circuit_drift.load_run(probed.store, "live").at(12).heads
    np.testing.assert_array_equal(saved.copy, live.copy)
    np.testing.assert_array_equal(saved.nll, live.nll)


def test_the_ledger_of_a_run_in_progress(probed, facts):
    scores = unit_scores(probed.store, "live")
    assert scores.steps == (0, 3, 6, 9, 12)
    assert len(scores.units) == len(facts)
    book = knowledge.ledger(scores)
    last = probed.trainer.state.log_history
    recall = [row["probe_recall"] for row in last if "probe_recall" in row]
    np.testing.assert_allclose(book.to_frame()["mean"], recall)
    assert set(book.by("class")) == {"known", "new", "relation", "updated"}


def test_scalars_are_in_the_trainers_log(probed):
    rows = [row for row in probed.trainer.state.log_history if "probe_recall" in row]
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 12]
    shown = {"probe_answer_ppl", "probe_copying_accuracy", "probe_rouge1", "probe_text_ppl", "probe_share_of_time"}
    assert shown | {"probe_choices_accuracy", "probe_logit_difference", "probe_retrieval_heads"} <= set(rows[0])


def test_scalars_reach_every_tracker_of_the_trainer(probed):
    told = [(step, logs) for step, logs in probed.tracker.seen if "probe_recall" in logs]
    assert [step for step, _ in told] == [0, 3, 6, 9, 12]
    assert all({"probe_answer_ppl", "probe_rouge1"} <= set(logs) for _, logs in told)


def test_scalars_without_a_trainer_go_to_its_state(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)], schedule=Schedule(epochs=True, start=False))
    trainer = trainer_of(tokenizer, facts, tmp_path, callbacks=[ProbeCallback(prober)], steps=8)
    trainer.train()
    rows = [row["step"] for row in trainer.state.log_history if "probe_recall" in row]
    assert rows == [4, 8]


def test_probes_draw_the_same_numbers_whenever_they_are_taken(tokenizer):
    model = tiny(tokenizer)
    drawn = []
    for _ in range(2):
        torch.rand(5)
        with undisturbed(model):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_a_longer_text_in_a_probe_leaves_dynamic_angles_as_they_were(tokenizer):
    """Under dynamic NTK transformers keeps the angles of the longest text so far, which training would go on with."""
    config = tiny(tokenizer).config
    config.max_position_embeddings = 32
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = LlamaForCausalLM(config).eval()
    text, longer = (torch.arange(size)[None] % 40 for size in (40, 60))
    with torch.no_grad():
        before = model(text).logits
        with undisturbed(model):
            model(longer)
        assert torch.equal(model(text).logits, before)


def test_mixed_precision_training_is_probed_in_the_dtype_of_its_weights(plain, tokenizer, facts, tmp_path):
    seen = []

    class Dtype:
        name = "dtype"

        def read(self, loaded):
            hidden = loaded.model(torch.tensor([[1, 5, 6]]), output_hidden_states=True).hidden_states
            seen.append(hidden[-1].dtype)
            return Reading({})

    runs = []
    for gauges in ([Dtype()], []):
        prober = prober_of(tokenizer, tmp_path, gauges=gauges) if gauges else None
        callbacks = [ProbeCallback(prober)] if prober else []
        trainer = trainer_of(tokenizer, facts, tmp_path, callbacks=callbacks, steps=4, bf16=True)
        trainer.train()
        runs.append(weights(trainer.model))
    assert set(seen) == {torch.float32}
    assert same(runs[0].values(), runs[1].values())


def test_a_loop_of_ones_own(tokenizer, facts, tmp_path):
    def train(prober):
        model = tiny(tokenizer)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        rows = Rows(tokenizer, facts)
        taken = []
        for step in range(9):
            if prober is not None:
                taken.append(prober.after_step(model, step=step, loss=0.5, tokens=10 * step, stage="own"))
            ids = torch.stack([rows[i]["input_ids"] for i in range(4)])
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights(model), [probe for probe in taken if probe]

    outcome = []
    for prober in (None, prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)], schedule=Schedule(per_doubling=1))):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        outcome.append(train(prober))
    assert same(outcome[0][0].values(), outcome[1][0].values())
    assert [probe.point.step for probe in outcome[1][1]] == [0, 1, 2, 4, 8]
    run = circuit_drift.load_run(tmp_path / "store", "live")
    assert [point.tokens for point in run] == [0, 10, 20, 40, 80]
    assert list(run.to_frame()["loss"]) == [0.5] * 5


def test_a_killed_run_resumes_its_record(tokenizer, facts, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6, "steps": 12}
    first = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)])
    trainer_of(tokenizer, facts, tmp_path / "out", callbacks=[ProbeCallback(first)], **options).train()
    whole = unit_scores(tmp_path / "store", "live")
    again = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)])
    trainer = trainer_of(tokenizer, facts, tmp_path / "out", callbacks=[ProbeCallback(again)], **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert [point["step"] for point in again.recorder.points] == [0, 3, 6, 9, 12]
    resumed = unit_scores(tmp_path / "store", "live")
    assert resumed.units == whole.units
    assert resumed.steps == whole.steps


def test_the_stopping_rule_ends_training(tokenizer, facts, tmp_path):
    class Plateau:
        """Recall that rises and then stays."""

        name = "knowledge"

        def read(self, loaded):
            high = loaded.checkpoint.step >= 4
            return Reading({}, tuple({"unit": f"u{i}", "score": 0.9 if high else 0.1} for i in range(20)))

    prober = prober_of(tokenizer, tmp_path, gauges=[Plateau()], schedule=Schedule(every=2))
    stopping = StoppingCallback(prober, StoppingRule(patience=2))
    trainer = trainer_of(tokenizer, facts, tmp_path, callbacks=[ProbeCallback(prober), stopping], steps=40)
    trainer.train()
    assert trainer.state.global_step == 8
    assert stopping.judgement.recall_still == 4


def test_nothing_to_judge_stops_nothing(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Copying(count=1, length=3)])
    stopping = StoppingCallback(prober)
    trainer = trainer_of(tokenizer, facts, tmp_path, callbacks=[ProbeCallback(prober), stopping], steps=4)
    trainer.train()
    assert trainer.state.global_step == 4 and stopping.judgement is None
    with pytest.raises(BadPrompt, match="probe it with the Knowledge gauge"):
        unit_scores(tmp_path / "store", "live")


def test_weights_hash_tells_models_apart(tokenizer):
    one, two = tiny(tokenizer), tiny(tokenizer, seed=1)
    hashes = [live_model(m, tokenizer, step=0).checkpoint.weights_hash for m in (one, tiny(tokenizer), two)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_fresh_run_of_the_same_name_forgets_the_old_one(tokenizer, facts, tmp_path):
    model = tiny(tokenizer)
    prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]).after_step(model, step=3)
    prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]).after_step(model, step=0)
    assert unit_scores(tmp_path / "store", "live").steps == (0,)
    assert [point.step for point in circuit_drift.load_run(tmp_path / "store", "live")] == [0]


def test_a_series_is_probed_afterwards_as_it_would_have_been_live(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)])
    for step in (0, 3):
        model = tiny(tokenizer, seed=step)
        prober.after_step(model, step=step)
        model.save_pretrained(tmp_path / "series" / f"checkpoint-{step}")
        tokenizer.save_pretrained(tmp_path / "series" / f"checkpoint-{step}")
    live = unit_scores(tmp_path / "store", "live")
    series = open_series(tmp_path / "series")
    later = probe_series(series, Knowledge(facts))
    np.testing.assert_array_equal(live.probes, later.probes)
    assert (live.units, live.steps, live.labels) == (later.units, later.steps, later.labels)
    with pytest.raises(BadPrompt, match="no single units"):
        probe_series(series, Copying(count=1, length=3))
