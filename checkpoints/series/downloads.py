"""What a sweep brings into the hub client's cache for itself, and takes out again once it is measured.

    <cache>/models--org--name/circuit-drift/<commit>    the files that were missing when it was claimed, a line each,
                                                        and again with the time when it was there

Whoever uses such a revision holds a shared lock on that mark, which ends with its process. The last one takes those
files away, and nothing that was there before, or came otherwise; of a killed process, the next sweep
does. On a file system without locks each takes them away when it is done itself. A sweep that keeps its downloads takes
the mark away, and the files are the user's.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from checkpoints.errors import DriftError
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.series.hub_cache import put_there

if TYPE_CHECKING:
    from checkpoints.series.hub import HubRevision


@dataclass(frozen=True, slots=True)
class Claim:
    """A revision in use by this process, of which some files are here for sweeps alone.

    Attributes:
        revision: it.
        descriptor: of its mark, with the lock.
        to_come: the names of its files that were missing.
    """

    revision: "HubRevision"
    descriptor: int
    to_come: frozenset[str]

    @classmethod
    def of(cls, revision: "HubRevision") -> "Claim | None":
        """Claim what is missing; None where nothing is nor was, or the cache may only be read."""
        missing = frozenset(file.name for file in revision.missing)
        if not missing and not revision.mark.exists():
            return None
        with suppress(OSError):
            revision.mark.parent.mkdir(parents=True, exist_ok=True)
            while True:
                claim = cls(revision, os.open(revision.mark, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), missing)
                if claim._begun():
                    return claim
        return None

    def fetch(self) -> Path:
        """Fetch what is missing, and note what came, and when, so that what the user puts there later is known."""
        return self.revision.fetch(self._arrived)

    def drop(self) -> None:
        """Take its files away, unless another process uses it, which then will, or fetches one; the next sweep does."""
        with self._ended(), suppress(OSError):
            if _lock(self.descriptor, alone=True) and self._is_current():
                lines = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0).decode().splitlines()
                noted = [line.partition("\t") for line in lines]
                arrived = {name: int(time) for name, _, time in noted if time.isdecimal()}
                self.revision.remove(arrived, frozenset(name for name, _, _ in noted))
                self.revision.mark.unlink()

    def keep(self) -> None:
        """Leave its files to the user."""
        with self._ended(), suppress(OSError):
            self.revision.mark.unlink()

    def _begun(self) -> bool:
        """Lock the mark and note what is to come; False where the revision was taken away in the meantime."""
        try:
            _lock(self.descriptor, alone=False)
            if self._is_current():
                self._note(self.to_come)
                return True
        except OSError:
            os.close(self.descriptor)
            raise
        os.close(self.descriptor)
        return False

    def _arrived(self, name: str) -> None:
        if name in self.to_come:
            with suppress(OSError):
                self._note([f"{name}\t{put_there(self.revision.path / name)}"])

    def _note(self, lines: Iterable[str]) -> None:
        os.write(self.descriptor, "".join(f"{line}\n" for line in lines).encode())

    def _is_current(self) -> bool:
        """Whether the mark that is locked is the one that is there."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.descriptor), self.revision.mark.stat())
        return False

    @contextmanager
    def _ended(self) -> Iterator[None]:
        try:
            yield
        finally:
            os.close(self.descriptor)


class Downloads:
    """Drops hub revisions that were brought here for a sweep, once more than so many of them are used.

    Within a ``with`` block; at its end those that are kept become the user's, and all others go, those among them that
    killed sweeps left.

    Args:
        keep: how many; None leaves all that is fetched where it is.
        checkpoints: of the sweep.
    """

    def __init__(self, keep: int | None, checkpoints: Sequence[Checkpoint] = ()) -> None:
        self.keep, self.checkpoints = keep, checkpoints
        self._claims: dict[Checkpoint, Claim] = {}
        self._used: list[Checkpoint] = []
        self._idle: dict[Checkpoint, Thread] = {}
        self._one_at_a_time = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Nothing more is fetched."""
        self.drop_used()
        with self._one_at_a_time:
            for claim in (self._claims.pop(checkpoint) for checkpoint in self._used if checkpoint in self._claims):
                claim.keep()
        for checkpoint in () if self.keep is None else self.checkpoints:
            if checkpoint not in self._claims and checkpoint.hub is not None and checkpoint.hub.mark.exists():
                with suppress(DriftError):  # the hub is not there: a later sweep takes it away
                    self._claim(checkpoint)
                    self._drop(checkpoint)

    def start(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is wanted next."""
        with self._one_at_a_time:
            self._idle.pop(checkpoint, None)
            self._claim(checkpoint)

    def fetch(self, checkpoint: Checkpoint) -> Path:
        """Fetch a checkpoint, as `Checkpoint.fetch` does, in whichever thread."""
        claim = self._claim(checkpoint)
        return checkpoint.fetch() if claim is None else claim.fetch()

    def done(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is measured."""
        if checkpoint in self._used:
            self._used.remove(checkpoint)
        self._used.append(checkpoint)

    def spare(self, checkpoint: Checkpoint, reader: Thread) -> None:
        """A checkpoint that was read ahead is not measured next: it goes, unless it is started after all."""
        with self._one_at_a_time:
            self._idle[checkpoint] = reader

    def read_in_vain(self, checkpoint: Checkpoint) -> None:
        """A reader that nobody waits for is done with a checkpoint."""
        with self._one_at_a_time:
            if self._idle.pop(checkpoint, None) is not None:
                self._drop(checkpoint)

    def drop_used(self) -> None:
        """Drop the oldest of those that are used, and those that were read ahead in vain."""
        with self._one_at_a_time:
            used = [checkpoint for checkpoint in self._used if checkpoint in self._claims]
            read = [checkpoint for checkpoint, reader in self._idle.items() if not reader.is_alive()]
            for old in (*used[: max(0, len(used) - (self.keep or 0))], *read):
                self._idle.pop(old, None)
                self._drop(old)

    def _claim(self, checkpoint: Checkpoint) -> Claim | None:
        with self._one_at_a_time:
            if checkpoint.hub is None or checkpoint in self._claims:
                return self._claims.get(checkpoint)
            if self.keep is None:
                with suppress(OSError):
                    checkpoint.hub.mark.unlink(missing_ok=True)
                return None
            claim = Claim.of(checkpoint.hub)
            if claim is not None:
                self._claims[checkpoint] = claim
            return claim

    def _drop(self, checkpoint: Checkpoint) -> None:
        with self._one_at_a_time:
            if (claim := self._claims.pop(checkpoint, None)) is not None:
                claim.drop()


def _lock(descriptor: int, *, alone: bool) -> bool:
    """Lock a file, waiting for whoever has it alone; for us alone without waiting: False where others have it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
