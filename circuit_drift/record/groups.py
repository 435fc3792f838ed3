"""Facts that went different ways between two checkpoints are never pooled: the groups that a comparison is made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import circuits

Bools = NDArray[np.bool_]
WAYS = ("kept", "lost", "learned", "neither")
ALL = "all"


@dataclass(frozen=True, slots=True)
class FactGroup:
    """Facts that are compared together.

    Attributes:
        name: ``kept`` (recalled at both), ``lost``, ``learned``, ``neither``, ``all`` where facts cannot be told
            apart, else a class, or a class with a way.
        facts: [M] their positions.
        way: which of the four ways they all went; "" where a class holds several.
        chosen: they were picked for having changed, so that their circuits are bound to: a test of whether the model
            changed must not rest on them.
    """

    name: str
    facts: NDArray[np.integer]
    way: Literal["", "kept", "lost", "learned", "neither"] = ""
    chosen: bool = False

    def __len__(self) -> int:
        return len(self.facts)


def ways_of(before: Bools, after: Bools) -> dict[str, Bools]:
    """Which facts went which way, by `WAYS`, from what is recalled before and after, each [N]."""
    return dict(zip(WAYS, (before & after, before & ~after, ~before & after, ~before & ~after), strict=True))


def class_names(graph: "circuits.AttributionGraph") -> NDArray[np.str_]:
    """[N] class of each fact by its ``class`` label; "all" without one.

    A class whose facts carry several ``batch`` labels (trained on at different times) is told apart by them.
    """
    classes = [str(labels.get("class", ALL)) for labels in graph.labels]
    batches = [labels.get("batch") for labels in graph.labels]
    several = {name for name in classes if len({b for c, b in zip(classes, batches, strict=True) if c == name}) > 1}
    return np.array([f"{c} {b}" if c in several else c for c, b in zip(classes, batches, strict=True)])


def fact_groups(a: "circuits.AttributionGraph", b: "circuits.AttributionGraph") -> tuple[FactGroup, ...]:
    """The four ways, then the classes where there are several; a class whose facts went both ways is split by the way.

    Groups without facts, and those that hold the same facts as one before, are left out. Where scores were kept for
    groups of facts only, which cannot be told apart, all are one.

    Args:
        a: measured at A.
        b: at B, on the same facts.
    """
    everything = np.arange(len(a))
    if not len(a) == len(b) == a.units == b.units:
        return (FactGroup(ALL, everything),)
    ways = ways_of(a.answer_rank == 0, b.answer_rank == 0)
    names = class_names(a)
    labelled = [set(np.flatnonzero(names == name).tolist()) for name in dict.fromkeys(names.tolist())]
    found: list[FactGroup] = []
    for way, chosen in ways.items():
        facts = np.flatnonzero(chosen)
        picked = way in ("lost", "learned") and set(facts.tolist()) not in labelled
        found.append(FactGroup(way, facts, way, picked))  # type: ignore[arg-type]
    found += _classes(names, ways) if len(labelled) > 1 else []
    seen: set[tuple[int, ...]] = set()
    kept = []
    for group in found:
        key = tuple(group.facts.tolist())
        if key and key not in seen:
            kept.append(group)
            seen.add(key)
    return tuple(kept)


def _classes(names: NDArray[np.str_], ways: dict[str, Bools]) -> Iterator[FactGroup]:
    for name in dict.fromkeys(names.tolist()):
        inside = names == name
        if (inside & ways["lost"]).any() and (inside & ways["learned"]).any():
            for way, chosen in ways.items():
                picked = way in ("lost", "learned")
                yield FactGroup(f"{name}, {way}", np.flatnonzero(inside & chosen), way, picked)  # type: ignore[arg-type]
        else:
            yield FactGroup(name, np.flatnonzero(inside))
