"""Choosing steps in a user's words: `last`, `every 3`, `log 8`, `100:2000`, `0,500,1000`."""

import re
from collections.abc import Callable, Sequence

from checkpoints.errors import NotACheckpoint
from checkpoints.series.checkpoint import Checkpoint

GRAMMAR = "all, first, last, every K, log N, FROM:TO (both included), a step or name, or several joined by commas"
_RANGE = re.compile(r"(\d*)\s*:\s*(\d*)")


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
    if word in ("every", "log"):
        if not argument.strip().isdigit() or int(argument) < 1:
            raise NotACheckpoint(f"{term!r} needs a whole number of at least 1, as in '{word} 3'")
        return everything[:: int(argument)] if word == "every" else _log_spaced(checkpoints, int(argument))
    bounds = _RANGE.fullmatch(term)
    if bounds:
        low, high = (int(text) if text else None for text in bounds.groups())
        return [i for i in everything if _within(checkpoints[i].step, low, high)]
    return [checkpoints.index(at(term))]


def _within(step: int | None, low: int | None, high: int | None) -> bool:
    return step is not None and (low is None or step >= low) and (high is None or step <= high)


def _log_spaced(checkpoints: Sequence[Checkpoint], count: int) -> list[int]:
    """Up to `count` positions nearest to equal ratios of step + 1, first and last included."""
    import numpy as np

    places = np.log([(checkpoint.step or 0) + 1 for checkpoint in checkpoints])
    if count == 1:
        return [len(checkpoints) - 1]
    wanted = np.linspace(places.min(), places.max(), count)
    return sorted({int(np.abs(places - place).argmin()) for place in wanted})
