"""The price of a run beforehand: what is there, what is missing, and how long it takes, to a factor of two."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from checkpoints import DriftError, open_series
from checkpoints.results.artifacts import read_artifact, write_artifact
from checkpoints.results.text import in_bytes
from circuit_drift import Measure, run
from circuit_drift.cli.commands import app
from circuit_drift.measures import registry
from circuit_drift.store.store import Store
from circuit_drift.store.timings import FIRST, FOLLOWED, LOADING, OPENED, Timing, note, timings, typical
from circuit_drift.sweep import limits
from circuit_drift.sweep.limits import Limits, Watch, size_in_words
from circuit_drift.sweep.plan import _at_once, _power, plan_sweep, to_time
from circuit_drift.sweep.sweep import plan_series
from circuit_drift.sweep.workers import models
from circuit_drift.sweep.workers.tasks import Sweep, asked_how
from tests.drift.conftest import save_model

SLEEP = 0.3


@dataclass(frozen=True)
class Slept:
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder):
        return write_artifact(folder, "slept", {"meta": dict(self.meta)}, {"zeros": np.zeros(5000)})

    @classmethod
    def load(cls, folder):
        return cls(read_artifact(folder, "slept")[0]["meta"])


@dataclass(frozen=True)
class Sleep(Measure):
    """A measure whose price is known."""

    name = "sleep"
    result = Slept

    def compute(self, loaded, earlier):
        time.sleep(SLEEP)
        return Slept()


@pytest.fixture(autouse=True)
def no_measure_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def test_a_plan_tells_what_then_happens_to_a_factor_of_two(tiny_series, tmp_path):
    asked = {"store": tmp_path / "store", "measures": [Sleep()]}
    plan = plan_series(tiny_series, **asked)
    assert (plan.stored, plan.missing, plan.loads) == ({"sleep": 1}, {"sleep": 2}, 2), "the first one is kept"
    assert plan.download == plan.downloads_at_once == 0
    assert plan.memory > 50_000_000 and plan.gpu == 0
    before = sum(path.stat().st_size for path in (tmp_path / "store" / "sleep").rglob("*"))
    start = time.monotonic()
    run(tiny_series, **asked, progress=False)
    spent = time.monotonic() - start
    after = sum(path.stat().st_size for path in (tmp_path / "store" / "sleep").rglob("*"))
    assert 0.5 < plan.seconds["sleep"] / (2 * SLEEP) < 2
    assert plan.total_seconds < 2 * spent
    assert 0.5 < plan.result_bytes / (after - before) < 2
    done = plan_series(tiny_series, **asked)
    assert (done.missing, done.loads, done.total_seconds, done.result_bytes) == ({"sleep": 0}, 0, 0, 0)


def test_loading_is_priced_as_what_it_is_and_what_happens_is_the_same_to_a_factor_of_two(
    tiny_series, tmp_path, monkeypatch
):
    waits, begun = {FIRST: 0.5, OPENED: 0.5, FOLLOWED: 0.2}, models.stream

    def slow(*args, **options):
        time.sleep(waits[OPENED] - waits[FOLLOWED])
        for loaded in begun(*args, **options):
            time.sleep(waits[FOLLOWED])
            yield loaded

    monkeypatch.setattr(models, "stream", slow)
    monkeypatch.setattr(models, "_OPENED", iter(range(9)))
    series, store = tmp_path / "series", tmp_path / "store"
    shutil.copytree(tiny_series, series)
    for step in (30, 40, 50, 60):
        save_model(series / f"checkpoint-{step}", step)
    plan = plan_series(series, store=store, measures=[Sleep()])
    sampled = [(one.question, one.seconds) for one in timings(Store.open(store)) if one.measure == LOADING]
    assert [kind for kind, _ in sampled] == [FIRST, FOLLOWED, OPENED]
    assert all(waits[kind] <= seconds for kind, seconds in sampled), sampled
    run(series, store=store, measures=[Sleep()], progress=False)
    happened = [one for one in timings(Store.open(store)) if one.measure == LOADING][len(sampled) :]
    assert [one.question for one in happened] == [OPENED, *[FOLLOWED] * (plan.loads - 1)]
    assert 0.5 < plan.seconds[LOADING] / sum(one.seconds for one in happened) < 2
    assert not plan.rough


@pytest.mark.parametrize(
    ("kinds", "stored", "seconds", "rough"),
    [
        ({FIRST: 10.0, OPENED: 2.0, FOLLOWED: 0.25}, (), 10.5, ()),
        ({FIRST: 10.0, OPENED: 2.0, FOLLOWED: 0.25}, (1,), 12.0, ()),
        ({FIRST: 10.0, OPENED: 2.0, FOLLOWED: 0.25}, (0,), 10.25, ()),
        ({OPENED: 2.0, FOLLOWED: 0.25}, (), 2.5, ()),
        ({FIRST: 10.0, OPENED: 2.0}, (), 14.0, (LOADING,)),
        ({FIRST: 10.0}, (1,), 20.0, (LOADING,)),
        ({}, (), None, ()),
    ],
)
def test_the_first_model_a_new_stream_and_one_that_follows_have_their_prices(
    tiny_series, tmp_path, kinds, stored, seconds, rough
):
    store = Store.open(tmp_path)
    sweep = Sweep.of(open_series(tiny_series).checkpoints, (Sleep(),), store)
    for index in stored:
        Slept().save(store.folder("sleep", sweep.tasks(index)[0].key))
    for kind, each in kinds.items():
        note(store, Timing(LOADING, kind, sweep.checkpoints[0].size, each))
    plan = plan_sweep(sweep, {})
    assert (plan.seconds[LOADING], plan.rough) == (seconds, rough)


def test_what_was_timed_on_checkpoints_of_another_size_is_said_to_be_rough_and_timed_again(tiny_series, tmp_path):
    store = Store.open(tmp_path)
    sweep = Sweep.of(open_series(tiny_series).checkpoints, (Sleep(),), store)
    size = sweep.checkpoints[0].size
    question = asked_how(sweep.measures[0], sweep.placement)
    for kind in (FIRST, OPENED, FOLLOWED):
        note(store, Timing(LOADING, kind, size, 1.0))
    note(store, Timing("sleep", question, 10 * size, 20.0))
    plan = plan_sweep(sweep, {})
    assert plan.seconds["sleep"] == pytest.approx(6.0)
    assert "(roughly: sleep timed on checkpoints of another size, or one alone)" in "\n".join(plan.lines())
    again = to_time(sweep, plan)
    assert again.checkpoints == (sweep.checkpoints[2], sweep.checkpoints[1])
    note(store, Timing("sleep", question, size, 0.5))
    plan = plan_sweep(sweep, {})
    assert (plan.seconds["sleep"], plan.rough, to_time(sweep, plan)) == (1.5, (), None)


def test_the_plan_of_a_terminal_measures_one_checkpoint_and_no_more(tiny_series, tmp_path):
    store = tmp_path / "store"
    told = CliRunner().invoke(
        app, ["run", str(tiny_series), "--store", str(store), "--plan", "--measures", "heads", "--length", "32"]
    )
    assert told.exit_code == 0, told.output
    assert "checkpoints: 3, of which 2 are to be loaded" in told.stdout
    assert "heads: 1 stored, 2 to compute, about" in told.stdout
    assert "8 facts: a change of" in told.stdout
    assert len(Store.open(store).results()) == 1 and not Store.open(store).run_files()


def test_a_plan_whose_trial_fails_tells_why(tiny_series, tmp_path, caplog):
    class Refused(Sleep):
        def compute(self, loaded, earlier):
            raise DriftError("there is nothing to sleep on")

    plan = plan_series(tiny_series, store=tmp_path / "store", measures=[Refused()])
    assert plan.missing == {"sleep": 3}
    assert "sleep of checkpoint-100: there is nothing to sleep on" in caplog.text


def test_a_run_stops_at_its_hours_and_goes_on(tiny_series, tmp_path, caplog):
    asked = {"store": tmp_path / "store", "measures": [Sleep()], "progress": False}
    first = run(tiny_series, **asked, max_hours=0.0)
    assert len(first) == 1
    assert "stopped with 1 of 3 checkpoints measured: --max-hours 0 are over" in caplog.text
    assert len(run(tiny_series, **asked)) == 3


def test_what_will_not_fit_is_refused_before_and_stopped_during(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "free_bytes", lambda folder: 10**9)
    with pytest.raises(
        DriftError, match=r"needs about 3 GB .*2 GB of downloads at once, 1 GB of results.*1 GB are free"
    ):
        Watch.begin(Limits(), tmp_path, downloads=2 * 10**9, results=10**9)
    with pytest.raises(DriftError, match="--max-disk allows 50 MB"):
        Watch.begin(Limits(disk=50_000_000), tmp_path, downloads=0, results=60_000_000)
    watch = Watch.begin(Limits(disk=50_000_000), tmp_path, downloads=20_000_000, results=0)
    assert watch.reached(20_000_000) == ""
    assert watch.reached(20_000_000) == "--max-disk 50 MB is reached"
    monkeypatch.setattr(limits, "free_bytes", lambda folder: 10**6)
    free = Watch(Limits(), tmp_path, 0, time.monotonic())
    assert free.reached(0) == "", "what is stored already is read on a full disk too"
    assert free.reached(1).startswith("1 MB are free on the disk of")


@pytest.mark.parametrize("bounds", [{"hours": float("nan")}, {"hours": -1.0}, {"disk": -1}])
def test_limits_that_are_none_are_refused(bounds):
    with pytest.raises(DriftError, match=r"--max-(hours|disk) cannot be (nan|-1): give a number from 0 on"):
        Limits(**bounds)


def test_downloads_at_once_are_those_kept_with_the_one_in_hand_and_the_next():
    assert _at_once([3, 1, 2, 5], None) == 11
    assert _at_once([3, 1, 2, 5], 0) == 8
    assert _at_once([3, 1, 2, 5], 1) == 10
    assert _at_once([], 0) == 0


def test_timings_are_scaled_by_the_weights_and_damage_is_passed_over(tmp_path):
    store = Store.open(tmp_path)
    for seconds in (1.0, 3.0, 2.0):
        note(store, Timing("heads", "q", 100, seconds, bytes=10, memory=7))
    with Path(tmp_path, "timings.jsonl").open("a") as file:
        file.write('not json\n{"measure": "heads"}\n')
    found = timings(store)
    assert len(found) == 3
    assert typical(found, "heads", "q", 200) == Timing("heads", "q", 200, 4.0, bytes=10, memory=7)
    assert typical(found, "heads", "other", 100) is None


def test_sizes_are_read_and_told():
    assert [size_in_words(text) for text in ("50GB", "1.5 tb", "800m", "7")] == [50 * 10**9, 15 * 10**11, 8 * 10**8, 7]
    assert [in_bytes(size) for size in (7, 1500, 4.4e12)] == ["7 B", "1.5 kB", "4.4 TB"]
    with pytest.raises(DriftError, match="'lots' is no size"):
        size_in_words("lots")


def test_power_is_that_of_mcnemars_test():
    assert _power("fact", 188).startswith("188 facts: a change of 0.10 in the share answered is found with power .8")
    assert _power("fact", 37).endswith("188 find one of .10")
