"""The export command: a stored circuit to a file for another tool, without a model."""

import json

import pytest
from typer.testing import CliRunner

from circuit_drift import load_run, run
from circuit_drift.cli import app
from circuit_drift.prompts import prompts_for
from circuits.graph.exports import read_parquet
from circuits.graph.pruning import default_size

runner = CliRunner()


@pytest.fixture(scope="module")
def store(tiny_series, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "store"
    prompts = prompts_for(tiny_series, length=64)
    run(tiny_series, store=folder, prompts=prompts, measures=["circuit"])
    return folder


def export(store, *arguments):
    return runner.invoke(app, ["export", *map(str, arguments), "--store", str(store)])


def test_a_stored_circuit_is_written_in_the_format_of_the_files_name(store, tmp_path):
    graph = load_run(store).points[-1].circuit
    done = export(store, "last", tmp_path / "circuit.parquet", "--edges", 30)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "circuit.parquet")
    back = read_parquet(tmp_path / "circuit.parquet")
    assert (back.mask == graph.prune(30).mask).all()
    assert (back.scores == graph.mean).all()
    assert export(store, load_run(store).points[0].step, tmp_path / "first.json").exit_code == 0
    first = load_run(store).points[0].circuit
    nodes = json.loads((tmp_path / "first.json").read_text())["nodes"]
    assert {node["id"] for node in nodes} == set(first.prune(default_size(int(first.mask.sum()))).nodes)


def test_what_cannot_be_exported_is_said(store, tiny_series, tmp_path):
    assert "ends in no format" in export(store, "last", tmp_path / "circuit.csv").stderr
    assert "has no checkpoint 7; it has" in export(store, "7", tmp_path / "circuit.json").stderr
    run(tiny_series, store=tmp_path / "heads", prompts=prompts_for(tiny_series, length=64), measures=["heads"])
    done = export(tmp_path / "heads", "last", tmp_path / "circuit.json")
    assert done.exit_code == 2
    assert "has no circuit: the run did not measure it" in done.stderr
