"""What the store remembers of a run, and how a new run joins what is stored under its name.

A run that was asked the same keeps the stored checkpoints that it does not measure now, and the stored measures of
those that it does: ``--steps`` and ``--measures`` add to a run. One that was asked otherwise takes its place.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from checkpoints import Series
from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.text import counted
from circuit_drift.store.growing import ORDER, Entry, add_line, over, place_of
from circuit_drift.store.store import Store, read_record

logger = logging.getLogger(__name__)


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


class Growing:
    """The record of a run while it is measured: begun with the first result, a line for each point, whole at the end.

    Args:
        store: where the record is.
        about: all of the record but its points.
        series: what is measured now.
    """

    def __init__(self, store: Store, about: Mapping[str, Any], series: Series) -> None:
        self._store, self._about, self._series = store, about, series
        self._points: dict[int, Entry] = {}
        self._begun, self._asked = False, None

    def add(self, index: int, entry: Entry) -> None:
        """A point that was measured; where none has a result yet, nothing is written.

        Raises:
            StoreError: it cannot be written.
        """
        self._points[index] = entry
        if self._begun:
            add_line(self._store.run_file(self._about["name"]), self._asked, entry)
        elif entry["keys"]:
            whole = self._series.chosen_from or self._series
            self._write(**{ORDER: [checkpoint.label for checkpoint in whole]})
            self._begun = True

    def _write(self, **more: Any) -> None:
        name = self._about["name"]
        measured = {**self._about, "points": [self._points[index] for index in sorted(self._points)]}
        record = {**joined(stored_record(self._store, name), measured, self._series), **more}
        self._store.write_run(name, record)
        self._asked = record["question"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun:
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
        entries[place] = over(entries.get(place), entry)
    found = replace(whole, checkpoints=tuple(c for c in whole if c.label in entries or c in series.checkpoints))
    measures = {**(old["question"]["measures"] if kept and old else {}), **new["question"]["measures"]}
    return {
        **new,
        "question": {**new["question"], "measures": measures},
        "audit": _audits(old if entries.keys() - {c.label for c in series} else None, new),
        "parents": {label: list(before) for label, before in found.to_networkx().pred.items()},
        "points": sorted(entries.values(), key=lambda entry: places.get(place_of(entry), len(places))),
    }


def _asked_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two runs ask the same where both ask; of records of earlier versions nobody knows."""
    before, now = old.get("question"), new["question"]
    if not before or old["origins"] != new["origins"]:
        return False
    same = [before["measures"][name] == now["measures"][name] for name in before["measures"].keys() & now["measures"]]
    return all(same) and (before["dtype"], before["attention"]) == (now["dtype"], now["attention"])


def _audits(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Any:
    """The audit of what was measured now, with the earlier findings on what was not."""
    if old is None or not old.get("audit"):
        return new["audit"]
    examined: Iterable[str] = new["audit"]["checkpoints"]
    others = [found for found in old["audit"]["findings"] if not set(found["checkpoints"]) <= set(examined)]
    checkpoints = list(dict.fromkeys([*old["audit"]["checkpoints"], *examined]))
    findings = [*others, *(found for found in new["audit"]["findings"] if found not in others)]
    return {**new["audit"], "checkpoints": checkpoints, "findings": findings}
