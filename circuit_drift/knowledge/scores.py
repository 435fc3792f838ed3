"""Scores of units of knowledge (facts, entities) at the checkpoints of a run, read from any table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_frame

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UnitScores:
    """How well each unit is known at each step; higher is better.

    Attributes:
        units: U names.
        steps: S steps or epochs, rising.
        probes: [U, S, P] score of each probe; NaN where a unit was not asked or has fewer probes. A table without
            probes has P = 1, and nothing to resample.
        labels: name -> U values to group by (prior exposure, frequency, relation).
        name: what the score is.
    """

    units: tuple[str, ...]
    steps: tuple[int, ...]
    probes: Floats
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = "score"

    def __post_init__(self) -> None:
        if self.probes.ndim != 3 or self.probes.shape[:2] != (len(self.units), len(self.steps)):
            raise BadPrompt(
                f"probes of shape {self.probes.shape} do not fit {len(self.units)} units at {len(self.steps)} steps; "
                "give [units, steps, probes]"
            )
        if list(self.steps) != sorted(set(self.steps)):
            raise BadPrompt(f"steps must rise from checkpoint to checkpoint: got {list(self.steps)}")
        if len(set(self.units)) != len(self.units):
            raise BadPrompt("two units have the same name; name each unit once")

    @property
    def mean(self) -> Floats:
        """[U, S] mean over a unit's probes; NaN where it was not asked."""
        asked = ~np.isnan(self.probes)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(asked, self.probes, 0.0).sum(axis=2) / asked.sum(axis=2))

    @property
    def asked(self) -> NDArray[np.bool_]:
        """[U, S] whether a unit has a score."""
        return np.asarray(~np.isnan(self.probes).all(axis=2))

    def subset(self, members: NDArray[np.bool_]) -> "UnitScores":
        """Some of the units.

        Args:
            members: [U] which.
        """
        return UnitScores(
            tuple(np.array(self.units, dtype=object)[members]),
            self.steps,
            self.probes[members],
            {name: tuple(np.array(values, dtype=object)[members]) for name, values in self.labels.items()},
            self.name,
        )

    def until(self, step: int) -> "UnitScores":
        """What was known of it at a step: later ones left out."""
        count = sum(s <= step for s in self.steps)
        return UnitScores(self.units, self.steps[:count], self.probes[:, :count], self.labels, self.name)

    def groups(self, by: str) -> dict[str, "UnitScores"]:
        """The scores of each value of a label, in order of first appearance.

        Raises:
            BadPrompt: no such label.
        """
        if by not in self.labels:
            raise BadPrompt(f"the units have no label {by!r}; they have {', '.join(self.labels) or 'none'}")
        values = np.array(self.labels[by], dtype=object)
        return {value: self.subset(values == value) for value in dict.fromkeys(values)}


def read_scores(
    path: Path | str,
    *,
    unit: str = "unit",
    step: str = "step",
    score: str = "score",
    probe: str | None = None,
    labels: Sequence[str] = (),
) -> UnitScores:
    """Scores from a CSV file; see `scores_from_frame`.

    Raises:
        BadPrompt: the file cannot be read, or is no such table.
    """
    frame = read_frame(path, "scores")
    try:
        return scores_from_frame(frame, unit=unit, step=step, score=score, probe=probe, labels=labels)
    except BadPrompt as error:
        raise BadPrompt(f"{path}: {error}") from error


def scores_from_frame(
    frame: "pd.DataFrame",
    *,
    unit: str = "unit",
    step: str = "step",
    score: str = "score",
    probe: str | None = None,
    labels: Sequence[str] = (),
) -> UnitScores:
    """Scores from a long table: one row for each (unit, step), or each (unit, step, probe).

    Args:
        frame: the table, in any order; a missing row is a unit not asked, never a 0.
        unit: column of the unit's name.
        step: column of the step or epoch, whole numbers.
        score: column of the score.
        probe: column that tells a unit's probes apart; those of one name are the same probe at every step.
        labels: columns to group by, constant within a unit.

    Raises:
        BadPrompt: a column is missing or not a number, a row appears twice, or a unit has two values of a label.
    """
    import pandas as pd

    columns = [unit, step, score, *([probe] if probe else []), *labels]
    if missing := [column for column in columns if column not in frame]:
        raise BadPrompt(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise BadPrompt("the table holds no scores; give one row for each unit and step")
    _check_numbers(frame, step, score)
    for told in (unit, probe):
        if told is not None and frame[told].isna().any():
            raise BadPrompt(f"row {int(frame[told].isna().to_numpy().argmax()) + 1} of the table has no {told}")
    (row, units), steps = pd.factorize(frame[unit].astype(str)), np.unique(frame[step])
    slot = frame.groupby(unit)[probe].transform(lambda names: names.factorize()[0]) if probe else frame[score] * 0
    slot = slot.fillna(0).astype(int).to_numpy()
    column = np.searchsorted(steps, frame[step].to_numpy())
    _check_once(frame, np.stack([row, column, slot], axis=1), unit, step)
    probes = np.full((len(units), len(steps), int(slot.max()) + 1), np.nan)
    probes[row, column, slot] = frame[score].to_numpy(dtype=float)
    named = {label: _label(frame, unit, label) for label in labels}
    return UnitScores(tuple(units), tuple(int(s) for s in steps), probes, named, score)


def _check_numbers(frame: "pd.DataFrame", step: str, score: str) -> None:
    import pandas as pd

    for column in (step, score):
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise BadPrompt(f"the column {column} holds {frame[column].dtype}, not numbers")
    if not (frame[step] % 1 == 0).all():
        raise BadPrompt(f"the column {step} must hold whole numbers: steps or epochs")


def _check_once(frame: "pd.DataFrame", places: NDArray[np.int_], unit: str, step: str) -> None:
    _, first, counts = np.unique(places, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        twice = frame.iloc[int(first[counts > 1][0])]
        raise BadPrompt(
            f"{twice[unit]} has several scores at {step} {twice[step]}; name the column that tells probes apart, "
            "or keep one run's rows"
        )


def _label(frame: "pd.DataFrame", unit: str, label: str) -> tuple[str, ...]:
    values = frame.groupby(unit, sort=False)[label]
    if (mixed := values.nunique(dropna=False) > 1).any():
        raise BadPrompt(f"{mixed.idxmax()} has more than one value of {label}; a label belongs to a unit for good")
    return tuple(str(value) for value in values.first())
