import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

import circuit_drift
import heads
from checkpoints import DriftError, open_series
from checkpoints.errors import BadPrompt, StoreError
from circuit_drift.behaviour import sft
from circuit_drift.behaviour.generation import string_match, string_matches
from circuit_drift.behaviour.result import TaskScore, TaskScores
from circuit_drift.behaviour.sft import SftMeasure, answered, sft_probe
from circuit_drift.behaviour.suites import STANDARD, WRITTEN, family, make_task, suite_for
from circuit_drift.behaviour.table import BehaviourTable
from circuit_drift.behaviour.tuning import Tuning, fine_tune
from circuit_drift.cli import app
from circuit_drift.lab.suite import LAB
from circuit_drift.measures import build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.report.run_table import readings
from heads.prompts.pools import default_haystack, default_needles
from heads.tracking.correlation import read_downstream
from tests.checkpoints.loading.test_device_map import attach_hooks
from tests.lab.small_models import small_llama

TUNING = Tuning(steps=3, batch=4, lr=1e-2, warmup=1, needles=4)
SMALL = {"tasks": ("codes_single", "lives_standard"), "length": 128, "depths": (0.2, 0.8), "count": 2}


def tiny(tokenizer, seed=0, positions=256):
    return small_llama(tokenizer, seed=seed, max_position_embeddings=positions, attention_dropout=0.1)


def prompts_of(tokenizer, task="codes_single", *, seed=0, count=4):
    made = make_task(task, seed=seed, count=count)
    return made.prompts(tokenizer, length=128, depths=(0.2, 0.8)).prompts


