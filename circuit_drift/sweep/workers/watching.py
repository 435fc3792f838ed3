"""How far the sweeps of a store are, for somebody who is not the one that runs them."""

import time
from dataclasses import asdict, dataclass
from typing import Any

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

    @property
    def sentence(self) -> str:
        """The run, how far it is, and whether anybody goes on with it."""
        alone = "" if self.led else "; the process that began it is gone: the same command goes on from here"
        return f"{self.run} ({', '.join(self.measures)}): {self.line}{alone}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def sweeps_in(store: Store) -> tuple[SweepStatus, ...]:
    """The sweeps that a store knows of, by when they began; reads their journals and leases alone.

    Raises:
        StoreError: an outcome is damaged.
    """
    journals = [Journal(path) for path in (store.path / "sweeps").glob("[!.]*")]
    told = [(journal, about) for journal in journals if (about := journal.about()) is not None]
    return tuple(_status(store, *each) for each in sorted(told, key=lambda each: float(each[1].get("began", 0))))


def _status(store: Store, journal: Journal, about: dict[str, Any]) -> SweepStatus:
    tally = Tally(int(about.get("checkpoints", 0)), started=float(about.get("began", 0)))
    for outcome in journal.read(range(tally.total)):
        tally.count(outcome)
    holders = Leases(store.path / "claims", journal.folder.name).living_holders()
    in_hand = tuple(holder.what for holder in holders if holder.sweep == journal.folder.name)
    tally.in_hand = ", ".join(in_hand)
    return SweepStatus(
        run=str(about.get("run", "")),
        measures=tuple(map(str, about.get("measures", ()))),
        checkpoints=tally.total,
        done=tally.done,
        failed=tally.failed,
        stored=tally.stored,
        led=journal.led(),
        in_hand=in_hand,
        line=tally.line(time.time()),
    )
