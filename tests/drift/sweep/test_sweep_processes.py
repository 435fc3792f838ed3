"""Workers never outlive the process that wants their outcomes, and nothing waits for what cannot come any more."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints import DriftError, open_series
from checkpoints.errors import StoreError
from checkpoints.results.processes import process_mark
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.store.journal import ABANDONED, Journal, Outcome
from circuit_drift.store.leases import Holder, Leases, read_holder
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors.pool import follow, serve
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep, lease_key
from tests.drift.handmade import write_series

WORKERS = 2


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    series = write_series(tmp_path / "lines", (0, 10))
    measures = build_measures(prompts_for(series), ["heads"])
    return Sweep.of(open_series(series).checkpoints, measures, Store.open(tmp_path / "store"))


def children(parent: int) -> list[int]:
    """The workers that a process has started and that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(sweep, tmp_path, how):
    """Every checkpoint is in the hands of this process, so that the workers wait and the run would never end."""
    leases = Leases(sweep.store.path / "claims", "another")
    words = ["run", str(tmp_path / "lines"), "--store", str(sweep.store.path), "--measures", "heads"]
    words += ["--executor", "processes", "--workers", str(WORKERS)]
    with ExitStack() as held:
        for index in range(len(sweep.checkpoints)):
            held.enter_context(leases.take(lease_key(sweep.tasks(index)), "elsewhere"))
        run = subprocess.Popen(
            [sys.executable, "-m", "circuit_drift.cli", *words],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while len(workers := children(run.pid)) < WORKERS and time.monotonic() < deadline:
            time.sleep(0.05)
        marks = [process_mark(pid) for pid in workers]
        time.sleep(0.5)
        if how == signal.SIGINT:
            os.killpg(run.pid, how)  # as a terminal does
        else:
            os.kill(run.pid, how)
        _, errors = run.communicate(timeout=60)
        while any(process_mark(int(mark.partition(":")[0])) == mark for mark in marks) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(marks) == WORKERS
        assert [process_mark(int(mark.partition(":")[0])) == mark for mark in marks] == [False] * WORKERS
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert [line for line in errors.splitlines() if "circuit-drift: interrupted" in line] == errors.splitlines()


class Ended:
    """Workers that all ended well."""

    size = 2

    def replace_dead(self) -> list[str]:
        return []

    def idle(self) -> bool:
        return True


def test_following_ends_where_the_outcomes_are_gone(sweep):
    sweep = replace(sweep, term=0.3)
    sweep.journal.write(Outcome(0))
    followed = follow(sweep, Ended(), Progress(sweep, wanted=False))
    assert next(followed) == Outcome(0)
    shutil.rmtree(sweep.journal.folder)
    with pytest.raises(DriftError, match=r"1 checkpoints have no outcome: was .*sweeps/.* removed\? Run again"):
        next(followed)


def test_an_outcome_that_comes_after_its_worker_is_waited_for(sweep):
    sweep = replace(sweep, term=5.0)
    threading.Timer(0.5, lambda: [sweep.journal.write(Outcome(index)) for index in range(2)]).start()
    assert {outcome.index for outcome in follow(sweep, Ended(), Progress(sweep, wanted=False))} == {0, 1}


def test_a_damaged_outcome_is_named(sweep):
    sweep.journal.write(Outcome(0))
    for text in ("{", "[1]", '{"index": 0, "unknown": 1}', "[" * 100_000):
        (sweep.journal.folder / "0.json").write_text(text)
        with pytest.raises(StoreError, match=r"0\.json cannot be read"):
            sweep.journal.read([0])


def test_a_sweep_has_one_leader_and_workers_of_none_end_at_once(sweep):
    with sweep.journal.lead("this one"):
        assert sweep.journal.led()
        with pytest.raises(StoreError, match="another process leads the sweep"):
            sweep.journal.lead("another")
    assert not sweep.journal.led()
    code = (
        "import pickle, sys\nfrom circuit_drift.sweep.executors.pool import serve\n"
        "serve(pickle.load(sys.stdin.buffer), 0)"
    )
    import pickle

    with Leases(sweep.store.path / "claims", "another").take(lease_key(sweep.tasks(0)), "elsewhere"):
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(sweep), timeout=100, check=False)
    assert done.returncode == 75, serve.__doc__


def test_closing_a_journal_while_another_does_harms_neither(tmp_path):
    """Sweeps that ended at the same time each remove what is old, and meet at the same folders."""
    folder = tmp_path / "sweeps"
    for index in range(300):
        (folder / f"old{index}").mkdir(parents=True)
        os.utime(folder / f"old{index}", (time.time() - 2 * ABANDONED,) * 2)
    failed: list[BaseException] = []

    def close(name: str) -> None:
        try:
            Journal(folder / name).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=close, args=(f"mine{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(folder.iterdir()) == []


def test_a_long_sweep_that_is_led_is_not_taken_for_an_abandoned_one(tmp_path):
    long = Journal(tmp_path / "sweeps" / "long")
    with long.lead("still at it"):
        os.utime(long.folder, (time.time() - 2 * ABANDONED,) * 2)
        Journal(tmp_path / "sweeps" / "mine").close()
        assert long.folder.is_dir()
    os.utime(long.folder, (time.time() - 2 * ABANDONED,) * 2)
    Journal(tmp_path / "sweeps" / "mine").close()
    assert not long.folder.exists()


def test_the_mark_of_a_process_that_is_just_dying_is_that_of_a_dead_one():
    for _ in range(20):
        process = subprocess.Popen(["sleep", "60"])
        marks = [process_mark(process.pid)]
        process.kill()
        while (mark := process_mark(process.pid)) and len(marks) < 100_000:
            marks.append(mark)
        assert mark == "", "a zombie is dead"
        process.wait()
        assert set(marks) == {marks[0]}
        assert process_mark(process.pid) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"what": 1}', "[" * 100_000, '"\\ud800"'])
def test_a_claim_of_any_content_is_somebody_s(tmp_path, text):
    path = tmp_path / "work"
    path.write_text(text)
    assert read_holder(path) == Holder("unknown", sweep="", token="", machine="", process="")
    os.utime(path, (0, 0))
    assert Leases(tmp_path, "sweep").take("work", "checkpoint-1") is not None


def test_a_claim_that_is_no_file_is_replaced(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "pipe").touch()
    os.utime(tmp_path / "work", (0, 0))
    assert Leases(tmp_path, "sweep").take("work", "checkpoint-1") is not None
