import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import circuit_drift
from checkpoints import DriftError, open_series
from checkpoints.errors import CorruptWeights, StoreError
from circuit_drift.api.runs import load_run
from circuit_drift.cli import app
from circuit_drift.measures.registry import MEASURES, build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.sweep import sweep
from circuit_drift.sweep.sweep import usual_measures

TWIN = (*MEASURES, "untrained")
SMALL = {"length": 64, "depths": (0.2, 0.8)}


def _run(series: Path, store: Path, **options):
    prompts = prompts_for(series, **SMALL)
    return circuit_drift.run(series, store=store, prompts=prompts, device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def kept(tiny_series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every measure of the series."""
    store = tmp_path_factory.mktemp("kept") / "store"
    _run(tiny_series, store)
    return store


def test_what_a_library_prints_while_it_measures_is_not_in_the_output(kept: Path, tiny_series: Path, monkeypatch):
    def chat(*_arguments):
        sys.stdout.write("(raylet) A worker died\n")

    monkeypatch.setattr("circuit_drift.sweep.sweep.read_log", chat)
    asked = ["--store", str(kept), "--length", "64", "--depths", "0.2,0.8", "--device", "cpu", "--json"]
    told = CliRunner().invoke(app, ["run", str(tiny_series), *asked])
    assert len(json.loads(told.stdout)["checkpoints"]) > 0
    assert "(raylet) A worker died" in told.stderr


def test_every_checkpoint_gets_every_measure(kept: Path):
    run = load_run(kept)
    assert [point.step for point in run] == [0, 10, 100]
    for point in run:
        assert point.failures == {}
        assert point.heads.mean.shape == (2, 4)
        assert len(point.heads.correct) == 12
        assert len(point.circuit.clean_metric) == 8
        assert point.faithfulness.shares[-1] == 0.2


def test_a_second_run_computes_nothing_and_equals_the_first(tiny_series, kept, monkeypatch):
    first = load_run(kept)

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a stored measure was computed again")

    monkeypatch.setattr("checkpoints.Checkpoint.load", forbidden)
    for second in (_run(tiny_series, kept), load_run(kept), load_run(kept, "tiny-series")):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.heads.copy, b.heads.copy)
            np.testing.assert_array_equal(a.circuit.scores, b.circuit.scores)
            assert a.keys == b.keys


def test_two_stores_hold_bitwise_the_same_numbers(tiny_series, kept, store):
    a, b = load_run(kept), _run(tiny_series, store)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.circuit.scores, other.circuit.scores)


def test_results_carry_their_provenance(tiny_series, kept):
    point = load_run(kept).at(10)
    checkpoint = open_series(tiny_series).at(10)
    for measure in MEASURES:
        provenance = getattr(point, measure).meta["provenance"]
        assert provenance["weights_hash"] == checkpoint.weights_hash
        assert provenance["tokenizer_hash"] == checkpoint.tokenizer_hash
        assert provenance["dtype"] == "float32"
        assert provenance["code_version"] == circuit_drift.__version__


def test_a_damaged_checkpoint_is_recorded_and_the_others_go_on(tiny_series, store, tmp_path):
    series = tmp_path / "damaged"
    shutil.copytree(tiny_series, series)
    weights = series / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    run = _run(series, store)
    assert set(run.at(10).failures) == set(MEASURES)
    assert "checkpoint-10" in run.at(10).failures["heads"]
    assert run.at(0).failures == run.at(100).failures == {}
    assert load_run(store).at(10).failures == run.at(10).failures


def test_a_series_of_which_nothing_can_be_measured_is_an_error(tiny_series, store, tmp_path):
    series = tmp_path / "empty"
    shutil.copytree(tiny_series, series)
    for weights in series.glob("*/model.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(DriftError, match="no checkpoint of empty could be measured"):
        _run(series, store)


def test_only_what_is_asked_for_is_measured(tiny_series, store):
    run = _run(tiny_series, store, measures=["heads"])
    assert all(point.heads is not None and point.circuit is None for point in run)
    assert not (store / "circuit").exists()


def test_faithfulness_brings_the_circuit_it_needs(tiny_series):
    prompts = prompts_for(tiny_series, **SMALL)
    assert [measure.name for measure in build_measures(prompts, ["faithfulness"])] == ["circuit", "faithfulness"]
    with pytest.raises(DriftError, match="unknown measure 'loss'"):
        build_measures(prompts, ["loss"])


def test_an_unknown_step_names_those_there_are(kept):
    with pytest.raises(StoreError, match="it has 0, 10, 100"):
        load_run(kept).at(11)


def test_a_killed_run_loses_nothing_it_had_finished(tiny_series, store):
    """Killed outright, then interrupted at the terminal, then left alone."""
    words = ["run", str(tiny_series), "--store", str(store), "--length", "64"]

    def results() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in store.glob("*/[!.]*/result.json")}

    def end_after(count: int, how: signal.Signals) -> tuple[int, str, dict[Path, int]]:
        command = [sys.executable, "-m", "circuit_drift.cli", *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 180
        while len(results()) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, how)
        _, errors = process.communicate(timeout=180)
        return process.returncode, errors, results()

    status, _, killed = end_after(1, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert killed
    status, errors, interrupted = end_after(len(killed) + 1, signal.SIGINT)
    assert status == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert len(killed) < len(interrupted)
    assert killed.items() <= interrupted.items()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert interrupted.items() <= results().items()
    assert len(results()) == 3 * len(MEASURES)


def test_weights_that_are_not_finite_are_refused(tiny_series, store, tmp_path):
    from safetensors.torch import load_file, save_file

    series = tmp_path / "nan"
    shutil.copytree(tiny_series, series)
    path = series / "checkpoint-100" / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    assert "NaN" in _run(series, store).at(100).failures["heads"]
    with pytest.raises(CorruptWeights, match="NaN"):
        open_series(series).at(100).load()


def test_a_series_with_a_step_0_brings_its_null_model(tiny_series):
    series = open_series(tiny_series)
    assert usual_measures(series) == MEASURES
    assert usual_measures(series.select("10,100")) == MEASURES, "a choice of its checkpoints too"


def test_another_series_has_a_twin_unless_that_is_much_to_ask(tiny_series, tmp_path, monkeypatch):
    for step in (10, 100):
        (tmp_path / f"checkpoint-{step}").symlink_to(tiny_series / f"checkpoint-{step}")
    series = open_series(tmp_path)
    assert usual_measures(series) == TWIN
    monkeypatch.setattr(sweep, "TWIN_BYTES", series[0].size - 1)
    assert usual_measures(series) == MEASURES


@pytest.mark.parametrize("quantised", [True, False])
def test_quantised_weights_have_no_twin(quantised, tiny_series, tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for path in (tiny_series / "checkpoint-10").iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((tiny_series / "checkpoint-10" / "config.json").read_text())
    config |= {"quantization_config": {"bits": 4}} if quantised else {}
    (folder / "config.json").write_text(json.dumps(config))
    assert usual_measures(open_series(tmp_path)) == (MEASURES if quantised else TWIN)
