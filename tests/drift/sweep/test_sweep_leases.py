"""Leases: one holder at a time, taken over when the holder is gone, never by accident."""

import json
import multiprocessing
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from checkpoints.errors import StoreError
from checkpoints.results.processes import process_mark, this_machine
from circuit_drift.store.leases import Holder, Leases, _remove, read_holder

ELSEWHERE = Holder("checkpoint-1", "sweep", "token", "another machine", "1:1")


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "claims", "sweep", term=0.4)


def plant(leases: Leases, holder: Holder, *, silent_for: float = 0.0) -> Path:
    """A lease of somebody else, last touched some seconds ago."""
    leases.folder.mkdir(exist_ok=True)
    path = leases.folder / "work"
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - silent_for,) * 2)
    return path


def test_a_lease_has_one_holder_and_is_given_back(leases):
    first = leases.take("work", "checkpoint-1")
    assert leases.take("work", "checkpoint-1") is None
    with first:
        assert [holder.what for holder in leases.held()] == ["checkpoint-1"]
        assert replace(leases, sweep="other").held() == ()
        assert leases.take("other work", "checkpoint-2") is not None
    assert leases.take("work", "checkpoint-1") is not None


def test_of_many_that_ask_at_once_one_gets_it(leases):
    ready = threading.Barrier(16)
    found = []

    def ask() -> None:
        ready.wait()
        found.append(leases.take("work", "checkpoint-1"))

    for round_ in range(5):
        if round_:
            plant(leases, ELSEWHERE, silent_for=60)
        found.clear()
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None for lease in found) == 1
        assert [path.name for path in leases.folder.glob("[!.]*")] == ["work"]


def test_a_silent_holder_elsewhere_loses_it_after_its_term(leases):
    plant(leases, ELSEWHERE)
    assert leases.take("work", "checkpoint-1") is None
    time.sleep(0.5)
    lease = leases.take("work", "checkpoint-1")
    assert lease.holder.attempt == 2


def test_a_holder_that_gives_signs_of_life_keeps_it(leases):
    with leases.take("work", "checkpoint-1") as lease:
        foreign = replace(lease.holder, machine="another machine")
        lease.path.write_text(json.dumps(asdict(foreign)))
        for _ in range(8):
            time.sleep(0.1)
            assert leases.take("work", "checkpoint-1") is None


def test_a_silent_holder_elsewhere_loses_it_where_the_clock_was_set_back(leases):
    path = plant(leases, ELSEWHERE, silent_for=-86_400)
    assert not leases.living(path.name)
    assert leases.take(path.name, "x") is not None


def test_a_dead_process_of_this_machine_loses_it_at_once(leases):
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    plant(leases, replace(ELSEWHERE, machine=this_machine(), process=process_mark(process.pid), sweep="before"))
    assert leases.take("work", "checkpoint-1") is None
    process.kill()
    process.join()
    assert leases.take("work", "checkpoint-1").holder.attempt == 1, "deaths in another sweep do not count"


def test_a_reused_process_id_is_told_apart(leases):
    plant(leases, replace(ELSEWHERE, machine=this_machine(), process=f"{os.getpid()}:1"))
    assert leases.take("work", "checkpoint-1") is not None


def test_a_lease_that_was_taken_over_is_not_given_back_twice(leases):
    with leases.take("work", "checkpoint-1") as lease:
        plant(leases, ELSEWHERE)
    assert read_holder(lease.path) == ELSEWHERE


def test_what_became_another_s_is_not_taken_away(leases):
    """Between looking and removing, the lease changed hands."""
    path = plant(leases, ELSEWHERE)
    assert not _remove(path, replace(ELSEWHERE, token="dead"))
    assert read_holder(path) == ELSEWHERE


def test_a_lease_is_looked_at_and_taken_away_in_one_go(leases, monkeypatch):
    """Another who found the same dead holder waits; then the lease is the first one's, and stays."""
    path = plant(leases, ELSEWHERE, silent_for=60)
    looked, go_on = threading.Event(), threading.Event()

    def look(of: Path) -> Holder | None:
        found = read_holder(of)
        if threading.current_thread() is not slow:
            return found
        looked.set()
        go_on.wait(10)
        return found

    monkeypatch.setattr("circuit_drift.store.leases.read_holder", look)
    slow = threading.Thread(target=_remove, args=(path, ELSEWHERE))
    slow.start()
    looked.wait(10)
    taken = []
    fast = threading.Thread(target=lambda: taken.append(leases.take("work", "checkpoint-1")))
    fast.start()
    fast.join(0.2)
    assert fast.is_alive(), "it waits until the first has looked and removed"
    go_on.set()
    slow.join()
    fast.join()
    assert taken == [None], "the dead holder's lease was no longer there for it to take away"


def test_without_locks_leases_are_still_taken(leases, monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    plant(leases, ELSEWHERE, silent_for=60)
    assert leases.take("work", "checkpoint-1").holder.attempt == 2
    assert "without a lock: no flock here" in caplog.text


def test_a_lease_nobody_can_read_is_void_after_its_term(leases):
    path = plant(leases, ELSEWHERE)
    path.write_text("{")
    assert leases.take("work", "checkpoint-1") is None, "it may just be being written"
    os.utime(path, (time.time() - 60,) * 2)
    assert leases.take("work", "checkpoint-1") is not None


def test_a_file_system_without_hard_links_will_do(leases, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with leases.take("work", "checkpoint-1"):
        assert leases.take("work", "checkpoint-1") is None
    assert list(leases.folder.glob("[!.]*")) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/claims"):
        Leases(tmp_path / "file" / "claims", "sweep").take("work", "checkpoint-1")
