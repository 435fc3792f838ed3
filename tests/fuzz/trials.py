"""One trial: a mutated file is read, and what comes of it is a right result or a refusal in one line, in bounds.

The bounds follow from the input's size: processor seconds, and growth of the process' peak memory.
"""

import resource
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from checkpoints import DriftError

SECONDS, SECONDS_A_MB = 3.0, 20.0
BYTES, BYTES_A_BYTE = 200 * 2**20, 64
HANGS = 60


class Refused(Exception):
    """A command refused its input as it should."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file that we read.

    Attributes:
        name: of the kind.
        make: writes valid files into a folder, and names the one to be changed.
        read: reads them; what it returns is compared where `sealed`.
        sealed: whether the file carries a digest, so that whatever is read must be what was written.
        mutate: how the file is changed.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    mutate: Callable[[bytes, Random], bytes]
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one trial.

    Attributes:
        kind: of the file.
        result: ``read``, ``refused``, or what is wrong: ``crash``, ``lines`` (a refusal of several), ``wrong``,
            ``slow``, ``greedy``, ``hang``.
        detail: what was said.
        content: the input.
    """

    kind: str
    result: str
    detail: str
    content: bytes

    @property
    def good(self) -> bool:
        """Whether it is one of the two that may be."""
        return self.result in ("read", "refused")


class Hangs(BaseException):
    """Raised by the alarm."""


def trials(kind: Kind, folder: Path, draw: Random, count: int) -> list[Outcome]:
    """Mutate the file of a kind so many times, and read each; every trial begins with the valid files."""
    path = kind.make(folder)
    valid = path.read_bytes()
    right = kind.read(folder)
    outcomes = []
    for _ in range(count):
        content = kind.mutate(valid, draw)
        path.write_bytes(content)
        outcomes.append(trial(kind, folder, content, right))
        if not path.parent.is_dir() or not path.is_file():
            path = kind.make(folder)
    path.write_bytes(valid)
    return outcomes


def trial(kind: Kind, folder: Path, content: bytes, right: Any) -> Outcome:
    """Read the files of a kind as they lie there."""
    before, began = _peak(), time.process_time()
    result, detail = "read", ""
    try:
        with _alarm():
            found = kind.read(folder)
        if kind.sealed and found != right:
            result, detail = "wrong", f"{found!r}"[:300]
    except (DriftError, Refused) as error:
        result, detail = "refused", str(error)
        if "\n" in detail.strip() or not detail.strip():
            result = "lines"
    except Hangs:
        result = "hang"
    except BaseException as error:  # a panic of a Rust library is no `Exception`
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        result, detail = "crash", f"{type(error).__name__}: {error}"[:400]
    seconds, grown = time.process_time() - began, _peak() - before
    if result in ("read", "refused"):
        if seconds > SECONDS + SECONDS_A_MB * len(content) / 1e6:
            result, detail = "slow", f"{seconds:.1f} s for {len(content)} bytes; {detail}"
        elif grown > BYTES + BYTES_A_BYTE * len(content):
            result, detail = "greedy", f"{grown / 1e6:.0f} MB for {len(content)} bytes; {detail}"
    return Outcome(kind.name, result, detail, content)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _alarm():
    def ring(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
