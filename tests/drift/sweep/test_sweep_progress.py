"""Bars for people, a line a minute for logs, and what a sweep tells those who look on from elsewhere."""

import io
import json
import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from checkpoints import Placement, open_series
from checkpoints.errors import StoreError
from circuit_drift.cli.commands import app
from circuit_drift.measures.registry import build_measures
from circuit_drift.store.journal import Journal, Outcome
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.progress import Progress, has_viewer
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.watching import sweeps_in
from circuit_drift.trackers import steady
from circuit_drift.trackers.steady import Tally, duration
from tests.drift.sweep.test_sweep_kill import prompts_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def sweep(tiny_series: Path, tmp_path: Path) -> Sweep:
    measures = build_measures(prompts_of(tiny_series))
    return Sweep.of(
        open_series(tiny_series).checkpoints, measures, Store.open(tmp_path), placement=Placement(device="cpu")
    )


def follow_one(sweep: Sweep, *, wanted: bool = True) -> Progress:
    with Progress(sweep, wanted=wanted) as bars:
        bars.finished(Outcome(0))
        bars.doing(1, "heads")
        bars.doing(1, "circuit")
        bars.held(["checkpoint-10", "checkpoint-100"])
        bars.finished(Outcome(1, computed=3))
        bars.doing(2, "heads")
    return bars


