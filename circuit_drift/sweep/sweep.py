"""A run: every measure of every checkpoint of a series, from the store where it is there, computed where it is not.

Each result is written as soon as it exists, so a run that is killed loses the measure in hand and nothing else, and
the next start goes on from there. A checkpoint that cannot be measured is recorded with its reason and passed over.
"""

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints import Checkpoint, DriftError, Series, open_series
from checkpoints.audit import AuditReport, audit
from checkpoints.errors import DamagedResult, StoreError
from checkpoints.placement import ANYWHERE, Placement
from checkpoints.results.disk import free_bytes
from checkpoints.results.text import in_bytes
from checkpoints.series.hub_client import cache_folder
from circuit_drift.measures.base import Measure
from circuit_drift.measures.registry import MEASURES, build_measures
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.record.record import Point, RunRecord, point_record
from circuit_drift.record.training_log import read_log
from circuit_drift.store.records import Growing, stored_record, warn_of_loss
from circuit_drift.store.store import Store
from circuit_drift.store.upkeep import collect
from circuit_drift.sweep.executors import Executor, Workers, execute
from circuit_drift.sweep.limits import STOPPED, UNLIMITED, Limits, Watch, on_disks
from circuit_drift.sweep.looking import foreseen, look
from circuit_drift.sweep.numbers import line_of, numbers_of
from circuit_drift.sweep.plan import Plan, is_local, plan_sweep, shapes_of, to_time
from circuit_drift.sweep.points import bytes_of, point_of, stored_point, warn_of_failures
from circuit_drift.sweep.workers.machine import free_memory, neighbours
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import sample
from circuit_drift.trackers.trackers import Tracker, Trackers

logger = logging.getLogger(__name__)

TOO_LARGE = "nothing is measured to know what it takes: that needs about %s by the model's shape, and %s are free"

ERRORS = 2
TWIN_BYTES = 2_000_000_000
"""Checkpoints up to this size have an untrained twin measured beside them, unless the series has a step 0."""


def measure_series(
    series: "Series | Path | str",
    *,
    store: "Store | Path | str | None" = None,
    prompts: Prompts | None = None,
    measures: Sequence[str | Measure] | None = None,
    placement: Placement = ANYWHERE,
    strict: bool = False,
    progress: bool = True,
    executor: Executor = "serial",
    workers: int | None = None,
    gpus_per_worker: int | None = None,
    keep_downloads: int | None = 0,
    limits: Limits = UNLIMITED,
    adaptive: int | None = None,
    name: str | None = None,
    track_to: Sequence[str | Tracker] = (),
) -> RunRecord:
    """Measure every checkpoint of a series; arguments and errors as for `circuit_drift.run`."""
    began = time.monotonic()
    _require_crew(executor, workers)
    series = series if isinstance(series, Series) else open_series(series)
    prompts = prompts or prompts_for(series.path)
    taken = build_measures(prompts, usual_measures(series) if measures is None else measures, next(iter(series), None))
    trackers = Trackers.of(track_to)
    store = store if isinstance(store, Store) else Store.open(store)
    asked = partial(
        Sweep.of,
        measures=taken,
        store=store,
        placement=_spread(placement, gpus_per_worker),
        keep_downloads=keep_downloads,
    )
    name = name or series.name
    if adaptive is not None:
        _require_here(executor)
        priced, _ = foreseen(series, asked(series.checkpoints), adaptive)
        found = look(series, asked(()), adaptive, name, _watch(priced, limits, began), progress=progress)
        series, limits = series.only(found), UNLIMITED
    report = _audit(series, strict=strict)
    sweep = asked(series.checkpoints)
    record: dict[str, Any] = {
        "name": name,
        "origins": {"needles": prompts.needles.origin, "facts": prompts.facts.origin},
        "log": read_log(series),
        "audit": report.to_dict(),
        "question": sweep.question,
    }
    warn_of_loss(stored_record(store, name), record, series)
    watch = _watch(sweep, limits, began, workers or 1)
    sweep.journal.begin(sweep.about(name))
    finished = _finished(sweep, executor, Workers(workers, gpus_per_worker), progress=progress)
    with trackers, closing(finished), Growing(store, record, series) as growing:
        points = _recorded(finished, sweep, watch, growing, partial(_tell, trackers, name))
    _require_any(points, series)
    parents = {label: list(found) for label, found in series.to_networkx().pred.items()}
    return RunRecord(name, points, store.path, record["origins"], record["log"], report, parents)


def _require_any(points: Sequence[Point], series: Series) -> None:
    if not any(point.keys for point in points):
        reasons = "; ".join(dict.fromkeys(reason for point in points for reason in point.failures.values()))
        raise DriftError(f"no checkpoint of {series.name} could be measured: {reasons}")


