"""The JSON Schemas that ship with the package: files that are read and outputs that are printed are as they say."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import circuit_drift
from checkpoints.errors import BadPrompt
from checkpoints.series.manifest import read_manifest
from circuit_drift.api.pairs import compare
from circuit_drift.cli import app
from circuit_drift.record.training_log import parse_log
from circuits.facts import load_facts
from circuits.facts.questions import read_questions
from circuits.facts.readers import read_probes
from heads.prompts.needles import load_needles
from tests.drift.docs.fences import BLOCKS, ROOT
from tests.drift.explanation.test_along import made as course_of
from tests.drift.explanation.test_read_explanation import made as explained
from tests.drift.explanation.test_read_explanation import patched
from tests.drift.handmade import (
    WIRING_A,
    WIRING_B,
    faithfulness,
    graph,
    keep,
    point,
    retrieval,
    roles,
    strengths,
    transfer,
    write_series,
)

FOLDER = Path(circuit_drift.__file__).parent / "schemas"
SHIPPED = ROOT / "series" / "first-light"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
READERS = {"needle": load_needles, "fact": load_facts, "question": read_questions, "probe": read_probes}
NEEDLE = {"needle": "the code is red .", "answer": "red", "question": "the code is"}
FACT = {"clean": "Paris is in", "corrupt": "Rome is in", "answer": " France", "wrong": " Italy"}
PROBE = {"prompt": "Paris is in", "subject": "Paris", "relation": "country", "answer": "France"}
LINES = {
    "needle": [
        (NEEDLE, True),
        (NEEDLE | {"distractors": ["the key is blue ."], "rank": 1, "parts": [["and green .", "green"]]}, True),
        (NEEDLE | {"labels": {"kind": "code"}, "space": None, "intro": "Read:"}, True),
        (NEEDLE | {"answer": ""}, False),
        (NEEDLE | {"distractors": [""]}, False),
        (NEEDLE | {"rank": -1}, False),
        (NEEDLE | {"parts": [["one"]]}, False),
        (NEEDLE | {"space": "yes"}, False),
        (NEEDLE | {"colour": "red"}, False),
        ({"needle": "x"}, False),
        (["a", "list"], False),
    ],
    "fact": [
        (FACT, True),
        (FACT | {"labels": {"class": "capital"}, "segments": {"subject": "Paris"}, "relation": "country"}, True),
        (FACT | {"space": False}, True),
        (FACT | {"wrong": None}, False),
        (FACT | {"labels": ["capital"]}, False),
        (FACT | {"segments": {"subject": 1}}, False),
        (FACT | {"space": 1}, False),
        ({"clean": "Paris is in"}, False),
    ],
    "question": [
        ({"question": "Where is Paris?", "answer": "France"}, True),
        ({"prompt": "Paris is in", "answer": " France", "kind": "place"}, True),
        (FACT, True),
        ({"question": "Where is Paris?"}, False),
        ({"question": " ", "answer": "France"}, False),
        ({"prompt": "Paris is in", "answer": "France", "labels": "x"}, False),
    ],
}


def valid(name, value):
    return not list(Draft202012Validator(SCHEMAS[name]).iter_errors(value))


def require(name, value):
    Draft202012Validator(SCHEMAS[name]).validate(value)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_says_what_it_is_of(name):
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["title"]
    assert SCHEMAS[name]["description"].endswith(".")


@pytest.mark.parametrize(
    ("name", "line", "good"), [(name, *each) for name, lines in LINES.items() for each in lines], ids=str
)
def test_a_line_that_is_read_is_valid_and_one_that_is_refused_is_not(name, line, good, tmp_path):
    assert valid(name, line) is good
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(line if isinstance(line, dict) else [line]) + "\n")
    if good:
        assert len(READERS[name](path)) == 1
    else:
        with pytest.raises(BadPrompt):
            READERS[name](path)


def test_probes_of_ones_own_are_read(tmp_path):
    path = tmp_path / "probes.jsonl"
    others = [PROBE, PROBE | {"prompt": "Rome is in", "subject": "Rome", "answer": "Italy"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in others))
    assert all(valid("probe", line) for line in others)
    assert len(read_probes(path).facts) == 2
    assert not valid("probe", {name: value for name, value in PROBE.items() if name != "relation"})


def test_the_shipped_files_are_valid():
    for name, file in {"needle": "needles.jsonl", "fact": "facts.jsonl"}.items():
        for line in (SHIPPED / file).read_text().splitlines():
            require(name, json.loads(line))
    for name, file in {"manifest": "manifest.csv", "training-log": "training_log.csv"}.items():
        with (SHIPPED / file).open() as lines:
            for row in csv.DictReader(lines):
                require(name, row)


def test_a_manifest_and_a_log_need_their_columns(tmp_path):
    row = {"Stage": "cpt", "Step": "10", "Tokens Seen": "84B", "Checkpoint Directory": "."}
    (tmp_path / "manifest.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    assert (valid("manifest", row), read_manifest(tmp_path / "manifest.csv")[0].tokens) == (True, 84_000_000_000)
    assert not valid("manifest", row | {"Step": "ten"})
    assert (valid("training-log", {"iter": "5", "loss": "2.5"}), len(parse_log("iter,loss\n5,2.5\n")[0])) == (True, 1)
    assert not valid("training-log", {"iter": "5"})
    with pytest.raises(BadPrompt, match="it needs a column"):
        parse_log("iter\n5\n")


def test_a_diff_is_as_its_schema_says():
    a = point(0, heads=retrieval(), circuit=graph(strengths(WIRING_A), facts=20), roles=roles(a0_h0="mover"))
    b = point(
        10,
        heads=retrieval({(0, 1): 0.75}),
        circuit=graph(strengths(WIRING_B), facts=20, known=16, refused=[(20, "two tokens")]),
        roles=roles(),
    )
    for pair in (
        compare(a, b, transfer=transfer(["0", "10"], [[0.75, 0.25], [0.5, 1.0]])),
        compare(a, a),
        compare(point(0, heads=retrieval()), point(10, heads=retrieval())),
    ):
        document = json.loads(json.dumps(pair.to_json(), allow_nan=False))
        require("diff", document)
        assert set(document) <= set(SCHEMAS["diff"]["properties"]), "a key that the schema does not tell of"


def test_an_explanation_is_told_alike_of_a_pair_and_of_a_series():
    assert SCHEMAS["diff"]["$defs"]["explanation"] == SCHEMAS["explain"]["$defs"]["explanation"]
    lead = explained(patching=patched([0.5, 1.375], [0.5, 0.125]))
    pair = replace(compare(point(0, heads=retrieval()), point(10, heads=retrieval())), explanations=(lead,))
    require("diff", json.loads(json.dumps(pair.to_json(), allow_nan=False)))
    for course in (course_of(), course_of(lead=lead)):
        require("explain", json.loads(json.dumps(course.to_json(), allow_nan=False)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A series of five checkpoints and a store with results for all of them."""
    root = tmp_path_factory.mktemp("schemas")
    steps = (0, 10, 20, 40, 80)
    series = write_series(root / "lines", steps)
    measured = {step: {(0, 1): 0.125 * place} for place, step in enumerate(steps)}
    keep(
        series,
        root / "store",
        heads={step: retrieval(scores, name=f"checkpoint-{step}") for step, scores in measured.items()},
        circuit={step: graph(strengths(WIRING_A), facts=20, known=16, name=f"checkpoint-{step}") for step in steps},
        roles={step: roles(a0_h0="mover") for step in steps},
        faithfulness={step: faithfulness([0.5, 0.75], [0.75, 1.0]) for step in steps},
    )
    return series, root / "store"


