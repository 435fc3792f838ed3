"""The folders that people save a run's checkpoints in, read in order; what is left out is named with the reason."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkpoints.errors import NotACheckpoint
from checkpoints.files.configs import read_json
from checkpoints.files.formats import is_checkpoint, is_weights_name
from checkpoints.series.names import (
    StepName,
    natural,
    parse_name,
    with_epochs_as_stages,
    without_shared_branch,
)

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
_TOLD = 30
_DEEPEST = 2


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that lies in a series and is not part of it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """One checkpoint of a series: what its name says, and its folder."""

    name: StepName
    path: Path


def scan(root: Path) -> tuple[tuple[FoundCheckpoint, ...], tuple[LeftOut, ...]]:
    """The checkpoints in a folder by their names, in order, and what was left out.

    A folder of a step may hold its one checkpoint further down (``epoch_7/merged_model``).
    """
    found: list[FoundCheckpoint] = []
    left: list[LeftOut] = []
    for child in sorted(root.iterdir(), key=lambda path: natural(path.name)):
        if child.name.startswith("."):
            continue
        taken = _look(child)
        if isinstance(taken, FoundCheckpoint):
            found.append(taken)
        elif taken is not None:
            left.append(taken)
    chosen, again = choose(found)
    return chosen, (*left, *again)


def with_trainer_counts(found: Sequence[FoundCheckpoint]) -> tuple[FoundCheckpoint, ...]:
    """With what the HF Trainer counted: tokens where the name says none, steps where all names count epochs alone."""
    states = [trainer_state(each.path) for each in found]
    steps = [_count(state, "global_step") for state in states]
    names = [
        each.name if each.name.tokens is not None else replace(each.name, tokens=_tokens(state))
        for each, state in zip(found, states, strict=True)
    ]
    if all(name.unit == "epochs" for name in names) and None not in steps:
        names = [replace(name, step=step) for name, step in zip(names, steps, strict=True)]
    return tuple(FoundCheckpoint(name, each.path) for name, each in zip(names, found, strict=True))


def choose(found: Sequence[FoundCheckpoint]) -> tuple[tuple[FoundCheckpoint, ...], tuple[LeftOut, ...]]:
    """One checkpoint for each place of a run, all counted in one unit, in order; and what was left out."""
    left: list[LeftOut] = []
    unit = Counter(each.name.unit for each in found).most_common(1)[0][0] if found else "steps"
    places: dict[tuple[object, ...], list[FoundCheckpoint]] = defaultdict(list)
    names = with_epochs_as_stages(without_shared_branch([each.name for each in found]))
    for name, each in zip(names, found, strict=True):
        if name.unit == unit:
            places[name.order].append(FoundCheckpoint(name, each.path))
        else:
            left.append(LeftOut(name.text, f"it counts {name.unit} where the others count {unit}"))
    chosen = []
    for order in sorted(places):
        best, *others = sorted(places[order], key=lambda f: (not is_checkpoint(f.path), len(f.name.text), f.name.text))
        chosen.append(best)
        left += [LeftOut(other.name.text, f"it is the same step as {best.name.text}") for other in others]
    return tuple(chosen), tuple(left)


def tell_left_out(series: str, left: Iterable[LeftOut]) -> None:
    """Warn of what is in a series and was left out."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for each in left:
        reasons[each.reason].append(each.name)
    for reason, names in reasons.items():
        more = f", and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        logger.warning("%s: left out %s%s: %s", series, ", ".join(names[:_TOLD]), more, reason)


def checkpoint_inside(folder: Path) -> Path:
    """The checkpoint that a step's folder is, or the one that it holds; the folder itself where there is none.

    Raises:
        NotACheckpoint: it holds several.
    """
    level = [folder]
    for _ in range(_DEEPEST + 1):
        found = [place for place in level if is_checkpoint(place)]
        if len(found) > 1:
            inside = " and ".join(str(place.relative_to(folder)) for place in found[:3])
            raise NotACheckpoint(f"{folder} holds {len(found)} checkpoints, {inside}: name one of them")
        if found:
            return found[0]
        level = [child for place in level for child in sorted(place.iterdir()) if child.is_dir()]
    return folder


def trainer_state(folder: Path) -> dict[str, Any]:
    """What the HF Trainer keeps beside a checkpoint; empty where there is none, or, with a warning, a damaged one."""
    path = folder / TRAINER_STATE
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except NotACheckpoint as error:
        logger.warning("%s; the step's weights are used without it", error)
        return {}


def trainer_step(folder: Path) -> int | None:
    """The step at which the HF Trainer saved a checkpoint; None where it does not say."""
    return _count(trainer_state(folder), "global_step")


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8; Python keeps the bytes of others as halves of surrogate pairs."""
    return as_text(name) == name


def as_text(name: str) -> str:
    """A file's name with bytes that are no UTF-8 written out."""
    return name.encode(errors="backslashreplace").decode()


def _look(child: Path) -> FoundCheckpoint | LeftOut | None:
    """What one entry of a series' folder is; None where it has nothing to do with checkpoints."""
    if not is_text(child.name):
        return LeftOut(as_text(child.name), "its name is no UTF-8 text: rename it")
    called_weights = is_weights_name(child.name)
    name = parse_name(child.stem if called_weights and child.is_file() else child.name)
    if not child.is_dir():
        is_weights = called_weights and name is not None
        return LeftOut(child.name, "it is a file, and a checkpoint is a folder with its config") if is_weights else None
    if name is None:
        return LeftOut(child.name, "its name gives no step") if is_checkpoint(child) else None
    try:
        path = checkpoint_inside(child)
    except NotACheckpoint as error:
        return LeftOut(child.name, str(error))
    except OSError as error:
        return LeftOut(child.name, f"it cannot be looked into: {error.strerror}")
    return FoundCheckpoint(name, path) if name.plain or is_checkpoint(path) else None


def _count(state: dict[str, Any], key: str) -> int | None:
    value = state.get(key)
    return value if type(value) is int and value >= 0 else None


def _tokens(state: dict[str, Any]) -> int | None:
    return _count(state, "num_input_tokens_seen") or None  # the Trainer writes 0 where it does not count
