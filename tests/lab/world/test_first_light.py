"""The shipped series is what its card, its tables and the code say it is."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from checkpoints import open_series
from circuit_drift.lab import evaluate, probes, tables
from circuit_drift.lab.recipe import Recipe
from circuit_drift.lab.world import make_world

FOLDER = Path(__file__).parents[3] / "series" / "first-light"
LIMIT_MB = 30


def table(name):
    return list(csv.DictReader((FOLDER / name).read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def log():
    return table("training_log.csv")


@pytest.fixture(scope="module")
def last_pretrained():
    series = open_series(FOLDER)
    with [c for c in series if c.stage == "pretrain"][-1].open() as loaded:
        yield loaded


def column(log, name, stage=None):
    return [float(row[name]) for row in log if stage is None or row["stage"] == stage]


def test_manifest_folders_and_log_agree_with_the_recipe(log):
    first, wanted = 0, []
    for stage in Recipe().stages:
        wanted += [(stage.name, first + step) for step in stage.checkpoints]
        first += stage.steps
    series = open_series(FOLDER)
    assert [(c.stage, c.step) for c in series] == wanted
    assert [(row["stage"], int(row["step"])) for row in log] == wanted
    assert sorted(p.name for p in FOLDER.glob("checkpoint-*")) == sorted(c.path.name for c in series)
    assert [c.tokens for c in series] == [int(row["tokens"]) for row in log]


def test_series_is_small_and_in_bf16():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) <= LIMIT_MB * 1e6
    for path in FOLDER.glob("checkpoint-*/model.safetensors"):
        with safe_open(path, "np") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_one_tokenizer_serves_all():
    assert len({c.tokenizer_hash for c in open_series(FOLDER)}) == 1
    assert len({c.config_hash for c in open_series(FOLDER)}) == 1
    assert len({c.weights_hash for c in open_series(FOLDER)}) == len(open_series(FOLDER))


def test_probes_are_those_of_the_seed():
    assert probes.read_jsonl(FOLDER / "facts.jsonl") == _as_json(probes.fact_records(make_world(0), 0))
    assert probes.read_jsonl(FOLDER / "needles.jsonl") == _as_json(probes.needle_records(0))
    assert (FOLDER / "haystack.txt").read_text(encoding="utf-8") == probes.haystack(0) + "\n"


def _as_json(records):
    return tuple(json.loads(json.dumps(record)) for record in records)


def test_heads_that_retrieve_emerge(log):
    score, accuracy = column(log, "best_head_score", "pretrain"), column(log, "needle_accuracy", "pretrain")
    assert score[0] < 0.05 and score[-1] > 0.8
    assert accuracy[0] == 0 and accuracy[-1] > 0.95


def test_new_facts_come_and_go_and_old_ones_suffer(log):
    *_, before = (row for row in log if row["stage"] == "pretrain")
    first, last = [row for row in log if row["stage"] == "cpt"][2], log[-1]
    for kind in ("new", "relation", "updated"):
        assert float(before[f"recall_{kind}_1"]) < 0.15 < 0.9 < float(first[f"recall_{kind}_1"])
        assert float(last[f"recall_{kind}_1"]) < float(first[f"recall_{kind}_1"])
        assert float(last[f"recall_{kind}_2"]) > 0.9
    assert float(before["recall_known"]) > 0.95 > float(last["recall_known"]) + 0.1


def test_tables_say_what_the_files_do(log, last_pretrained):
    model, tokenizer, step = last_pretrained.model, last_pretrained.tokenizer, last_pretrained.checkpoint.step
    controls = make_world(0).controls
    row = next(row for row in log if int(row["step"]) == step)
    answers = evaluate.recall(model, tokenizer, controls, [fact.prompts[0] for fact in controls])
    assert sum(a.rank == 0 for a in answers) / len(answers) == pytest.approx(float(row["recall_known"]), abs=0.01)
    facts = {r["fact"]: r for r in table("fact_recall.csv") if int(r["step"]) == step}
    told = [float(facts[fact.key]["prob"]) for fact in controls]
    assert [a.probability for a in answers] == pytest.approx(told, abs=0.01)
    records = probes.read_jsonl(FOLDER / "needles.jsonl")[: tables.FEWER]
    haystack = (FOLDER / "haystack.txt").read_text(encoding="utf-8")
    prompts = evaluate.needle_set(tokenizer, records, haystack, length=tables.LENGTH, distractors=0)
    columns = tables.needle_columns(model, prompts)
    assert columns["needle_accuracy"] == pytest.approx(float(row["single_needle_accuracy"]), abs=0.05)
    assert columns["answer_ppl"] == pytest.approx(float(row["single_answer_ppl"]), rel=0.02)


def test_facts_can_be_asked_of_the_series(last_pretrained):
    import circuits
    from circuits.facts.facts import load_facts

    facts = load_facts(FOLDER / "facts.jsonl")
    tokens = circuits.tokenize_facts(last_pretrained.tokenizer, facts)
    assert len(facts) == 64 and not tokens.refused


def test_card_tells_the_numbers_of_the_log(log):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (pretrain|cpt) \| ([\d,]+) \|(.*)\|$", card, flags=re.M)
    assert [(stage, int(step.replace(",", ""))) for stage, step, _ in rows] == [
        (row["stage"], int(row["step"])) for row in log
    ]
    names = ("heldout_loss", "needle_accuracy", "long_needle_accuracy", "answer_ppl", "best_head_score", "recall_known")
    for (_, _, cells), row in zip(rows, log, strict=True):
        for cell, name in zip(cells.split("|"), names, strict=False):
            number = re.search(r"[\d.,]+", cell.replace(",", ""))
            assert number and float(number[0]) == pytest.approx(float(row[name]), rel=0.01, abs=0.006), name


def test_lab_modules_import_without_torch():
    code = "import sys, circuit_drift.lab.build; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_change_comes_in_every_seed():
    rows = table("seeds.csv")
    for seed in {row["seed"] for row in rows}:
        scores = {int(row["step"]): float(row["single_best_head_score"]) for row in rows if row["seed"] == seed}
        assert max(score for step, score in scores.items() if step <= 500) < 0.2
        assert scores[1000] > 0.8
