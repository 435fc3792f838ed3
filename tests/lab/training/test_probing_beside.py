"""Probes in a process beside training: training goes on, sharded or not, and what is recorded is of that moment."""

import csv
import io
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from checkpoints.errors import BadPrompt
from circuit_drift.behaviour import Reading
from circuit_drift.store.store import Store
from circuit_drift.training import Prober, Schedule, SideProber, WholeCopy
from circuit_drift.training.beside import _probe_beside
from tests.lab.sharded_trainings import in_all_processes, sharded_model, step, tied_model


@dataclass(frozen=True)
class Weighed:
    """The sum of a weight; waits while a file of the folder says so, dies where another does."""

    folder: Path
    name: str = "weighed"

    def read(self, loaded):
        while (self.folder / "wait").exists():
            time.sleep(0.05)
        if (self.folder / "die").exists():
            os._exit(7)
        return Reading({"weighed": float(loaded.model.model.embed_tokens.weight.double().sum())})


def prober_of(folder: Path) -> Prober:
    return Prober("live", gauges=[Weighed(folder)], schedule=Schedule(every=1), store=folder / "store")


def recorded(folder: Path) -> dict[int, float]:
    log = csv.DictReader(io.StringIO(Store.open(folder / "store").read_run("live")["log"]))
    return {int(row["step"]): float(row["weighed"]) for row in log}


def weighed(model) -> float:
    return float(model.model.embed_tokens.weight.detach().double().sum())


def probe_beside(rank: int, folder: Path) -> None:
    """Train three steps of a sharded model with a process beside the first that probes each."""
    with sharded_model(rank, folder) as model, SideProber(prober_of(folder), model.config, folder=folder) as side:
        assert side.after_step(model, step=0)
        for number in (1, 2, 3):
            step(model)
            assert side.after_step(model, step=number, force=True)


def test_a_sharded_training_is_probed_beside_it_as_the_plain_model_is(tmp_path):
    in_all_processes(probe_beside, tmp_path)
    plain, expected = tied_model(), {}
    for number in range(4):
        expected[number] = weighed(plain)
        step(plain)
    assert recorded(tmp_path) == pytest.approx(expected, rel=1e-6)
    assert not list(tmp_path.glob("circuit-drift-snapshot-*")), "no snapshot is left over"


def test_training_does_not_wait_and_a_process_that_dies_is_told_and_begun_again(tmp_path, caplog):
    model = tied_model()
    (tmp_path / "wait").touch()
    side = SideProber(prober_of(tmp_path), model.config, folder=tmp_path)
    expected = {0: weighed(model)}
    assert side.after_step(model, step=0)
    assert not side.after_step(model, step=0), "once a step"
    step(model)
    assert not side.after_step(model, step=1), "the one before is still probed"
    (tmp_path / "wait").unlink()
    expected[2] = weighed(model)
    assert side.after_step(model, step=2, force=True)
    assert side.passed_over == [1]
    while 2 not in recorded(tmp_path):
        time.sleep(0.05)
    (tmp_path / "die").touch()
    side.after_step(model, step=4, force=True)
    with caplog.at_level("WARNING"):
        while not (free := side.after_step(model, step=5)):
            time.sleep(0.1)
    assert free
    assert "died at step 4, exit status 7; the next snapshot begins another one" in caplog.text
    (tmp_path / "die").unlink()
    side.close()
    side.close()
    assert recorded(tmp_path) == {**expected, 5: weighed(model)}


def test_probes_of_the_running_script_are_refused(tmp_path):
    prober = Prober("live", gauges=[Weighed(tmp_path)], schedule=Schedule(every=1), store=tmp_path)
    prober.gauges = (type("Mine", (Weighed,), {"__module__": "__main__"})(tmp_path),)
    with pytest.raises(BadPrompt, match="weighed is of the class Mine, which the running script defines; move it into"):
        SideProber(prober, tied_model().config)

    class Within(Weighed):
        pass

    prober.gauges = (Within(tmp_path),)
    with pytest.raises(BadPrompt, match="weighed is of the class Within, which a function defines; move it into"):
        SideProber(prober, tied_model().config)


def test_a_process_that_dies_between_two_snapshots_is_told_and_begun_again(tmp_path, caplog):
    model = tied_model()
    with SideProber(prober_of(tmp_path), model.config, folder=tmp_path) as side:
        side.after_step(model, step=0)
        assert side._free(wait=True)
        side._side._process.kill()
        side._side._process.wait()
        step(model)
        with caplog.at_level("WARNING"):
            assert side.after_step(model, step=1)
    assert "died, exit status -9; the next snapshot begins another one" in caplog.text
    assert recorded(tmp_path)[1] == weighed(model)


def test_a_snapshot_that_the_disk_has_no_room_for_does_not_end_training(tmp_path, monkeypatch, caplog):
    model = tied_model()

    def full(_state, path):
        path.write_bytes(b"part of it")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    with SideProber(prober_of(tmp_path), model.config, folder=tmp_path) as side:
        with monkeypatch.context() as patched, caplog.at_level("WARNING"):
            patched.setattr(torch, "save", full)
            side.after_step(model, step=0)
        assert re.search("the snapshot of step 0 could not be handed over: .*weights.pt cannot be written", caplog.text)
        assert not list(tmp_path.glob("*/weights.pt")), "it would fill the disk further"
        assert side.after_step(model, step=1)
    assert recorded(tmp_path) == {1: weighed(model)}


def test_weights_of_another_config_are_told_and_training_goes_on(tmp_path, caplog):
    other = tied_model().config.__class__(**{**tied_model().config.to_dict(), "num_hidden_layers": 1})
    with SideProber(prober_of(tmp_path), other, folder=tmp_path) as side, caplog.at_level("WARNING"):
        side.after_step(tied_model(), step=0)
    assert (
        "the snapshot of step 0 was not probed: CheckpointMismatch: the sharded model's weights are not" in caplog.text
    )


def test_where_training_is_gone_the_process_beside_it_ends_and_leaves_no_snapshot(tmp_path):
    prober, whole, folder = prober_of(tmp_path), WholeCopy(tied_model().config), tmp_path / "snapshot"
    folder.mkdir()
    pipe, other = Pipe()
    torch.save(tied_model().state_dict(), folder / "weights.pt")
    moment = {"step": 4, "loss": None, "tokens": None, "stage": None}
    for message in (sys.path, (prober, whole, None, str(folder)), (folder / "weights.pt", moment)):
        pipe.send(message)
    pipe.close()
    handler = signal.getsignal(signal.SIGINT)
    try:
        _probe_beside(other)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert recorded(tmp_path) == {4: weighed(tied_model())}
    assert not folder.exists()
