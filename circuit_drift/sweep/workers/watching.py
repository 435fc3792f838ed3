"""How far the sweeps of a store are, for somebody who is not the one that runs them."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from checkpoints.errors import StoreError
from checkpoints.results.text import counted
from circuit_drift.store.journal import Journal
from circuit_drift.store.leases import Leases
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.progress import Tally


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """One sweep as its journal tells it.

    Attributes:
        run: which run it is of.
        measures: what it measures.
        checkpoints, done, failed, stored: how many there are, are finished, failed in part, and were stored before.
        led: whether the process that began it lives.
        in_hand: checkpoints that living workers hold.
        line: all of it in words.
        unread: outcomes that cannot be read.
    """

    run: str
    measures: tuple[str, ...]
    checkpoints: int
    done: int
    failed: int
    stored: int
    led: bool
    in_hand: tuple[str, ...]
    line: str
    unread: int = 0

    @property
    def sentence(self) -> str:
        """The run, how far it is, and whether anybody goes on with it."""
        alone = "" if self.led else "; the process that began it is gone: the same command goes on from here"
        damaged = f"; {counted(self.unread, 'outcome')} cannot be read" if self.unread else ""
        return f"{self.run} ({', '.join(self.measures)}): {self.line}{damaged}{alone}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def sweeps_in(store: Store) -> tuple[SweepStatus, ...]:
    """The sweeps that a store knows of, by when they began; reads their journals and leases alone.

    One that does not say what it is, or cannot be read, is passed over.
    """
    journals = [Journal(path) for path in (store.path / "sweeps").glob("[!.]*")]
    told = [(journal, about) for journal in journals if (about := _about(journal)) is not None]
    return tuple(_status(store, *each) for each in sorted(told, key=lambda each: each[1].began))


@dataclass(frozen=True, slots=True)
class _About:
    """What a sweep says it is."""

    run: str
    measures: tuple[str, ...]
    checkpoints: int
    began: float


def _about(journal: Journal) -> _About | None:
    told = journal.about() or {}
    try:
        measures = tuple(map(str, told["measures"]))
        return _About(str(told["run"]), measures, int(told["checkpoints"]), float(told["began"]))
    except (LookupError, OverflowError, TypeError, ValueError):
        return None


def _status(store: Store, journal: Journal, about: _About) -> SweepStatus:
    tally, unread = Tally(about.checkpoints, started=about.began), 0
    for index in journal.finished():
        try:
            for outcome in journal.read([index]):
                tally.count(outcome)
        except StoreError:
            unread += 1
    holders = Leases(store.path / "claims", journal.folder.name).living_holders()
    in_hand = tuple(holder.what for holder in holders if holder.sweep == journal.folder.name)
    tally.in_hand = ", ".join(in_hand)
    return SweepStatus(
        run=about.run,
        measures=about.measures,
        checkpoints=tally.total,
        done=tally.done,
        failed=tally.failed,
        stored=tally.stored,
        led=journal.led(),
        in_hand=in_hand,
        line=tally.line(time.time()),
        unread=unread,
    )
