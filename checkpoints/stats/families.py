"""Many questions of one pair, held to one level: Holm's step-down procedure over families of equal weight."""

from collections.abc import Hashable, Sequence

import numpy as np

from checkpoints.stats.units import Floats


def holm(
    p: Floats, families: Sequence[Hashable] | None = None, *, least: Floats | None = None, level: float = 0.05
) -> Floats:
    """Adjusted p values: one is at most a level only where the chance of *any* false call is held to that level.

    Every family has the same share of the level, and its members share that evenly, so that a family with many
    questions does not crowd out one that asks a single question. Whatever is called frees its share for the others
    (Holm 1979, with weights). Without families every question is its own, which is the ordinary procedure.

    A question whose smallest possible p is above its share cannot be called whatever the data say; it is left out and
    takes no share (Tarone 1990).

    Args:
        p: [Q] p values; NaN marks a question without a test, which takes no share.
        families: Q names of families.
        least: [Q] the smallest p that each question could give; 0 unless given.
        level: that the shares are of.

    Returns:
        [Q] adjusted p, never below p; NaN where there is no test, or none that could be called.
    """
    p = np.asarray(p, dtype=np.float64)
    names: list[Hashable] = list(range(len(p)) if families is None else families)
    bounds = np.zeros(len(p)) if least is None else np.asarray(least, dtype=np.float64)
    members = _callable({i: names[i] for i in range(len(p)) if not np.isnan(p[i])}, bounds, level)
    kinds = set(members.values())
    share = {i: 1 / (len(kinds) * list(members.values()).count(name)) for i, name in members.items()}
    adjusted, left, reached = np.full_like(p, np.nan), 1.0, 0.0
    for i in sorted(members, key=lambda i: p[i] / share[i]):
        reached = max(reached, min(1.0, left * float(p[i]) / share[i]))
        adjusted[i] = max(reached, float(p[i]))
        left -= share[i]
    return adjusted


def _callable(members: dict[int, Hashable], least: Floats, level: float) -> dict[int, Hashable]:
    """Those whose smallest possible p is within their share, which grows as others are left out."""
    if not members:
        return members
    kinds = list(dict.fromkeys(members.values()))
    kept: dict[int, Hashable] = {}
    for kind in kinds:
        inside = [i for i, name in members.items() if name == kind]
        sizes = range(1, len(inside) + 1)
        able = ([i for i in inside if least[i] <= level / len(kinds) / size] for size in sizes)
        chosen = next((found for size, found in zip(sizes, able, strict=True) if len(found) <= size), inside)
        kept |= dict.fromkeys(chosen, kind)
    return kept if len(set(kept.values())) in (0, len(kinds)) else _callable(kept, least, level)
