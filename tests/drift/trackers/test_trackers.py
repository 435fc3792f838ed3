"""What a sweep and a training tell the loggers that people have: nothing unless asked, the run's own numbers then."""

import re
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from checkpoints import DriftError
from circuit_drift import run
from circuit_drift.cli.commands import app
from circuit_drift.prompts import prompts_for
from circuit_drift.trackers.backends import _folders
from circuit_drift.trackers.trackers import Tracker, Trackers


class Kept:
    """A tracker that remembers what it was told."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.told: list[tuple[str, int, dict[str, float]]] = []
        self.closed, self.fails_at = False, fails_at

    def log(self, run, step, numbers):
        if step == self.fails_at:
            raise RuntimeError("the disk of the logger is full\nsecond line")
        self.told.append((run, step, dict(numbers)))

    def close(self):
        self.closed = True


class Writer:
    """A stand-in for torch's SummaryWriter, which needs a package that is not installed."""

    written: ClassVar[dict[str, list[tuple[str, float, int]]]] = {}

    def __init__(self, folder: str) -> None:
        self.rows = self.written.setdefault(folder, [])

    def add_scalar(self, name, value, step):
        self.rows.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.rows.append(("closed", 0.0, 0))


@pytest.fixture
def tensorboard(monkeypatch):
    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    monkeypatch.setattr(Writer, "written", {})
    return Writer.written


def test_a_sweep_tells_the_numbers_of_its_table_by_step(tiny_series, tmp_path, tensorboard):
    kept = Kept()
    assert isinstance(kept, Tracker)
    found = run(
        tiny_series,
        store=tmp_path / "store",
        prompts=prompts_for(tiny_series, length=32),
        measures=["heads"],
        progress=False,
        track_to=[kept, f"tensorboard:{tmp_path / 'logs'}"],
    )
    table = found.to_frame().set_index("step")
    assert [step for _, step, _ in kept.told] == sorted(table.index) and kept.closed
    assert {name for name, _, _ in kept.told} == {found.name}
    for _, step, numbers in kept.told:
        assert numbers == {name: pytest.approx(table.loc[step, name]) for name in numbers}
        assert {"needle_score", "needle_accuracy", "answer_ppl", "best_score", "retrieval_heads"} <= numbers.keys()
        assert "best_head" not in numbers
    rows = tensorboard[str(tmp_path / "logs" / found.name)]
    assert rows[-1] == ("closed", 0.0, 0)
    assert rows[:-1] == [(name, value, step) for _, step, numbers in kept.told for name, value in numbers.items()]


def test_the_command_line_names_trackers(tiny_series, tmp_path, tensorboard):
    asked = ["run", str(tiny_series), "--store", str(tmp_path / "store"), "--measures", "heads", "--length", "32"]
    told = CliRunner().invoke(app, [*asked, "--steps", "last", "--track-to", f"tensorboard:{tmp_path / 'logs'}"])
    assert told.exit_code == 0, told.output
    assert {name for rows in tensorboard.values() for name, _, _ in rows} >= {"needle_accuracy", "answer_ppl"}
    refused = CliRunner().invoke(app, [*asked, "--track-to", "tensorbored:logs"])
    assert refused.exit_code == 2
    assert (
        "a tracker is named as one of tensorboard:DIR, wandb:DIR, mlflow:DIR; got 'tensorbored:logs'" in refused.output
    )


def test_a_package_that_is_missing_is_named_before_anything_is_measured(tiny_series, tmp_path, monkeypatch):
    for module in ("torch.utils.tensorboard", "tensorboardX", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    for kind, package in (("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny")):
        with pytest.raises(DriftError, match=rf"needs the package {package}.*pip install 'circuit-drift\[{kind}\]'"):
            run(tiny_series, store=tmp_path / "store", track_to=[f"{kind}:{tmp_path}"])
    assert not (tmp_path / "store").exists()


def test_a_tracker_that_fails_is_told_no_more_and_ends_nothing(caplog):
    broken, kept = Kept(fails_at=2), Kept()
    with Trackers({"broken": broken, "kept": kept}) as trackers:
        for step in (1, 2, 3):
            trackers.log("a", step, {"x": float(step), "y": float("nan")})
    assert [step for _, step, _ in broken.told] == [1]
    assert kept.told == [("a", step, {"x": float(step)}) for step in (1, 2, 3)] and kept.closed
    assert (
        "broken is told no more, since it failed at step 2: RuntimeError: the disk of the logger is full" in caplog.text
    )
    assert "second line" not in caplog.text


def written_values(file: Path, name: bytes) -> list[bytes]:
    """The values of a key in a run's file: each is led by its length."""
    written = file.read_bytes()
    keys = re.finditer(re.escape(bytes([len(name)]) + name + b"\x82\x01") + b"(.)", written, re.DOTALL)
    return [written[key.end() : key.end() + key[1][0]] for key in keys]


def test_wandb_writes_offline_in_any_order_of_steps(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with Trackers.of(f"wandb:{tmp_path}") as trackers:
        trackers.log("line/cpt", 200, {"recall": 0.5})
        trackers.log("line/cpt", 100, {"recall": 0.25})
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while len(written_values(file, b"recall")) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)  # the library's own process writes it
    assert b"line/cpt" in file.read_bytes()
    steps, told = written_values(file, b"step"), written_values(file, b"recall")
    assert list(dict.fromkeys(steps)) == [b"200", b"100"]
    assert list(dict.fromkeys(told)) == [b"0.5", b"0.25"], "the second row stays, though its step is an earlier one"


class Client:
    """A stand-in for MLflow's client."""

    calls: ClassVar[list[tuple[object, ...]]] = []

    def __init__(self, tracking_uri: str) -> None:
        if tracking_uri.startswith("odd://"):
            raise ValueError("no store is called odd\nand more")
        self.calls.append(("uri", tracking_uri))

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return "7"

    def create_run(self, experiment, run_name):
        self.calls.append(("run", experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"id-{run_name}"))

    def log_metric(self, run, name, value, step):
        self.calls.append((run, name, value, step))

    def set_terminated(self, run):
        self.calls.append(("done", run))


def test_mlflow_writes_to_a_folder_or_a_database(tmp_path, monkeypatch):
    stand_in = ModuleType("mlflow")
    stand_in.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    monkeypatch.setattr(Client, "calls", [])
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with pytest.raises(DriftError, match=r"mlflow:odd://x cannot be opened: ValueError: no store is called odd$"):
        Trackers.of("mlflow:odd://x")
    with Trackers.of([f"mlflow:{tmp_path}", "mlflow:sqlite:///runs.db"]) as trackers:
        trackers.log("a", 3, {"lens_hit@1": 0.5})
    assert Client.calls[:2] == [("uri", tmp_path.as_uri()), ("uri", "sqlite:///runs.db")]
    one = [("run", "7", "a"), ("id-a", "lens_hit_1", 0.5, 3)]
    assert Client.calls[2:] == [*one, *one, ("done", "id-a"), ("done", "id-a")]


def test_a_run_stays_inside_the_place_whatever_its_name():
    assert _folders("org/name") == ["org", "name"]
    assert _folders("../up//.hidden/a b:c") == ["_", "up", "_", "hidden", "a b_c"]
