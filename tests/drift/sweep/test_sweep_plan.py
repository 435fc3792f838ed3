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
from circuit_drift.sweep import sweep as sweep_module
from circuit_drift.sweep.limits import Limits, Watch, size_in_words
from circuit_drift.sweep.plan import _at_once, _power, plan_sweep, to_time
from circuit_drift.sweep.sweep import plan_series
from circuit_drift.sweep.workers import models, worker
from circuit_drift.sweep.workers.tasks import Sweep, asked_how
from circuit_drift.sweep.workers.worker import work
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
    monkeypatch.setattr(models, "seconds_to_import", lambda: 0.3)  # by whatever came before, as memory by shape does
    waits[FIRST] += 0.3
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
    assert "6 needles: a change of" in told.stdout and "facts: a change" not in told.stdout, "heads ask needles alone"
    assert f"free on the disk of {store}: " in told.stdout
    assert len(Store.open(store).results()) == 1 and not Store.open(store).run_files()


def test_a_plan_is_told_in_lines_alone(tiny_series, tmp_path):
    told = CliRunner().invoke(app, ["run", str(tiny_series), "--store", str(tmp_path), "--plan", "--json"])
    assert (told.exit_code, told.stdout) == (2, "") and "leave --json out" in told.stderr


@dataclass(frozen=True)
class Twin(Sleep):
    """A measure that the weights do not decide: a series has one."""

    name = "twin"
    of_weights = False


def test_what_two_checkpoints_share_is_counted_once(tiny_series, tmp_path):
    series = tmp_path / "series"
    shutil.copytree(tiny_series, series)
    shutil.copy(series / "checkpoint-10" / "model.safetensors", series / "checkpoint-100" / "model.safetensors")
    sweep = Sweep.of(open_series(series).checkpoints, (Sleep(), Twin()), Store.open(tmp_path / "store"))
    plan = plan_sweep(sweep, {})
    assert (plan.stored, plan.missing, plan.loads) == ({"sleep": 0, "twin": 0}, {"sleep": 2, "twin": 1}, 2)
    found = list(work(sweep))
    assert [outcome.computed for outcome in found] == [2, 1, 0]


def test_weights_are_what_loading_reads(tiny_series, tmp_path):
    series = tmp_path / "series"
    shutil.copytree(tiny_series, series)
    size = open_series(series)[0].size
    (series / "checkpoint-0" / "optimizer.pt").write_bytes(b"0" * 10**6)
    assert open_series(series)[0].size == size < 10**6


def test_several_workers_take_memory_together(tiny_series, tmp_path):
    store = Store.open(tmp_path)
    sweep = Sweep.of(open_series(tiny_series).checkpoints, (Sleep(),), store)
    question, size = asked_how(sweep.measures[0], sweep.placement), sweep.checkpoints[0].size
    for kind in (FIRST, OPENED, FOLLOWED):
        note(store, Timing(LOADING, kind, size, 0.0))
    note(store, Timing("sleep", question, size, 100.0, bytes=10, memory=7 * 10**9))
    told = plan_sweep(sweep, {}, workers=2).lines()
    assert "time in all, one worker: about 5 min" in told
    assert "memory of a worker at most: 7 GB" in told
    assert "2 workers: 14 GB of memory together; about 2 min where each has cores or a GPU of its own" in told
    assert not [line for line in plan_sweep(sweep, {}).lines() if "together" in line]


def test_several_workers_need_an_executor(tiny_series, tmp_path):
    for call in (run, plan_series):
        with pytest.raises(DriftError, match="2 workers need an executor, and serial is one worker here"):
            call(tiny_series, store=tmp_path, measures=[Sleep()], workers=2)


def test_results_of_unknown_size_are_not_told_as_none(tiny_series, tmp_path):
    sweep = Sweep.of(open_series(tiny_series).checkpoints, (Sleep(),), Store.open(tmp_path))
    told = plan_sweep(sweep, {}).lines()
    assert "disk at most: 0 B with downloads at once, and results whose size is not known before one checkpoint is " \
        "measured" in told  # fmt: skip


def test_memory_is_that_with_the_next_checkpoint_beside_the_model(tiny_series, tmp_path, monkeypatch):
    peak, drawn = [10**9], models.Models._draw

    def draw(self, index):
        peak[0] += 10**8 if index != self._index else 0
        return drawn(self, index)

    monkeypatch.setattr(models.Models, "_draw", draw)
    monkeypatch.setattr(worker, "peak_memory", lambda: peak[0])
    assert plan_series(tiny_series, store=tmp_path / "store", measures=[Sleep()]).memory == 13 * 10**8


