"""How well the model answers over length and depth, or distance and interference: maps of answer NLL, numpy only."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.result import Result
from checkpoints.stats.bootstrap import Estimate, percentiles, resampled_means, resampling, stretched
from checkpoints.stats.ttests import mean_interval
from checkpoints.stats.units import Floats, nanmean
from heads.scores.scores import GATE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MIDDLE = (0.3, 0.8)


@dataclass(frozen=True, repr=False)
class NeedleMap(Result):
    """Answer NLL and accuracy on a grid of prompts.

    P prompts, T tokens of the longest answer. Cells pool the prompts of one row and column.

    Attributes:
        axes: names of rows and columns: (``length``, ``depth``) or (``distance``, ``before``).
        rows: values of the first axis, in tokens.
        columns: values of the second: depths requested, or tokens.
        row: [P] which row a prompt belongs to.
        column: [P] which column.
        needle: [P] which needle it hides.
        nll: [P, T] nats per teacher-forced answer token, NaN beyond an answer's end.
        correct: [P] bool, every answer token is the most likely one.
        achieved: [P] depth as built.
        recall: [P] share of the answer's tokens that are the most likely ones; None in maps that did not keep it.
        meta: model and prompts.
    """

    artifact, title = "needle_map", "Needle map"
    stored_as: ClassVar[Mapping[str, str]] = {"meta": "about"}
    shapes: ClassVar[Mapping[str, str]] = {
        "row": "P", "column": "P", "needle": "P", "nll": "P T", "correct": "P", "achieved": "P", "recall": "P",
    }  # fmt: skip

    axes: tuple[str, str]
    rows: tuple[float, ...]
    columns: tuple[float, ...]
    row: NDArray[np.integer]
    column: NDArray[np.integer]
    needle: NDArray[np.integer]
    nll: Floats
    correct: NDArray[np.bool_]
    achieved: Floats
    recall: Floats | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def grid(self, values: Floats) -> Floats:
        """[rows, columns] mean of a value per prompt or per token; NaN where a cell is empty."""
        cells = np.full((len(self.rows), len(self.columns)), np.nan)
        for at in np.ndindex(cells.shape):
            inside = (self.row == at[0]) & (self.column == at[1])
            if inside.any():
                cells[at] = nanmean(values[inside].ravel())
        return cells

    @property
    def cell_nll(self) -> Floats:
        """[rows, columns] nats per answer token."""
        return self.grid(self.nll)

    def _cell_interval(self) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval of `cell_nll`, tokens weighing alike."""
        tokens = ~np.isnan(self.nll)
        parts = np.stack([np.where(tokens, self.nll, 0.0).sum(axis=1), tokens.sum(axis=1)], axis=1)
        low, high = np.full((2, len(self.rows), len(self.columns)), np.nan)
        for at in np.ndindex(low.shape):
            cell = parts[(self.row == at[0]) & (self.column == at[1])]
            if len(cell) > 1:
                sums = resampling(len(cell)) @ cell
                low[at], high[at] = percentiles(sums[:, 0] / sums[:, 1])
        return low, high

    @property
    def cell_ppl(self) -> Floats:
        """[rows, columns] exponential of `cell_nll` (arXiv 2604.02650, figures 2 and 8)."""
        return np.asarray(np.exp(self.cell_nll))

    @property
    def cell_accuracy(self) -> Floats:
        """[rows, columns] share of prompts answered right."""
        return self.grid(self.correct.astype(float))

    @property
    def cell_score(self) -> Floats:
        """[rows, columns] share of prompts with over half of the answer's tokens right; NaN where that was not kept."""
        if self.recall is None:
            return np.full((len(self.rows), len(self.columns)), np.nan)
        return self.grid((self.recall > GATE).astype(float))

    @property
    def row_nll(self) -> Floats:
        """[rows] margin: mean over the columns."""
        return nanmean(self.cell_nll, axis=1)

    @property
    def column_nll(self) -> Floats:
        """[columns] margin: mean over the rows (figure 7)."""
        return nanmean(self.cell_nll, axis=0)

    @property
    def mean_nll(self) -> float:
        """Mean over the cells (figure 3)."""
        return float(nanmean(self.cell_nll.ravel()))

    def margin(self, axis: str) -> "pd.DataFrame":
        """One row a value of one axis, over all of the other: prompts, NLL with 95 % interval, nats per token.

        Prompts weigh alike; the t interval is over needles; with fewer than three there is none.

        Args:
            axis: one of `axes`.

        Raises:
            BadPrompt: the map has no such axis.
        """
        import pandas as pd

        if axis not in self.axes:
            raise BadPrompt(f"the map has no axis {axis!r}; it has {list(self.axes)}")
        first = axis == self.axes[0]
        values, index = (self.rows, self.row) if first else (self.columns, self.column)
        inside = index[:, None] == np.arange(len(values))
        nll = np.where(inside, nanmean(self.nll, axis=1)[:, None], np.nan)
        low, high = mean_interval(nll, self.needle)
        found = {axis: values, "n": inside.sum(axis=0), "answer_nll": nanmean(nll), "low": low, "high": high}
        return pd.DataFrame(found)

    def middle_penalty(self, *, draws: int = 2000, seed: int = 0) -> Estimate:
        """Mean NLL of needles at 30 to 80 % depth minus that of the others, nats per token; > 0: lost in the middle.

        The depths are those achieved. The interval resamples needles; with fewer than three there is none.

        Raises:
            BadPrompt: a map without depths in both parts.
        """
        if self.axes[1] != "depth":
            raise BadPrompt("the middle penalty needs a map over depth, not over distance")
        inside = (self.achieved >= MIDDLE[0]) & (self.achieved <= MIDDLE[1])
        if inside.all() or not inside.any():
            raise BadPrompt("the middle penalty needs depths both inside and outside 30 to 80 %")
        per_prompt = nanmean(self.nll, axis=1)
        parts = np.stack([np.where(inside, per_prompt, np.nan), np.where(inside, np.nan, per_prompt)], axis=1)
        return self._difference(parts, draws=draws, seed=seed)

    def interference_cost(self, *, draws: int = 2000, seed: int = 0) -> Estimate:
        """Mean NLL with the most text before the needle minus that with the least, nats per token; > 0: it disturbs.

        The distance is the same on both sides (arXiv 2604.02650, figure 9). The interval resamples needles; with
        fewer than three there is none.

        Raises:
            BadPrompt: a map without several lengths of text before the needle.
        """
        if self.axes[1] != "before" or len(self.columns) < 2:
            raise BadPrompt("the cost of interference needs a map over several lengths of text before the needle")
        order = np.argsort(self.columns)
        per_prompt = nanmean(self.nll, axis=1)
        parts = np.stack([np.where(self.column == order[end], per_prompt, np.nan) for end in (-1, 0)], axis=1)
        return self._difference(parts, draws=draws, seed=seed)

    def _difference(self, parts: Floats, *, draws: int, seed: int) -> Estimate:
        """Mean of the first column minus that of the second, [P, 2], each over the prompts it applies to."""
        units = len(np.unique(self.needle))
        means = resampled_means(parts, self.needle, resampling(units, draws=draws, seed=seed))
        value = nanmean(parts)
        low, high = percentiles(stretched(value[0] - value[1], means[:, 0] - means[:, 1], units=units))
        return Estimate(float(value[0] - value[1]), float(low), float(high), units)

    def part(self, rows: Collection[float]) -> "NeedleMap":
        """The map over some values of its first axis only.

        Raises:
            BadPrompt: a value that is not in the map.
        """
        if missing := set(rows) - set(self.rows):
            raise BadPrompt(f"the map has no {self.axes[0]} {sorted(missing)}; it has {list(self.rows)}")
        kept = [i for i, value in enumerate(self.rows) if value in rows]
        inside = np.isin(self.row, kept)
        arrays = {name: getattr(self, name)[inside] for name in _ARRAYS}
        arrays |= {} if self.recall is None else {"recall": self.recall[inside]}
        arrays["row"] = np.searchsorted(kept, arrays["row"])
        return replace(self, rows=tuple(self.rows[i] for i in kept), **arrays)

    @property
    def verdict(self) -> str:
        """One sentence: mean, worst cell, middle penalty where it applies."""
        cells = self.cell_nll
        worst = np.unravel_index(np.nanargmax(cells), cells.shape)
        where = f"{self.axes[0]} {self.rows[worst[0]]:g}, {self.axes[1]} {self.columns[worst[1]]:g}"
        text = f"answer PPL {np.exp(self.mean_nll):.3g} over the map, worst {np.exp(cells[worst]):.3g} at {where}"
        try:
            return f"{text}; middle penalty {self.middle_penalty()} nats"
        except BadPrompt:
            return text

    def to_frame(self) -> "pd.DataFrame":
        """One row a cell: both axes, depth as built (mean), prompts, NLL, PPL with 95 % interval, accuracy.

        The interval resamples the cell's prompts, one a needle, and is NaN where there is one only.
        """
        import pandas as pd

        rows, columns = np.meshgrid(self.rows, self.columns, indexing="ij")
        counts = [int(((self.row == r) & (self.column == c)).sum()) for r, c in np.ndindex(rows.shape)]
        low, high = (np.exp(end) for end in self._cell_interval())
        frame = pd.DataFrame(
            {
                self.axes[0]: rows.ravel(),
                self.axes[1]: columns.ravel(),
                "achieved_depth": self.grid(self.achieved).ravel(),
                "n": counts,
                "answer_nll": self.cell_nll.ravel(),
                "answer_ppl": self.cell_ppl.ravel(),
                "ppl_low": low.ravel(),
                "ppl_high": high.ravel(),
                "needle_accuracy": self.cell_accuracy.ravel(),
            }
        )
        return frame if self.recall is None else frame.assign(needle_score=self.cell_score.ravel())

    def plot(self) -> "go.Figure":
        """The map with its cells written out: colour is answer PPL, text adds the accuracy."""
        from heads.niah.grid_view import plot_map

        return plot_map(self)

    def _table(self) -> str:
        table = self.to_frame().pivot(index=self.axes[0], columns=self.axes[1], values="answer_ppl")
        return str(table.to_html(float_format="{:.3g}".format))


_ARRAYS = ("row", "column", "needle", "nll", "correct", "achieved")
