"""Does a metric of tracked heads go with a downstream score? With what a handful of checkpoints can and cannot bear."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_table
from checkpoints.stats.lines import fisher_interval, pearson, pearson_p
from checkpoints.stats.permutation import order_p
from checkpoints.stats.units import Floats

MISSING = ("", "nan")


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson correlation of one metric with one downstream score over checkpoints.

    Attributes:
        metric: a curve of `HeadTrack`.
        downstream: the column it is compared with.
        n: checkpoints in both.
        r: Pearson correlation.
        low: lower end of its 95 % interval (Fisher's z).
        high: upper end.
        p: two-sided, t test with n - 2 degrees of freedom.
        p_permutation: two-sided over all n! orders up to n = 8, by `checkpoints.stats.permutation.order_p` beyond.
        leave_one_out: least and greatest r with one checkpoint left out.
        r_differences: r of the changes between neighbouring checkpoints; monotone curves correlate without it.
        p_differences: two-sided p of it over orders of the changes (`checkpoints.stats.permutation.order_p`), which
            random walks keep at its level; NaN where a side does not change, or changes alike everywhere.
    """

    metric: str
    downstream: str
    n: int
    r: float
    low: float
    high: float
    p: float
    p_permutation: float
    leave_one_out: tuple[float, float]
    r_differences: float
    p_differences: float = float("nan")

    @property
    def warning(self) -> str:
        """What the reader must know before quoting r: neighbouring checkpoints are no independent samples.

        Independent random walks have p <= .05 in .27, .47 and .56 of draws at n = 10, 19 and 30, and two unrelated
        saturating curves always.
        """
        return (
            f"any two curves that rise or fall through training correlate: r over {self.n} checkpoints is no evidence"
        )

    def __str__(self) -> str:
        least, greatest = self.leave_one_out
        changes = f"{self.r_differences:+.2f}"
        if np.isfinite(self.p_differences):
            changes += f" (permutation p = {self.p_differences:.2g})"
        return (
            f"{self.metric} against {self.downstream}: their changes from checkpoint to checkpoint correlate at "
            f"{changes}; their levels at r = {self.r:+.2f} [{self.low:+.2f}, {self.high:+.2f}], one left out "
            f"{least:+.2f} to {greatest:+.2f} ({self.warning})"
        )


def correlate(metric: Floats, downstream: Floats, *, names: tuple[str, str] = ("metric", "downstream")) -> Correlation:
    """Correlate two series over the same checkpoints, in order; pairs with a NaN are left out.

    Raises:
        BadPrompt: a series without values, fewer than three pairs, an infinite value, or a series that does not vary.
    """
    for name, values in zip(names, (metric, downstream), strict=True):
        if np.isnan(values).all():
            raise BadPrompt(f"{name} has no value at any of {len(values)} checkpoints: nothing to correlate")
    kept = ~(np.isnan(metric) | np.isnan(downstream))
    x, y = metric[kept].astype(float), downstream[kept].astype(float)
    for name, values in zip(names, (x, y), strict=True):
        if not np.isfinite(values).all():
            raise BadPrompt(f"{name} is infinite at {np.isinf(values).sum()} of {len(x)} checkpoints: leave them out")
    if len(x) < 3:
        raise BadPrompt(f"{names[0]} and {names[1]} share {len(x)} checkpoints: a correlation needs three")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        constant = names[0] if np.ptp(x) == 0 else names[1]
        raise BadPrompt(f"{constant} is the same at all {len(x)} checkpoints: nothing to correlate")
    r = pearson(x, y)
    left_out = [pearson(np.delete(x, i), np.delete(y, i)) for i in range(len(x))]
    return Correlation(
        *names,
        n=len(x),
        r=r,
        low=fisher_interval(r, len(x))[0],
        high=fisher_interval(r, len(x))[1],
        p=pearson_p(r, len(x)),
        p_permutation=order_p(x, y),
        leave_one_out=(float(np.nanmin(left_out)), float(np.nanmax(left_out))),
        r_differences=pearson(np.diff(x), np.diff(y)),
        p_differences=_differences_p(np.diff(x), np.diff(y)),
    )


def _differences_p(x: Floats, y: Floats) -> float:
    return order_p(x, y) if min(np.ptp(x), np.ptp(y)) > 0 else float("nan")


def read_downstream(path: Path | str) -> dict[str, dict[int, float]]:
    """Read a CSV with a ``step`` column and one column per downstream score.

    Returns:
        column -> {step: value}; cells that are empty or ``nan`` are left out.

    Raises:
        BadPrompt: no such file, a header without ``step`` or with a name twice, no row or no score, a row of another
            length, a step twice, or a cell that is no finite number; line and column are named.
    """
    (_, header), *rows = read_table(path, "downstream scores") or [(1, [])]
    if "step" not in header or len(header) < 2 or len(set(header)) < len(header) or not rows:
        raise BadPrompt(
            f"{path} needs a header with a 'step' column and a column of its own name for each score, separated by "
            f"commas, and one row a checkpoint: it has the columns {header} and {len(rows)} rows"
        )
    table: dict[str, dict[int, float]] = {name: {} for name in header if name != "step"}
    seen: dict[int, int] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise BadPrompt(f"{where} has {len(row)} cells where the header names {len(header)} columns")
        cells = dict(zip(header, row, strict=True))
        step = _step(cells.pop("step"), where)
        if step in seen:
            raise BadPrompt(f"{where} gives step {step} again, which line {seen[step]} has: keep one row a checkpoint")
        seen[step] = line
        for name, cell in cells.items():
            if cell.lower() not in MISSING:
                table[name][step] = _number(cell, where, name)
    return table


def _step(cell: str, where: str) -> int:
    step = _number(cell, where, "step")
    if step != int(step):
        raise BadPrompt(f"{where}, column 'step': {cell!r} is no whole number")
    return int(step)


def _number(cell: str, where: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise BadPrompt(f"{where}, column {column!r}: {cell!r} is no number") from error
    if not math.isfinite(value):
        raise BadPrompt(f"{where}, column {column!r}: {cell!r} is not finite")
    return value


def align_steps(table: Mapping[int, float], steps: Sequence[int]) -> Floats:
    """A downstream column in the order of the steps, NaN where it has none."""
    return np.array([table.get(step, np.nan) for step in steps])
