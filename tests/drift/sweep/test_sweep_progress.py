"""Bars for people, silence for logs."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoints import Placement, open_series
from circuit_drift.measures.registry import build_measures
from circuit_drift.store.journal import Outcome
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.progress import Progress, has_viewer
from circuit_drift.sweep.workers.tasks import Sweep
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
