"""What putting components back did, as values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EVERYWHERE = "all positions"


@dataclass(frozen=True, slots=True)
class Patching:
    """The behaviour of mixed models, prompt by prompt.

    Attributes:
        order: places of the components tried, the largest share of the change first.
        sizes: [K] how many of the first are put in together; up to where the change is restored, or to the last size.
        inserted: [K, N] the behaviour of A with the first so many components of B.
        removed: [K, N] the behaviour of B with the first so many components of A.
        random: [D, K, N] of A with as many random components of B, of the same kinds and, where there are, layers.
        single: [T, N] of A with one component of B, of the first T.
        left_out: [T, N] of B with one component of A.
    """

    order: tuple[int, ...]
    sizes: NDArray[np.int64]
    inserted: Floats
    removed: Floats
    random: Floats
    single: Floats
    left_out: Floats


@dataclass(frozen=True, slots=True)
class OutputPatching:
    """The behaviour of one model with what a node of the other writes at some positions of the same prompts.

    Attributes:
        nodes: what writes: heads, attention or MLPs of whole layers, the embedding.
        parts: of the prompts; the first is all positions.
        before: [N] the behaviour at A.
        after: [N] at B.
        inserted: [nodes, parts, N] of A with B's output.
        removed: [nodes, parts, N] of B with A's output.
    """

    nodes: tuple[str, ...]
    parts: tuple[str, ...]
    before: Floats
    after: Floats
    inserted: Floats
    removed: Floats


def share(values: Floats, before: Floats, after: Floats) -> float:
    """Share of the mean change from A to B that some values make, 0 = as A, 1 = as B."""
    change = float(np.mean(after - before))
    return float(np.mean(values - before)) / change if change else float("nan")
