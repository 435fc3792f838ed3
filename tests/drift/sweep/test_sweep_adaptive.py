"""Where to look next: changes that were put into a series of 154 checkpoints are found with 20 of them."""

import numpy as np
import pytest
from typer.testing import CliRunner

from checkpoints import DriftError, open_series
from checkpoints.errors import NotACheckpoint
from checkpoints.series.series import shipped_folder
from circuit_drift import run
from circuit_drift.cli.commands import app
from circuit_drift.cli.options import adaptive_of
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.store.store import Store
from circuit_drift.sweep.adaptive import LEAST, change, choose, not_looked_at, start
from circuit_drift.sweep.looking import foreseen
from circuit_drift.sweep.sweep import plan_series
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.watching import sweeps_in
from circuits.tracking.changepoints import Products, splits
from tests.drift.conftest import save_model, save_prompts
from tests.drift.sweep.test_sweep_kill import prompts_of

PYTHIA = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
BUDGET = len(PYTHIA) // 10 + 5
UNITS, EDGES = 16, 60


def curves(seed: int) -> tuple[list[int], list[np.ndarray]]:
    """Change points at least 12 checkpoints apart, and scores that share heavy prompt noise over the checkpoints."""
    draw = np.random.default_rng(seed)
    cuts = sorted(int(cut) for cut in 8 + 12 * draw.choice(11, size=1 + seed % 3, replace=False) + draw.integers(0, 3))
    patterns = draw.standard_normal((len(cuts) + 1, EDGES))
    shared = 0.5 * draw.standard_t(4, (UNITS, EDGES))
    own = 0.15 * draw.standard_normal((len(PYTHIA), UNITS, EDGES))
    return cuts, [patterns[np.searchsorted(cuts, place, "right")] + shared + own[place] for place in range(len(PYTHIA))]


