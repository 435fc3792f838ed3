"""What a comparison of strategies tells beforehand and while it trains."""

import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from checkpoints.errors import StoreError
from checkpoints.files.states import read_state
from circuit_drift.behaviour import Knowledge
from circuit_drift.cli import app
from circuit_drift.training.strategies import Lora, Strategy, plan_training, run_all, run_strategy
from circuit_drift.training.strategies.checkpointing import STATE, saved
from circuit_drift.training.strategies.loop import epoch
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


ALL = (
    FULL,
    Strategy("lora", lr=3e-2, lora=Lora(r=4, alpha=8, embedding=False)),
    Strategy("held", lr=3e-2, kl=1.0, kl_to="both", replay=1.0),
    Strategy("other-rate", lr=1e-2, seed=3),
)


def slowly(work, seconds):
    def slow(*args, **kwargs):
        time.sleep(seconds)
        return work(*args, **kwargs)

    return slow


@pytest.mark.usefixtures("one_thread")
def test_the_price_is_told_beforehand_to_a_factor_of_two(place, tmp_path, monkeypatch):
    """Steps and tokens are exact; time is that of passes whose price is known, disk that of what is then there."""
    config = config_of(place, *ALL, epochs=2)
    monkeypatch.setattr(epoch, "losses", slowly(epoch.losses, 0.05))
    monkeypatch.setattr(Knowledge, "read", slowly(Knowledge.read, 0.1))
    out = tmp_path / "out"
    plan = plan_training(config, out)
    assert not out.exists(), "a plan leaves nothing behind"
    began = time.monotonic()
    run_all(config, out)
    spent = time.monotonic() - began
    for strategy in plan.strategies:
        (last,) = [path for path in saved(out / strategy.name) if (path / STATE).exists()]
        state = read_state(last / STATE, "cpu")
        assert (strategy.epochs, strategy.probes) == (2, 3)
        assert (strategy.amount.steps, strategy.amount.tokens) == (state["step"], state["tokens"])
        assert 0.5 < strategy.seconds / state["seconds"] < 2
        written = sum(path.stat().st_size for path in (out / strategy.name).rglob("*"))
        assert 0.5 < strategy.disk / written < 2
    assert 0.5 < plan.total_seconds / spent < 2
    assert plan.memory > 50_000_000 and plan.gpu == 0
    assert plan.strategies[0].disk > 2 * plan.strategies[1].disk, "adapters are smaller than weights"


@pytest.mark.usefixtures("one_thread")
def test_a_plan_counts_what_is_left_and_what_is_too_much(place, tmp_path):
    config = config_of(place, FULL, Strategy("later", lr=1e-2), epochs=1, retrieval=("gold",))
    run_strategy(config, FULL, tmp_path)
    half = plan_training(replace(config, epochs=2), tmp_path)
    assert [(each.epochs, each.probes) for each in half.strategies] == [(1, 1), (2, 3)]
    assert 2 * half.strategies[0].amount.steps == half.strategies[1].amount.steps
    asked = replace(config, epochs=2, measures=("heads", "circuit"), traced=place / "facts.jsonl")
    scored = plan_training(asked, tmp_path)
    assert scored.disk > half.disk, "results of measures are stored too"
    assert "heads: cannot be taken of the model as it is: no prompt to score" in scored.lines()[-1]
    done = plan_training(config.only(["full"]), tmp_path)
    assert (done.total_seconds, done.disk, done.lines()[0]) == (0, 0, "full: done")
    assert half.lines()[-1] == "retrieval references: not timed"
    assert "are free; that is too little)" in "\n".join(replace(half, free=1).lines())
    with pytest.raises(StoreError, match="was begun with another batch"):
        plan_training(replace(config, batch=3), tmp_path)


def test_the_command_line_tells_the_plan_and_stops(place, tmp_path):
    config = place / "plan.toml"
    config.write_text(
        'model = "base"\ndocuments = "new.jsonl"\nfacts = "facts.jsonl"\nepochs = 2\nbatch = 4\nentity = "person"\n'
        '[[strategy]]\nname = "full"\nlr = 1e-3\n'
    )
    told = CliRunner().invoke(app, ["train", str(config), "--out", str(tmp_path / "out"), "--plan"])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("full: 2 epochs to come, ")
    assert "time in all, one strategy after the other: about" in told.stdout and "memory at most:" in told.stdout
    assert not (tmp_path / "out").exists()
