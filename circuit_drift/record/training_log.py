"""The loss of a run's own training: from ``training_log.csv``, or from what the HF Trainer keeps in its state.

The log lies beside the checkpoints and only adds a column, so nothing in it stops a run: what cannot be read is left
out, and said when the run is measured.
"""

import csv
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints import DriftError, Series
from checkpoints.errors import BadPrompt
from checkpoints.files.configs import read_json
from checkpoints.files.reading import decode, parse_table, read_bytes
from checkpoints.series.layouts import TRAINER_STATE
from circuit_drift.record.record import Point, RunRecord

logger = logging.getLogger(__name__)

LOG_FILE = "training_log.csv"
STEPS = ("step", "global_step", "iter", "iteration")
LOSSES = ("train_loss", "train/loss", "training_loss", "loss")
MISSING = frozenset({"", "-", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True, slots=True)
class LogRow:
    """One loss of a log; `stage` and `checkpoint` where it says which."""

    step: int
    loss: float
    stage: str | None = None
    checkpoint: str | None = None


def read_log(series: Series) -> str | None:
    """The training log of a series as CSV; None where it has none. What is left out of it is warned of."""
    path = series.path / LOG_FILE
    if not path.exists():
        return _trainer_log(series.chosen_from or series)
    try:
        text = _text(path)
        rows, unread = parse_log(text)
    except (OSError, ValueError, DriftError) as error:
        logger.warning("%s is left out: %s", path, error)
        return None
    if unread:
        logger.warning("%s: %d lines are left out, the first: %s", path, len(unread), unread[0])
    return text if rows else None


def parse_log(text: str) -> tuple[list[LogRow], list[str]]:
    """The losses of a log, and why lines were left out; a line without a loss is in order.

    Raises:
        BadPrompt: it is no CSV, or has no column of steps or of losses.
    """
    (_, header), *lines = parse_table(text, "it cannot be read") or [(1, [])]
    names = [name.lower() for name in header]
    step, loss = (next((name for name in known if name in names), None) for known in (STEPS, LOSSES))
    if step is None or loss is None:
        raise BadPrompt(f"it needs a column {' or '.join(STEPS)} and one {' or '.join(LOSSES)}; it has {header}")
    rows: list[LogRow] = []
    unread: list[str] = []
    for line, cells in lines:
        row = dict(zip(names, cells, strict=False))
        at, value = row.get(step, ""), row.get(loss, "")
        if at.lower() in MISSING or value.lower() in MISSING:
            continue
        found, number = _whole(at), _number(value)
        if found is None or number is None:
            unread.append(f"line {line} has the {step} {at!r} and the {loss} {value!r}, which are no numbers")
        else:
            rows.append(LogRow(found, number, row.get("stage") or None, row.get("checkpoint") or None))
    return rows, unread


def logged_losses(run: RunRecord) -> dict[int, float]:
    """Step -> training loss, as the log of a run says."""
    return {row.step: row.loss for row in _rows(run)}


def losses(run: RunRecord) -> list[float | None]:
    """The loss of each point; None where the log has none, or does not say of which of several points it is."""
    rows = _rows(run)
    known = {point.stage for point in run}
    staged = any(row.stage in known for row in rows if row.stage)
    return [_loss(point, run.points, rows, staged=staged) for point in run]


def _loss(point: Point, points: Sequence[Point], rows: Sequence[LogRow], *, staged: bool) -> float | None:
    own = [row.loss for row in rows if row.checkpoint == point.name]
    if own:
        return own[-1]
    here = [row for row in rows if row.checkpoint is None and row.step == point.step]
    twins = [other for other in points if other.step == point.step]
    if staged:
        places = (point.stage, "-".join(part for part in (point.stage, point.branch) if part))
        here = [row for row in here if row.stage in places]
        twins = [other for other in twins if other.stage == point.stage]
    return here[-1].loss if here and len(twins) == 1 else None


def _rows(run: RunRecord) -> list[LogRow]:
    if run.log is None:
        return []
    try:
        return parse_log(run.log)[0]
    except BadPrompt:  # of a run that an earlier version stored
        return []


def _text(path: Path) -> str:
    content = read_bytes(path)
    try:
        return decode(content)
    except ValueError:
        return content.decode("latin-1")  # numbers are all that is taken, and they are the same in either


def _trainer_log(series: Series) -> str | None:
    """The last loss that the Trainer logged at or before each checkpoint, from its state or that of the whole run."""
    of_run = _history(series.path)
    rows = []
    for checkpoint in series:
        step = checkpoint.step
        if checkpoint.hub is None and step is not None:
            before = [(at, loss) for at, loss in _history(checkpoint.path) or of_run if at <= step]
            rows += [(checkpoint.name, step, max(before)[1])] if before else []
    if not rows:
        return None
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("checkpoint", "step", "train_loss"), *rows])
    return out.getvalue()


def _history(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of each entry of the Trainer's history that has both."""
    try:
        history = read_json(folder / TRAINER_STATE).get("log_history")
    except DriftError:  # said when the series was opened
        return []
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    pairs = [(entry.get("step"), entry.get("loss")) for entry in entries]
    return [
        (step, float(loss))
        for step, loss in pairs
        if type(step) is int and isinstance(loss, int | float) and math.isfinite(loss)
    ]


def _whole(text: str) -> int | None:
    value = _number(text)
    return int(value) if value is not None and value.is_integer() else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
