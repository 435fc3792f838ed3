import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from checkpoints.errors import BadPrompt
from circuit_drift.knowledge import UnitScores, series_scores
from circuit_drift.training import StoppingRule, judge, verdict

SERIES = Path(__file__).resolve().parents[3] / "series" / "first-light"
STEPS = (0, 10, 20, 40, 80, 160, 320)


def recall(levels, *, units=60, spread=0.05, seed=0):
    """Scores whose mean follows the levels."""
    noise = spread * np.random.default_rng(seed).standard_normal((units, 1))
    values = np.array(levels)[None, :] + noise
    return UnitScores(tuple(f"u{i}" for i in range(units)), STEPS[: len(levels)], values[:, :, None])


def needles(levels, *, count=20, seed=0):
    """Retrieval scores whose answer NLL per token follows the levels."""
    offset = 0.05 * np.random.default_rng(seed).standard_normal((count, 1))
    return [
        (step, SimpleNamespace(nll=level + np.repeat(offset, 3, axis=1), needle=np.arange(count)))
        for step, level in zip(STEPS, levels, strict=False)
    ]


RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
PLATEAU = [0.1, 0.4, 0.7, 0.7, 0.7, 0.7, 0.7]
LOST = [0.1, 0.4, 0.8, 0.8, 0.6, 0.5, 0.4]
FALLING_NLL = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5]
STILL_NLL = [6.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_a_run_that_learns_goes_on():
    found = verdict(recall(RISING), needles(FALLING_NLL))
    assert found.stop is None
    assert found.sentence.startswith("no reason to stop up to 320: recall of facts still moves")
    assert np.isnan(found.recall_change)


def test_saturated_recall_stops_the_run_where_it_is_known():
    found = verdict(recall(PLATEAU))
    assert found.stop.step == 80
    assert found.stop.recall_still == 20
    assert found.recall_change == pytest.approx(0.0)
    assert found.sentence == (
        "stop at 80: recall of facts is still since 20; going on to 320 changed mean recall by +0.000"
    )


def test_needles_that_still_move_keep_a_run_going_whose_recall_is_still():
    found = verdict(recall(PLATEAU), needles(FALLING_NLL))
    assert found.stop is None
    assert found.judgements[-1].recall_still == 20
    assert found.judgements[-1].needles_still is None
    assert verdict(recall(PLATEAU), needles(STILL_NLL)).stop.step == 80
    assert verdict(retrieval=needles(STILL_NLL)).stop.step == 80


def test_forgetting_stops_the_run_whatever_the_needles_do():
    found = verdict(recall(LOST), needles(FALLING_NLL))
    assert found.stop.step == 160
    assert found.stop.forgotten_since == 40
    assert found.recall_change == pytest.approx(-0.1)
    assert "forgetting has begun" in found.sentence


def test_a_dip_within_chance_is_no_forgetting():
    rng = np.random.default_rng(0)
    values = np.clip(0.5 + 0.5 * rng.standard_normal((12, 4)) + [-0.3, 0.05, 0.0, 0.0], 0, 1)
    scores = UnitScores(tuple("abcdefghijkl"), STEPS[:4], values[:, :, None])
    assert judge(scores, rule=StoppingRule(recall_bound=1e-6)).forgotten_since is None


def test_verdicts_are_judgements_of_what_was_known_then():
    scores, retrieval = recall(LOST), needles(STILL_NLL)
    found = verdict(scores, retrieval)
    for judgement in found.judgements:
        then = [(step, one) for step, one in retrieval if step <= judgement.step]
        assert judge(scores.until(judgement.step), then) == judgement


def test_a_later_stage_counts_its_own_steps():
    scores = recall(PLATEAU)
    shifted = UnitScores(scores.units, tuple(9000 + step for step in scores.steps), scores.probes)
    there, here = verdict(shifted, origin=9000), verdict(scores)
    assert there.stop.step == here.stop.step + 9000
    assert judge(shifted, origin=10_000) is None
    with pytest.raises(BadPrompt, match="after step 10000"):
        verdict(shifted, origin=10_000)


def test_patience_waits():
    assert verdict(recall(PLATEAU), rule=StoppingRule(patience=3)).stop.step == 160
    with pytest.raises(BadPrompt, match="patience"):
        StoppingRule(patience=0)
    with pytest.raises(BadPrompt, match="bounds > 0"):
        StoppingRule(forgetting_bound=0)


def test_the_verdict_over_a_run_needs_no_torch():
    code = "import sys; from circuit_drift.training import verdict; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_forgetting_of_one_group_is_not_hidden_by_learning_in_another():
    old, new = recall([1.0, 0.3, 0.2, 0.2]), recall([0.0, 0.8, 1.0, 1.0], seed=1)
    units = tuple(f"{kind}{unit}" for kind, part in (("old", old), ("new", new)) for unit in part.units)
    labels = {"class": ("known",) * len(old.units) + ("new",) * len(new.units)}
    both = UnitScores(units, old.steps, np.concatenate([old.probes, new.probes]), labels)
    assert judge(both).forgotten is None
    found = verdict(both, by="class")
    assert found.stop.step == 20
    assert (found.stop.forgotten, found.stop.forgotten_since) == ("recall of class known", 0)
    with pytest.raises(BadPrompt, match="no label 'kind'"):
        judge(both, by="kind")


def test_what_follows_a_lucky_checkpoint_is_no_forgetting():
    lucky, lost = [0.5, 0.5, 0.8, 0.5, 0.5, 0.5], [0.5, 0.8, 0.8, 0.5, 0.5, 0.5]
    assert judge(recall(lucky)).forgotten_since is None
    assert judge(recall(lost)).forgotten_since == 20


def test_flicker_alone_seldom_counts_as_forgetting():
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(40):
        values = (rng.random((40, 7)) < 0.5).astype(float)
        scores = UnitScores(tuple(map(str, range(40))), STEPS, values[:, :, None])
        found = verdict(scores, rule=StoppingRule(draws=100))
        stopped += found.stop is not None and found.stop.forgotten is not None
    assert stopped <= 4


def phase(first, last):
    scores = series_scores(SERIES)
    kept = [i for i, step in enumerate(scores.steps) if first <= step <= last]
    steps = tuple(scores.steps[i] for i in kept)
    return UnitScores(scores.units, steps, scores.probes[:, kept], scores.labels)


def test_the_shipped_pre_training_is_stopped_when_recall_stands_and_not_for_untaught_facts():
    for by in (None, "class"):
        found = verdict(phase(0, 9000), by=by)
        assert found.stop.step == 4500
        assert found.stop.forgotten is None
        assert found.stop.recall_still == 1500
        assert abs(found.recall_change) < 0.02


def test_the_shipped_continual_pre_training_is_stopped_for_what_it_forgets():
    whole, by_class = (verdict(phase(9000, 9600), origin=9000, by=by) for by in (None, "class"))
    assert whole.stop is None  # what is learned hides what is lost
    assert by_class.stop.step == 9300
    assert (by_class.stop.forgotten, by_class.stop.forgotten_since) == ("recall of class known", 9000)
