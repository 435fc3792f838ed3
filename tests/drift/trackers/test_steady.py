"""A line at a steady pace of whatever takes long: what it counts, its rate, the time left."""

import logging
import time

import pytest

from circuit_drift.trackers import steady
from circuit_drift.trackers.steady import Tally, each_told, steadily


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(steady, "PACE", 0.01)
    caplog.set_level(logging.INFO, "circuit_drift.progress")

    def wait(lines: int) -> list[str]:
        deadline = time.monotonic() + 60
        while len(caplog.messages) < lines and time.monotonic() < deadline:
            time.sleep(0.01)
        return caplog.messages

    return wait


def test_work_without_a_known_end_tells_what_is_done_and_its_rate():
    tally = Tally(None, unit="gradient", started=0.0)
    assert tally.line(60.0) == "0 gradients" and tally.left(60.0) is None
    tally.done = 30
    assert tally.line(3600.0) == "30 gradients, 30 an hour" and tally.left(3600.0) is None


def test_what_was_done_before_counts_neither_in_the_rate_nor_in_the_time_left():
    tally = Tally(100, unit="step", started=0.0)
    tally.done = tally.stored = 40
    assert tally.line(3600.0) == "40 of 100 steps (40 stored before)"
    tally.done = 60
    assert tally.left(3600.0) == 2 * 3600.0
    assert tally.line(3600.0) == "60 of 100 steps (40 stored before), 20 an hour, 2 h 00 min left"
    assert tally.line(None) == "60 of 100 steps (40 stored before)"
    tally.done = 101
    assert tally.left(3600.0) == 0.0, "more than was foreseen"


def test_lines_come_while_the_block_runs_and_none_after(said):
    with steadily("training full", unit="step") as tally:
        tally.in_hand = "epoch 1 of 2"
        assert said(2)[0] == "training full: 0 steps; now epoch 1 of 2"
    count = len(said(0))
    time.sleep(0.05)
    assert len(said(0)) == count


def test_one_after_the_other_is_counted_when_it_is_done(said):
    ways = each_told("transferring", iter("ab"), 2, unit="model")
    assert [next(ways), next(ways)] == ["a", "b"]
    last = said(len(said(0)) + 2)[-1]  # the first of the two may have been begun before
    assert last.startswith("transferring: 1 of 2 models, ") and last.endswith(" left")
    assert list(ways) == []
