"""What every head reads on one prompt: the keys that weigh most at each row that predicts an answer token."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.units import Floats

TOP = 4
"""Keys kept of a row."""


@dataclass(frozen=True)
class Example:
    """Attention of every head on one needle prompt, thinned. S tokens, L layers, H heads, T answer tokens, K keys.

    Attributes:
        ids: [S] token ids of prompt and answer.
        answer_start: where the answer begins; row t stands one before its token t.
        answer_spans: places of the answer in what is hidden, [start, stop).
        needle_spans: the hidden sentences.
        index: [L, H, T, K] positions of the largest weights, largest first; -1 = none, or no rows in this layer.
        weight: [L, H, T, K] those weights, 0 to 1 of all that the row gives.
        tokens: S texts of the tokens; empty where nobody put them there.
    """

    ids: NDArray[np.integer]
    answer_start: int
    answer_spans: tuple[tuple[int, int], ...]
    needle_spans: tuple[tuple[int, int], ...]
    index: NDArray[np.integer]
    weight: Floats
    tokens: tuple[str, ...] = ()

    def flaws(self, shape: tuple[int, int]) -> Iterator[str]:
        """What does not fit together, for a result of that many layers and heads."""
        size = len(self.ids)
        if self.index.ndim != 4 or self.index.shape != self.weight.shape or self.index.shape[:2] != shape:
            yield f"its example of shape {self.index.shape} is none of {shape[0]} layers of {shape[1]} heads"
        elif self.index.shape[2] != size - self.answer_start or self.index.max(initial=-1) >= size:
            yield f"its example reads beyond its {size} tokens"
        elif self.tokens and len(self.tokens) != size:
            yield f"its example has {len(self.tokens)} texts for {size} tokens"
