"""The same sweep in every executor: the same results, failures recorded, dead workers replaced."""

import json
import os
import re
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import circuit_drift
from checkpoints import DriftError, Placement, open_series
from circuit_drift.api.runs import Run
from circuit_drift.measures.registry import MEASURES, build_measures
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors import EXECUTORS, Workers
from circuit_drift.sweep.executors.pool import follow, starting_points
from circuit_drift.sweep.executors.processes import environments, visible_gpus
from circuit_drift.sweep.executors.slurm import SlurmWorker
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import ATTEMPTS, work
from tests.drift.sweep.test_sweep_kill import contents, prompts_of

ELSEWHERE = [name for name in EXECUTORS if name != "serial"]
DEATHS = {
    "processes": "exit code -9",
    "ray": "was killed.*its logs lie in",
    "slurm": r"its log is .*\.err$",
}


@pytest.fixture(scope="module")
def damaged(tiny_series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny series, its middle checkpoint cut short."""
    root = tmp_path_factory.mktemp("executors") / "damaged"
    shutil.copytree(tiny_series, root)
    weights = root / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return root


@pytest.fixture(scope="module")
def serial(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, bytes]]:
    store = tmp_path_factory.mktemp("serial") / "store"
    return run(damaged, store, executor="serial"), contents(store)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real local cluster with room for two workers."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home directory
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, address="local")
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitit's own local executor, on a machine with SLURM too: tests queue no jobs."""
    monkeypatch.setattr("submitit.slurm.slurm.SlurmExecutor.affinity", classmethod(lambda _: -1))


def run(series: Path, store: Path, **options) -> Run:
    prompts = prompts_of(series)
    return circuit_drift.run(
        series, store=store, prompts=prompts, placement=Placement(device="cpu"), progress=False, **options
    )


def kill_a_worker(store: Path) -> threading.Thread:
    """Kill the first process that holds a lease, from the outside."""

    def wait_and_kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for path in store.glob("claims/[!.]*"):
                os.kill(int(json.loads(path.read_text())["process"].partition(":")[0]), signal.SIGKILL)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


@pytest.mark.parametrize("executor", ELSEWHERE)
def test_every_executor_gives_what_serial_gives_with_a_worker_killed(
    executor, damaged, serial, tmp_path, request, caplog
):
    if executor == "ray":
        request.getfixturevalue("ray")
    store = tmp_path / "store"
    killer = kill_a_worker(store)
    done = run(damaged, store, executor=executor, workers=2)
    killer.join()
    expected, results = serial
    assert contents(store) == results
    assert [asdict(p)["keys"] for p in done] == [asdict(p)["keys"] for p in expected]
    assert done.at(10).failures == expected.at(10).failures
    assert set(done.at(10).failures) == set(MEASURES)
    assert not list(store.glob("sweeps/*/[0-9]*.json"))
    (told,) = [record.message for record in caplog.records if "died and was replaced" in record.message]
    assert re.search(DEATHS[executor], told)


def test_a_sweep_is_led_from_before_its_workers_start_which_may_take_a_while(tiny_series, tmp_path, monkeypatch):
    led = []

    def begin(sweep, _workers):
        led.append(sweep.journal.led())
        raise DriftError("no cluster")

    monkeypatch.setattr("circuit_drift.sweep.executors.ray.RayActors", begin)
    with pytest.raises(DriftError, match="no cluster"):
        run(tiny_series, tmp_path, executor="ray")
    assert led == [True]


@pytest.mark.parametrize(
    ("gpus", "error", "told"),
    [(1, DriftError, "the Ray cluster has 0 GPUs, too few for a worker with 1"), (0, TypeError, "no pickle of this")],
)
def test_a_cluster_on_which_no_worker_can_be_started_is_left(gpus, error, told, tiny_series, tmp_path, monkeypatch):
    def remote(**_options):
        raise TypeError("no pickle of this")

    asked = []
    cluster = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_options: asked.append("init"),
        cluster_resources=lambda: {"CPU": 2.0},
        remote=remote,
        shutdown=lambda: asked.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    with pytest.raises(error, match=told):
        run(tiny_series, tmp_path, executor="ray", gpus_per_worker=gpus)
    assert asked == ["init", "shutdown"]


def test_an_unknown_executor_and_a_crew_of_none_are_refused(tiny_series, tmp_path):
    with pytest.raises(DriftError, match="unknown executor 'dask'; choose from serial, processes, ray, slurm"):
        run(tiny_series, tmp_path, executor="dask")
    with pytest.raises(DriftError, match="0 workers"):
        run(tiny_series, tmp_path, executor="processes", workers=0)


@pytest.mark.parametrize(("package", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_a_missing_extra_is_named(package, extra, tiny_series, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DriftError, match=rf"circuit-drift\[{extra}\]"):
        run(tiny_series, tmp_path, executor=extra)


def test_gpus_are_handed_out_in_groups():
    gpus = ["0", "1", "2", "3", "4"]
    groups = [env["CUDA_VISIBLE_DEVICES"] for env in environments(Workers(None, 2), 30, gpus)]
    assert groups == ["0,1", "2,3"]
    assert len(environments(Workers(), 30, gpus)) == 5
    assert len(environments(Workers(), 3, gpus)) == 3
    with pytest.raises(DriftError, match="3 workers with 2 GPUs each need 6; this machine shows 5"):
        environments(Workers(3, 2), 30, gpus)
    with pytest.raises(DriftError, match="1 workers with 8 GPUs"):
        environments(Workers(None, 8), 30, gpus)


def test_without_gpus_workers_share_the_cores_that_a_job_was_given(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert len(environments(Workers(), 30, [])) == 8
    shares = environments(Workers(4), 30, [])
    assert [env["OMP_NUM_THREADS"] for env in shares] == ["2"] * 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus("auto") == ["3", "5"]
    assert visible_gpus("cpu") == []
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS
    assert len(environments(Workers(), 30, [])) == 30
    assert len(environments(Workers(), 99, [])) == 64


def test_workers_begin_apart(tiny_series, tmp_path):
    sweep = new_sweep(tiny_series, tmp_path)
    assert starting_points(sweep, 3) == [0, 1, 2]
    assert starting_points(sweep, 2) == [0, 1]
    assert [outcome.index for outcome in work(sweep, start=2)] == [2, 0, 1]


def new_sweep(series: Path, store: Path, **options) -> Sweep:
    measures = build_measures(prompts_of(series), ["heads"])
    return Sweep.of(
        open_series(series).checkpoints, measures, Store.open(store), placement=Placement(device="cpu"), **options
    )


def test_a_checkpoint_that_kills_its_workers_is_given_up(tiny_series, tmp_path, monkeypatch):
    sweep = new_sweep(tiny_series, tmp_path)

    class Killed(BaseException):
        """The end of a process, as far as a test can have it."""

    def die(*_args, **_kwargs):
        raise Killed

    for _ in range(ATTEMPTS):
        with monkeypatch.context() as patch:
            patch.setattr("circuit_drift.sweep.workers.worker.take", die)
            patch.setattr("circuit_drift.store.leases.Lease.__exit__", lambda *_: None)
            patch.setattr("circuit_drift.store.leases.Lease._beat", lambda _: None)
            with pytest.raises(Killed):
                next(work(sweep))
        for path in sweep.leases.folder.glob("[!.]*"):
            path.write_text(path.read_text().replace('"process": "', '"process": "9999'))
    outcomes = list(work(sweep))
    assert [outcome.index for outcome in outcomes] == [0, 1, 2]
    assert "3 workers died" in outcomes[0].failures["heads"]
    assert outcomes[1].failures == outcomes[2].failures == {}
    again = list(work(replace(sweep, id="another")))
    assert all(outcome.failures == {} for outcome in again), "the next start tries again"


class NobodySurvives:
    """A crew whose workers die as fast as they are started."""

    size = 2

    def replace_dead(self) -> list[str]:
        return ["exit code -9"] * 2

    def idle(self) -> bool:
        return False


def test_workers_that_cannot_be_kept_alive_end_the_sweep(tiny_series, tmp_path):
    sweep = new_sweep(tiny_series, tmp_path)
    with Progress(sweep, wanted=False) as bars, pytest.raises(DriftError, match=r"8 workers in a row died.*-9"):
        list(follow(sweep, NobodySurvives(), bars))


def test_a_preempted_job_is_queued_again(tiny_series, tmp_path):
    sweep = new_sweep(tiny_series, tmp_path)
    again = SlurmWorker().checkpoint(sweep, 1)
    assert again.args == (sweep, 1)
    with sweep.journal.lead("the coordinator"):
        assert again.function(*again.args) == 3
