"""How far the sweeps of a store are, for somebody who is not the one that runs them."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import StoreError
from checkpoints.results.text import counted
from circuit_drift.store.journal import Journal
from circuit_drift.store.leases import Leases
from circuit_drift.store.store import NO_RESULTS, Store, read_record
from circuit_drift.store.timings import FILE
from circuit_drift.trackers.steady import Tally


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """One sweep as its journal tells it.

    Attributes:
        run: which run it is of.
        measures: what it measures.
        checkpoints, done, failed, stored: how many there are, are finished, failed in part, and were stored before.
        led: whether the process that began it lives.
        in_hand: checkpoints that living workers hold.
        line: all of it in words, rate and time left where it is led.
        seconds_left: as told by its rate so far; None where that cannot be told.
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
    seconds_left: float | None = None
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

    One that does not say what it is, or cannot be read, is passed over, and one that nobody leads whose run has been
    measured since, with as many checkpoints or more.
    """
    journals = [Journal(path) for path in (store.path / "sweeps").glob("[!.]*")]
    told = [(journal, about) for journal in journals if (about := _about(journal)) is not None]
    known = sorted(told, key=lambda each: each[1].began)
    return tuple(_status(store, *each) for each in known if each[0].led() or not _outdone(store, each[1]))


def is_store(store: Store) -> bool:
    """Whether a folder is a store, or empty as one that was just begun; not where it holds other files alone."""
    names = {path.name for path in store.path.iterdir()}
    return not names or bool(names & NO_RESULTS) or FILE in names or bool(store.results())


def runs_in(store: Store) -> tuple[str, ...]:
    """Each run with how many checkpoints of it are measured, and how many of these in part, in words."""
    return tuple(map(_run, store.run_files()))


def _run(path: Path) -> str:
    name = path.stem
    try:
        points = read_record(path)["points"]
        failed = sum(bool(point["failures"]) for point in points)
    except (StoreError, LookupError, TypeError):
        return f"{name} (cannot be read)"
    return f"{name} ({counted(len(points), 'checkpoint')}{f', {failed} of them in part' if failed else ''})"


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


def _outdone(store: Store, about: _About) -> bool:
    """Whether a run was recorded after a sweep of it began, with all that this was to measure."""
    try:
        path = store.run_file(about.run)
        points = read_record(path)["points"]
        whole = sum({*about.measures} <= {*point["keys"], *point["failures"]} for point in points)
        return path.stat().st_mtime > about.began and whole >= about.checkpoints
    except (OSError, StoreError, LookupError, TypeError):
        return False


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
    now = time.time() if journal.led() else None
    return SweepStatus(
        run=about.run,
        measures=about.measures,
        checkpoints=about.checkpoints,
        done=tally.done,
        failed=tally.failed,
        stored=tally.stored,
        led=now is not None,
        in_hand=in_hand,
        line=tally.line(now),
        seconds_left=None if now is None else tally.left(now),
        unread=unread,
    )
