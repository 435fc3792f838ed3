"""What heads read on one needle prompt at some checkpoints, as small as a page's card needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from circuit_drift.page.thinning import thinned
from circuit_drift.record.record import Point
from heads.scores.example import Example

NUMBERS = 60_000
"""Numbers that a page holds of them at most: heads times checkpoints times rows times keys, twice."""
FEWEST, MOST = 2, 6
"""Checkpoints, as the numbers allow."""
ROWS = 6
"""Answer tokens."""


@dataclass(frozen=True)
class Readings:
    """One prompt, and where heads looked on it at C checkpoints.

    Attributes:
        labels: C names.
        examples: C.
    """

    labels: tuple[str, ...]
    examples: tuple[Example, ...]

    @classmethod
    def of(cls, points: Sequence[Point], heads: Sequence[int]) -> Self | None:
        """Of points with retrieval scores; None where none kept an example, or not all of the same prompt."""
        found = [(point.label, point.heads.example) for point in points if point.heads is not None]
        there = [(label, example) for label, example in found if example is not None and example.tokens]
        if not there or len({example.ids.tobytes() for _, example in there}) > 1:
            return None
        rows, keys = there[0][1].index.shape[2:]
        most = min(MOST, max(FEWEST, NUMBERS // (2 * len(heads) * min(rows, ROWS) * keys)))
        chosen = [there[place] for place in thinned(len(there), most)]
        return cls(tuple(label for label, _ in chosen), tuple(example for _, example in chosen))

    def head(self, head: int) -> list[list[list[list[int]]]]:
        """[C, rows] lists of (position, per cent), strongest first, without those below half a per cent.

        Args:
            head: its place among all heads, layer by layer.
        """
        return [
            [_row(index, weight) for index, weight in zip(*_of_head(example, head), strict=True)]
            for example in self.examples
        ]

    def to_json(self) -> dict[str, Any]:
        """The prompt and the checkpoints, as the page's script reads them."""
        first = self.examples[0]
        return {
            "labels": list(self.labels),
            "tokens": list(first.tokens[: first.answer_start]),
            "answer": list(first.tokens[first.answer_start :][:ROWS]),
            "needle": [list(span) for span in first.needle_spans],
            "gold": [list(span) for span in first.answer_spans],
        }


def _of_head(example: Example, head: int) -> tuple[Any, Any]:
    """[rows, K] positions and weights."""
    layer, place = divmod(head, example.index.shape[1])
    return example.index[layer, place, :ROWS], example.weight[layer, place, :ROWS]


def _row(index: Any, weight: Any) -> list[list[int]]:
    shares = np.rint(100 * weight).astype(int)
    return [[int(at), int(share)] for at, share in zip(index, shares, strict=True) if at >= 0 and share]
