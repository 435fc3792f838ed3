"""The numbers of any measure against scores from elsewhere: which pairs are told, and why others are not."""

import pytest

from checkpoints import DriftError
from circuit_drift.measures import register
from circuit_drift.measures import registry as measure_registry
from circuit_drift.measures.roles import RolesMeasure
from circuit_drift.record.record import Point
from circuit_drift.report.correlations import correlations
from tests.drift.handmade import run_of


@pytest.fixture
def run(monkeypatch):
    """A level of 1, 2, 4 and 8 and a number that never changes, at steps 10, 20, 30 and 40; one point has no step."""
    monkeypatch.setattr(measure_registry, "_registered", {})

    @register
    class Levels(RolesMeasure):
        name = "levels"

        @classmethod
        def reading(cls, result):
            return {"level": result, "flat": 3.0}

        @classmethod
        def along(cls, run):
            return {}

    steps = {10: 1.0, 20: 2.0, 30: 4.0, 40: 8.0, None: 100.0}
    points = [
        Point(f"step{step}", step, None, None, keys={"levels": f"key{step}"}, results={"levels": level})
        for step, level in steps.items()
    ]
    return run_of(*points)


def test_each_number_is_set_against_each_score_and_why_one_cannot_be_is_told_once(run):
    scores = {"up": {10: 1, 20: 2, 30: 4, 40: 8}, "down": {10: 9, 20: 8, 40: 2}, "level": {10: 1, 20: 2, 30: 3}}
    up, down, *others = correlations(run, ["levels"], scores)
    assert up.startswith(
        "level against up: their changes from checkpoint to checkpoint correlate at +1.00 (permutation p = 0.17); "
        "their levels at r = +1.00 [+1.00, +1.00], one left out +1.00 to +1.00 (any two curves"
    )
    assert down.startswith("level against down: their changes from checkpoint to checkpoint correlate at -1.00")
    assert "r over 3 checkpoints is no evidence" in down
    assert others == [
        "no correlation: flat is the same at all 4 checkpoints: nothing to correlate",
        "no correlation: flat is the same at all 3 checkpoints: nothing to correlate",
    ]


def test_a_number_has_no_correlation_with_itself(run):
    (flat,) = correlations(run, ["levels"], {"level": {10: 5, 20: 1, 30: 7}})
    assert flat.startswith("no correlation: flat")


def test_a_measure_that_the_run_has_not_is_named(run):
    with pytest.raises(DriftError, match="has no result of maps: measure it with run --measures maps"):
        list(correlations(run, ["maps"], {"up": {10: 1, 20: 2, 30: 3}}))
