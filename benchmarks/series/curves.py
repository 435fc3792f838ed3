"""What share of planted change points ``--steps 'adaptive 20'`` brackets in series of 154 steps; no model is run.

    OMP_NUM_THREADS=1 python -m benchmarks.series.curves --draws 12

Steps are Pythia's. Each curve has one to four changes of 60 edge scores over 16 facts, whose noise is heavy-tailed and
shared by all checkpoints. A change is bracketed where a change point of the 20 chosen checkpoints has it between its
two neighbours; how far those are apart, in checkpoints of the series, is its width.
"""

import argparse

import numpy as np

from circuit_drift.sweep.adaptive import choose
from circuits.tracking.changepoints import Products, splits

STEPS = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
COUNT = len(STEPS) // 10 + 5
UNITS, EDGES, APART = 16, 60, 4
KINDS = {
    "anywhere": "a new circuit, at any checkpoint",
    "early": "a new circuit, even in the logarithm of the step",
    "small": "cosine of about .8 to the circuit before",
    "noisy": "scores with twice the noise of their own",
    "back": "half of the changes go back to the circuit before the last",
}


def first_looks() -> list[int]:
    """Where a sweep of so many begins: log-spaced, as `circuit_drift.sweep.adaptive.start`."""
    places = np.log(np.array(STEPS) + 1)
    return sorted({int(np.abs(places - wanted).argmin()) for wanted in np.linspace(0, places[-1], COUNT // 3)})


def curve(kind: str, seed: int) -> tuple[list[int], list[np.ndarray]]:
    """The planted changes, and the scores [16, 60] of every checkpoint."""
    draw = np.random.default_rng(seed)
    count, size = 1 + int(draw.integers(0, 4)), len(STEPS)
    if kind == "early":
        places = np.log(np.array(STEPS) + 1)
        drawn = [int(np.abs(places - wanted).argmin()) for wanted in draw.uniform(0.5, places[-1], count)]
    else:
        drawn = draw.choice(np.arange(APART, size - APART), count, replace=False).tolist()
    cuts: list[int] = []
    for cut in sorted(drawn):
        if 3 <= cut <= size - 3 and (not cuts or cut - cuts[-1] >= APART):
            cuts.append(cut)
    patterns = [draw.standard_normal(EDGES)]
    for _ in cuts:
        fresh = draw.standard_normal(EDGES)
        back = kind == "back" and len(patterns) > 1 and draw.random() < 0.5
        patterns.append(patterns[-2] if back else patterns[-1] + 0.7 * fresh if kind == "small" else fresh)
    shared = 0.5 * draw.standard_t(4, (UNITS, EDGES))
    own = (0.3 if kind == "noisy" else 0.15) * draw.standard_normal((size, UNITS, EDGES))
    return cuts, [patterns[np.searchsorted(cuts, place, "right")] + shared + own[place] for place in range(size)]


def widths(kind: str, seed: int) -> list[int | None]:
    """Of every planted change, how wide its bracket is; None where it has none."""
    cuts, scores = curve(kind, seed)
    chosen = choose([len(STEPS)], COUNT, first_looks(), lambda place: {"circuit": scores[place]})
    found = splits(Products([scores[place] for place in chosen]), draws=59)
    pairs = [(chosen[split.index - 1], chosen[split.index]) for split in found]
    return [next((b - a for a, b in pairs if a < cut <= b), None) for cut in cuts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    print(f"{COUNT} of {len(STEPS)} checkpoints\n| changes | bracketed | median width |\n|---|---|---|")
    for kind in given.kinds:
        found = [width for seed in range(given.draws) for width in widths(kind, seed)]
        known = [width for width in found if width is not None]
        print(f"| {KINDS[kind]} | {len(known)} of {len(found)} | {np.median(known):.0f} |", flush=True)


if __name__ == "__main__":
    main()
