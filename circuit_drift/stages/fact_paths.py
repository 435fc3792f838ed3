"""Facts by what became of them from stage to stage: those that moved opposite ways are followed apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from circuit_drift.record.record import Point


@dataclass(frozen=True, slots=True)
class FactPath:
    """Facts that were recalled at the same ends of stages.

    Attributes:
        facts: [M] their positions.
        ends: where recall is asked: the first checkpoint, and the last of each stage.
        known: whether they are recalled at each of these.
    """

    facts: NDArray[np.integer]
    ends: tuple[str, ...]
    known: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def words(self) -> str:
        """Where they are recalled and where not."""
        there, not_there = ([end for end, known in zip(self.ends, self.known, strict=True) if known is kind]
                            for kind in (True, False))  # fmt: skip
        if not there:
            return f"recalled at none of {_and(self.ends)}"
        return f"recalled at {_and(there)}" + (f", not at {_and(not_there)}" if not_there else "")


def fact_paths(points: Sequence[Point]) -> tuple[FactPath, ...]:
    """The facts of a line of checkpoints in groups of one path each, the largest first.

    Args:
        points: of one line, each with a circuit whose facts can be told apart.
    """
    ends = [points[0], *(before for before, after in pairwise(points) if before.stage != after.stage), points[-1]]
    ends = list({id(point): point for point in ends}.values())
    table = np.array([point.circuit.answer_rank == 0 for point in ends if point.circuit is not None]).T
    rows: dict[tuple[bool, ...], list[int]] = {}
    for fact, known in enumerate(table.tolist()):
        rows.setdefault(tuple(known), []).append(fact)
    names = tuple(point.label for point in ends)
    found = [FactPath(np.array(facts), names, known) for known, facts in rows.items()]
    return tuple(sorted(found, key=len, reverse=True))


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
