"""Checkpoint names: `checkpoint-500`, `step20000-tokens84B`, `stage2-ingredient1-step11931-tokens51B`.

A name is read into (stage, branch, step) plus the tokens seen where it says so, and ordered by those, numbers
as numbers. Some publishers count epochs (`epoch_3`) or tokens (`ckpt-250B`) alone. What stands before the step is
the stage where it is a word for one (`stage1`, `phase2`, `lc-4k-to-32k`), else a branch: two runs in one folder are
never one line. Names of no such form are simply not steps: `parse_name` returns None.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Unit = Literal["steps", "epochs", "tokens"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_DIGITS = 20
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", re.IGNORECASE)
_FRONT = r"(?:(?P<front>[a-z0-9][\w.=-]*?)(?:[-_.]+))??"
_REST = r"(?:[-_](?P<seed>seed[-_]?[a-z0-9][\w-]*?))?(?P<form>[-_](?:{}))*".format(
    "hf|huggingface|unsharded|consolidated|safetensors|converted|merged|ckpt|last|fp32|fp16|bf16"
)
_TOKENS = r"(?:[-_]tokens?[-_]?(?P<tokens>\d+(?:\.\d+)?[kmbt]?)|[-_](?P<seen>\d+(?:\.\d+)?[bt]))"
_STEP = re.compile(
    rf"{_FRONT}(?:global[-_]?step|steps?|checkpoint|ckpt|iter(?:ation)?|updates?|ba(?=\d)|model(?=[-_]\d))[-_=]?"
    rf"(?P<step>\d+[km]?){_TOKENS}?{_REST}",
    re.IGNORECASE,
)
_COUNTED = re.compile(rf"{_FRONT}(?P<step>\d+[km]?)[-_]?steps?{_REST}", re.IGNORECASE)
_KEYED = re.compile(r"(?:.*[-_])??(?:global_)?step=(?P<step>\d+)(?:[-_].*)?", re.IGNORECASE)  # Lightning, NeMo
_TOKENS_ALONE = re.compile(
    rf"{_FRONT}(?P<word>(?:ckpt|chck|checkpoint|tokens?|step|train)[-_]?)?"
    rf"(?P<tokens>\d+(?:\.\d+)?[mbt])t?(?P<after>[-_]?tokens?)?{_REST}",
    re.IGNORECASE,
)
_EPOCH = re.compile(rf"{_FRONT}epochs?[-_=]?(?P<step>\d+){_REST}", re.IGNORECASE)
_IN_EPOCH = re.compile(r"(?:^|(?<=[-_.]))ep(?:ochs?)?[-_=]?(\d{1,9})(?:[-_.]|$)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,12}")
_STAGE = re.compile(r"(?P<stage>stage-?\d+)(?:-(?P<branch>.+))?", re.IGNORECASE)
_STAGE_WORD = re.compile(
    r"(?:(?P<run>.+?)[-_])??(?P<stage>(?:stage|phase)[-_]?\d+|lc[-_]\w.*|long[-_]?context.*|"
    r"(?:warm[-_]?up|pre[-_]?train(?:ing)?|stable|mid[-_]?train(?:ing)?|anneal(?:ing)?|decay|cool[-_]?down|cpt|sft|dpo|"
    r"rlvr|rlhf|rl)(?:[-_]phase)?)(?:[-_](?P<branch>.+))?",
    re.IGNORECASE,
)
_WORDLESS = re.compile(
    r"(?:ep(?:ochs?)?[-_=]?\d+|hf|model|ckpt|checkpoint|weights|global|iter|train|pytorch)", re.IGNORECASE
)
_UNFINISHED = re.compile(r"(?:tmp|temp|partial|incomplete|trash|deleted)", re.IGNORECASE)
_RANKS = (
    "warm",
    "pre",
    "stable",
    "stage",
    "phase",
    "mid",
    "anneal",
    "decay",
    "cool",
    "cpt",
    "lc",
    "long",
    "sft",
    "dpo",
)


@dataclass(frozen=True, slots=True)
class StepName:
    """What a checkpoint's name says about its place in the run.

    Attributes:
        text: the name as written.
        step: optimiser steps taken, counted from the start of the stage or run as the name counts them; epochs where
            it counts those alone; None where it counts tokens alone.
        stage: ``"stage1"``, or None where the name has no stages.
        branch: ``"ingredient1"`` and the like: one of several continuations of the same parent.
        tokens: tokens seen, where the name says so (``tokens84B`` -> 84e9).
        unit: what the name counts.
        plain: whether the name alone says that this is a checkpoint; a bare ``500`` or ``20B`` may be anything.
        epoch: the epoch, where the name says it beside a step.
    """

    text: str
    step: int | None
    stage: str | None = None
    branch: str | None = None
    tokens: int | None = None
    unit: Unit = "steps"
    plain: bool = True
    epoch: int | None = None

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key: stage, then branch, then step or tokens; numbers inside names count as numbers."""
        counted = self.step if self.step is not None else self.tokens or 0
        return (*stage_order(self.stage), natural(self.branch or ""), counted)


