"""Checkpoint names: `checkpoint-500`, `step20000-tokens84B`, `stage2-ingredient1-step11931-tokens51B`.

A name is read into (stage, branch, step) plus the tokens seen where it says so, and ordered by those, numbers
as numbers. Names of no such form are simply not steps: `parse_name` returns None.
"""

import re
from dataclasses import dataclass

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", re.IGNORECASE)
_NAME = re.compile(
    r"""
    (?:(?P<stage>stage-?\d+)-(?:(?P<branch>(?!step|checkpoint)[a-z][\w.]*)-)?)?
    (?:step|checkpoint|ckpt|global[-_]?step|iter)[-_]?(?P<step>\d+)
    (?:[-_]tokens[-_]?(?P<tokens>\d+(?:\.\d+)?[kmbt]?))?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_STAGE = re.compile(r"(?P<stage>stage-?\d+)(?:-(?P<branch>.+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StepName:
    """What a checkpoint's name says about its place in the run.

    Attributes:
        text: the name as written.
        step: optimiser steps taken, counted from the start of the stage or run as the name counts them.
        stage: ``"stage1"``, or None where the name has no stages.
        branch: ``"ingredient1"`` and the like: one of several continuations of the same parent.
        tokens: tokens seen, where the name says so (``tokens84B`` -> 84e9).
    """

    text: str
    step: int
    stage: str | None = None
    branch: str | None = None
    tokens: int | None = None

    @property
    def order(self) -> tuple[tuple[tuple[int, int | str], ...], tuple[tuple[int, int | str], ...], int]:
        """Sort key: stage, then branch, then step; numbers inside names count as numbers."""
        return natural(self.stage or ""), natural(self.branch or ""), self.step


def parse_name(text: str) -> StepName | None:
    """Read a folder or revision name; None if it is not the name of a training step."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    tokens = match["tokens"]
    return StepName(
        text=text,
        step=int(match["step"]),
        stage=match["stage"],
        branch=match["branch"],
        tokens=None if tokens is None else parse_count(tokens),
    )


def parse_count(text: str) -> int | None:
    """Read a token count (``84B``, ``2,097,152``, ``1.5T``); None if it is not one."""
    match = _COUNT.fullmatch(text.strip().replace(",", "").replace("_", ""))
    if match is None:
        return None
    number, unit = match.groups()
    scale = _UNITS[unit.lower()]
    return round(float(number) * scale) if "." in number else int(number) * scale


def split_stage(text: str) -> tuple[str | None, str | None]:
    """Split a manifest's stage (``stage2-ingredient1``) into stage and branch; other words are stages."""
    text = text.strip()
    match = _STAGE.fullmatch(text)
    if match is None:
        return text or None, None
    return match["stage"], match["branch"]


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key in which ``step9`` comes before ``step10``."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdigit() else (1, part.lower()) for part in parts if part)