def _recorded(
    finished: Iterable[tuple[int, Point]],
    sweep: Sweep,
    watch: Watch,
    growing: Growing,
    tell: Callable[[int, Point], None],
) -> tuple[Point, ...]:
    """The points of a sweep in order, each recorded and told as soon as it is finished; fewer where a limit ends it."""
    before = {(result.measure, result.key) for result in sweep.store.results()}
    points: dict[int, Point] = {}
    for index, point in finished:
        points[index] = point
        growing.add(index, point_record(point))
        tell(index, point)
        done, total = len(points), len(sweep.checkpoints)
        if done < total and (why := watch.reached(bytes_of(sweep.store, point, before), failed=bool(point.failures))):
            logger.warning(STOPPED, done, total, why)
            break
    return tuple(points[index] for index in sorted(points))


def _tell(trackers: Trackers, run: str, index: int, point: Point) -> None:
    place = index if point.position is None else point.position
    trackers.log(line_of(run, point), place, numbers_of(point))


def usual_measures(series: Series) -> tuple[str, ...]:
    """What a run takes where nothing is asked for: `MEASURES`, and the null model where that must be made.

    A series with a step 0 brings its own; else an untrained twin is measured, once for the series, unless a second
    model of that size beside the first is much to ask (`TWIN_BYTES`), or the weights are quantised or an adapter's.
    """
    first = next(iter(series), None)
    if first is None or any(checkpoint.step == 0 for checkpoint in series.chosen_from or series):
        return MEASURES
    with suppress(DriftError, OSError):
        plain = "quantization_config" not in first.config and first.base is None
        return (*MEASURES, "untrained") if plain and first.size <= TWIN_BYTES else MEASURES
    return MEASURES


def plan_series(
    series: "Series | Path | str",
    *,
    store: "Store | Path | str | None" = None,
    prompts: Prompts | None = None,
    measures: Sequence[str | Measure] | None = None,
    placement: Placement = ANYWHERE,
    keep_downloads: int | None = 0,
    executor: Executor = "serial",
    workers: int | None = None,
    gpus_per_worker: int | None = None,
    adaptive: int | None = None,
) -> Plan:
    """What `measure_series` would read, compute and store, and what that costs; see `circuit_drift.sweep.plan`.

    Of adaptive steps, which are chosen on the way, others stand for those that nobody can know yet. Where the store
    knows of no run alike, memory is told by the config's shapes, and one local checkpoint is measured to know what it
    takes, unless it would not fit; its results stay.

    Raises:
        DriftError: no series, an unwritable store, unusable prompts.
    """
    _require_crew(executor, workers)
    series = series if isinstance(series, Series) else open_series(series)
    prompts = prompts or prompts_for(series.path)
    taken = build_measures(prompts, usual_measures(series) if measures is None else measures, next(iter(series), None))
    store = store if isinstance(store, Store) else Store.open(store)
    placement, chosen = _spread(placement, gpus_per_worker), 0
    sweep = Sweep.of(series.checkpoints, taken, store, placement=placement, keep_downloads=keep_downloads)
    if adaptive is not None:
        _require_here(executor)
        sweep, chosen = foreseen(series, sweep, adaptive)
    asked = _asked(prompts, taken)
    plan = plan_sweep(sweep, asked, workers or 1)
    shapes = shapes_of(sweep, plan) if plan.total_seconds is None or plan.rough or plan.unread else ()
    most = max((shape.on_device for shape in shapes), default=0)
    if most and (free := free_memory(placement)) is not None and most > free:
        logger.warning(TOO_LARGE, in_bytes(most), in_bytes(free))
    elif (few := to_time(sweep, plan)) is not None:
        logger.warning("%s is measured to know what it takes; its results are kept", few.checkpoints[0].name)
        try:
            with neighbours() as others:
                outcome = sample(few)
        finally:
            collect(store)
        if outcome is not None:
            warn_of_failures(few, outcome)
        plan = replace(plan_sweep(sweep, asked, workers or 1), neighbours=others.share)
    disks = on_disks(store.path, plan.result_bytes, cache_folder(), plan.downloads_at_once)
    return replace(plan, shapes=shapes, chosen=chosen, free={folder: free_bytes(folder) for folder in disks})


def _asked(prompts: Prompts, measures: Sequence[Measure]) -> dict[str, int]:
    """How many facts and needles are asked, where a measure asks them."""
    kinds = {kind for measure in measures for kind in measure.origins}
    counts = {"fact": len(prompts.facts.facts), "needle": len(prompts.needles.needles)}
    return {what: count for what, count in counts.items() if f"{what}s" in kinds}


def _watch(sweep: Sweep, limits: Limits, began: float, workers: int = 1) -> Watch:
    """The limits of a sweep, which is refused where it is known not to fit."""
    if limits.disk is None and all(map(is_local, sweep.checkpoints)):
        return Watch.begin(limits, sweep.store.path, downloads=0, results=0, began=began)
    plan = plan_sweep(sweep, {}, workers)
    return Watch.begin(
        limits,
        sweep.store.path,
        downloads=plan.downloads_at_once,
        results=plan.result_bytes,
        cache=cache_folder(),
        began=began,
        workers=workers,
    )


