"""What training does anyway: the changes among siblings of A, beside those from A to B, on the same prompts and facts.

Siblings are checkpoints that differ only by what does not matter: other seeds or data orders, or steps beside A where
a stage has converged. B could be one more of them, and then is the furthest from A once in k + 1 times, of k siblings:
that a change is larger than all of theirs says little. It is beyond the floor where it also is larger than what their
scatter lets one more of them reach (`checkpoints.stats.siblings`), and the pair is where that holds of all its changes
together.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from checkpoints.errors import CheckpointMismatch
from checkpoints.stats.siblings import combined_p, sibling_p, siblings_needed
from circuit_drift.comparison.pair_tables import comparable
from circuit_drift.measures.pairs.grouped import compare_group
from circuit_drift.measures.pairs.pairing import Compared
from circuit_drift.measures.pairs.recall import recall_questions
from circuit_drift.record.groups import FactGroup
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import FLOOR_LEVEL, Effect, Floor, FloorChange, folded
from circuit_drift.record.record import Point, RunRecord

Size = tuple[float, float, float]
"""How large a change is, and the ends of its interval."""
SIBLINGS = 2
CONVERGED_NLL, CONVERGED_RECALL = 0.1, 0.1
"""Nats per token, and share of facts, that neighbours of a converged stage differ by at most."""


def floor_of(pair: PairRecord, siblings: Sequence[Point]) -> Floor:
    """The changes from A to B beside the same changes in every pair among A and its siblings.

    Args:
        pair: compared.
        siblings: of A, measured on the same prompts.

    Raises:
        CheckpointMismatch: a sibling has the weights of A or of B.
    """
    _require_others(pair, siblings)
    own = {effect.name: effect for question in pair.questions for effect in question.effects}
    groups = [
        each.group
        for each in (() if pair.groups is None else pair.groups.groups)
        if any(name.endswith(f"({each.group.name})") for name in own)
    ]
    pairs = list(combinations((pair.a, *siblings), 2))
    found: dict[str, list[Size]] = {name: [] for name in own}
    for c, d in pairs:
        for effect in _effects(pair, c, d, groups):
            if effect.name in found:
                found[effect.name].append(size_of(effect))
    names = tuple(point.label for point in siblings)
    beside = {name: sizes for name, sizes in found.items() if len(sizes) == len(pairs)}
    if not beside:
        why = f"{', '.join(names)} and {pair.a.label} share no measure with both A and B that has a margin"
        return Floor(names=names, why=why)
    return _floor(names, len(pairs), [(own[name], sizes) for name, sizes in beside.items()])


def _floor(names: tuple[str, ...], pairs: int, beside: Sequence[tuple[Effect, Sequence[Size]]]) -> Floor:
    """Changes from A to B, each with its sizes between siblings, one by one and together."""
    times = np.array([_times(effect, sizes) for effect, sizes in beside])
    each = sibling_p(times, len(names))
    changes = [_beside(effect, sizes, float(p)) for (effect, sizes), p in zip(beside, each, strict=True)]
    above = [change.low > change.reach and not change.equivalent for change in changes]
    needed = siblings_needed(times, len(names), FLOOR_LEVEL, reached=above)
    together = combined_p(np.where([change.equivalent for change in changes], 1.0, each))
    return Floor(names, pairs, tuple(sorted(changes, key=_furthest)), p=together, needed=needed)


def _require_others(pair: PairRecord, siblings: Sequence[Point]) -> None:
    """A is no sibling of its own, nor is B: the first would make a floor of 0, the second one as high as the change."""
    for each in siblings:
        for end, name in ((pair.a, "A"), (pair.b, "B")):
            if same_weights(each, end):
                raise CheckpointMismatch(
                    f"{each.label} has the weights of {name} and tells of no training floor: give other checkpoints, "
                    "as other seeds or the steps before A"
                )


def same_weights(a: Point, b: Point) -> bool:
    """Whether two points are of one checkpoint, or of two with the same weights, where these are known."""
    return a is b or bool(a.weights and a.weights == b.weights)


def size_of(effect: Effect) -> Size:
    """How large a change is whatever its direction, with its interval; a ratio as a factor of at least 1."""
    ends = np.array([effect.value, effect.low, effect.high], dtype=np.float64)
    ratio = effect.none == 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = np.log(ends) if ratio else ends
    low, high = folded(low, high)
    told = [abs(float(value)), float(low), float(high)]
    return tuple(float(np.exp(each)) if ratio else each for each in told)  # type: ignore[return-value]


def _effects(pair: PairRecord, c: Point, d: Point, groups: Sequence[FactGroup]) -> Iterator[Effect]:
    """The changes between two siblings, of facts in the groups of the pair."""
    how = comparable((c, d))
    if c.circuit is not None and d.circuit is not None and pair.groups is not None:
        cluster = pair.groups.cluster
        for question in recall_questions(c.circuit, d.circuit, deltas=pair.deltas, cluster=cluster):
            yield from question.effects
        for group in groups:
            yield from compare_group(group, c.circuit, d.circuit, q=pair.q, cluster=cluster).effects(pair.deltas)
    if c.heads is not None and d.heads is not None and pair.heads is not None:
        compared = how["heads"].compare(c, d, q=pair.q, earlier={})
        if isinstance(compared, Compared):
            for question in how["heads"].questions(c, d, compared.change, deltas=pair.deltas):
                yield from question.effects


def _beside(own: Effect, siblings: Sequence[Size], p: float) -> FloorChange:
    value, low, high = size_of(own)
    largest = max(size for size, _, _ in siblings)
    reach = max(end for _, _, end in siblings)
    return FloorChange(own.name, value, low, high, floor=largest, reach=reach, p=p, equivalent=own.equivalent)


def _times(own: Effect, siblings: Sequence[Size]) -> float:
    """How many times the siblings' scatter a change is at least: its lower end over the root mean square of theirs.

    Siblings that look alike in a measure, as where no fact changes sides, scatter by what it cannot tell: the upper end
    of their interval.
    """
    low = _plain(own, size_of(own)[1])
    sizes = np.array([[_plain(own, each[0]), _plain(own, each[2])] for each in siblings])
    scatter = np.sqrt(np.mean(np.where(sizes[:, 0] > 0, sizes[:, 0], sizes[:, 1]) ** 2))
    return float(low / scatter) if scatter > 0 else float("nan")


def _plain(effect: Effect, size: float) -> float:
    """A size on the scale of distances: of a ratio the logarithm, of 1 - cosine, which is a square, the root."""
    if effect.none == 1.0:
        return float(np.log(size))
    return float(np.sqrt(size)) if effect.name.startswith("wiring") else size


def _furthest(change: FloorChange) -> tuple[int, float]:
    """What is beyond its floor first, then what is undecided, then what lies furthest above its floor."""
    above = -change.value / change.floor if change.floor > 0 else -np.inf if change.value > 0 else 0.0
    return ("beyond", "undecided", "within").index(change.outcome), above


def converged_before(run: RunRecord, point: Point) -> list[Point]:
    """The neighbours before a point in its stage that differ from one another by no more than a converged stage's do.

    At most two, the nearest; none where the answers' likelihood still moves by over 0.1 nats per token, or over a tenth
    of the facts change sides, from one to the next.
    """
    place = next(i for i, other in enumerate(run.points) if other is point)
    line = [p for p in run.points[: place + 1] if (p.stage, p.branch) == (point.stage, point.branch)]
    found: list[Point] = []
    for before, after in reversed(list(pairwise(line))):
        if len(found) == SIBLINGS or not _alike(before, after):
            break
        found.insert(0, before)
    return found


def _alike(a: Point, b: Point) -> bool:
    if a.heads is not None and b.heads is not None:
        change = float(np.mean(b.heads.prompt_nll) - np.mean(a.heads.prompt_nll))
        if not abs(change) <= CONVERGED_NLL:
            return False
    elif a.circuit is None or b.circuit is None:
        return False
    if a.circuit is None or b.circuit is None:
        return True
    return float(np.mean((a.circuit.answer_rank == 0) != (b.circuit.answer_rank == 0))) <= CONVERGED_RECALL
