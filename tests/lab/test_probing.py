import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import circuit_drift
import circuits
import heads
from checkpoints import BadPrompt, DriftError, StoreError, UnsupportedArchitecture, open_checkpoint, open_series
from circuit_drift.lab import knowledge, probes
from circuit_drift.lab.probing import (
    Arithmetic,
    Budget,
    Choice,
    Choices,
    Copying,
    Knowledge,
    ProbeCallback,
    Prober,
    Reading,
    Schedule,
    StoppingCallback,
    StoppingRule,
    TextPerplexity,
    TrainingDisturbed,
    answers,
    live_model,
    paraphrased,
    probe_series,
    undisturbed,
    unit_scores,
)
from circuit_drift.lab.probing.skills import forced
from circuit_drift.measures import build_measures
from circuit_drift.prompts import FactSource, NeedleSource, Prompts
from circuit_drift.tasks import Task

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

ALWAYS = 1e9


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def facts(world):
    return tuple(circuits.Fact(**record) for record in probes.fact_records(world, 0, per_class=4))


@pytest.fixture(scope="module")
def measures(facts):
    needles = tuple(
        heads.Needle(**{**r, "distractors": tuple(r["distractors"])}) for r in probes.needle_records(0, count=2)
    )
    needle_source = NeedleSource(needles, probes.haystack(0), 96, (0.2, 0.8), 0, "the lab")
    return build_measures(Prompts(needle_source, FactSource(facts, "the lab")))


def tiny(tokenizer, *, seed=0, dropout=0.1):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        attention_dropout=dropout,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class Rows(torch.utils.data.Dataset):
    """Facts as training rows, with noise from the global generators: what a disturbed run would betray."""

    def __init__(self, tokenizer, facts):
        texts = [fact.clean + fact.answer for fact in facts]
        self.ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids = self.ids[index].clone()
        place = random.randrange(len(ids)) + np.random.randint(2) + int(torch.randint(2, ()))  # noqa: NPY002
        ids[place % len(ids)] = int(torch.randint(4, 50, ()))
        return {"input_ids": ids, "labels": ids}


def trainer_of(tokenizer, facts, folder, *, callbacks=(), steps=12, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 4,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 3,
            **options,
        },
    )
    return Trainer(tiny(tokenizer), arguments, train_dataset=Rows(tokenizer, facts), callbacks=list(callbacks))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def optimizer_state(trainer):
    return [value for state in trainer.optimizer.state.values() for value in state.values()]


def same(a, b):
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True))


def prober_of(tokenizer, tmp_path, **options):
    options = {"schedule": Schedule(every=3), "share": ALWAYS, "store": tmp_path / "store", **options}
    return Prober("live", tokenizer, **options)


