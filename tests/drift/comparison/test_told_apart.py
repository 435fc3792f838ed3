"""Checkpoints of one step from several series are called by what tells their series apart."""

from pathlib import Path

from checkpoints import Checkpoint
from circuit_drift.comparison.pair import _told_apart
from tests.drift.handmade import point


def called(*paths):
    checkpoints = [Checkpoint(Path(path), Path(path).name, step=int(path.rpartition("-")[2])) for path in paths]
    return [found.label for found in _told_apart([point(each.step) for each in checkpoints], checkpoints)]


def test_two_seeds_at_one_step_are_called_by_their_series():
    assert called("/runs/LoRA/checkpoint-150", "/runs/LoRA-seed1/checkpoint-150") == ["LoRA/150", "LoRA-seed1/150"]
    assert called("/runs/one/out/checkpoint-5", "/runs/two/out/checkpoint-5") == ["one/5", "two/5"]


def test_what_is_told_apart_by_its_step_or_is_the_same_keeps_its_name():
    assert called("/runs/LoRA/checkpoint-0", "/runs/LoRA-seed1/checkpoint-150") == ["0", "150"]
    assert called("/runs/LoRA/checkpoint-150", "/runs/LoRA/checkpoint-150") == ["150", "150"]
    told = called("/runs/LoRA/checkpoint-0", "/runs/LoRA/checkpoint-150", "/runs/LoRA-seed1/checkpoint-150")
    assert told == ["0", "LoRA/150", "LoRA-seed1/150"]