def test_where_all_is_stored_no_memory_is_told(tiny_series, tmp_path):
    asked = {"store": tmp_path / "store", "measures": [Sleep()]}
    run(tiny_series, **asked, progress=False)
    assert not [line for line in plan_series(tiny_series, **asked).lines() if line.startswith("memory")]


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
    for workers, before, after in ((1, 10_000_000, 1), (2, 0, 1)):
        watch = Watch.begin(Limits(disk=50_000_000), tmp_path, downloads=20_000_000, results=0, workers=workers)
        assert watch.reached(10_000_000) == watch.reached(before) == "", "the next of each worker will fit"
        assert watch.reached(after) == "another checkpoint would take more than --max-disk 50 MB allows"
    monkeypatch.setattr(limits, "free_bytes", lambda folder: 10**6)
    free = Watch(Limits(), (tmp_path,), 0, time.monotonic())
    assert free.reached(0) == "", "what is stored already is read on a full disk too"
    assert free.reached(1).startswith("1 MB are free on the disk of")


def test_downloads_are_weighed_against_the_disk_of_their_cache(tmp_path, monkeypatch):
    free = {"store": 10**9, "cache": 3 * 10**9}
    monkeypatch.setattr(limits, "free_bytes", lambda folder: free[folder.name])
    store, cache = tmp_path / "store", tmp_path / "cache"
    apart = {"cache": cache, "results": 10**8}
    monkeypatch.setattr(limits, "disk_of", lambda folder: folder.name)
    watch = Watch.begin(Limits(), store, downloads=2 * 10**9, **apart)
    assert watch.reached(1) == ""
    with pytest.raises(
        DriftError,
        match=r"needs about 2.9 GB on the disk of .*/cache .* and 3 GB are free there, of which 200 MB are left alone",
    ):
        Watch.begin(Limits(), store, downloads=29 * 10**8, **apart)
    monkeypatch.setattr(limits, "disk_of", lambda folder: "one")
    with pytest.raises(DriftError, match=r"needs about 2.1 GB on the disk of .*/store .* and 1 GB are free"):
        Watch.begin(Limits(), store, downloads=2 * 10**9, **apart)
    monkeypatch.setattr(limits, "disk_of", lambda folder: folder.name)
    assert limits.on_disks(store, 5, cache, 7) == {store: 5, cache: 7}
    assert limits.on_disks(store, 5, cache, 0) == {store: 5}, "nothing goes there"
    free["cache"] = 10**6
    assert watch.reached(0, failed=True).startswith("1 MB are free on the disk of"), "where a download failed"


@pytest.mark.parametrize("bounds", [{"max_hours": 0.0}, {"max_disk": 0}])
def test_what_is_stored_already_is_told_whatever_the_limits(tiny_series, tmp_path, bounds):
    asked = {"store": tmp_path / "store", "measures": [Sleep()], "progress": False}
    run(tiny_series, **asked)
    assert len(run(tiny_series, **asked, **bounds)) == 3


def test_hours_count_from_the_start_of_the_command(tiny_series, tmp_path, monkeypatch, caplog):
    now, reading = [0.0], sweep_module._audit
    monkeypatch.setattr(sweep_module.time, "monotonic", lambda: now[0])

    def slow(*args, **options):
        now[0] += 3600.0
        return reading(*args, **options)

    monkeypatch.setattr(sweep_module, "_audit", slow)
    found = run(tiny_series, store=tmp_path / "store", measures=[Sleep()], progress=False, max_hours=1.0)
    assert len(found) == 1 and "--max-hours 1 are over" in caplog.text


@pytest.mark.parametrize("bounds", [{"hours": float("nan")}, {"hours": -1.0}, {"disk": -1}])
def test_limits_that_are_none_are_refused(bounds):
    with pytest.raises(DriftError, match=r"--max-(hours|disk) cannot be (nan|-1): give a number from 0 on"):
        Limits(**bounds)


def test_downloads_at_once_are_those_kept_with_the_one_in_hand_and_the_next():
    assert _at_once([3, 1, 2, 5], None) == 11
    assert _at_once([3, 1, 2, 5], 0) == 8
    assert _at_once([3, 1, 2, 5], 1) == 10
    assert _at_once([3, 1, 2, 5, 4], 0, workers=2) == 14, "each worker has two"
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
    assert [size_in_words(text) for text in ("50GB", "1.5 tb", "800m", "7", "7 b")] == [
        50 * 10**9, 15 * 10**11, 8 * 10**8, 7, 7,
    ]  # fmt: skip
    assert [size_in_words(text) for text in ("2GiB", "0.5 Mi")] == [2**31, 2**19]
    assert [in_bytes(size) for size in (7, 1500, 4.4e12)] == ["7 B", "1.5 kB", "4.4 TB"]
    for text in ("lots", "-5GB", "nan", "inf", "1e3 MiB", "5iB"):
        with pytest.raises(DriftError, match=f"'{text}' is no size; write a number with kB"):
            size_in_words(text)


def test_power_is_that_of_mcnemars_test():
    assert _power("fact", 188).startswith("188 facts: a change of 0.10 in the share answered is found with power .8")
    assert _power("fact", 37).endswith("188 find one of .10")