def printed(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_commands_print_and_a_store_holds_is_as_the_schemas_say(kept):
    series, store = kept
    for name, words in {
        "run-table": ("run", series, "--store", store, "--json"),
        "series": ("show", series, "--json"),
        "track": ("track", store, "--json"),
        "audit": ("audit", series, "--json"),
        "verify": ("verify", store, "--json"),
        "store": ("store", store, "--json"),
    }.items():
        require(name, json.loads(printed(*words)))
    require("track", json.loads(printed("track", store, "--emergence", "needle_accuracy", "--json")))
    (run,) = (store / "runs").glob("*.json")
    require("run", json.loads(run.read_text()))
    results = list(store.glob("*/*/result.json"))
    assert len(results) >= 20
    for result in results:
        require("result", json.loads(result.read_text()))


def test_tables_are_printed_as_csv_too(kept):
    series, store = kept
    for words, rows, first in (
        (("run", series, "--store", store), 5, "checkpoint,step"),
        (("show", series), 5, "checkpoint,step"),
        (("track", store, "--measures", "heads"), 5, "step"),
    ):
        lines = printed(*words, "--csv").splitlines()
        assert (len(lines), lines[0].startswith(first)) == (1 + rows, True), lines[0]
    for words, told in (
        (("show", series, "--csv", "--json"), "give one of them"),
        (("track", store, "--csv"), "choose one with --measures"),
    ):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert (done.exit_code, told in done.output) == (2, True), done.output


def test_the_command_lists_schemas_and_prints_one():
    listed = printed("schema").splitlines()
    assert [line.split()[0] for line in listed] == sorted(SCHEMAS)
    assert json.loads(printed("schema", "diff")) == SCHEMAS["diff"]
    assert "fact" in CliRunner().invoke(app, ["schema", "facs"]).output


def test_prompts_in_the_docs_are_valid():
    lines = [json.loads(line) for block in BLOCKS if block.language == "json" for line in block.text.splitlines()]
    assert len(lines) >= 2
    for line in lines:
        require("needle" if "needle" in line else "fact", line)
