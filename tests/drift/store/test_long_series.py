"""A long stored run: what is read, what is kept in memory and what is not found twice."""

import shutil
from pathlib import Path

import pytest

import circuit_drift
from benchmarks.series.memory import rows
from benchmarks.series.synthetic import Series, synthesise
from checkpoints.results import artifacts
from checkpoints.results.artifacts import ARRAYS_FILE
from circuit_drift.measures.figures.rewiring import rewiring_frame
from circuits.comparison import overlap
from circuits.graph.shape import GraphShape

SMALL = Series(GraphShape(3, 4, 2), checkpoints=6, facts=10, prompts=10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(SMALL, tmp_path_factory.mktemp("long") / "store").path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def test_a_run_of_some_measures_reads_no_others(store, caplog):
    for folder in (store / "circuit").iterdir():
        (folder / ARRAYS_FILE).write_bytes(b"not read")
    run = circuit_drift.load_run(store, measures=["heads"])
    assert not caplog.records and not run.unread
    assert [list(point.results) for point in run] == [["heads"]] * 6
    assert run.points[0].keys.keys() == {"heads", "circuit"}
    assert run.track_heads().steps == tuple(range(0, 6000, 1000))
    whole = circuit_drift.load_run(store)
    assert len(whole.unread) == 6 and all("circuit" in point.failures for point in whole)


def test_circuits_of_a_run_stay_on_the_disk(store, monkeypatch):
    monkeypatch.setattr(artifacts, "SMALL", 0)
    run = circuit_drift.load_run(store)
    assert not any(point.circuit.in_memory for point in run)
    assert [split.index for split in run.track_circuit().change_points] == [2, 4]


def test_overlaps_are_found_once_and_kept(store, monkeypatch):
    monkeypatch.setattr(artifacts, "SMALL", 0)
    halved = []
    halve = overlap.halve
    monkeypatch.setattr(overlap, "halve", lambda graph, **how: halved.append(graph) or halve(graph, **how))
    first = rewiring_frame(circuit_drift.load_run(store))
    # all pairs are over all ten facts: each checkpoint is halved once
    assert len(halved) == 6
    again = rewiring_frame(circuit_drift.load_run(store))
    assert len(halved) == 6
    assert again.equals(first)
    assert first["to_previous"].iloc[[1, 3, 5]].min() > first["to_previous"].iloc[[2, 4]].max()


def test_the_benchmark_of_memory_measures_a_command(tmp_path):
    ((name, wall, processor, peak),) = rows(SMALL, tmp_path / "store", ["track, heads"])
    assert name == "track, heads"
    assert wall > 0 and processor > 0
    assert 0 < peak < 2**32, "the system counts what this process held when it started the command"
