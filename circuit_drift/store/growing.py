"""The record of a run while it grows: a line is added for each checkpoint, and the whole is written once, at the end.

    store/runs/<name>.json     the record as it was begun, or as it was left at the end
    store/runs/<name>.jsonl    what was measured since, a line each with its own seal; gone at the end

So a series of a thousand checkpoints costs a thousand lines, not a thousand records, and a reader sees both together.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.disk import read_regular
from checkpoints.results.strict_json import digest_json

logger = logging.getLogger(__name__)

Entry = dict[str, Any]
ORDER = "order"
"""Where a record that grows says in which order the places of its points stand."""


def lines_of(record: Path) -> Path:
    """Where the lines lie that were added to a record."""
    return record.with_suffix(".jsonl")


def add_line(record: Path, question: Any, entry: Mapping[str, Any]) -> None:
    """Add a point to a record, whole or, where the writer is killed, not at all.

    Args:
        record: the file of the record.
        question: what the run asks; the line counts for a record that asks the same.
        entry: the point.

    Raises:
        StoreError: it cannot be written.
    """
    document = {"question": digest_json(question), "point": dict(entry)}
    line = f"\n{json.dumps({**document, 'seal': digest_json(document)})}\n".encode()  # apart from a torn one before it
    path = lines_of(record)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, line) < len(line):  # in one call, so that lines of several writers do not mix
                raise StoreError(f"the disk of {path} is full: make room, and the same command goes on from here")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"cannot add to {path}: {error.strerror or error}") from error


def with_lines(record: Entry, path: Path) -> Entry:
    """A record with the points that were added to it, each in its place.

    Args:
        record: as its own file tells it.
        path: that file.

    Raises:
        DamagedResult: a line is not what was written. A torn one, of a writer that was killed, is left out.
    """
    if not (added := list(_lines(lines_of(path), record.get("question")))):
        return record
    entries = {place_of(entry): entry for entry in record["points"]}
    for entry in added:
        place = place_of(entry)
        entries[place] = over(entries.get(place), entry)
    order = {place: index for index, place in enumerate(record.get(ORDER, ()))}
    points = sorted(entries.items(), key=lambda item: order.get(item[0], len(order)))
    return {**record, "points": [entry for _, entry in points]}


def place_of(entry: Mapping[str, Any]) -> str:
    """Where a stored point stands in its series: the label of its checkpoint."""
    if entry["step"] is None:
        return str(entry["name"])
    return "/".join(part for part in (entry["stage"], entry.get("branch"), str(entry["step"])) if part)


def over(old: Entry | None, new: Entry) -> Entry:
    """A point measured now, with the measures that were taken of the same weights before."""
    if old is None or not new.get("weights") or old.get("weights") != new["weights"]:
        return new
    keys = {name: key for name, key in old["keys"].items() if name not in new["failures"]} | new["keys"]
    failures = {name: why for name, why in (old["failures"] | new["failures"]).items() if name not in keys}
    return {**new, "keys": keys, "failures": failures}


def _lines(path: Path, question: Any) -> Iterator[Entry]:
    """The points of the lines that were added for a question."""
    try:
        lines = read_regular(path).decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise DamagedResult(f"{path} cannot be read ({error}); run the series again") from error
    wanted = digest_json(question)
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found = json.loads(line)
        except ValueError:
            logger.warning(
                "%s, line %d is torn: its writer was killed; the next start tells that point again", path, number
            )
            continue
        seal = found.pop("seal", None) if isinstance(found, dict) else None
        if seal is None or seal != digest_json(found):
            raise DamagedResult(f"{path}, line {number} is not what was written; run the series again")
        if found["question"] == wanted:
            yield found["point"]
