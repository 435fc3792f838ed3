"""One level for all that is asked of a pair, and one answer to each question: different, equivalent, undecided."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from checkpoints.stats.families import holm
from circuit_drift.record.questions import Outcome, PairQuestion


def answered(questions: Sequence[PairQuestion], *, level: float) -> tuple[PairQuestion, ...]:
    """The questions with p adjusted over all of them (Holm over families of equal weight) and their outcomes.

    What is asked of facts that were picked for having changed waits for the family it comes after: its p is at least
    the smallest of that family, and Holm's over its like.
    """
    direct = [question for question in questions if not question.after]
    adjusted = dict(zip(direct, _holm(direct, level, by_family=True), strict=True))
    later = [question for question in questions if question.after]
    for question, own in zip(later, _holm(later, level, by_family=False), strict=True):
        adjusted[question] = max(own, _opened(question.after, adjusted))
    return tuple(
        replace(question, adjusted=adjusted[question], outcome=_outcome(question, adjusted[question], level))
        for question in questions
    )


def _holm(questions: Sequence[PairQuestion], level: float, *, by_family: bool) -> list[float]:
    p, least = (np.array([getattr(question, name) for question in questions]) for name in ("p", "least"))
    families = [question.family for question in questions] if by_family else None
    return [float(each) for each in holm(p, families, least=least, level=level)]


def _opened(family: str, adjusted: Mapping[PairQuestion, float]) -> float:
    """The smallest adjusted p of a family; 1 where it has none."""
    found = [p for question, p in adjusted.items() if question.family == family and not np.isnan(p)]
    return min(found, default=1.0)


def _outcome(question: PairQuestion, adjusted: float, level: float) -> Outcome | Literal[""]:
    """Equivalent wins: a change that is real and smaller than the margin counts as none."""
    if question.effects and all(effect.equivalent for effect in question.effects):
        return "equivalent"
    if adjusted <= level:
        return "different"
    return "undecided" if question.effects else ""