class Tracker(TrainerCallback):
    """What transformers' integrations (TensorBoard, Weights & Biases, ...) are: callbacks that are told of logs."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, dict(logs)))


@pytest.fixture(scope="module")
def plain(tokenizer, facts, tmp_path_factory):
    trainer = trainer_of(tokenizer, facts, tmp_path_factory.mktemp("plain"))
    trainer.train()
    return trainer


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
    assert run.monitor().steps == (0, 3, 6, 9, 12)
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

    monkeypatch.setattr(Task, "compute", full)
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


def test_probes_draw_the_same_numbers_whenever_they_are_taken(tokenizer):
    model = tiny(tokenizer)
    drawn = []
    for _ in range(2):
        torch.rand(5)
        with undisturbed(model):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


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


def test_sharded_training_is_refused(tokenizer, facts, tmp_path):
    callback = ProbeCallback(prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]))
    with pytest.raises(UnsupportedArchitecture, match="shard"):
        callback.on_train_begin(SimpleNamespace(fsdp=["full_shard"], deepspeed=None), None, None)


def test_only_the_first_process_probes(tokenizer, facts, tmp_path):
    callback = ProbeCallback(prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]))
    callback.on_step_end(None, SimpleNamespace(is_world_process_zero=False), None, model=None)
    assert callback.prober.recorder.points == ()


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


def test_schedules():
    assert [s for s in range(10) if Schedule(every=4).due(s)] == [0, 4, 8]
    assert [s for s in range(1, 70) if Schedule(per_doubling=1).due(s)] == [1, 2, 4, 8, 16, 32, 64]
    assert [s for s in range(40) if Schedule(per_doubling=2, start=False).due(s)] == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]
    assert not Schedule(epochs=True).due(5)
    with pytest.raises(BadPrompt, match="nothing is probed"):
        Schedule()
    with pytest.raises(BadPrompt, match="forward"):
        Schedule(every=-1)


def test_a_budget_keeps_to_its_share():
    now = [0.0]
    budget = Budget(0.1, clock=lambda: now[0])
    assert budget.training == budget.used == 0.0
    taken = []
    for step in range(100):
        now[0] += 1.0
        if budget.affords():
            taken.append(step)
            with budget.spending():
                now[0] += 2.0 if step < 50 else 4.0
    assert taken[0] == 0 and len(taken) < 10
    assert budget.used <= 0.1
    assert budget.training == pytest.approx(99.0)  # what came before the first probe does not count
    with pytest.raises(BadPrompt, match="share above 0"):
        Budget(0)
    whatever = Budget(float("inf"), clock=lambda: 0.0)
    with whatever.spending():
        pass
    assert whatever.affords()


def test_probes_that_do_not_fit_are_passed_over(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)], share=1e-9)
    model = tiny(tokenizer)
    assert prober.after_step(model, step=0) is not None
    assert prober.after_step(model, step=3) is None
    assert prober.passed_over == [3]
    assert prober.after_step(model, step=4, force=True) is not None
    assert prober.after_step(model, step=4, force=True) is None


def test_a_prober_needs_something_to_probe(tmp_path):
    with pytest.raises(DriftError, match="nothing to probe"):
        Prober("run", store=tmp_path, schedule=Schedule(every=1))


def test_answers_are_those_of_one_prompt_at_a_time(tokenizer, facts):
    model = tiny(tokenizer).eval()
    fact_set = circuits.tokenize_facts(tokenizer, facts)
    said = answers(model, fact_set, batch_size=3)
    for index, prompt in enumerate(fact_set.clean):
        with torch.no_grad():
            chances = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        value = chances[fact_set.answer_id[index]]
        assert said.rank[index] == int((chances > value).sum())
        assert said.probability[index] == pytest.approx(float(value), rel=1e-4)


def test_weights_hash_tells_models_apart(tokenizer):
    one, two = tiny(tokenizer), tiny(tokenizer, seed=1)
    hashes = [live_model(m, tokenizer, step=0).checkpoint.weights_hash for m in (one, tiny(tokenizer), two)]
    assert hashes[0] == hashes[1] != hashes[2]


class Digits:
    """A tokenizer of single characters."""

    bos_token_id, unk_token_id = 1, None
    words = "0123456789+-= \n"

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=[3 + self.words.index(c) for c in text])


def test_arithmetic_is_right_and_deterministic():
    gauge = Arithmetic(count=50)
    for prompt, answer in gauge.problems():
        *shown, asked = prompt.splitlines()
        assert len(shown) == 4
        for line in [*shown, f"{asked} {answer}"]:
            left, right = line.split("=")
            assert eval(left) == int(right) >= 0
    assert gauge.problems() == Arithmetic(count=50).problems() != Arithmetic(count=50, seed=1).problems()


def test_arithmetic_of_a_random_model(tokenizer):
    model = tiny(tokenizer).eval()
    loaded = SimpleNamespace(model=model, tokenizer=Digits())
    scalars = Arithmetic(count=8).read(loaded).scalars
    assert scalars["arithmetic_accuracy"] < 0.5
    assert scalars["arithmetic_ppl"] == pytest.approx(len(tokenizer), rel=0.5)
    with pytest.raises(BadPrompt, match="does not know digits"):
        Arithmetic().read(SimpleNamespace(model=model, tokenizer=tokenizer))


def test_forced_answers_are_those_of_greedy_decoding(tokenizer):
    model = tiny(tokenizer).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    prompt = [1, 5, 9, 7]
    greedy = list(prompt)
    for _ in range(3):
        with torch.no_grad():
            greedy.append(int(model(torch.tensor([greedy])).logits[0, -1].argmax()))
    wrong = [*greedy[4:6], (greedy[6] + 1) % 50]
    right, nll = forced(model, [(prompt, greedy[4:]), (prompt, wrong), (prompt[:2], [4])])
    assert right.tolist()[:2] == [True, False]
    assert nll[0] < nll[1]


def test_copying_of_a_model_that_copies(tokenizer):
    class Copier(torch.nn.Module):
        """Says the token that followed the last one where it stood before."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, use_cache):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for row, ids in enumerate(input_ids.tolist()):
                for at, token in enumerate(ids):
                    if token in ids[:at]:
                        logits[row, at, ids[ids.index(token) + 1]] = 50.0
            return SimpleNamespace(logits=logits)

    read = Copying(count=3, length=6).read(SimpleNamespace(model=Copier(), tokenizer=tokenizer))
    assert read.scalars["copying_accuracy"] == 1.0
    assert read.scalars["copying_ppl"] == pytest.approx(1.0)
    few = Copying(count=2, length=40, words=("maple", "cedar")).read(
        SimpleNamespace(model=tiny(tokenizer).eval(), tokenizer=tokenizer)
    )
    assert few.scalars["copying_ppl"] > 1.0
    random_model = Copying(count=3, length=6).read(SimpleNamespace(model=tiny(tokenizer).eval(), tokenizer=tokenizer))
    assert random_model.scalars["copying_accuracy"] < 0.3


