"""How long results took, how large they are and how much memory their process had: a line each in the store.

    store/timings.jsonl    {"measure": "heads", "question": "...", "weights": 1e8, "seconds": 2.5, "bytes": 40000, ...}

Nothing that is computed depends on it; `circuit_drift.sweep.plan` estimates from it what a run will cost.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from circuit_drift.store.store import Store

FILE = "timings.jsonl"
LOADING = "loading"
"""What the loading of a checkpoint is called beside the measures; which kind of loading is its question."""
FIRST, OPENED, FOLLOWED = "first", "opened", "followed"
"""A process's first model, with what that imports; a later one built anew; one put into the model of the one before."""
LAST = 50
NEAR = 2.0
"""Checkpoints up to so many times larger or smaller are alike: no measure's time need be proportional to weights."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What one measure of one checkpoint took.

    Attributes:
        measure: its name, or `LOADING`.
        question: hash of its parameters and of how the model ran; of `LOADING`, its kind.
        weights: bytes of the checkpoint's files.
        seconds: wall time.
        bytes: size of the result on disk.
        memory: peak bytes of the process until then.
        gpu: peak bytes on its GPUs until then; 0 without one.
    """

    measure: str
    question: str
    weights: int
    seconds: float
    bytes: int = 0
    memory: int = 0
    gpu: int = 0


def note(store: Store, timing: Timing) -> None:
    """Add a line; a store that cannot be written goes without."""
    line = json.dumps(asdict(timing)) + "\n"
    with suppress(OSError):
        descriptor = os.open(store.path / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())  # in one call, so that lines of several workers do not mix
        finally:
            os.close(descriptor)


def timings(store: Store) -> tuple[Timing, ...]:
    """All lines that can be read, in order."""
    return tuple(_lines(store.path / FILE))


def typical(found: tuple[Timing, ...], measure: str, question: str, weights: int) -> Timing | None:
    """The median of a measure's last timings, asked alike, scaled to a checkpoint's size; None where there is none.

    Those of checkpoints of about that size (`near`), where there are any.
    """
    asked = [one for one in found if (one.measure, one.question) == (measure, question)]
    alike = ([one for one in asked if near(one, weights)] or asked)[-LAST:]
    if not alike:
        return None
    scaled = [one.seconds * (weights / one.weights if one.weights else 1.0) for one in alike]
    return Timing(
        measure,
        question,
        weights,
        seconds=median(scaled),
        bytes=round(median(one.bytes for one in alike)),
        memory=max(one.memory for one in alike),
        gpu=max(one.gpu for one in alike),
    )


def near(timing: Timing, weights: int) -> bool:
    """Whether a timing is of a checkpoint of about that size."""
    return timing.weights <= NEAR * weights and weights <= NEAR * timing.weights


def peak_memory() -> int:
    """Peak bytes of this process so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _lines(path: Path) -> Iterator[Timing]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        with suppress(ValueError, TypeError):
            found = Timing(**json.loads(line))
            if found.seconds >= 0 and found.weights >= 0:
                yield found