def test_a_terminal_shows_the_checkpoint_in_hand_and_all_of_them(sweep, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars = follow_one(sweep)
    shown = terminal.getvalue()
    assert "measuring" in shown
    assert "2/3" in shown
    assert "checkpoint-100" in shown
    assert bars._all.initial == 1, "what was stored does not count in the rate"


@pytest.mark.parametrize("wanted", [True, False])
def test_a_log_stays_quiet(sweep, monkeypatch, wanted):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    follow_one(sweep, wanted=wanted)
    assert log.getvalue() == ""


def test_a_notebook_is_a_viewer(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not has_viewer()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert has_viewer()


def test_a_log_gets_a_line_at_a_steady_pace(sweep, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(steady, "PACE", 0.01)
    caplog.set_level(logging.INFO, "circuit_drift.progress")
    with Progress(sweep, wanted=True) as bars:
        bars.finished(Outcome(0))
        bars.doing(1, "heads")
        deadline = time.monotonic() + 10
        while len(caplog.records) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(caplog.records) >= 2
    assert caplog.messages[-1] == "measuring: 1 of 3 checkpoints (1 stored before); now checkpoint-10: heads"
    said = len(caplog.records)
    time.sleep(0.05)
    assert len(caplog.records) == said, "nothing is said after the end"


def test_a_line_says_rate_and_time_left_without_what_was_stored():
    tally = Tally(10, started=0.0)
    for outcome in (Outcome(0), Outcome(1, computed=3), Outcome(2, failures={"heads": "why"}), Outcome(3, computed=1)):
        tally.count(outcome)
    assert tally.line(3600.0) == "4 of 10 checkpoints (1 failed, 1 stored before), 3 an hour, 2 h 00 min left"
    assert [duration(each) for each in (5, 120, 3900)] == ["5 s", "2 min", "1 h 05 min"]


def test_status_tells_a_sweep_that_runs_elsewhere_and_one_that_nobody_leads(tmp_path):
    store = Store.open(tmp_path / "store")
    assert CliRunner().invoke(app, ["status", str(store.path)]).stdout.endswith("its runs: none\n")
    journal = Journal(store.path / "sweeps" / "abc")
    journal.begin({"run": "demo", "checkpoints": 4, "measures": ["heads", "circuit"], "began": time.time() - 3600})
    journal.write(Outcome(0, computed=2))
    journal.write(Outcome(2, failures={"heads": "why"}))
    with journal.lead("sweep abc"):
        (found,) = sweeps_in(store)
        assert (found.done, found.failed, found.checkpoints, found.led) == (2, 1, 4, True)
        assert found.sentence == "demo (heads, circuit): 2 of 4 checkpoints (1 failed), 2 an hour, 1 h 00 min left"
    shown = CliRunner().invoke(app, ["status", "--store", str(store.path)]).stdout
    assert shown.rstrip().endswith("the process that began it is gone: the same command goes on from here")
    assert json.loads(CliRunner().invoke(app, ["status", str(store.path), "--json"]).stdout)[0]["done"] == 2


def test_a_dead_sweep_whose_run_another_has_finished_is_told_no_more(tmp_path):
    store = Store.open(tmp_path / "store")
    journal = Journal(store.path / "sweeps" / "abc")
    journal.begin({"run": "org/demo", "checkpoints": 2, "measures": ["heads", "circuit"], "began": time.time() - 60})
    whole = {"keys": {"heads": "1", "circuit": "2"}, "failures": {}}
    failed, half = {"keys": {"heads": "3"}, "failures": {"circuit": "why"}}, {"keys": {"heads": "3"}, "failures": {}}
    for points, told in (([whole], 1), ([whole, half], 1), ([whole, failed], 0)):
        record = store.write_run("org/demo", {"name": "org/demo", "points": points})
        assert len(sweeps_in(store)) == told
    with journal.lead("sweep abc"):
        assert len(sweeps_in(store)) == 1, "one that is led is told"
    os.utime(record, (1e9, 1e9))
    assert len(sweeps_in(store)) == 1, "the run was measured before"


def test_status_tells_what_an_ended_run_measured_and_what_failed(tmp_path):
    store = Store.open(tmp_path / "store")
    point = {"failures": {}}
    store.write_run("org/run", {"name": "org/run", "points": [point, {"failures": {"heads": "why"}}, point]})
    (store.path / "runs" / "torn.json").write_text("{")
    os.utime(store.path / "runs" / "torn.json", (2e9, 2e9))
    (told,) = CliRunner().invoke(app, ["status", str(store.path)]).stdout.splitlines()
    ended = (
        f"no sweep is at work in {store.path}; its runs: {store.run_files()[0].stem} (3 checkpoints, 1 of them in part)"
    )
    assert told == f"{ended}; torn (cannot be read)"


def test_a_folder_of_other_files_is_no_store(tiny_series, tmp_path):
    told = CliRunner().invoke(app, ["status", str(tiny_series)])
    assert told.exit_code == 2 and "is no store: it holds other files" in told.stderr
    for begun in ("claims", "sweeps", "timings.jsonl"):
        (tmp_path / begun / begun).mkdir(parents=True)
        assert CliRunner().invoke(app, ["status", str(tmp_path / begun)]).exit_code == 0


def test_of_a_sweep_that_nobody_leads_no_time_left_is_told(tmp_path):
    store = Store.open(tmp_path)
    journal = Journal(store.path / "sweeps" / "abc")
    journal.begin({"run": "demo", "checkpoints": 4, "measures": ["heads"], "began": time.time() - 3600})
    journal.write(Outcome(0, computed=1))
    (gone,) = sweeps_in(store)
    assert (gone.seconds_left, gone.line) == (None, "1 of 4 checkpoints")
    with journal.lead("sweep abc"):
        (led,) = sweeps_in(store)
    assert led.seconds_left == pytest.approx(3 * 3600, rel=0.01)


def test_a_damaged_sweep_costs_itself_alone_in_a_status(tmp_path):
    store = Store.open(tmp_path / "store")
    journal = Journal(store.path / "sweeps" / "whole")
    journal.begin({"run": "demo", "checkpoints": 4, "measures": ["heads"], "began": time.time() - 3600})
    journal.write(Outcome(0, computed=1))
    (journal.folder / "1.json").write_text("{torn")
    (journal.folder / "2.json").write_text('{"index": 2, "colour": "red"}')
    for place, about in enumerate(['{"run": "x", "checkpoints": "many", "measures": [], "began": 0}', "[]", "{", "{}"]):
        other = store.path / "sweeps" / f"other{place}"
        other.mkdir()
        (other / "about.json").write_text(about)
    told = CliRunner().invoke(app, ["status", str(store.path)])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("demo (heads): 1 of 4 checkpoints; 2 outcomes cannot be ")
    assert told.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/store", "gs://bucket", Path("s3://bucket/store"), "memory:///store", "memory://store", "S3://bucket"],
)
def test_an_object_store_is_refused_in_one_line(address):
    with pytest.raises(StoreError, match="no folder gets its name in one step") as refused:
        Store.open(address)
    assert "\n" not in str(refused.value)
    assert not any(Path(scheme).exists() for scheme in ("s3:", "memory:", "S3:"))
