"""What a run will read, compute and store, and what that costs, told before it begins.

Time, memory and the size of results are those of what the store has measured alike, scaled by the size of the weights.
Where it has measured nothing alike, one local checkpoint is measured first, and its results are kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from checkpoints import Checkpoint
from checkpoints.errors import DriftError
from checkpoints.results.text import counted
from circuit_drift.store.timings import LOADING, Timing, timings, typical
from circuit_drift.sweep.limits import in_bytes
from circuit_drift.sweep.workers.progress import duration
from circuit_drift.sweep.workers.tasks import Sweep, asked_how

BESIDE = 2
"""Checkpoints on the disk beside those that are kept: the one in hand and the one that is read ahead."""
POWER = (1.96 + 0.8416) ** 2
CHANGING = 0.25


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
        seconds: measure, or ``loading``, -> seconds in all; None where nothing was measured alike.
        results: measure -> bytes of results; None as above.
        memory, gpu: peak bytes of a worker; None as above, 0 without a GPU.
        asked: facts and needles that are asked.
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

    @property
    def total_seconds(self) -> float | None:
        """Of all measures and of loading; None where one of them is not known."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        return sum(known) if len(known) == len(self.seconds) else None

    @property
    def result_bytes(self) -> int:
        """Of all results whose size is known."""
        return sum(size for size in self.results.values() if size is not None)

    def lines(self) -> tuple[str, ...]:
        """The plan in words, a line a matter."""
        told = [
            f"checkpoints: {self.checkpoints}, of which {self.loads} are to be loaded",
            f"read: {in_bytes(self.read)} of weights, {in_bytes(self.download)} of them downloaded",
        ]
        for measure, count in self.missing.items():
            told.append(
                f"{measure}: {self.stored[measure]} stored, {count} to compute"
                + (f", {_told(self.seconds[measure], self.results[measure])}" if count else "")
            )
        if self.loads:
            told.append(f"loading: {_told(self.seconds[LOADING], None)}")
        told.append(f"time in all, one worker: {_time(self.total_seconds)}")
        told.append(
            f"disk at most: {in_bytes(self.downloads_at_once + self.result_bytes)} "
            f"({in_bytes(self.downloads_at_once)} of downloads at once, {in_bytes(self.result_bytes)} of results)"
        )
        memory = "not known before one checkpoint is measured" if self.memory is None else in_bytes(self.memory)
        told.append(
            f"memory of a worker at most: {memory}" + (f", on its GPUs {in_bytes(self.gpu)}" if self.gpu else "")
        )
        told += [_power(what, count) for what, count in self.asked.items()]
        return (*told, *(f"{name} cannot be looked at: {why}" for name, why in self.unread.items()))


def plan_sweep(sweep: Sweep, asked: Mapping[str, int]) -> Plan:
    """The plan of a sweep; looks at the files of its checkpoints and at the names of results, and loads nothing.

    Args:
        sweep: what is to be measured.
        asked: facts and needles that are asked.
    """
    stored, missing = Counter[str](), Counter[str]()
    loads: list[Checkpoint] = []
    unread: dict[str, str] = {}
    for index, checkpoint in enumerate(sweep.checkpoints):
        try:
            tasks = sweep.tasks(index)
        except (DriftError, OSError) as error:
            unread[checkpoint.name] = str(error)
            continue
        absent = [task.name for task in tasks if not sweep.store.has(task.name, task.key)]
        stored.update(task.name for task in tasks if task.name not in absent)
        missing.update(absent)
        loads += [checkpoint] if absent else []
    names = [measure.name for measure in sweep.measures]
    found = _known(sweep, loads)
    fetched = [checkpoint.size for checkpoint in loads if not is_local(checkpoint)]
    counts = {**{name: missing[name] for name in names}, LOADING: len(loads)}
    known = [timing for name, timing in found.items() if timing is not None and counts[name]]
    whole = bool(known) and len(known) == sum(counts[name] > 0 for name in counts)
    return Plan(
        checkpoints=len(sweep.checkpoints),
        unread=unread,
        stored={name: stored[name] for name in names},
        missing={name: missing[name] for name in names},
        loads=len(loads),
        read=sum(checkpoint.size for checkpoint in loads),
        download=sum(fetched),
        downloads_at_once=_at_once(fetched, sweep.keep_downloads),
        seconds={name: _times(found[name], count) for name, count in counts.items()},
        results={name: _sizes(found[name], missing[name]) for name in names},
        memory=max(timing.memory for timing in known) if whole else (None if loads else 0),
        gpu=max(timing.gpu for timing in known) if whole else None,
        asked=asked,
    )


def to_time(sweep: Sweep, plan: Plan) -> Checkpoint | None:
    """A checkpoint to measure so that the plan can be told in full; None where it can, or none is at hand."""
    if plan.total_seconds is not None:
        return None
    return next(filter(is_local, reversed(sweep.checkpoints)), None)


def is_local(checkpoint: Checkpoint) -> bool:
    """Whether its files are on this machine."""
    return checkpoint.hub is None or checkpoint.hub.is_local


def _known(sweep: Sweep, loads: Sequence[Checkpoint]) -> dict[str, Timing | None]:
    """What each measure, and loading, typically takes of the checkpoints to be loaded."""
    noted = timings(sweep.store)
    size = round(sum(checkpoint.size for checkpoint in loads) / len(loads)) if loads else 0
    questions = {measure.name: asked_how(measure, sweep.placement) for measure in sweep.measures}
    return {name: typical(noted, name, how, size) for name, how in {**questions, LOADING: ""}.items()}


def _at_once(fetched: Sequence[int], keep: int | None) -> int:
    return sum(fetched) if keep is None else sum(sorted(fetched)[-(keep + BESIDE) :])


def _times(timing: Timing | None, count: int) -> float | None:
    return 0.0 if not count else None if timing is None else count * timing.seconds


def _sizes(timing: Timing | None, count: int) -> int | None:
    return 0 if not count else None if timing is None else count * timing.bytes


def _told(seconds: float | None, size: int | None) -> str:
    return _time(seconds) + (f", {in_bytes(size)}" if size is not None else "")


def _time(seconds: float | None) -> str:
    return "time not known before one checkpoint is measured" if seconds is None else f"about {duration(seconds)}"


def _power(what: str, count: int) -> str:
    """Which change can be told, and how many it takes for one of .10; where a quarter changes sides (McNemar)."""
    least = (POWER * CHANGING / (count + POWER)) ** 0.5 if count else 1.0
    wanted = round(POWER * (CHANGING - 0.1**2) / 0.1**2)
    return (
        f"{counted(count, what)}: a change of {least:.2f} in the share answered is found with power .8 at the level "
        f".05, where a quarter change sides; {wanted} find one of .10"
    )
