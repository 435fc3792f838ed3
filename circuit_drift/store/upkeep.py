"""The upkeep of a store: what is in it and how large it is, whether it is whole, and what may go."""

import errno
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.artifacts import DIGESTS, check_artifact, read_meta
from checkpoints.results.disk import STALE, abandoned_drafts, draft_of, older_than, remove
from circuit_drift.store.journal import Journal
from circuit_drift.store.leases import LEASES_FOLDER, Leases
from circuit_drift.store.store import KEY_LENGTH, NO_RESULTS, Store, StoredResult, read_record

FAULTS = ("damaged", "missing", "newer")
KINDS = (*FAULTS, "older", "orphaned", "leftover")
_FORMER_DRAFT = re.compile(rf"\.[0-9a-f]{{{KEY_LENGTH}}}\.(old\.)?[a-z0-9_]{{8}}|tmp[a-z0-9_]{{8}}")
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
PRUNED = "its result was pruned from the store; run the series again"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something in a store that is not as it should be, or need not be there.

    Attributes:
        kind: ``damaged`` (not what was written), ``missing`` (a run's result that is not there), ``newer`` (a newer
            version's, which this one cannot read), ``older`` (without digests, so nothing can be checked),
            ``orphaned`` (a result of no run; that of a diff is of none), ``leftover`` (of a killed writer).
        path: where.
        message: what, in one line.
    """

    kind: str
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What the check of a store found.

    Attributes:
        store: the folder.
        results: how many results were checked.
        runs: how many records of runs were.
        notices: what was found, faults first.
    """

    store: Path
    results: int
    runs: int
    notices: tuple[Notice, ...]

    @property
    def whole(self) -> bool:
        """Whether everything that is stored can be read, and is what was written."""
        return not any(notice.kind in FAULTS for notice in self.notices)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        notices = [{"kind": f.kind, "path": str(f.path), "message": f.message} for f in self.notices]
        about = {"store": str(self.store), "results": self.results, "runs": self.runs, "whole": self.whole}
        return {**about, "findings": notices}


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored result as the upkeep sees it.

    Attributes:
        result: which.
        size: bytes.
        written: when, in seconds since 1970.
        runs: names of the runs that it belongs to.
    """

    result: StoredResult
    size: int
    written: float
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which results: all conditions that are given hold.

    Attributes:
        run: they belong to this run and to no other.
        measure: they are of this measure.
        older_than: they were written that many seconds ago.
        orphans: they belong to no run.
    """

    run: str | None = None
    measure: str | None = None
    older_than: float | None = None
    orphans: bool = False

    @property
    def empty(self) -> bool:
        """Whether it selects by nothing."""
        return self == Selection()

    @property
    def whole_run(self) -> bool:
        """Whether a run goes with its record."""
        return self.run is not None and self == Selection(self.run)

    def holds(self, entry: Entry) -> bool:
        """Whether a result is selected."""
        return (
            (self.run is None or entry.runs == (self.run,))
            and (self.measure is None or entry.result.measure == self.measure)
            and (self.older_than is None or time.time() - entry.written > self.older_than)
            and (not self.orphans or not entry.runs)
        )


def inventory(store: Store) -> tuple[Entry, ...]:
    """Every result with its size, its age and its runs; reads records and names, no results."""
    owners: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for name, record in _records(store):
        for pair in _keys(record):
            owners[pair][name] = None
    return tuple(
        Entry(result, _size(result.folder), _written(result.folder), _owners(result, owners))
        for result in store.results()
    )


def verify(store: Store) -> Verification:
    """Check every byte of a store."""
    notices: list[Notice] = []
    runs = store.run_files()
    records: dict[str, Mapping[str, Any]] = {}
    for path in runs:
        try:
            records[path.stem] = _sound(read_record(path), path)
        except StoreError as error:
            notices.append(Notice(_kind(error), path, str(error)))
    wanted = {pair: {name: None} for name, record in records.items() for pair in _keys(record)}
    for (measure, key), names in wanted.items():
        for name in names if not store.has(measure, key) else ():
            message = f"the run {name} names a result of {measure} that is not there: {key}"
            notices.append(Notice("missing", store.folder(measure, key), message))
    results = [result for result in store.results() if _pair(result) not in wanted or store.has(*_pair(result))]
    for result in results:
        notices += _checked(result, owned=bool(_owners(result, wanted)))
    notices += [Notice("leftover", path, f"{path} was left by a writer that is gone") for path in leftovers(store)]
    order = sorted(notices, key=lambda notice: (KINDS.index(notice.kind), str(notice.path)))
    return Verification(store.path, len(results), len(runs), tuple(order))


def prune(store: Store, selection: Selection) -> tuple[Entry, ...]:
    """Remove the selected results, and the record of a run that goes whole; the records of others say what went.

    Returns:
        what was removed.

    Raises:
        StoreError: a sweep is at work in the store, a record cannot be read, or something cannot be removed.
    """
    busy = [holder.what for holder in Leases(store.path / LEASES_FOLDER, "").living_holders()]
    if busy:
        raise StoreError(f"a sweep is at work in {store.path} (on {busy[0]}): prune it when that is done")
    doomed = prunable(store, selection)
    gone = {_pair(entry.result) for entry in doomed}
    try:
        if selection.run is not None and selection.whole_run:
            store.forget_run(selection.run)
        room = _forget(store, gone)
        for entry in doomed:
            draft = draft_of(entry.result.folder)
            entry.result.folder.replace(draft)
            remove(draft)
        if not room and not _forget(store, gone):
            raise StoreError(
                f"the results are removed, but the disk of {store.path} is still full, so that records of runs name "
                "them: make room and run the series again"
            )
    except OSError as error:
        raise StoreError(f"cannot remove {error.filename}: {error.strerror}") from error
    return doomed


def _forget(store: Store, gone: set[tuple[str, str]]) -> bool:
    """Take results out of the records of runs; False where the disk is too full for that, before they are removed."""
    for name, record in _records(store):
        points = [_without(entry, gone) for entry in record["points"]]
        if points != record["points"]:
            try:
                store.write_run(name, {**record, "points": points})
            except StoreError as error:
                if getattr(error.__cause__, "errno", None) not in _FULL:
                    raise
                return False
    return True


def prunable(store: Store, selection: Selection) -> tuple[Entry, ...]:
    """What `prune` would remove.

    Raises:
        StoreError: as `chosen`; or the record of a run cannot be read, so that nobody knows which results are its own.
    """
    for path in store.run_files():
        try:
            _sound(read_record(path), path)
        except StoreError as error:
            raise StoreError(
                f"nothing is removed, since results may belong to a run whose record cannot be read: {error}"
            ) from error
    return chosen(store, selection)


def chosen(store: Store, selection: Selection) -> tuple[Entry, ...]:
    """The results that a selection holds for.

    Raises:
        StoreError: the store has no such run or measure.
    """
    entries = inventory(store)
    runs, measures = [name for name, _ in _records(store)], store.measures()
    for what, name, known in (("run", selection.run, runs), ("measure", selection.measure, measures)):
        if name is not None and name not in known:
            raise StoreError(f"the store {store.path} has no {what} {name}; it has {', '.join(known) or 'none'}")
    return tuple(entry for entry in entries if selection.holds(entry))


def leftovers(store: Store) -> tuple[Path, ...]:
    """What killed writers left: drafts, leases, folders of sweeps, and the temporary files of earlier versions."""
    folders = [store.path, *(store.path / name for name in (*store.measures(), *sorted(NO_RESULTS)))]
    found = [draft for folder in folders for draft in abandoned_drafts(folder)]
    old = [path for folder in folders[1:] for path in folder.glob("*") if _FORMER_DRAFT.fullmatch(path.name)]
    found += [path for path in old if older_than(path, STALE)]
    found += Leases(store.path / LEASES_FOLDER, "").void()
    found += [path for path in (store.path / "sweeps").glob("[!.]*") if Journal(path).abandoned(STALE)]
    return tuple(dict.fromkeys(found))


def collect(store: Store) -> tuple[Path, ...]:
    """Remove what killed writers left; returns it."""
    found = leftovers(store)
    for path in found:
        remove(path)
    return found


def _owners(result: StoredResult, owners: Mapping[tuple[str, str], Mapping[str, None]]) -> tuple[str, ...]:
    """The runs that a result belongs to; one that was made of circuits belongs to the runs that have all of them."""
    own = owners.get(_pair(result))
    if own:
        return tuple(own)
    try:
        parts = _provenance(read_meta(result.folder)).get("circuits", ())
    except StoreError:
        return ()
    shared = [owners.get(("circuit", str(key)), {}) for key in (parts if isinstance(parts, list) else ())]
    return tuple(name for name in shared[0] if all(name in other for other in shared)) if shared else ()


def _provenance(document: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = document.get("meta")
    found = document.get("provenance") or (inner.get("provenance") if isinstance(inner, dict) else None)
    return found if isinstance(found, dict) else {}


def _checked(result: StoredResult, *, owned: bool) -> Iterator[Notice]:
    try:
        document = check_artifact(result.folder)
    except StoreError as error:
        yield Notice(_kind(error), result.folder, str(error))
        return
    key = _provenance(document).get("key", result.key)
    if key != result.key:
        yield Notice("damaged", result.folder, f"{result.folder} holds the result of {key}")
    if DIGESTS not in document:
        yield Notice("older", result.folder, f"{result.folder} is an earlier version's, without digests to check")
    if not owned:
        yield Notice("orphaned", result.folder, f"{result.folder} belongs to no run")


def _records(store: Store) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Name and record of every run whose record can be read."""
    found = []
    for path in store.run_files():
        try:
            record = _sound(read_record(path), path)
        except StoreError:
            continue
        found.append((str(record.get("name", path.stem)), record))
    return tuple(found)


def _sound(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """A record whose points have keys and failures.

    Raises:
        DamagedResult: they have not.
    """
    points = record.get("points")
    if not isinstance(points, list) or not all(_is_point(entry) for entry in points):
        raise DamagedResult(f"{path} lacks what a run has; run the series again")
    return record


def _is_point(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(part), dict) and all(isinstance(value, str) for value in entry[part].values())
        for part in ("keys", "failures")
    )


def _keys(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [pair for entry in record["points"] for pair in entry["keys"].items()]


def _without(entry: dict[str, Any], gone: set[tuple[str, str]]) -> dict[str, Any]:
    lost = {name for name, key in entry["keys"].items() if (name, key) in gone}
    keys = {name: key for name, key in entry["keys"].items() if name not in lost}
    return {**entry, "keys": keys, "failures": {**entry["failures"], **dict.fromkeys(sorted(lost), PRUNED)}}


def _pair(result: StoredResult) -> tuple[str, str]:
    return result.measure, result.key


def _kind(error: StoreError) -> str:
    return "damaged" if isinstance(error, DamagedResult) else "newer"


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def _written(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()
