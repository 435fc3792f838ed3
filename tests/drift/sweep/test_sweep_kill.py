"""A sweep that is killed again and again ends with what an uninterrupted one gives, byte for byte."""

import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import circuit_drift
from checkpoints import Placement, open_series
from circuit_drift.measures.registry import MEASURES, build_measures
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors.pool import run_worker
from circuit_drift.sweep.workers.tasks import Sweep
from tests.drift.conftest import save_model, save_prompts

KILLS = 8
STEPS = (0, 1, 2, 4, 8)
FILES = ("result.json", "arrays.safetensors")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed") / "series"
    for seed, step in enumerate(STEPS):
        save_model(root / f"checkpoint-{step}", seed)
    save_prompts(root)
    return root


@pytest.fixture(scope="module")
def server():
    """Starts processes quickly: what they import is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["circuits", "heads", "transformers.models.llama.modeling_llama"])
    run_once(context, print)
    return context


def run_once(server, target, *arguments) -> None:
    """Run a function in a process of its own, to its end."""
    process = server.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def run_and_kill(server, sweep: Sweep, *, results: int, pause: float) -> None:
    """Work on a sweep in a process, killed some seconds after its store holds that many results."""
    process = server.Process(target=run_worker, args=(sweep, 0))
    process.start()
    while process.is_alive() and sum(1 for _ in sweep.store.results()) < results:
        time.sleep(0.002)
    process.join(pause)
    process.kill()
    process.join()


def prompts_of(series: Path) -> Prompts:
    return prompts_for(series, length=64, depths=(0.2, 0.8))


def new_sweep(series: Path, store: Path) -> Sweep:
    measures = build_measures(prompts_of(series))
    return Sweep.of(open_series(series).checkpoints, measures, Store.open(store), placement=Placement(device="cpu"))


def contents(store: Path) -> dict[str, bytes]:
    """Every file of every visible result."""
    folders = [result.folder for result in Store.open(store).results()]
    return {str((f / name).relative_to(store)): (f / name).read_bytes() for f in folders for name in FILES}


def test_eight_kills_change_nothing_and_lose_nothing_finished(series, tmp_path, server):
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    run_once(server, run_worker, new_sweep(series, clean), 0)
    expected = contents(clean)
    assert len(expected) == len(MEASURES) * len(STEPS) * len(FILES)

    draw = random.Random(0)
    finished: dict[Path, int] = {}
    cut_short = 0
    for _ in range(KILLS):
        more, pause = draw.randint(0, 1), draw.uniform(0.0, 0.1)
        run_and_kill(server, new_sweep(series, killed), results=len(finished) // len(FILES) + more, pause=pause)
        found = contents(killed)
        assert found.items() <= expected.items(), "what is visible is whole, and what it would be uninterrupted"
        assert {path: path.stat().st_mtime_ns for path in finished} == finished, "nothing is computed twice"
        finished = {killed / name: (killed / name).stat().st_mtime_ns for name in found}
        cut_short += len(found) < len(expected)
    assert cut_short > 2, "most kills must hit a sweep at work"

    circuit_drift.run(
        series, store=killed, prompts=prompts_of(series), placement=Placement(device="cpu"), progress=False
    )
    assert contents(killed) == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(killed.glob("claims/[!.]*"))
    assert not list(killed.glob("*/.*.*/")), "no half-written result is left behind"


def test_two_runs_at_once_share_the_work(series, tmp_path, server):
    """Two users start the same sweep on the same store: nothing is computed twice, and both get everything."""
    sweeps = [new_sweep(series, tmp_path / "store") for _ in range(2)]
    with ProcessPoolExecutor(2, mp_context=server) as pool:
        computed = list(pool.map(run_worker, sweeps, [0, 0]))
    assert sum(computed) == len(MEASURES) * len(STEPS)
    for sweep in sweeps:
        assert len(sweep.journal.read(range(len(STEPS)))) == len(STEPS)
