"""What a comparison of strategies tells beforehand and while it trains."""

from dataclasses import replace

import pytest

from circuit_drift.training.strategies import Strategy, run_all
from tests.lab.small_trainings import config_of

FULL = Strategy("full", lr=3e-2, warmup=4)


class Kept:
    """A tracker that remembers what it was told."""

    def __init__(self):
        self.told, self.closed = [], False

    def log(self, run, step, numbers):
        self.told.append((run, step, dict(numbers)))

    def close(self):
        self.closed = True


@pytest.mark.usefixtures("one_thread")
def test_a_tracker_is_told_each_step_and_each_probe_once(place, tmp_path):
    first, second = Kept(), Kept()
    config = config_of(place, FULL, epochs=1)
    run_all(config, tmp_path, track_to=[first])
    run_all(replace(config, epochs=2), tmp_path, track_to=[second])
    assert first.closed and second.closed
    assert {run for run, _, _ in first.told + second.told} == {"full"}
    steps = [(step, numbers) for _, step, numbers in first.told + second.told if "step_loss" in numbers]
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    assert [numbers["lr"] for _, numbers in steps] == [pytest.approx(3e-2 * min(1, n / 4)) for n, _ in steps]
    probes = [(step, numbers) for _, step, numbers in first.told + second.told if "recall" in numbers]
    assert [step for step, _ in probes] == [0, len(steps) // 2, len(steps)], "the second start tells its own epoch"
    mean = sum(numbers["step_loss"] for _, numbers in steps[: len(steps) // 2]) / (len(steps) // 2)
    assert probes[1][1]["train_loss"] == pytest.approx(mean)
