"""Choosing steps in a user's words: `last`, `every 3`, `log 8`, `100:2000`, `0,500,1000`.

What thins a series out, `every` and `log`, does so within each stage and branch, whose steps may begin anew, and keeps
the first and the last of each.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from checkpoints.errors import NotACheckpoint
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.series.names import parse_count

GRAMMAR = (
    "all, first, last, every K or log N (of each stage, its first and last included), FROM:TO (both included), a step "
    "or name, or several joined by commas"
)
_COUNT = r"(\d*|\d+(?:\.\d+)?[kmbt])"
_RANGE = re.compile(rf"{_COUNT}\s*:\s*{_COUNT}", re.IGNORECASE)


def select(checkpoints: Sequence[Checkpoint], words: str, *, at: Callable[[str], Checkpoint]) -> tuple[Checkpoint, ...]:
    """Choose checkpoints of an ordered series; the result keeps the series' order, without repeats.

    Args:
        checkpoints: the series.
        words: terms of `GRAMMAR`, joined by commas.
        at: finds one checkpoint by step or name, or raises.

    Raises:
        NotACheckpoint: a term is not understood, or nothing is chosen.
    """
    chosen = {position for term in words.split(",") for position in _term(checkpoints, term.strip(), at)}
    if not chosen:
        raise NotACheckpoint(f"{words!r} chooses none of the {len(checkpoints)} checkpoints; use {GRAMMAR}")
    return tuple(checkpoints[position] for position in sorted(chosen))


def _term(checkpoints: Sequence[Checkpoint], term: str, at: Callable[[str], Checkpoint]) -> Sequence[int]:
    word, _, argument = term.lower().partition(" ")
    everything = range(len(checkpoints))
    if term.lower() == "all":
        return everything
    if word == "adaptive":
        raise NotACheckpoint(f"{term!r} chooses by what is measured, which circuit-drift run alone does; use {GRAMMAR}")
    if word in ("every", "log"):
        if not argument.strip().isdigit() or int(argument) < 1:
            raise NotACheckpoint(f"{term!r} needs a whole number of at least 1, as in '{word} 3'")
        thin = _evenly_spaced if word == "every" else log_spaced
        return [place for line in lines(checkpoints) for place in thin(checkpoints, line, int(argument))]
    bounds = _RANGE.fullmatch(term)
    if bounds:
        low, high = (parse_count(text) for text in bounds.groups())
        return [i for i in everything if _within(checkpoints[i].position, low, high)]
    return [checkpoints.index(at(term))]


def lines(checkpoints: Sequence[Checkpoint]) -> list[list[int]]:
    """Positions by stage and branch, within which steps are counted on."""
    found: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
    for place, checkpoint in enumerate(checkpoints):
        found[checkpoint.stage, checkpoint.branch].append(place)
    return list(found.values())


def _within(position: int | None, low: int | None, high: int | None) -> bool:
    return position is not None and (low is None or position >= low) and (high is None or position <= high)


def _evenly_spaced(checkpoints: Sequence[Checkpoint], line: Sequence[int], stride: int) -> list[int]:
    """One in `stride` of a line, its last included."""
    return [*line[::stride], line[-1]]


def log_spaced(checkpoints: Sequence[Checkpoint], line: Sequence[int], count: int) -> list[int]:
    """Up to `count` of a line's positions nearest to equal ratios of step + 1, first and last included."""
    import numpy as np

    if count == 1:
        return [line[-1]]
    places = np.log([(checkpoints[place].position or 0) + 1 for place in line])
    wanted = np.linspace(places.min(), places.max(), count)
    return sorted({line[int(np.abs(places - place).argmin())] for place in wanted})
