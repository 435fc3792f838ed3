"""What the store remembers of a run, and how a new run joins what is stored under its name.

A run that was asked the same keeps the stored checkpoints that it does not measure now, and the stored measures of
those that it does: ``--steps`` and ``--measures`` add to a run. One that was asked otherwise takes its place.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from checkpoints import Series
from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.text import counted
from circuit_drift.store.store import Store, read_record

logger = logging.getLogger(__name__)

Entry = dict[str, Any]
SHARE = 20


def stored_record(store: Store, name: str) -> Entry | None:
    """What is stored under a name, if it can be read.

    Raises:
        StoreError: a newer version's record, or that of another run; neither is written over.
    """
    path = store.run_file(name)
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except DamagedResult as error:
        logger.warning("the record of the run %s is damaged, and written anew: %s", name, error)
        return None
    if record.get("name", name) != name:
        raise StoreError(f"{path} is the record of the run {record['name']}, not of {name}: name this run otherwise")
    return record


def warn_of_loss(old: Mapping[str, Any] | None, new: Mapping[str, Any], series: Series) -> None:
    """Say so where the new run's record will not hold what the stored one does, or will hold more than it measures."""
    if old is None:
        return
    whole = series.chosen_from or series
    stored = {place_of(entry) for entry in old["points"]}
    gone = stored - {checkpoint.label for checkpoint in whole}
    left = stored - gone - {checkpoint.label for checkpoint in series}
    asked = [f"{kind} {origin}" for kind, origin in old["origins"].items() if origin != new["origins"].get(kind)]
    if not _asked_alike(old, new):
        asked = asked or ["another question (prompts, parameters, dtype or attention)"]
        gone, left = gone | left, set()
    lost = [*([f"{counted(len(gone), 'checkpoint')} that this one has not"] if gone else []), *asked]
    if lost:
        logger.warning(
            "the stored run %s will be replaced, which has %s; its results stay, and --run NAME keeps a run beside it",
            new["name"],
            " and ".join(lost),
        )
    elif left:
        logger.warning("the stored run %s keeps %d checkpoints that are not measured now", new["name"], len(left))


class Paced:
    """A record that grows: written as it changes, in no more than a twentieth of the time, and at the end.

    Args:
        write: writes all of it.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._write, self._due, self._changed = write, 0.0, False

    def changed(self) -> None:
        """There is more to write."""
        self._changed = True
        if (start := time.monotonic()) >= self._due:
            self._write()
            now = time.monotonic()
            self._due, self._changed = now + SHARE * (now - start), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._write()


def joined(old: Mapping[str, Any] | None, new: Mapping[str, Any], series: Series) -> Entry:
    """The record of a new run, with what it keeps of the stored one.

    Args:
        old: the stored record, if there is one.
        new: the record of what was measured now.
        series: what is measured now; what it was chosen from says what the run may hold.
    """
    whole = series.chosen_from or series
    places = {checkpoint.label: index for index, checkpoint in enumerate(whole)}
    kept = old["points"] if old is not None and _asked_alike(old, new) else []
    entries = {place_of(entry): entry for entry in kept if place_of(entry) in places}
    for entry in new["points"]:
        place = place_of(entry)
        entries[place] = _over(entries.get(place), entry)
    found = replace(whole, checkpoints=tuple(c for c in whole if c.label in entries or c in series.checkpoints))
    measures = {**(old["question"]["measures"] if kept and old else {}), **new["question"]["measures"]}
    return {
        **new,
        "question": {**new["question"], "measures": measures},
        "audit": _audits(old if entries.keys() - {c.label for c in series} else None, new),
        "parents": {label: list(before) for label, before in found.to_networkx().pred.items()},
        "points": sorted(entries.values(), key=lambda entry: places.get(place_of(entry), len(places))),
    }


def place_of(entry: Mapping[str, Any]) -> str:
    """Where a stored point stands in its series: the label of its checkpoint."""
    if entry["step"] is None:
        return str(entry["name"])
    return "/".join(part for part in (entry["stage"], entry.get("branch"), str(entry["step"])) if part)


def _asked_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two runs ask the same where both ask; of records of earlier versions nobody knows."""
    before, now = old.get("question"), new["question"]
    if not before or old["origins"] != new["origins"]:
        return False
    same = [before["measures"][name] == now["measures"][name] for name in before["measures"].keys() & now["measures"]]
    return all(same) and (before["dtype"], before["attention"]) == (now["dtype"], now["attention"])


def _over(old: Entry | None, new: Entry) -> Entry:
    """A point measured now, with the measures that were taken of the same weights before."""
    if old is None or not new.get("weights") or old.get("weights") != new["weights"]:
        return new
    keys = {name: key for name, key in old["keys"].items() if name not in new["failures"]} | new["keys"]
    failures = {name: why for name, why in (old["failures"] | new["failures"]).items() if name not in keys}
    return {**new, "keys": keys, "failures": failures}


def _audits(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Any:
    """The audit of what was measured now, with the earlier findings on what was not."""
    if old is None or not old.get("audit"):
        return new["audit"]
    examined: Iterable[str] = new["audit"]["checkpoints"]
    others = [found for found in old["audit"]["findings"] if not set(found["checkpoints"]) <= set(examined)]
    checkpoints = list(dict.fromkeys([*old["audit"]["checkpoints"], *examined]))
    findings = [*others, *(found for found in new["audit"]["findings"] if found not in others)]
    return {**new["audit"], "checkpoints": checkpoints, "findings": findings}
