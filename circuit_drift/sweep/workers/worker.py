"""One worker of a sweep: leases the next checkpoint that nobody holds, measures what is missing, until all is done.

Workers know nothing of each other. Each result is stored as soon as it exists, so a worker that is killed loses the
measure in hand and nothing else, and another goes on from there.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from checkpoints import DriftError
from checkpoints.errors import DamagedResult, StoreError, is_failure
from checkpoints.loading.load import LoadedModel
from checkpoints.series.downloads import Downloads
from circuit_drift.store.journal import Outcome
from circuit_drift.store.leases import Lease
from circuit_drift.store.store import Store
from circuit_drift.store.timings import LOADING, Timing, note, peak_memory, timings
from circuit_drift.sweep.workers.models import Models
from circuit_drift.sweep.workers.tasks import Sweep, SweepTask, asked_how, lease_key

logger = logging.getLogger(__name__)

ATTEMPTS = 3
POLL = 0.25
LIBRARIES = ("torch", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto")

Watch = Callable[[int, str], None]


def work(
    sweep: Sweep, *, start: int = 0, watch: Watch | None = None, downloads: Downloads | None = None
) -> Iterator[Outcome]:
    """Work on a sweep until every checkpoint of it is finished, here or elsewhere.

    Args:
        sweep: what is to be measured.
        start: the checkpoint to begin with; the ones before it come last. Workers that start apart meet rarely.
        watch: is told which measure of which checkpoint is about to be computed.
        downloads: of a sweep that goes on behind this one; by default its own, which end with it.

    Yields:
        the checkpoints finished here.

    Raises:
        StoreError: a result cannot be read or written. Every other failure is recorded in the outcome.
    """
    order = range(len(sweep.checkpoints))
    waiting = [*order[start:], *order[:start]]
    with _downloads(sweep, downloads) as fetched, Models(sweep, fetched) as models:
        while waiting:
            held = []
            for index in waiting:
                if sweep.journal.has(index):
                    continue
                outcome = _attempt(sweep, index, models, watch or _ignore)
                if outcome is None:
                    held.append(index)
                    continue
                sweep.journal.write(outcome)
                yield outcome
            if held == waiting:
                time.sleep(POLL)
            waiting = held


def _downloads(sweep: Sweep, shared: Downloads | None = None) -> AbstractContextManager[Downloads]:
    return Downloads(sweep.keep_downloads, sweep.checkpoints) if shared is None else nullcontext(shared)


def sample(sweep: Sweep) -> Outcome | None:
    """Note what a sweep takes: measure its first checkpoint, load its second, if any, behind it, and the first anew.

    Returns:
        what became of the first; ``None`` where another worker holds it.

    Raises:
        StoreError: a result cannot be read or written.
    """
    known = len(timings(sweep.store))
    with _downloads(sweep) as fetched, Models(sweep, fetched) as models:
        outcome = _attempt(sweep, 0, models, _ignore)
        for index in (1, 0) if models.drawn is not None and len(sweep.checkpoints) > 1 else ():
            models.take(index)
            _note_loading(sweep, index, models)
    for one in timings(sweep.store)[known:]:
        if one.measure != LOADING:  # the next checkpoint's tensors lie beside the model, as they will in the run
            note(sweep.store, replace(one, memory=peak_memory()))
    return outcome


def _attempt(sweep: Sweep, index: int, models: Models, watch: Watch) -> Outcome | None:
    """Finish one checkpoint; None where another worker holds it."""
    models.anticipate(index)
    checkpoint = sweep.checkpoints[index]
    try:
        tasks, weights = sweep.tasks(index), checkpoint.weights_hash
    except (DriftError, OSError) as error:
        return Outcome(index, failures=dict.fromkeys((m.name for m in sweep.measures), reason(error)))
    if all(task.stored(sweep.store) for task in tasks):
        return Outcome(index, {task.name: task.key for task in tasks}, weights=weights)
    lease = sweep.leases.take(lease_key(tasks), checkpoint.name)
    if lease is None:
        return None
    with lease:
        if sweep.journal.has(index):
            return None
        return replace(_measure(sweep, index, tasks, lease, models, watch), weights=weights)


def _measure(
    sweep: Sweep, index: int, tasks: Sequence[SweepTask], lease: Lease, models: Models, watch: Watch
) -> Outcome:
    """Every task of a checkpoint that is ours: read where stored, computed where not, failures recorded."""
    results, failures = _stored(sweep, tasks)
    missing = [task for task in tasks if task.name not in (*results, *failures)]
    computed: dict[str, Any] = dict(results)
    try:
        if lease.holder.attempt > ATTEMPTS:
            raise DriftError(f"{ATTEMPTS} workers died while measuring it (out of memory?); run again to retry")
        for task in missing:
            watch(index, task.name)
            _import_libraries()
            loaded = models.take(index)
            if task is missing[0]:
                _note_loading(sweep, index, models)
            computing = _seconds(partial(take, task, loaded, sweep.store, computed, failures))
            if task.name in computed:
                note(sweep.store, _timing(sweep, index, task, loaded, computing))
    except StoreError:
        raise
    except BaseException as error:  # whatever loading runs into concerns this checkpoint alone
        if not is_failure(error):
            raise
        failures = {task.name: reason(error) for task in missing if task.name not in computed} | failures
    keys = {task.name: task.key for task in tasks if task.name in computed}
    return Outcome(index, keys, failures, len(computed) - len(results))


def _import_libraries() -> None:
    """What the first checkpoint of a process imports, so that it does not count as the price of every one."""
    for name in LIBRARIES:
        import_module(name)


def _seconds(work: Callable[[], object]) -> float:
    """Seconds that some work took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _note_loading(sweep: Sweep, index: int, models: Models) -> None:
    """How long the model in hand was waited for, though it may have been drawn before it was wanted."""
    if models.drawn is not None:
        note(sweep.store, Timing(LOADING, models.drawn.kind, sweep.checkpoints[index].size, models.drawn.seconds))