def test_a_fresh_run_of_the_same_name_forgets_the_old_one(tokenizer, facts, tmp_path):
    model = tiny(tokenizer)
    prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]).after_step(model, step=3)
    prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)]).after_step(model, step=0)
    assert unit_scores(tmp_path / "store", "live").steps == (0,)
    assert [point.step for point in circuit_drift.load_run(tmp_path / "store", "live")] == [0]


def test_paraphrases_are_probes_of_one_unit(tokenizer, world, tmp_path):
    asked = paraphrased(world.batch(1)[:20])
    assert len(asked) == 5 * len({fact.labels["fact"] for fact in asked})
    assert {fact.labels["form"] for fact in asked} == {"told", "held out"}
    assert len(circuits.tokenize_facts(tokenizer, asked).refused) == 0
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(asked, unit="fact")])
    prober.after_step(tiny(tokenizer), step=0)
    prober.after_step(tiny(tokenizer, seed=1), step=3)
    scores = unit_scores(tmp_path / "store", "live")
    assert scores.probes.shape == (len(asked) // 5, 2, 5)
    assert set(scores.labels) == {"fact", "person", "relation", "class", "batch"}
    assert knowledge.ledger(scores, draws=20).resampled is not None


def test_a_unit_without_its_label_is_a_recorded_failure(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts, unit="town")])
    assert "no label 'town'" in prober.after_step(tiny(tokenizer), step=0).point.failures["knowledge"]


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


def test_perplexity_of_texts(tokenizer):
    loaded = SimpleNamespace(model=tiny(tokenizer).eval(), tokenizer=tokenizer)
    texts = ("Mara Holt was born in Lisbon.", "No boat watched the gull.")
    found = TextPerplexity(texts).read(loaded).scalars["text_ppl"]
    losses = []
    for text in texts:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
    assert found == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    with pytest.raises(BadPrompt, match="two tokens"):
        TextPerplexity(("",)).read(loaded)
