"""A run in progress, written to the store as a sweep writes it: `circuit_drift.load_run` reads it at any time.

store/runs/<name>.json        the points so far, and the live scalars as the run's training log
store/lab/<name>/units.csv    scores of single units (facts) at every probe, for the ledger
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import BadPrompt, StoreError
from checkpoints.results.disk import write_file
from circuit_drift.record.record import Point, point_record
from circuit_drift.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from circuit_drift.knowledge import UnitScores

Row = dict[str, Any]
MEASURED = ("step", "unit", "probe", "score", "rank", "probability", "rouge1", "written")


class Recorder:
    """Collects the points of one run and rewrites its files after each.

    Args:
        store: where results go.
        name: of the run.
        origins: where needles and facts came from.
    """

    def __init__(self, store: Store, name: str, origins: Mapping[str, str]) -> None:
        self.store = store
        self.name = name
        self._origins = dict(origins)
        self._points: list[Row] = []
        self._log: list[Row] = []
        self._fresh = True

    @property
    def points(self) -> tuple[Row, ...]:
        """What the store remembers of each probe so far."""
        return tuple(self._points)

    @property
    def units_folder(self) -> Path:
        """The tables of single units, one a probe."""
        return self.store.path / "lab" / self.name / "units"

    def resume(self, step: int) -> None:
        """Take up what an earlier start of the run recorded up to a step; what came after it will be done again."""
        try:
            record = self.store.read_run(self.name)
        except StoreError:
            return
        self._points = [point for point in record["points"] if point["step"] <= step]
        log = list(csv.DictReader(io.StringIO(record["log"] or "")))
        self._log = [row for row in log if int(row["step"]) <= step]
        self._fresh = False
        self._forget_units(after=step)

    def add(self, point: Point, scalars: Mapping[str, float], units: Iterable[Mapping[str, Any]]) -> None:
        """Record one probe; a second one of the same step replaces the first.

        Raises:
            StoreError: the store cannot be written.
        """
        if self._fresh:
            self._forget_units(after=-1)
            self._fresh = False
        for rows in (self._points, self._log):
            rows[:] = [row for row in rows if int(row["step"]) != point.step]
        moment = {"step": point.step, "stage": point.stage or "", "tokens": point.tokens or ""}
        self._points.append(point_record(point))
        self._log.append({**moment, **scalars})
        rows = [{"step": point.step, **unit} for unit in units]
        if rows:
            self._write_units(f"{point.step}.csv", rows)
        record = {"name": self.name, "origins": self._origins, "log": _csv(self._log), "audit": []}
        self.store.write_run(self.name, {**record, "points": self._points})

    def _write_units(self, name: str, rows: list[Row]) -> None:
        write_file(self.units_folder / name, _csv(rows))

    def _forget_units(self, *, after: int) -> None:
        for path in self.units_folder.glob("*.csv"):
            if int(path.stem) > after:
                path.unlink()


def unit_scores(store: Store | Path | str | None, name: str, *, score: str = "score") -> "UnitScores":
    """What a run in progress (or finished) knew at each of its probes.

    Args:
        store: the store that it writes to.
        name: of the run.
        score: the column that is the score: ``score`` as the gauge chose it, ``probability``, or ``rouge1``.

    Raises:
        BadPrompt: the run has probed no facts, or not with such a score.
    """
    import pandas as pd

    opened = store if isinstance(store, Store) else Store.open(store)
    folder = Recorder(opened, name, {}).units_folder
    frames = [pd.read_csv(path) for path in folder.glob("*.csv")]
    if not frames:
        raise BadPrompt(f"the run {name} has no scores of facts in {folder}; probe it with the Knowledge gauge")
    return units_table(pd.concat(frames, ignore_index=True), score=score)


def units_table(frame: "pd.DataFrame", *, score: str = "score") -> "UnitScores":
    """Scores from rows of gauges with their step: the labels that are constant within a unit stay labels of it."""
    from circuit_drift.knowledge import scores_from_frame

    frame = frame.rename(columns={column: column.removeprefix("label:") for column in frame.columns})
    labels = [column for column in frame.columns if column not in MEASURED]
    constant = frame.groupby("unit")[labels].nunique(dropna=False).max() <= 1 if labels else []
    probe = "probe" if "probe" in frame else None
    return scores_from_frame(frame, score=score, probe=probe, labels=[label for label in labels if constant[label]])


def _csv(rows: list[Row]) -> str:
    """Rows as CSV; a column that a row lacks stays empty."""
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
