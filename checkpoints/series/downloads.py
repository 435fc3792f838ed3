"""What a sweep brings into the hub client's cache for itself, and takes out again once it is measured.

    <cache>/models--org--name/circuit-drift/<commit>    the files that were missing when it was claimed, a line each

Whoever uses such a revision holds a shared lock on that mark, which ends with its process. The last one takes those
files away, and nothing that was there before; of a killed process, the next sweep does. On a file system without locks
each takes them away when it is done itself.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from checkpoints.series.checkpoint import Checkpoint

if TYPE_CHECKING:
    from checkpoints.series.hub import HubRevision


@dataclass(frozen=True, slots=True)
class Claim:
    """A revision in use by this process, of which some files are here for sweeps alone.

    Attributes:
        revision: it.
        descriptor: of its mark, with the lock.
    """

    revision: "HubRevision"
    descriptor: int

    @classmethod
    def of(cls, revision: "HubRevision") -> "Claim | None":
        """Claim what is missing; None where nothing is nor was, or the cache may only be read."""
        if not revision.missing and not revision.mark.exists():
            return None
        with suppress(OSError):
            revision.mark.parent.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = os.open(revision.mark, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                _lock(descriptor, alone=False)
                claim = cls(revision, descriptor)
                if claim._is_current():
                    os.write(descriptor, "".join(f"{file.name}\n" for file in revision.missing).encode())
                    return claim
                os.close(descriptor)  # another process took the revision away while the lock was waited for
        return None

    def drop(self) -> None:
        """Take its files away, unless another process uses it, which then will."""
        with self._ended(), suppress(OSError):
            if _lock(self.descriptor, alone=True) and self._is_current():
                names = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0).decode().splitlines()
                self.revision.remove(frozenset(names))
                self.revision.mark.unlink()

    def keep(self) -> None:
        """Leave its files to the user."""
        with self._ended(), suppress(OSError):
            self.revision.mark.unlink()

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Nothing more is fetched."""
        self.drop_used()
        for claim in (self._claims.pop(checkpoint) for checkpoint in self._used if checkpoint in self._claims):
            claim.keep()
        for checkpoint in () if self.keep is None else self.checkpoints:
            if checkpoint not in self._claims and checkpoint.hub is not None and checkpoint.hub.mark.exists():
                self.start(checkpoint)
                self._drop(checkpoint)

    def start(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is about to be fetched."""
        self._idle.pop(checkpoint, None)
        if self.keep is None or checkpoint.hub is None or checkpoint in self._claims:
            return
        claim = Claim.of(checkpoint.hub)
        if claim is not None:
            self._claims[checkpoint] = claim

    def done(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is measured."""
        if checkpoint in self._used:
            self._used.remove(checkpoint)
        self._used.append(checkpoint)

    def spare(self, checkpoint: Checkpoint, reader: Thread) -> None:
        """A checkpoint that was read ahead is not measured next: it goes, unless it is started after all."""
        self._idle[checkpoint] = reader

    def read_in_vain(self, checkpoint: Checkpoint) -> None:
        """A reader that nobody waits for is done with a checkpoint."""
        if self._idle.pop(checkpoint, None) is not None:
            self._drop(checkpoint)

    def drop_used(self) -> None:
        """Drop the oldest of those that are used, and those that were read ahead in vain."""
        used = [checkpoint for checkpoint in self._used if checkpoint in self._claims]
        read = [checkpoint for checkpoint, reader in self._idle.items() if not reader.is_alive()]
        for old in (*used[: max(0, len(used) - (self.keep or 0))], *read):
            self._idle.pop(old, None)
            self._drop(old)

    def _drop(self, checkpoint: Checkpoint) -> None:
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
