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
from circuit_drift.store.leases import Claims, Holder, _remove, read_holder

ELSEWHERE = Holder("checkpoint-1", "sweep", "token", "another machine", "1:1")


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "claims", "sweep", lease=0.4)


def plant(claims: Claims, holder: Holder, *, silent_for: float = 0.0) -> Path:
    """A claim of somebody else, last touched some seconds ago."""
    claims.folder.mkdir(exist_ok=True)
    path = claims.folder / "work"
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - silent_for,) * 2)
    return path


def test_a_claim_has_one_holder_and_is_given_back(claims):
    first = claims.take("work", "checkpoint-1")
    assert claims.take("work", "checkpoint-1") is None
    with first:
        assert [holder.what for holder in claims.held()] == ["checkpoint-1"]
        assert replace(claims, sweep="other").held() == ()
        assert claims.take("other work", "checkpoint-2") is not None
    assert claims.take("work", "checkpoint-1") is not None


def test_of_many_that_ask_at_once_one_gets_it(claims):
    ready = threading.Barrier(16)
    found = []

    def ask() -> None:
        ready.wait()
        found.append(claims.take("work", "checkpoint-1"))

    for round_ in range(5):
        if round_:
            plant(claims, ELSEWHERE, silent_for=60)
        found.clear()
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(claim is not None for claim in found) == 1
        assert [path.name for path in claims.folder.iterdir()] == ["work"]


def test_a_silent_holder_elsewhere_loses_it_after_the_lease(claims):
    plant(claims, ELSEWHERE)
    assert claims.take("work", "checkpoint-1") is None
    time.sleep(0.5)
    claim = claims.take("work", "checkpoint-1")
    assert claim.holder.attempt == 2


def test_a_holder_that_gives_signs_of_life_keeps_it(claims):
    with claims.take("work", "checkpoint-1") as claim:
        foreign = replace(claim.holder, machine="another machine")
        claim.path.write_text(json.dumps(asdict(foreign)))
        for _ in range(8):
            time.sleep(0.1)
            assert claims.take("work", "checkpoint-1") is None


def test_a_dead_process_of_this_machine_loses_it_at_once(claims):
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    plant(claims, replace(ELSEWHERE, machine=this_machine(), process=process_mark(process.pid), sweep="before"))
    assert claims.take("work", "checkpoint-1") is None
    process.kill()
    process.join()
    assert claims.take("work", "checkpoint-1").holder.attempt == 1, "deaths in another sweep do not count"


def test_a_reused_process_id_is_told_apart(claims):
    plant(claims, replace(ELSEWHERE, machine=this_machine(), process=f"{os.getpid()}:1"))
    assert claims.take("work", "checkpoint-1") is not None


def test_a_claim_that_was_taken_over_is_not_given_back_twice(claims):
    with claims.take("work", "checkpoint-1") as claim:
        plant(claims, ELSEWHERE)
    assert read_holder(claim.path) == ELSEWHERE


def test_removing_puts_back_what_became_another_s(claims, monkeypatch):
    """Between looking and removing, the claim changed hands."""
    path = plant(claims, ELSEWHERE)
    dead = replace(ELSEWHERE, token="dead")
    seen = iter([dead, ELSEWHERE])
    monkeypatch.setattr("circuit_drift.store.leases.read_holder", lambda _: next(seen))
    assert not _remove(path, dead)
    monkeypatch.undo()
    assert read_holder(path) == ELSEWHERE
    assert list(claims.folder.iterdir()) == [path]


def test_a_claim_nobody_can_read_is_void_after_the_lease(claims):
    path = plant(claims, ELSEWHERE)
    path.write_text("{")
    assert claims.take("work", "checkpoint-1") is None, "it may just be being written"
    os.utime(path, (time.time() - 60,) * 2)
    assert claims.take("work", "checkpoint-1") is not None


def test_a_file_system_without_hard_links_will_do(claims, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with claims.take("work", "checkpoint-1"):
        assert claims.take("work", "checkpoint-1") is None
    assert list(claims.folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/claims"):
        Claims(tmp_path / "file" / "claims", "sweep").take("work", "checkpoint-1")
