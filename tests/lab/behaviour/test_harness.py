import json
import random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from checkpoints import DriftError, open_series
from checkpoints.errors import BadPrompt
from circuit_drift.behaviour import harness
from circuit_drift.behaviour.harness import HarnessMeasure, harness_probe
from circuit_drift.behaviour.result import TaskScores
from circuit_drift.cli import app
from circuit_drift.measures.base import Asked
from circuit_drift.store.store import Store
from circuit_drift.training import Prober, Schedule
from heads.tracking.correlation import read_downstream
from tests.lab.small_models import small_llama

CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WRITTEN = """
task: own_written
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 2, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
PLACES = ("Lisbon", "Cairo", "Oslo")
NAMES = ("Mara Holt", "Finn Vale", "Lena Keller", "Otto Moss")


def tiny(tokenizer, seed=0):
    return small_llama(tokenizer, seed=seed, width=16, max_position_embeddings=128, initializer_range=0.5)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two tasks of our own over a local file."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    rows = [{"question": f"{n} was born in", "choices": PLACES, "label": i % 3} for i, n in enumerate(NAMES)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "choice.yaml").write_text(CHOICE.format(data=data))
    (folder / "written.yaml").write_text(WRITTEN.format(data=data))
    return folder


@pytest.fixture(scope="module", autouse=True)
def data_stays_here(tmp_path_factory):
    import datasets

    before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, tmp_path_factory.mktemp("data")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def series(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness") / "series"
    for step in (0, 5, 10):
        tiny(tokenizer, seed=step).save_pretrained(folder / f"checkpoint-{step}")
        tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return open_series(folder)


def best_choice(model, tokenizer, name):
    ids = torch.tensor([tokenizer(f"{name} was born in").input_ids])
    places = [tokenizer(place, add_special_tokens=False).input_ids[0] for place in PLACES]
    return int(model(ids).logits[0, -1][places].argmax())


def test_results_by_step_equal_what_the_model_answers(series, tokenizer, own, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("subprocess.check_output", lambda *_, **__: pytest.fail("the machine was asked"))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    hashes = [checkpoint.weights_hash for checkpoint in series]
    options = {"include": own, "store": tmp_path / "store", "device": "cpu"}
    table = harness_probe(series, ["own_choice", "own_written"], **options)
    assert [step for step, _ in table.points] == [0, 5, 10]
    for step, found in table.points:
        right = [best_choice(tiny(tokenizer, step), tokenizer, name) == i % 3 for i, name in enumerate(NAMES)]
        assert found.columns["own_choice_acc"] == pytest.approx(np.mean(right))
    assert "pretrained" not in caplog.text
    score = table.points[0][1].scores[0]
    assert (score.task, score.metric, score.n) == ("own_choice", "acc", 4)
    assert score.low <= score.value <= score.high
    assert read_downstream(table.write_csv(tmp_path / "downstream.csv")).keys() == table.to_downstream().keys()
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [checkpoint.weights_hash for checkpoint in series] == hashes


def test_what_is_stored_is_not_run_again_unless_the_task_changed(series, own, tmp_path, monkeypatch):
    options = {"include": own, "store": tmp_path / "store", "device": "cpu", "limit": 2}
    first = harness_probe(series[:1], ["own_choice"], **options)
    monkeypatch.setattr(HarnessMeasure, "compute", lambda *_: pytest.fail("run again"))
    assert harness_probe(series[:1], ["own_choice"], **options).points == first.points
    assert first.points[0][1].scores[0].n == 2
    before = HarnessMeasure(("own_choice",), own).key_params()
    (own / "more.txt").write_text("new")
    assert HarnessMeasure(("own_choice",), own).key_params() != before


def test_tasks_that_cannot_be_run_are_named(series, own, tmp_path, monkeypatch, caplog):
    own_only = harness._tasks(own, defaults=False)
    monkeypatch.setattr(harness, "_manager", lambda *_: own_only)  # listing the harness' ten thousand takes long
    options = {"include": own, "store": tmp_path / "store", "device": "cpu"}
    table = harness_probe(series[:1], ["nonsense", "own_choice"], **options)
    assert list(table.points[0][1].refused) == ["nonsense"]
    assert "could not ask all of nonsense" in caplog.text
    with pytest.raises(DriftError, match=r"could run none of the tasks.*nonsense"):
        harness_probe(series[:1], ["nonsense"], **options)


def test_inside_a_training_loop(tokenizer, own, tmp_path):
    measure = HarnessMeasure(("own_choice",), own)
    prober = Prober("live", tokenizer, gauges=[measure], schedule=Schedule(every=1), store=tmp_path)
    model = tiny(tokenizer).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = prober.after_step(model, step=0)
    assert not probe.point.failures
    assert 0 <= probe.scalars["own_choice_acc"] <= 1
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_options_that_make_no_sense_and_a_missing_harness(tmp_path, monkeypatch):
    with pytest.raises(BadPrompt, match="limit of at least 1"):
        HarnessMeasure(("own_choice",), limit=0)
    with pytest.raises(BadPrompt, match="is no folder"):
        HarnessMeasure(("own_choice",), tmp_path / "nowhere")
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(DriftError, match=r"circuit-drift\[eval\]"):
        harness._harness()


def test_own_tasks_limits_and_shots_are_named_with_the_measure(tmp_path):
    words = ("own_choice", f"folder={tmp_path}", "limit=3", "shots=0")
    assert HarnessMeasure.build(Asked(None, words)) == HarnessMeasure(("own_choice",), tmp_path, 3, 0)
    assert HarnessMeasure.build(Asked(None, ("own_choice",))) == HarnessMeasure(("own_choice",))
    for wrong in ("limit=few", "folders=x"):
        with pytest.raises(DriftError, match=f"numbers for limit and shots; got {wrong}"):
            HarnessMeasure.build(Asked(None, ("own_choice", wrong)))


def test_at_a_terminal(series, own, tmp_path):
    out = tmp_path / "downstream.csv"
    words = ["--tasks", "own_choice", "--include", str(own), "--steps", "last", "--limit", "2", "--out", str(out)]
    places = ["--store", str(tmp_path / "store"), "--device", "cpu"]
    done = CliRunner().invoke(app, ["evaluate", str(series.path), *words, *places])
    assert "the command evaluate goes with the next release" in done.stderr
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "step,own_choice_acc"
    placed = [*places[:1], str(tmp_path / "placed"), "--attention", "eager", "--device-map", "auto"]
    assert CliRunner().invoke(app, ["evaluate", str(series.path), *words, *placed]).stdout == done.stdout
    (result,) = Store.open(tmp_path / "placed").results("harness")
    provenance = TaskScores.load(result.folder).meta["provenance"]
    assert (provenance["attention"], provenance["device_map"]) == ("eager", {"": "cpu"})
    assert set(read_downstream(out)["own_choice_acc"]) == {10}


def test_a_head_of_its_own_is_what_the_harness_measures(tokenizer, own, tmp_path):
    """The harness ties weights by the config; the file holds a head trained apart."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "run" / "checkpoint-1"
    model = tiny(tokenizer)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    held = load_file(folder / "model.safetensors")
    embedding = held["model.embed_tokens.weight"]
    held["lm_head.weight"] = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3))
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    loaded = open_series(tmp_path / "run")[0].load()
    head = loaded.model.lm_head.weight.clone()
    found = HarnessMeasure(("own_choice",), include=own).compute(loaded, {})
    assert torch.equal(loaded.model.lm_head.weight, head)
    assert "tie_weights" not in vars(loaded.model)
    right = [best_choice(loaded.model, tokenizer, name) == i % 3 for i, name in enumerate(NAMES)]
    assert found.columns["own_choice_acc"] == pytest.approx(np.mean(right))


def test_a_model_that_overflows_is_refused_and_not_scored_zero(series, own):
    loaded = series[0].load()
    loaded.model.lm_head.weight.fill_(3e38)
    with pytest.raises(DriftError, match=r"own_choice: CorruptWeights: .* logits \(float32\) are not finite"):
        HarnessMeasure(("own_choice",), include=own).compute(loaded, {})
