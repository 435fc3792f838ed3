"""Leases on work, kept in the store, so that any processes that see the same folder share a sweep.

A lease is a file that only one can create, and that appears whole (a hard link to a finished one). Its holder touches
it while it works; a lease that was not touched for its term, or whose process on this machine is gone, belongs to
whoever takes it. Leases are taken away one at a time, under a lock, so that nobody takes away the lease of whoever came
first; a file system without locks cannot promise that. Leases only save work: a result is the same whoever computes it
and appears whole, so two holders of one lease (after a long stall, say) cost time and nothing else.
"""

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from checkpoints.errors import StoreError
from checkpoints.results.disk import draft_of, read_regular, remove
from checkpoints.results.processes import process_mark, this_machine

logger = logging.getLogger(__name__)

LEASES_FOLDER = "claims"  # in a store; earlier versions, whose workers may share it, call it so
TERM = 60.0
BEATS = 4
LOCK = ".lock"  # beside the leases
LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, as the file says.

    Attributes:
        what: what is being worked on, for people.
        sweep: the sweep it is done for.
        token: unlike that of any other lease.
        machine: host, boot and process namespace.
        process: process id there, with its start time.
        attempt: 1 for the first holder of this sweep; more where those before it died.
    """

    what: str
    sweep: str
    token: str
    machine: str
    process: str
    attempt: int = 1


UNKNOWN = Holder("unknown", sweep="", token="", machine="", process="")


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of one store.

    Attributes:
        folder: where they lie.
        sweep: the sweep that leases are taken for.
        term: seconds after which an untouched lease is void.
    """

    folder: Path
    sweep: str
    term: float = TERM

    def take(self, key: str, what: str) -> "Lease | None":
        """Lease a piece of work; None where a living process holds it.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self.folder / key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            dead = read_holder(path)
            if dead is not None and not (self._void(path, dead) and _remove(path, dead)):
                return None
            holder = self._holder(what, dead)
            return Lease(path, holder, self.term / BEATS) if _create(path, holder) else None
        except OSError as error:
            raise StoreError(f"cannot lease work in {self.folder}: {error.strerror or error}") from error

    def held(self) -> tuple[Holder, ...]:
        """Who holds the leases of this sweep."""
        found = [read_holder(path) for path in sorted(self.folder.glob("[!.]*"))]
        return tuple(holder for holder in found if holder is not None and holder.sweep == self.sweep)

    def living(self, key: str) -> bool:
        """Whether a living process holds a piece of work; what cannot be looked at is taken to be held."""
        path = self.folder / key
        try:
            holder = read_holder(path)
            return holder is not None and not self._void(path, holder)
        except OSError:
            return True

    def void(self) -> tuple[Path, ...]:
        """The leases of every sweep that nobody living holds; what cannot be read as a lease is left alone."""
        paths = sorted(self.folder.glob("[!.]*"))
        return tuple(path for path in paths if read_holder(path) != UNKNOWN and not self.living(path.name))

    def living_holders(self) -> tuple[Holder, ...]:
        """Who of every sweep is at work."""
        found = [read_holder(path) for path in sorted(self.folder.glob("[!.]*")) if self.living(path.name)]
        return tuple(holder for holder in found if holder is not None)

    def _holder(self, what: str, dead: Holder | None) -> Holder:
        attempt = dead.attempt + 1 if dead is not None and dead.sweep == self.sweep else 1
        return Holder(what, self.sweep, uuid.uuid4().hex, this_machine(), process_mark(os.getpid()), attempt)

    def _void(self, path: Path, holder: Holder) -> bool:
        """Whether its holder is known to be gone, or was silent for a term; by the file system's own clock."""
        pid = holder.process.partition(":")[0]
        if holder.machine == this_machine() and pid.isdecimal():
            return process_mark(int(pid)) != holder.process
        clock = draft_of(self.folder / "clock")
        clock.touch()
        try:
            return abs(clock.stat().st_mtime - path.stat().st_mtime) > self.term  # ahead where a clock was set back
        except FileNotFoundError:
            return True
        finally:
            clock.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Lease:
    """A piece of work that is ours; within a ``with`` block the lease is kept alive, and given back at its end.

    Attributes:
        path: the file.
        holder: what it says of us.
        interval: seconds between two signs of life.
    """

    path: Path
    holder: Holder
    interval: float
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, name=f"lease on {self.holder.what}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        with suppress(OSError):
            _remove(self.path, self.holder)

    def _beat(self) -> None:
        while not self._done.wait(self.interval):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                logger.warning("the lease on %s was taken over while it was worked on", self.holder.what)
                return
            except OSError as error:
                logger.warning("the lease on %s cannot be kept alive: %s", self.holder.what, error)


def read_holder(path: Path) -> Holder | None:
    """Who holds a lease, somebody unknown where its file is damaged or not complete yet; None where there is none."""
    try:
        holder = Holder(**json.loads(read_regular(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return UNKNOWN
    texts = (holder.what, holder.sweep, holder.token, holder.machine, holder.process)
    return holder if all(isinstance(text, str) for text in texts) and isinstance(holder.attempt, int) else UNKNOWN


def _create(path: Path, holder: Holder) -> bool:
    """Make the lease's file, whole; False where another came first."""
    draft = draft_of(path)
    draft.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError:
        return _create_in_place(path, draft.read_text(encoding="utf-8"))
    finally:
        draft.unlink(missing_ok=True)
    return True


def _create_in_place(path: Path, text: str) -> bool:
    """For file systems without hard links: whoever looks in the very moment of writing sees an unknown holder."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _remove(path: Path, holder: Holder) -> bool:
    """Take a holder's lease away; False where it is another's by now, which is then left."""
    with _alone(path.parent):
        if read_holder(path) != holder:
            return False
        remove(path)
        return not path.exists()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else takes leases away here meanwhile; without that promise where the file system has no locks."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except (NotImplementedError, OSError, Timeout) as error:
        logger.warning("leases in %s are taken away without a lock: %s", folder, error)
    try:
        yield
    finally:
        lock.release()
