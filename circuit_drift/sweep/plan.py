"""What a run will read, compute and store, and what that costs, told before it begins.

Time, memory and the size of results are those of what the store has measured alike, scaled by the size of the weights.
Where it has measured nothing alike, or only checkpoints of quite another size, one local checkpoint is measured first,
and its results are kept. The first model of a run is priced as what it is: the others mostly take its place.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from checkpoints import Checkpoint
from checkpoints.errors import DriftError
from checkpoints.results.text import counted, in_bytes
from circuit_drift.store.timings import FIRST, FOLLOWED, LOADING, OPENED, Timing, near, timings, typical
from circuit_drift.sweep.by_shape import ShapeMemory, beside, memory_by_shape
from circuit_drift.sweep.workers.machine import caution
from circuit_drift.sweep.workers.tasks import Sweep, asked_how
from circuit_drift.trackers.steady import duration, each_told

logger = logging.getLogger(__name__)

BESIDE = 2
"""Checkpoints on the disk beside those that are kept: the one in hand and the one that is read ahead."""
POWER = (1.96 + 0.8416) ** 2
CHANGING = 0.25
UNKNOWN = "not known before one checkpoint is measured"


@dataclass(frozen=True, slots=True)
class Plan:
    """The price of a run.

    Attributes:
        checkpoints: how many were chosen.
        unread: those whose files cannot be looked at, each with the reason.
        stored: measure -> checkpoints whose result is there.
        missing: measure -> checkpoints that it is to be computed of.
        loads: checkpoints that a model is loaded of.
        read: bytes of weights that are read.
        download: bytes that are fetched.
        downloads_at_once: most bytes of downloads on the disk at a time.
        seconds: measure, or ``loading``, -> seconds in all of one worker; None where nothing was measured alike.
        results: measure -> bytes of results; None as above.
        memory, gpu: peak bytes of a worker; None as above, 0 without a GPU.
        asked: facts and needles that are asked.
        workers: how many share the work.
        rough: measures timed on checkpoints of quite another size alone, and ``loading``, timed in another way alone.
        shapes: peak memory by the shapes of the config, where nothing was measured alike beforehand.
        lacking: the checkpoints to be loaded, in order.
        neighbours: share of the processors that other work had while a checkpoint was measured for this plan.
        chosen: checkpoints that stand for as many that are chosen on the way.
        free: folder that is written to -> bytes free on its disk, the store's first.
    """

    checkpoints: int
    unread: Mapping[str, str]
    stored: Mapping[str, int]
    missing: Mapping[str, int]
    loads: int
    read: int
    download: int
    downloads_at_once: int
    seconds: Mapping[str, float | None]
    results: Mapping[str, int | None]
    memory: int | None
    gpu: int | None
    asked: Mapping[str, int]
    workers: int = 1
    rough: tuple[str, ...] = ()
    shapes: tuple[ShapeMemory, ...] = ()
    lacking: tuple[Checkpoint, ...] = ()
    neighbours: float = 0.0
    chosen: int = 0
    free: Mapping[Path, int] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float | None:
        """Of all measures and of loading; None where one of them is not known."""
        return _sum(tuple(self.seconds.values()))

    @property
    def result_bytes(self) -> int:
        """Of all results whose size is known."""
        return sum(size for size in self.results.values() if size is not None)

    @property
    def _caution(self) -> str:
        rough = ", ".join(self.rough)
        return f" (roughly: {rough} timed on checkpoints of another size, or one alone)" if rough else ""

    @property
    def _disk(self) -> str:
        known = self.downloads_at_once + self.result_bytes
        if None in self.results.values():
            return f"disk at most: {in_bytes(known)} with downloads at once, and results whose size is {UNKNOWN}"
        return (
            f"disk at most: {in_bytes(known)} ({in_bytes(self.downloads_at_once)} of downloads at once, "
            f"{in_bytes(self.result_bytes)} of results)"
        )

    @property
    def _shared(self) -> tuple[str, ...]:
        """What several workers take together."""
        if self.workers < 2 or self.memory is None or self.total_seconds is None or not self.loads:
            return ()
        shared = duration(self.total_seconds / self.workers)
        return (
            f"{self.workers} workers: {in_bytes(self.workers * self.memory)} of memory together; about {shared} where "
            "each has cores or a GPU of its own",
        )

    def lines(self) -> tuple[str, ...]:
        """The plan in words, a line a matter."""
        chosen = f", {self.chosen} of them to be chosen on the way" if self.chosen else ""
        told = [
            f"checkpoints: {self.checkpoints}{chosen}, of which {self.loads} are to be loaded",
            f"read: {in_bytes(self.read)} of weights, {in_bytes(self.download)} of them downloaded",
        ]
        for measure, count in self.missing.items():
            told.append(
                f"{measure}: {self.stored[measure]} stored, {count} to compute"
                + (f", {_told(self.seconds[measure], self.results[measure])}" if count else "")
            )
        if self.loads:
            told.append(f"loading: {_told(self.seconds[LOADING], None)}")
        unseen = f", without {counted(len(self.unread), 'checkpoint')} that cannot be looked at" if self.unread else ""
        total = f"{_time(self.total_seconds)}{unseen}{self._caution}{caution(self.neighbours)}"
        told.append(f"time in all, one worker: {total}")
        told += [self._disk, *(f"free on the disk of {folder}: {in_bytes(size)}" for folder, size in self.free.items())]
        if self.loads or self.unread:
            memory = UNKNOWN if self.memory is None else in_bytes(self.memory)
            told.append(
                f"memory of a worker at most: {memory}" + (f", on its GPUs {in_bytes(self.gpu)}" if self.gpu else "")
            )
        told += [*self._shared, *(shape.line() for shape in self.shapes)]
        if self.shapes:
            told.append(beside(self.shapes[0].weights, several=self.checkpoints > 1))
        told += [_power(what, count) for what, count in self.asked.items()]
        return (*told, *(f"{name} cannot be looked at: {why}" for name, why in self.unread.items()))


def plan_sweep(sweep: Sweep, asked: Mapping[str, int], workers: int = 1) -> Plan:
    """The plan of a sweep; looks at the files of its checkpoints and at the names of results, and loads nothing.

    Args:
        sweep: what is to be measured.
        asked: facts and needles that are asked.
        workers: how many share the work, each with its own downloads.
    """
    needed = _needed(sweep)
    names = [measure.name for measure in sweep.measures]
    prices = _prices(sweep, needed)
    loading = prices.pop(LOADING)
    fetched = _to_fetch(needed.loads)
    wanted = [price for price in prices.values() if price.count]
    known = [price.timing for price in wanted if price.timing is not None]
    whole = bool(known) and len(known) == len(wanted)
    return Plan(
        checkpoints=len(sweep.checkpoints),
        unread=needed.unread,
        stored={name: needed.stored[name] for name in names},
        missing={name: needed.missing[name] for name in names},
        loads=len(needed.loads),
        read=sum(checkpoint.size for checkpoint in needed.loads),
        download=sum(fetched),
        downloads_at_once=_at_once(fetched, sweep.keep_downloads, workers),
        seconds={**{name: price.seconds for name, price in prices.items()}, LOADING: loading.seconds},
        results={name: price.bytes for name, price in prices.items()},
        memory=max(timing.memory for timing in known) if whole else (None if needed.loads or needed.unread else 0),
        gpu=max(timing.gpu for timing in known) if whole else None,
        asked=asked,
        workers=workers,
        rough=tuple(name for name, price in {**prices, LOADING: loading}.items() if price.count and price.rough),
        lacking=tuple(needed.loads),
    )


def to_time(sweep: Sweep, plan: Plan) -> Sweep | None:
    """What to measure and load so that the plan can be told in full; None where it can, or nothing is at hand.

    Returns:
        the sweep for `sample`: a checkpoint that lacks a result, and another to be loaded behind it, if there is one.
    """
    if plan.total_seconds is not None and not plan.rough:
        return None
    lacking = next(filter(is_local, reversed(plan.lacking)), None)
    if lacking is None:
        return None
    others = (one for one in reversed(sweep.checkpoints) if is_local(one) and one != lacking)
    return replace(sweep, checkpoints=(lacking, *list(others)[:1]))


def shapes_of(sweep: Sweep, plan: Plan) -> tuple[ShapeMemory, ...]:
    """The memory, by shapes, of the first checkpoint that lacks a result, or else of one without weights as yet.

    Nothing where its config does not tell, which is said.
    """
    unseen = [one for one in sweep.checkpoints if one.name in plan.unread]
    for checkpoint in [*plan.lacking, *unseen][:1]:
        try:
            return memory_by_shape(checkpoint, sweep.measures, sweep.placement)
        except (DriftError, OSError) as error:
            logger.warning("the memory that %s takes cannot be told by its shape: %s", checkpoint.name, error)
    return ()


@dataclass(slots=True)
class _Needed:
    """What is there of a sweep, and what is not.

    Attributes:
        loads: checkpoints that a model is loaded of, in order.
        streams: how many of them do not directly follow another that is loaded.
    """

    stored: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    loads: list[Checkpoint] = field(default_factory=list)
    streams: int = 0
    unread: dict[str, str] = field(default_factory=dict)


def _needed(sweep: Sweep) -> _Needed:
    found, before, to_come = _Needed(), False, set[tuple[str, str]]()
    every = sweep.checkpoints
    for index, checkpoint in each_told("planning", enumerate(every), len(every), unit="checkpoint"):
        try:
            tasks = sweep.tasks(index)
        except (DriftError, OSError) as error:
            found.unread[checkpoint.name] = str(error)
            before = False
            continue
        stored = [task.name for task in tasks if sweep.store.has(task.name, task.key)]
        absent = [task.name for task in tasks if task.name not in stored and (task.name, task.key) not in to_come]
        to_come |= {(task.name, task.key) for task in tasks}
        found.stored.update(stored)
        found.missing.update(absent)
        found.loads += [checkpoint] if absent else []
        found.streams += bool(absent) and not before
        before = bool(absent)
    return found


def is_local(checkpoint: Checkpoint) -> bool:
    """Whether its files are on this machine."""
    return checkpoint.hub is None or not checkpoint.hub.to_fetch


@dataclass(frozen=True, slots=True)
class _Price:
    """What computing something so often takes: seconds and bytes in all, None where nothing was measured alike."""

    count: int
    seconds: float | None
    bytes: int | None
    timing: Timing | None
    rough: bool


def _prices(sweep: Sweep, needed: _Needed) -> dict[str, _Price]:
    """The price of each measure, and of loading."""
    noted = timings(sweep.store)
    loads = needed.loads
    size = round(sum(checkpoint.size for checkpoint in loads) / len(loads)) if loads else 0
    prices = {
        name: _price(noted, name, asked_how(measure, sweep.placement), size, needed.missing[name])
        for measure in sweep.measures
        for name in [measure.name]
    }
    return {**prices, LOADING: _loading(noted, size, len(loads), needed.streams)}


def _loading(noted: tuple[Timing, ...], size: int, loads: int, streams: int) -> _Price:
    """The price of so many models: the first, those that begin another stream, those that take another's place.

    A kind that was never timed is priced as the next dearer: roughly, unless it is the first, which costs no more than
    a later one where its process has built a model before.
    """
    counts = {FIRST: min(1, loads), OPENED: max(0, streams - 1), FOLLOWED: loads - streams}
    found = {kind: _price(noted, LOADING, kind, size, 1) for kind in counts}
    instead = {FIRST: (FIRST, OPENED), OPENED: (OPENED, FIRST), FOLLOWED: (FOLLOWED, OPENED, FIRST)}
    taken = {
        kind: next((other for other in instead[kind] if found[other].seconds is not None), kind)
        for kind, count in counts.items()
        if count
    }
    seconds = [None if (one := found[other].seconds) is None else counts[kind] * one for kind, other in taken.items()]
    rough = any(found[other].rough or (kind != other and kind != FIRST) for kind, other in taken.items())
    return _Price(loads, _sum(seconds), 0, None, rough)


def _price(noted: tuple[Timing, ...], name: str, question: str, size: int, count: int) -> _Price:
    if not count:
        return _Price(0, 0.0, 0, None, rough=False)
    found = typical(noted, name, question, size)
    if found is None:
        return _Price(count, None, None, None, rough=False)
    alike = any(near(one, size) for one in noted if (one.measure, one.question) == (name, question))
    return _Price(count, count * found.seconds, count * found.bytes, found, rough=not alike)


def _sum(seconds: Sequence[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return sum(known) if len(known) == len(seconds) else None


def _to_fetch(checkpoints: Sequence[Checkpoint]) -> list[int]:
    """Bytes to fetch of each checkpoint that is not here; what several have in common, of the first."""
    known: set[str] = set()
    sizes = []
    for checkpoint in checkpoints:
        files = {} if checkpoint.hub is None else checkpoint.hub.to_fetch
        sizes.append(sum(size for digest, size in files.items() if digest not in known))
        known |= files.keys()
    return sizes


def _at_once(fetched: Sequence[int], keep: int | None, workers: int = 1) -> int:
    return sum(fetched) if keep is None else sum(sorted(fetched)[-workers * (keep + BESIDE) :])


def _told(seconds: float | None, size: int | None) -> str:
    return _time(seconds) + (f", {in_bytes(size)}" if size is not None else "")


def _time(seconds: float | None) -> str:
    return f"time {UNKNOWN}" if seconds is None else f"about {duration(seconds)}"


def _power(what: str, count: int) -> str:
    """Which change can be told, and how many it takes for one of .10; where a quarter changes sides (McNemar)."""
    least = (POWER * CHANGING / (count + POWER)) ** 0.5 if count else 1.0
    wanted = round(POWER * (CHANGING - 0.1**2) / 0.1**2)
    return (
        f"{counted(count, what)}: a change of {least:.2f} in the share answered is found with power .8 at the level "
        f".05, where a quarter change sides; {wanted} find one of .10"
    )