def _require_crew(executor: Executor, workers: int | None) -> None:
    """Refuse several workers where one works here."""
    if executor == "serial" and (workers or 1) > 1:
        raise DriftError(
            f"{workers} workers need an executor, and serial is one worker here: name processes, ray or slurm, as "
            "with --executor processes"
        )


def _require_here(executor: Executor) -> None:
    """Refuse to look for the next checkpoint with workers elsewhere."""
    if executor != "serial":
        raise DriftError(
            f"adaptive steps are measured here, one after the other, and {executor} works elsewhere: leave the "
            "executor out, or name the steps"
        )


def _spread(placement: Placement, gpus_per_worker: int | None) -> Placement:
    """The placement, over all of a worker's GPUs where it holds several and no map says otherwise."""
    several = (gpus_per_worker or 0) > 1
    return replace(placement, device_map="auto") if several and placement.device_map is None else placement


def measure_each(
    checkpoints: Sequence[Checkpoint],
    store: Store,
    prompts: Prompts | None,
    *,
    measures: Sequence[str | Measure] = MEASURES,
    placement: Placement = ANYWHERE,
    progress: bool = True,
    keep_downloads: int | None = None,
) -> Iterator[Point]:
    """Measure checkpoints here, each result stored before the next is begun; yields them in their order.

    Raises:
        StoreError: a result cannot be written. Every other failure is recorded in its point.
    """
    sweep = Sweep.of(
        checkpoints,
        build_measures(prompts, measures, next(iter(checkpoints), None)),
        store,
        placement=placement,
        keep_downloads=keep_downloads,
    )
    early: dict[int, Point] = {}
    following = 0
    for index, point in _finished(sweep, "serial", Workers(), progress=progress):
        early[index] = point
        while following in early:
            yield early.pop(following)
            following += 1


def load_record(
    store: "Store | Path | str | None" = None, run_name: str | None = None, measures: Collection[str] | None = None
) -> RunRecord:
    """The record of a stored run (the newest without a name), read without its checkpoints and without torch.

    A result that is gone or damaged costs itself alone: a warning says so, and its point lists it with its failures.

    Args:
        store: where it is.
        run_name: which.
        measures: those whose results are read; by default all that the run has.

    Raises:
        StoreError: no such run, a record that cannot be read, or none of its results.
    """
    store = store if isinstance(store, Store) else Store.existing(store)
    record = store.read_run(run_name)
    try:
        found = [stored_point(entry, store, measures) for entry in record["points"]]
        report = AuditReport.from_dict(record["audit"]) if record["audit"] else None
        parents = record.get("parents", {})
        name, origins, log = record["name"], dict(record["origins"]), record["log"]
        texts = (name, *origins.values(), "" if log is None else log)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("its name, its origins and its log are texts")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedResult(
            f"the record of the run {run_name or ''} in {store.path} lacks what a run has "
            f"({type(error).__name__}: {error}); run the series again"
        ) from error
    points = tuple(point for point, _ in found)
    unread = {f"{measure} of {point.place}": why for point, lost in found for measure, why in lost.items()}
    for why in unread.values():
        logger.warning("a stored result is left out: %s", why)
    if unread and not any(point.keys for point in points):
        raise StoreError(f"no result of the run {name} can be read from {store.path}; run the series again")
    return RunRecord(name, points, store.path, origins, log, report, parents, unread)


def _finished(sweep: Sweep, executor: Executor, workers: Workers, *, progress: bool) -> Generator[tuple[int, Point]]:
    """Every checkpoint's place and point, as it is finished."""
    try:
        with Progress(sweep, wanted=progress) as bars:
            for outcome in execute(sweep, executor, workers, bars):
                bars.finished(outcome)
                yield outcome.index, point_of(sweep, outcome)
    finally:
        sweep.journal.close()
        collect(sweep.store)


def _audit(series: Series, *, strict: bool) -> AuditReport:
    """The audit of a series that is about to be measured; warns of what it finds.

    Local weights are sampled, which costs little whatever their size; of those on the hub only names, sizes, headers,
    configs and published hashes are looked at. Values that are not finite are found when a checkpoint is loaded.
    """
    local = all(checkpoint.hub is None for checkpoint in series)
    report = audit(series, depth="samples" if local else "metadata")
    if strict and report.status == ERRORS:
        told = "; ".join(fault.sentence for fault in report.faults)
        raise DriftError(f"the audit of {series.name} found errors, and the run is strict: {told}")
    for fault in report.faults:
        logger.warning("audit, %s", fault.sentence)
    return report
