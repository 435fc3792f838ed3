"""The shipped benchmark of countries is what its record says, and what its config reads."""

import hashlib
import json
import runpy
import shutil
from collections import Counter
from pathlib import Path

import pytest

from circuit_drift.benchmark import load_recipe
from circuit_drift.benchmark.facts import states
from circuit_drift.training.strategies import load_config, load_documents
from circuits.facts.facts import load_facts
from circuits.facts.questions import read_questions

FOLDER = Path(__file__).resolve().parents[3] / "series" / "factbook"


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / "benchmark.json").read_text())


def test_its_files_are_those_that_were_built(record):
    assert {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in record["files"]} == record[
        "files"
    ]
    assert load_recipe(FOLDER / "recipe.toml").seed == record["recipe"]["seed"] == 0


def test_it_has_sixty_countries_of_three_classes_with_controls_alike(record):
    trained = {name: row for name, row in record["entities"].items() if row["role"] == "trained"}
    assert Counter(row["class"] for row in trained.values()) == {"high": 20, "middle": 20, "low": 20}
    assert len(record["entities"]) - len(trained) == 24
    means = record["mean_exposure"]
    assert means["trained"] == pytest.approx(means["controls"], abs=0.02)  # nats a token
    told = Counter(document.entity for document in load_documents(FOLDER / "documents.jsonl"))
    assert told.keys() == trained.keys()
    assert set(told.values()) == {4}


def test_its_config_is_read_and_its_probes_are_answered_by_its_documents():
    config = load_config(FOLDER / "compare.toml")
    assert [strategy.name for strategy in config.strategies][:3] == ["LoRA", "LoRA-seed1", "LoRA-seed2"]
    texts: dict[str, str] = {}
    for document in load_documents(config.documents):
        texts[document.entity] = texts.get(document.entity, "") + " " + document.text
    asked = read_questions(config.facts)
    assert len({question.labels["kind"] for question in asked}) == 5
    assert all(states(texts[question.labels["entity"]], question.answer) for question in asked)
    assert len(load_facts(config.traced)) >= 100
    assert not {question.labels["entity"] for question in read_questions(config.outside)} & texts.keys()


def test_what_is_asked_and_traced_is_what_is_drawn_again(tmp_path):
    drawn = ("asked.jsonl", "asked_outside.jsonl", "traced.jsonl")
    for path in FOLDER.iterdir():
        if path.is_file() and path.name not in drawn:
            shutil.copy(path, tmp_path)
    runpy.run_path(str(tmp_path / "choose.py"), run_name="__main__")
    assert [(tmp_path / name).read_bytes() == (FOLDER / name).read_bytes() for name in drawn] == [True] * 3
    asked = read_questions(FOLDER / "asked.jsonl")
    facts = {(question.labels["fact"], question.labels["class"]) for question in asked}
    assert Counter(name for _, name in facts) == {"high": 30, "middle": 30, "low": 30}
    pairs = load_facts(FOLDER / "traced.jsonl")
    assert len(pairs) == 170
    assert all(pair.segments["subject"] in pair.clean.rpartition(". ")[2] for pair in pairs), "an example in front"