def _timing(sweep: Sweep, index: int, task: SweepTask, loaded: LoadedModel, seconds: float) -> Timing:
    folder = sweep.store.folder(task.name, task.key)
    return Timing(
        task.name,
        asked_how(task.measure, sweep.placement),
        sweep.checkpoints[index].size,
        seconds,
        bytes=sum(path.stat().st_size for path in folder.iterdir()),
        memory=peak_memory(),
        gpu=gpu_memory(loaded),
    )


def gpu_memory(loaded: LoadedModel) -> int:
    """Peak bytes on the GPUs of this process; 0 where the model is on none."""
    import torch

    if not str(loaded.device).startswith("cuda"):
        return 0
    return max(torch.cuda.max_memory_allocated(place) for place in range(torch.cuda.device_count()))


def _stored(sweep: Sweep, tasks: Sequence[SweepTask]) -> tuple[dict[str, Any], dict[str, str]]:
    """The results that are there; one that is damaged is as good as not there, one of a newer version is left alone."""
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for task in tasks:
        if not sweep.store.has(task.name, task.key):
            continue
        try:
            results[task.name] = task.read(sweep.store)
        except DamagedResult as error:
            logger.warning("a stored result is damaged, and computed anew: %s", error)
        except StoreError as error:
            failures[task.name] = reason(error)
    return results, failures


def take(task: SweepTask, loaded: LoadedModel, store: Store, results: dict[str, Any], failures: dict[str, str]) -> None:
    """Compute one task and store it, or record why it could not be computed.

    Args:
        task: what to compute.
        loaded: the model, from a checkpoint or in training.
        store: where the result goes.
        results: of the same model so far; the new one is added.
        failures: the reason is added.

    Raises:
        StoreError: the result cannot be written.
    """
    absent = [need for need in task.measure.needs if need not in results]
    if absent:
        failures[task.name] = f"needs {', '.join(absent)}, which failed"
        return
    try:
        results[task.name] = task.compute(loaded, results, store)
    except StoreError:
        raise
    except BaseException as error:  # a method that fails on this model must not stop the others
        if not is_failure(error):
            raise
        logger.debug("%s failed", task.name, exc_info=True)
        failures[task.name] = reason(error)


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error) if isinstance(error, DriftError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _ignore(_index: int, _measure: str) -> None:
    """Nobody watches."""