def parse_name(text: str) -> StepName | None:
    """Read a folder or revision name; None if it is not the name of a training step."""
    if _NUMBER.fullmatch(text):
        return StepName(text, int(text), plain=False)
    keyed = _KEYED.fullmatch(text)
    if keyed is not None:
        return StepName(text, int(keyed["step"]), epoch=_epoch(text))
    match = _STEP.fullmatch(text)
    if match is None and (match := _COUNTED.fullmatch(text)) is not None:
        return _placed(text, match, "steps", parse_count(match["step"]), None)
    if match is not None:
        tokens = match["tokens"] or match["seen"]
        return _placed(
            text, match, "steps", parse_count(match["step"]), None if tokens is None else parse_count(tokens)
        )
    match = _EPOCH.fullmatch(text)
    if match is not None:
        stepped = None if match["front"] is None else parse_name(match["front"])
        if stepped is not None and stepped.unit == "steps" and stepped.plain:
            return replace(stepped, text=text, epoch=int(match["step"]))
        return _placed(text, match, "epochs", int(match["step"]), None)
    match = _TOKENS_ALONE.fullmatch(text)
    if match is None:
        return None
    found = _placed(text, match, "tokens", None, parse_count(match["tokens"]))
    worded = bool(match["word"] or match["after"])
    if found is None or not (worded or match["front"] is None or found.stage):
        return None
    return replace(found, plain=worded or found.stage is not None)


def without_shared_branch(names: Sequence[StepName]) -> list[StepName]:
    """The names of a series, without a branch that all of them have: it is the run's own name."""
    shared = {name.branch.lower() if name.branch else None for name in names}
    if len(shared) > 1 or any(_STAGE.fullmatch(name.stage or "") and name.branch for name in names):
        return list(names)
    return [replace(name, branch=None) for name in names]


def with_epochs_as_stages(names: Sequence[StepName]) -> list[StepName]:
    """The names of a series; where steps begin anew with each epoch (``epoch_1_step_100``), the epoch is the stage."""
    lines: dict[tuple[str | None, str | None], list[StepName]] = defaultdict(list)
    for name in names:
        lines[name.stage, name.branch].append(name)
    anew = {line for line, found in lines.items() if _begin_anew(found)}
    return [replace(name, stage="-".join(filter(None, (name.stage, f"epoch{name.epoch}"))))
            if (name.stage, name.branch) in anew and name.epoch is not None else name for name in names]  # fmt: skip


def _begin_anew(names: Sequence[StepName]) -> bool:
    placed = sorted((name.epoch, name.step) for name in names if name.epoch is not None and name.step is not None)
    return any(after[0] > before[0] and after[1] <= before[1] for before, after in pairwise(placed))


def parse_count(text: str) -> int | None:
    """Read a token count (``84B``, ``2,097,152``, ``1.5T``); None if it is not one."""
    match = _COUNT.fullmatch(text.strip().replace(",", "").replace("_", ""))
    if match is None:
        return None
    number, unit = match.groups()
    if len(number) > _DIGITS:  # more than was ever trained on, or than an integer may be read from
        return None
    scale = _UNITS[unit.lower()]
    return round(float(number) * scale) if "." in number else int(number) * scale


def split_stage(text: str) -> tuple[str | None, str | None]:
    """Split a manifest's stage (``stage2-ingredient1``) into stage and branch; other words are stages."""
    text = text.strip()
    match = _STAGE.fullmatch(text)
    if match is None:
        return text or None, None
    return match["stage"], match["branch"]


def stage_order(stage: str | None) -> tuple[int, tuple[tuple[int, int | str], ...]]:
    """Sort key of stages as runs have them: pre-training, mid-training, long context, tuning; then by name."""
    word = (stage or "").lower()
    named = next((place for place, known in enumerate(_RANKS) if word.startswith(known)), len(_RANKS))
    rank = named if word else -1
    return rank, natural(word)


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key in which ``step9`` comes before ``step10``."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)


def _placed(text: str, match: re.Match[str], unit: Unit, step: int | None, tokens: int | None) -> StepName | None:
    """The name with the stage and branch that stand before and after its step; None for what was left half-written."""
    front = match["front"] or ""
    words = [word for word in re.split(r"[-_.]", front) if word]
    if words and _UNFINISHED.fullmatch(words[0]):
        return None
    stage, branch = _stage_and_branch(_IN_EPOCH.sub("", front).strip("-_."))
    branch = "-".join(part for part in (branch, match["seed"]) if part) or None
    return StepName(text, step, stage, branch, tokens, unit, epoch=_epoch(front))


def _epoch(front: str) -> int | None:
    """The epoch that a name says before its step."""
    found = _IN_EPOCH.search(front)
    return None if found is None else int(found[1])


def _stage_and_branch(front: str) -> tuple[str | None, str | None]:
    while (word := re.match(r"[^-_.]*(?:=\d+)?", front)) and word[0] and _WORDLESS.fullmatch(word[0]):
        front = front[word.end() :].lstrip("-_.")
    while (word := re.search(r"[^-_.]+$", front)) and _WORDLESS.fullmatch(word[0]):
        front = front[: word.start()].rstrip("-_.")
    if not front or re.fullmatch(r"ep(?:ochs?)?[-_=]?\d+", front, re.IGNORECASE):
        return None, None
    match = _STAGE_WORD.fullmatch(front)
    if match is None:
        return None, front
    branch = "-".join(part for part in (match["run"], match["branch"]) if part)
    return match["stage"], branch or None
