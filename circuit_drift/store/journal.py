"""What became of each checkpoint of a sweep, told by its workers through the store.

    store/sweeps/<sweep>/about.json       which run it is of, how many checkpoints, when it began
    store/sweeps/<sweep>/<index>.json
    store/sweeps/<sweep>/leader           the lease of the process that wants the outcomes

Results speak for themselves; the journal says that a checkpoint is finished, and why some of its measures have no
result. It belongs to one sweep and goes with it: the next start tries again what failed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.errors import StoreError
from checkpoints.results.disk import older_than, read_regular, remove, write_file
from circuit_drift.store.leases import LOCK, TERM, Lease, Leases

ABANDONED = 7 * 24 * 3600.0
LEADER, ABOUT = "leader", "about.json"
PATIENCE = 5 * TERM


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished checkpoint.

    Attributes:
        index: its place in the sweep.
        keys: store key of each result there is.
        failures: measure -> why there is no result.
        computed: how many measures were computed now; the others were stored already.
        weights: hash of the weights; "" where they could not be read.
    """

    index: int
    keys: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    computed: int = 0
    weights: str = ""


@dataclass(frozen=True, slots=True)
class Journal:
    """The outcomes of one sweep."""

    folder: Path

    def write(self, outcome: Outcome) -> None:
        """Tell what became of a checkpoint; at once or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        write_file(self._path(outcome.index), json.dumps(asdict(outcome)))

    def begin(self, about: Mapping[str, Any]) -> None:
        """Tell what the sweep is, for those who look on.

        Raises:
            StoreError: the folder cannot be written.
        """
        write_file(self.folder / ABOUT, json.dumps(about))

    def about(self) -> dict[str, Any] | None:
        """What `begin` told; None where that cannot be read."""
        try:
            found = json.loads(read_regular(self.folder / ABOUT))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def has(self, index: int) -> bool:
        """Whether a checkpoint is finished."""
        return self._path(index).exists()

    def finished(self) -> tuple[int, ...]:
        """The checkpoints that have an outcome, in order; reads names alone."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError:
            return ()
        return tuple(sorted(int(name.removesuffix(".json")) for name in names if re.fullmatch(r"\d{1,9}\.json", name)))

    def read(self, indices: Iterable[int]) -> tuple[Outcome, ...]:
        """The outcomes there are among these checkpoints.

        Raises:
            StoreError: one is damaged.
        """
        return tuple(outcome for index in indices if (outcome := self._outcome(index)) is not None)

    def _outcome(self, index: int) -> Outcome | None:
        path = self._path(index)
        try:
            return Outcome(**json.loads(read_regular(path)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read ({error}); run again: what was computed is stored") from error

    def close(self) -> None:
        """Remove it, and those of sweeps that ended without doing so: led by nobody, and silent for a week."""
        remove(self.folder)
        for other in map(Journal, self.folder.parent.glob("[!.]*")):
            if other.abandoned(ABANDONED):
                remove(other.folder)

    def abandoned(self, seconds: float) -> bool:
        """Whether it is a sweep's, holds nothing but its outcomes and its lead, is led by nobody and silent so long."""
        return older_than(self.folder, seconds) and self._is_a_sweep() and not self.led()

    def _is_a_sweep(self) -> bool:
        with suppress(OSError):
            names = [path.name for path in self.folder.iterdir() if not path.name.endswith(".draft")]
            return all(name in (LEADER, ABOUT, LOCK) or re.fullmatch(r"\d+\.json", name) for name in names)
        return False

    def led(self) -> bool:
        """Whether a living process wants the outcomes."""
        return self.leaders.living(LEADER)

    def lead(self, what: str) -> Lease:
        """Take the lead of the sweep: its workers go on for as long as whoever has it lives.

        Raises:
            StoreError: another process has it, or the folder cannot be written.
        """
        lease = self.leaders.take(LEADER, what)
        if lease is None:
            raise StoreError(f"another process leads the sweep in {self.folder}")
        return lease

    @property
    def leaders(self) -> Leases:
        """The lease on the lead; patient, since workers that give up too early cost more than late ones."""
        return Leases(self.folder, self.folder.name, PATIENCE)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.json"