@pytest.fixture(scope="module")
def series(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "series"
    for step in (0, 5, 10):
        tiny(tokenizer, seed=step).save_pretrained(folder / f"checkpoint-{step}")
        tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return open_series(folder)


@pytest.fixture(scope="module")
def table(series, tmp_path_factory):
    return sft_probe(series, tuning=TUNING, store=tmp_path_factory.mktemp("sft") / "store", device="cpu", **SMALL)


@pytest.mark.parametrize("task", LAB)
def test_tasks_in_the_labs_words_can_all_be_posed(tokenizer, task):
    made = make_task(task, seed=3, count=8)
    found = made.prompts(tokenizer, length=256, depths=(0.1, 0.9))
    assert not found.refused and len(found) == 16
    for prompt in found:
        assert tokenizer.unk_token_id not in prompt.ids
        spans = [prompt.ids[slice(*span)] for span in prompt.answer_spans]
        assert prompt.answer[: len(spans[0])] == spans[0]
        assert prompt.answer[-len(spans[-1]) :] == spans[-1]
    assert make_task(task, seed=3, count=8) == made != make_task(task, seed=4, count=8)


def test_a_paraphrase_asks_otherwise_than_it_was_told():
    for name, same in (("lives_standard", True), ("lives_paraphrase", False)):
        for needle in make_task(name, seed=0, count=8).needles:
            assert (f"{needle.question} {needle.answer}." in needle.needle) == same


def test_a_series_of_the_lab_is_asked_in_its_own_words(tokenizer):
    assert suite_for(tokenizer) == LAB
    assert suite_for(type("Real", (), {"get_vocab": lambda _: {"hello": 0}})()) == STANDARD
    assert {family(task) for task in STANDARD} == {"ruler", "longbio", "mrcr"}
    assert len(STANDARD) == 18


def test_the_checkpoint_and_its_model_stay_as_they_are(tokenizer, series):
    model = tiny(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    tuned = fine_tune(model, prompts_of(tokenizer), TUNING)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(tuned.lm_head.weight, model.lm_head.weight)
    assert not tuned.training and not any(p.requires_grad for p in tuned.parameters())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_fine_tune_is_reproducible_and_its_seed_matters(tokenizer):
    model, prompts = tiny(tokenizer), prompts_of(tokenizer)
    one, two, other = (fine_tune(model, prompts, TUNING, seed=seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_fine_tune_teaches_the_answers(tokenizer):
    model, prompts = tiny(tokenizer), prompts_of(tokenizer)
    tuned = fine_tune(model, prompts, replace(TUNING, steps=40))
    assert answered(tuned, prompts).nll.mean() < 0.5 * answered(model, prompts).nll.mean()


def test_a_fine_tune_that_diverges_is_an_error(tokenizer):
    model = tiny(tokenizer)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(DriftError, match="lower its lr"):
        fine_tune(model, prompts_of(tokenizer), TUNING)


def test_answers_are_scored_as_they_would_be_written(tokenizer):
    model = tiny(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    prompts = list(prompts_of(tokenizer))
    start = prompts[0].answer_start
    written = heads.detect.generation.generate(model, prompts[0].ids[:start], new_tokens=3, end_of_sequence=False)
    prompts[0] = replace(prompts[0], ids=(*prompts[0].ids[:start], *written))
    found = answered(model, prompts, 2.0, batch_size=3)
    assert found.correct[0] == 1.0
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model(torch.tensor([prompt.ids])).logits[0, prompt.answer_start - 1 : -1]
        ids = torch.tensor(prompt.answer)[:, None]
        hot = (logits / 2).log_softmax(-1).gather(1, ids).sum().exp()
        assert found.chance[i] == pytest.approx(float(hot), rel=1e-3)
        assert found.nll[i] == pytest.approx(float(-logits.log_softmax(-1).gather(1, ids).mean()), rel=1e-4)


def test_a_table_by_step_for_the_monitor(table, tokenizer):
    assert [step for step, _ in table.points] == [0, 5, 10]
    frame = table.to_frame()
    assert set(frame["metric"]) >= {"pass@3", "accuracy", "answer_nll", "pass@3_before"}
    assert ((frame["low"] <= frame["value"] + 1e-9) & (frame["value"] <= frame["high"] + 1e-9)).all()
    assert list(table.downstream().columns) == ["step", "sft_codes", "sft_lives"]
    prompts = make_task("codes_single", seed=0, count=4).prompts(tokenizer, length=128, depths=(0.5,))
    scores = [(step, None, heads.score(tiny(tokenizer, seed=step), prompts)) for step in (0, 5, 10)]
    watched = heads.track(scores, downstream=table.to_downstream(), draws=20)
    assert any(c.downstream in ("sft_codes", "sft_lives") and c.n == 3 for c in watched.correlations)


def test_a_pass_at_k_is_that_of_k_attempts(monkeypatch):
    run = sft.Answered(np.zeros(3), np.array([0.0, 0.5, 1.0]), np.zeros(3))
    monkeypatch.setattr(sft, "answered", lambda *_: run)
    asked = {"niah": SimpleNamespace(prompts=())}
    found = SftMeasure(("niah",), attempts=3)._ask(None, None, asked)["niah"]
    assert found["pass@3"].tolist() == [0.0, 1 - 0.5**3, 1.0]
    score = sft._scores("niah", found, [found])[0]
    assert (score.metric, score.n) == ("pass@3", 3)
    assert score.value == pytest.approx(np.mean([0.0, 1 - 0.5**3, 1.0]))


def test_a_killed_probe_goes_on_and_checkpoints_are_untouched(series, table, tmp_path, monkeypatch):
    hashes = [checkpoint.weights_hash for checkpoint in series]
    whole, compute, taken = table.downstream(), SftMeasure.compute, []

    def killed(self, loaded, earlier):
        if loaded.checkpoint.step == 5 and len(taken) < 2:
            taken.append(5)
            raise KeyboardInterrupt
        taken.append(loaded.checkpoint.step)
        return compute(self, loaded, earlier)

    monkeypatch.setattr(SftMeasure, "compute", killed)
    options = {"tuning": TUNING, "store": tmp_path / "store", "device": "cpu", **SMALL}
    with pytest.raises(KeyboardInterrupt):
        sft_probe(series, **options)
    again = sft_probe(series, **options)
    assert taken == [0, 5, 5, 10]
    assert again.downstream().equals(whole)
    sft_probe(series, **options)
    assert len(taken) == 4
    assert [checkpoint.weights_hash for checkpoint in series] == hashes


def test_a_checkpoint_that_cannot_be_tuned_is_recorded(series, tmp_path, monkeypatch, caplog):
    compute = SftMeasure.compute

    def fragile(self, loaded, earlier):
        if loaded.checkpoint.step == 5:
            raise DriftError("the fine-tune's loss is nan")
        return compute(self, loaded, earlier)

    monkeypatch.setattr(SftMeasure, "compute", fragile)
    found = sft_probe(series, tuning=TUNING, store=tmp_path, device="cpu", **SMALL)
    assert [step for step, _ in found.points] == [0, 10]
    assert found.failures == {"checkpoint-5": "the fine-tune's loss is nan"}
    assert "loss is nan" in caplog.text


def test_a_change_of_the_test_or_the_fine_tune_is_another_measure():
    base = SftMeasure(LAB)
    others = [replace(base, seed=1), replace(base, tuning=Tuning(steps=41)), replace(base, tasks=LAB[:2])]
    assert all(other.key_params() != base.key_params() for other in others)
    assert replace(base, batch_size=1).key_params() == base.key_params()


def test_training_needles_are_not_those_of_the_test(tokenizer):
    measure = SftMeasure(LAB, replace(TUNING, needles=10), count=4)
    tests, _ = measure._tests(tokenizer)
    training = measure._training(tokenizer, tests)
    assert len(training) == len(LAB) * 10 * 3
    asked = {prompt.ids for found in tests.values() for prompt in found}
    assert not asked & {prompt.ids for prompt in training}
    assert len({prompt.ids for prompt in training}) == len(training)


def test_tasks_that_cannot_be_posed_are_named(tokenizer, series, tmp_path):
    with pytest.raises(BadPrompt, match="no task is called 'chess'"):
        SftMeasure(("chess",))
    with pytest.raises(DriftError, match=r"none of the tasks can be posed in 128 tokens.*ruler_single_2"):
        sft_probe(series, tasks=["ruler_single_2"], length=128, store=tmp_path, device="cpu")
    measure = SftMeasure(("codes_single", "mrcr"), TUNING, length=128, count=2)
    tests, refused = measure._tests(tokenizer)
    assert set(tests) == {"codes_single"}
    assert refused["mrcr"].startswith("2 of 2 needles: ")


@pytest.fixture(scope="module")
def english():
    """A byte-level tokenizer of real words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = [default_haystack(0, sentences=100), *(n.needle + n.question for n in default_needles(0))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<s>", pad_token="<s>")


def test_ruler_longbio_and_mrcr_are_asked_of_a_real_language_tokenizer(english):
    assert suite_for(english) == STANDARD
    model = tiny(english, positions=1100)
    measure = SftMeasure(STANDARD, replace(TUNING, needles=1, steps=1), length=900, depths=(0.5,), count=1)
    found = measure.compute(SimpleNamespace(model=model, tokenizer=english), {})
    assert found.refused == {}
    assert {score.task for score in found.scores} == set(STANDARD)
    assert set(found.columns) == {"sft_ruler", "sft_ruler_string_match", "sft_longbio", "sft_mrcr"}
    written = {score.task for score in found.scores if score.metric == "string_match"}
    assert written == {score.task for score in found.scores if score.metric == "string_match_before"} == set(WRITTEN)


def test_ruler_counts_the_words_that_stand_anywhere_in_what_is_written(english, monkeypatch):
    assert string_match("A Bee, no ape!", ["ape", "bee", "dog"]) == pytest.approx(2 / 3)
    asked = make_task("ruler_cwe", seed=0, count=2).prompts(english, length=500).prompts
    words = english.decode(asked[0].answer).strip().split(", ")
    assert len(words) == 10
    backwards = english(f" The words are: {'; '.join(words[:3:-1]).upper()}", add_special_tokens=False).input_ids
    allowed = []

    def write(model, prompts, *, new_tokens, batch_size):
        allowed.append(new_tokens)
        return [tuple(backwards), ()]

    monkeypatch.setattr("circuit_drift.behaviour.generation.write_answers", write)
    model = tiny(english, positions=600)
    assert string_matches(model, english, asked, new_tokens=120) == [0.6, 0.0]
    model.config.max_position_embeddings = max(prompt.answer_start for prompt in asked) + 7
    string_matches(model, english, asked, new_tokens=120)
    assert allowed == [min(120, 600 - max(prompt.answer_start for prompt in asked)), 7]


def test_two_checkpoints_of_one_step_have_no_table(series, tmp_path):
    twice = type(series)(series.path, series.name, (series[0], series[0]))
    with pytest.raises(BadPrompt, match="has the step 0 of another one"):
        sft_probe(twice, store=tmp_path, device="cpu", **SMALL)


def test_arguments_that_make_no_sense():
    for lr in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadPrompt, match="finite lr above 0"):
            Tuning(lr=lr)
    with pytest.raises(BadPrompt, match="temperature > 0"):
        SftMeasure(LAB, temperature=0)


def test_tables_are_joined_by_step(table, tmp_path):
    path = tmp_path / "downstream.csv"
    path.write_text("step,mmlu,sft_codes\n0,0.25,9\n20,0.5,9\n")
    read = read_downstream(table.write_csv(path))
    assert read["mmlu"] == {0: 0.25, 20: 0.5}
    assert set(read["sft_codes"]) == {0, 5, 10}
    path.write_text("epoch\n1\n")
    with pytest.raises(StoreError, match="no column step"):
        table.write_csv(path)


def test_behaviour_is_saved_and_loaded(tmp_path):
    score = TaskScore("mrcr", "pass@3", 0.5, float("nan"), 1.0, 8)
    found = TaskScores((score,), {"sft_mrcr": 0.5}, {"niah": "too long"}, {"provenance": {"step": 3}})
    read = TaskScores.load(found.save(tmp_path / "one"))
    assert (read.columns, read.refused, read.meta) == (found.columns, found.refused, found.meta)
    assert repr(read.scores) == repr(found.scores)
    assert "sft_mrcr" in BehaviourTable(((3, read),))._repr_html_()


def test_at_a_terminal(series, tmp_path):
    out = tmp_path / "downstream.csv"
    words = ["--steps", "0,10", "--tasks", "codes_single", "--tune-steps", "2", "--count", "2", "--length", "96"]
    places = ["--store", str(tmp_path / "store"), "--device", "cpu", "--out", str(out)]
    done = CliRunner().invoke(app, ["sft", str(series.path), *words, *places])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "step,sft_codes"
    assert "goes with the next release" in done.stderr
    assert "circuit-drift run SERIES --measures sft, or sft:TASK" in done.stderr
    assert set(read_downstream(out)["sft_codes"]) == {0, 10}


def test_it_is_a_measure_like_any_other(series, table, measures, tmp_path):
    probe = SftMeasure(SMALL["tasks"], TUNING, SMALL["length"], SMALL["depths"], SMALL["count"])
    options = {"store": tmp_path, "device": "cpu", "progress": False}
    run = circuit_drift.run(series, measures=[measures[0], probe], **options)
    assert readings(run, "sft") == table.to_downstream()
    assert run.to_frame()["sft_codes"].tolist() == table.downstream()["sft_codes"].tolist()
    assert "<h3>sft over training</h3>" in run.report(tmp_path / "run.html").read_text(encoding="utf-8")
    told = CliRunner().invoke(app, ["track", str(tmp_path), "--downstream", "sft"])
    assert told.exit_code == 0, told.output
    assert "sft_codes" in told.stdout


def test_its_tasks_are_named_or_chosen_by_the_first_tokenizer(series):
    prompts = prompts_for(series.path)
    assert build_measures(prompts, ["sft:codes_single", "sft:mrcr"])[0].tasks == ("codes_single", "mrcr")
    assert build_measures(prompts, ["sft"], series[0])[0].tasks == LAB
    with pytest.raises(DriftError, match="say sft:TASK"):
        build_measures(prompts, ["sft"])


def test_a_spread_model_of_another_attention_is_tuned_to_the_same_scores(series, table, tmp_path, monkeypatch):
    attach_hooks(monkeypatch)
    placed = sft_probe(series, tuning=TUNING, store=tmp_path, attention="eager", device_map={"": "cpu"}, **SMALL)
    for (step, got), (_, expected) in zip(placed.points, table.points, strict=True):
        assert got.columns == pytest.approx(expected.columns, abs=1e-4), step
        assert got.meta["provenance"]["attention"] == "eager"
        assert got.meta["provenance"]["device_map"] == {"": "cpu"}
