"""The proof of an attribution: components of B put into A, and of A into B, beside random ones of the same kinds.

Nothing is linearised here: the model runs with some components' weights of the other checkpoint. Put into A they show
what is enough for the change, put into B what it cannot do without.
"""

from collections.abc import Sequence

import numpy as np

from circuit_drift.explanation.behaviours import Behaviour
from circuit_drift.explanation.components import Component
from circuit_drift.explanation.explanation import ENOUGH, Floats, Patching, share
from circuit_drift.explanation.line import Line
from circuit_drift.explanation.shares import BATCH, patched_values
from circuit_drift.trackers.steady import steadily

SIZES = (1, 2, 3, 5, 10, 20, 30)
SINGLES = 5
DRAWS = 3


def patch(
    line: Line,
    behaviour: Behaviour,
    order: Sequence[int],
    before: Floats,
    after: Floats,
    *,
    sizes: Sequence[int] = SIZES,
    draws: int = DRAWS,
    singles: int = SINGLES,
    seed: int = 0,
    batch_size: int = BATCH,
) -> Patching:
    """Put components of one checkpoint into the other; afterwards the line's model stands at A.

    Args:
        line: from A to B.
        behaviour: what is explained.
        order: places of components that differ, the largest share of the change first.
        before: [N] the behaviour at A.
        after: [N] at B.
        sizes: how many of the first to put in together.
        draws: how many random sets of each size.
        singles: how many to put in one by one.
        seed: of the random sets.
        batch_size: prompts at a time.
    """

    def value(places: Sequence[int], by: float) -> Floats:
        tally.done += 1
        return patched_values(line, behaviour, places, by, batch_size)

    chosen = tuple(order)
    firsts = chosen[:singles]
    wanted = [k for k in sorted({*sizes, len(chosen)}) if k <= min(len(chosen), max(sizes))]
    with steadily("explaining, components put back", unit="run") as tally:
        line.move(0.0)
        single = [value([place], 1.0) for place in firsts]
        inserted: list[Floats] = []
        for k in wanted:
            inserted.append(single[0] if k == 1 and single else value(chosen[:k], 1.0))
            if abs(1 - share(inserted[-1], before, after)) <= 1 - ENOUGH:
                break
        kept = wanted[: len(inserted)]
        rng, random = np.random.default_rng(seed), []
        for _ in range(draws):
            drawn = random_alike(line.components.all, chosen[: max(kept, default=0)], rng)
            random.append([value(drawn[:k], 1.0) for k in kept])
        line.move(1.0)
        left_out = [value([place], -1.0) for place in firsts]
        removed = [left_out[0] if k == 1 and left_out else value(chosen[:k], -1.0) for k in kept]
        line.move(0.0)
    n = len(behaviour)
    return Patching(
        chosen,
        np.array(kept, dtype=np.int64),
        np.array(inserted).reshape(-1, n),
        np.array(removed).reshape(-1, n),
        np.array(random).reshape(draws, -1, n),
        np.array(single).reshape(-1, n),
        np.array(left_out).reshape(-1, n),
    )


def random_alike(components: Sequence[Component], chosen: Sequence[int], rng: np.random.Generator) -> list[int]:
    """For each component chosen another of its kind: of its layer where one is left, else of another layer.

    What has no other of its kind (an embedding) has none here either.
    """
    taken, found = set(chosen), []
    for place in chosen:
        own = components[place]
        alike = [i for i, other in enumerate(components) if other.kind == own.kind and i not in taken]
        near = [i for i in alike if components[i].layer == own.layer]
        if pool := near or alike:
            found.append(int(rng.choice(pool)))
            taken.add(found[-1])
    return found