def first_looks() -> list[int]:
    places = np.log(np.array(PYTHIA) + 1)
    return sorted({int(np.abs(places - wanted).argmin()) for wanted in np.linspace(0, places[-1], BUDGET // 3)})


@pytest.mark.parametrize("seed", range(12))
def test_every_change_lies_between_two_neighbours_that_were_measured(seed):
    cuts, scores = curves(seed)
    asked = []
    chosen = choose(
        [len(PYTHIA)], BUDGET, first_looks(), lambda place: asked.append(place) or {"circuit": scores[place]}
    )
    assert len(chosen) == BUDGET == 20 and sorted(asked) == chosen, "each is measured once, and no other"
    after = np.searchsorted(chosen, cuts)
    assert max(chosen[i] - chosen[i - 1] for i in after) <= 4, (cuts, chosen)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_change_points_of_the_chosen_are_those_of_the_series(seed):
    cuts, scores = curves(seed)
    chosen = choose([len(PYTHIA)], BUDGET, first_looks(), lambda place: {"circuit": scores[place]})
    found = splits(Products([scores[place] for place in chosen]), draws=59)
    between = [(chosen[split.index - 1], chosen[split.index]) for split in found]
    assert len(between) == len(cuts)
    assert all(a < cut <= b for cut, (a, b) in zip(cuts, between, strict=True))


def test_a_series_without_a_change_is_looked_at_evenly():
    draw = np.random.default_rng(0)
    shared = draw.standard_normal((UNITS, EDGES)) + 1
    chosen = choose([65], 9, [0, 64], lambda place: {"heads": shared + 0.1 * draw.standard_normal((UNITS, EDGES))})
    assert chosen == [0, 8, 16, 24, 32, 40, 48, 56, 64]


def test_change_is_the_largest_squared_distance_between_different_prompts():
    flat = {"heads": np.ones((2, 4)), "recall": np.zeros((3, 1))}
    learnt = {"heads": np.ones((2, 4)), "recall": np.ones((3, 1))}
    assert change({0: flat, 1: flat}, 0, 1) == 0
    assert change({0: flat, 1: learnt}, 0, 1) == 1
    noise = {"heads": np.array([[1.0, -1.0], [-1.0, 1.0]])}
    assert change({0: {"heads": np.ones((2, 2))}, 1: {"heads": 1 + noise["heads"]}}, 0, 1) < LEAST


def test_a_long_excursion_is_looked_into_before_two_other_changes_are_located_exactly():
    draw = np.random.default_rng(0)
    patterns, level = draw.standard_normal((4, EDGES)), np.array([0, 1, 0, 2, 3])
    place = np.searchsorted([30, 66, 101, 144], np.arange(len(PYTHIA)), "right")
    scores = patterns[level[place]][:, None] + 0.15 * draw.standard_normal((len(PYTHIA), UNITS, EDGES))
    chosen = choose([len(PYTHIA)], BUDGET, first_looks(), lambda place: {"circuit": scores[place]})
    found = splits(Products([scores[place] for place in chosen]), draws=59)
    between = [(chosen[split.index - 1], chosen[split.index]) for split in found]
    assert len(between) == 4
    assert all(a < cut <= b for cut, (a, b) in zip([30, 66, 101, 144], between, strict=True))


def test_a_change_of_weak_scores_counts_as_one_of_strong_scores_and_noise_alone_does_not():
    draw = np.random.default_rng(0)
    first, second = (
        vector + 0.01 * draw.standard_normal((UNITS, EDGES)) for vector in draw.standard_normal((2, EDGES))
    )
    weak = {0: {"circuit": first / 100}, 1: {"circuit": second / 100}, 2: {"circuit": second}}
    assert change(weak, 0, 1) > 5 * LEAST
    noise = {place: {"circuit": draw.standard_normal((UNITS, EDGES))} for place in range(40)}
    assert max(change(noise, place, place + 1) for place in range(39)) < LEAST


def test_facts_that_differ_among_each_other_do_not_hide_a_change():
    draw = np.random.default_rng(0)
    pattern, fresh = draw.standard_normal((2, EDGES))
    facts = 4 * draw.standard_normal((UNITS, EDGES))
    assert change({0: {"circuit": pattern + facts}, 1: {"circuit": pattern + 0.7 * fresh + facts}}, 0, 1) > LEAST


@pytest.mark.parametrize("failing", [{32}, {32, 48}])
def test_a_checkpoint_that_fails_does_not_hide_a_change(failing):
    values = {place: {"heads": np.full((3, 1), float(place >= 41))} for place in range(65)}
    values |= {place: {} for place in failing}
    chosen = choose([65], 9 + len(failing), [0, 64], values.__getitem__)
    before = max(place for place in chosen if place < 41 and place not in failing)
    after = min(place for place in chosen if place >= 41 and place not in failing)
    assert after - before <= 4, chosen


def test_a_choice_that_was_ended_goes_on_as_it_had_begun():
    _, scores = curves(1)
    asked: list[int] = []

    def measured(most):
        return lambda place: None if len(asked) >= most else asked.append(place) or {"circuit": scores[place]}

    whole = choose([len(PYTHIA)], BUDGET, first_looks(), measured(BUDGET))
    order = asked.copy()
    for most in (3, 9, 15):
        asked.clear()
        assert choose([len(PYTHIA)], BUDGET, first_looks(), measured(most)) == sorted(order[:most])
    assert len(whole) == BUDGET


def test_a_gap_between_two_lines_of_training_is_no_gap():
    values = {place: {"heads": np.full((2, 1), float(place >= 3))} for place in range(6)}
    assert choose([3, 3], 6, [0, 2, 3, 5], values.__getitem__) == [0, 1, 2, 3, 4, 5]
    assert choose([3, 3], 99, [0, 2, 3, 5], values.__getitem__) == [0, 1, 2, 3, 4, 5]


def test_a_short_line_begins_with_its_ends_where_checkpoints_are_few():
    series = open_series(shipped_folder())
    begun = {count: [series[place].step for place in start(series, count)] for count in (4, 7, 8, 9)}
    assert begun[9] == [0, 250, 500, 9000, 9020, 9300, 9380, 9600], "one is left to choose"
    assert begun[8] == begun[7] == [0, 250, 500, 9000, 9020, 9600]
    assert begun[4] == [0, 9000, 9020, 9600]


def test_a_plan_and_the_limits_are_of_as_many_checkpoints_as_will_be_chosen(tmp_path):
    series, store = open_series(shipped_folder()), Store.open(tmp_path / "store")
    measures = build_measures(prompts_for(series.path), ["heads"], series[0])
    sweep = Sweep.of(series.checkpoints, measures, store)
    assert [len(foreseen(series, sweep, count)[0].checkpoints) for count in (4, 6, 12, 99)] == [4, 6, 12, len(series)]
    with pytest.raises(DriftError, match="2 lines of training of first-light take 4 checkpoints to begin with"):
        foreseen(series, sweep, 3)


def test_what_was_not_looked_at_is_told():
    series = open_series(shipped_folder())
    chosen = [series[place].name for place in start(series, 6)]
    assert not_looked_at(series, chosen) == (
        "6 of 19 checkpoints are measured; nothing between two neighbours was looked at: most, 9 checkpoints, between "
        "pretrain/500 and pretrain/9000"
    )
    assert not_looked_at(series, [checkpoint.name for checkpoint in series]) is None


def test_steps_may_be_spelled_with_a_colon_or_together():
    spelled = ("adaptive 15", "Adaptive  15 ", "adaptive:15", "adaptive=15", "adaptive15", "adaptive\t15")
    assert {adaptive_of(steps) for steps in spelled} == {15}
    assert [adaptive_of(steps) for steps in (None, "log 15", "adaptively", "adaptive-lr")] == [None] * 4
    for steps in ("adaptive", "adaptive:", "adaptive 1", "adaptive 2.5", "adaptive 15,last"):
        with pytest.raises(DriftError, match="from 2 on, as in 'adaptive 15'"):
            adaptive_of(steps)


def test_a_run_measures_the_chosen_and_remembers_the_series(tiny_series, tmp_path):
    store = tmp_path / "store"
    asked = ["run", str(tiny_series), "--store", str(store), "--measures", "heads", "--length", "32"]
    stopped = CliRunner().invoke(app, [*asked, "--steps", "adaptive 3", "--max-hours", "0"])
    assert stopped.exit_code == 3
    assert "is incomplete, so the exit status is 3: 2 checkpoints to be chosen" in stopped.stderr
    told = CliRunner().invoke(app, [*asked, "--steps", "adaptive 3"])
    assert told.exit_code == 0, told.output
    assert "3 checkpoints" in told.stdout
    for steps in ("adaptive", "adaptive 1", "adaptive 0", "adaptive many"):
        refused = CliRunner().invoke(app, [*asked, "--steps", steps, "--plan"])
        assert refused.exit_code == 2 and "needs a number of checkpoints from 2 on" in refused.output
    with pytest.raises(DriftError, match="adaptive 1 is too few"):
        run(tiny_series, store=store, measures=["heads"], adaptive=1, progress=False)
    with pytest.raises(NotACheckpoint, match="which circuit-drift run alone does"):
        open_series(tiny_series).select("adaptive 3")


HEADS = {"measures": ["heads"], "progress": False, "adaptive": 3}


def test_limits_hold_while_it_looks_and_the_same_call_goes_on(tiny_series, tmp_path, caplog):
    store = Store.open(tmp_path / "store")
    first = run(tiny_series, store=store, prompts=prompts_of(tiny_series), **HEADS, max_hours=0.0)
    assert len(first) == 1 == len(store.results()), "no further checkpoint was begun"
    assert "stopped with 1 of 3 checkpoints measured: --max-hours 0 are over" in caplog.text
    with pytest.raises(DriftError, match=r"needs about .* and --max-disk allows 1 kB"):
        run(tiny_series, store=store, prompts=prompts_of(tiny_series), **HEADS, max_disk=1000)
    assert len(run(tiny_series, store=store, prompts=prompts_of(tiny_series), **HEADS)) == 3


def test_more_than_there_are_is_all_of_them(tiny_series, tmp_path):
    asked = {**HEADS, "adaptive": 99, "prompts": prompts_of(tiny_series)}
    assert len(run(tiny_series, store=tmp_path / "store", **asked)) == 3


def test_those_who_look_on_see_one_sweep_of_as_many_as_were_asked_for(tiny_series, tmp_path, monkeypatch):
    store, seen = Store.open(tmp_path / "store"), []
    compute = RetrievalMeasure.compute

    def watched(self, loaded, earlier):
        (found,) = sweeps_in(store)
        seen.append((found.run, found.checkpoints, found.done, found.led, len(found.in_hand)))
        return compute(self, loaded, earlier)

    monkeypatch.setattr(RetrievalMeasure, "compute", watched)
    run(tiny_series, store=store, name="mine", prompts=prompts_of(tiny_series), **HEADS)
    assert seen == [("mine", 3, done, True, 1) for done in range(3)]
    assert not sweeps_in(store)


def test_workers_elsewhere_cannot_look(tiny_series, tmp_path):
    with pytest.raises(DriftError, match="measured here, one after the other, and slurm works elsewhere"):
        run(tiny_series, store=tmp_path / "store", executor="slurm", prompts=prompts_of(tiny_series), **HEADS)


def test_a_plan_knows_what_is_sure_and_what_is_chosen_on_the_way(tmp_path):
    series, store = tmp_path / "series", tmp_path / "store"
    for step in range(0, 90, 10):
        save_model(series / f"checkpoint-{step}", step)
    save_prompts(series)
    asked = {"store": store, "prompts": prompts_of(series), "measures": ["heads"]}
    told = plan_series(series, **asked, adaptive=6)
    assert (told.checkpoints, told.chosen, told.stored, told.missing) == (6, 2, {"heads": 1}, {"heads": 5})
    assert told.lines()[0] == "checkpoints: 6, 2 of them to be chosen on the way, of which 5 are to be loaded"
    done = run(series, **asked, adaptive=5, progress=False)
    told = plan_series(series, **asked, adaptive=6)
    assert (told.checkpoints, told.chosen, told.missing) == (6, 0, {"heads": 1}), "where it would look next is sure"
    again = run(series, **asked, adaptive=6, progress=False)
    assert {point.step for point in done} < {point.step for point in again}
    told = plan_series(series, **asked, adaptive=6)
    assert (told.chosen, told.stored, told.missing) == (0, {"heads": 6}, {"heads": 0})
    with pytest.raises(DriftError, match="adaptive steps are measured here"):
        plan_series(series, **asked, adaptive=6, executor="processes")
