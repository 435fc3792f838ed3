"""Does ``--steps 'adaptive N'`` bracket the change points that the whole sweep finds? Planted ones; no model is run.

    OMP_NUM_THREADS=1 python -m benchmarks.series.curves --draws 6
    OMP_NUM_THREADS=1 python -m benchmarks.series.curves --checkpoints 30 --draws 12

Steps are Pythia's: 0, 1, 2, 4 to 512, then every 1,000. Each curve has one to four changes of 60 edge scores over 16
facts, whose noise is heavy-tailed and shared by all checkpoints. A tenth of them and five are chosen. A change point of
all checkpoints is bracketed where one of the chosen ones has it between its two neighbours, and no other with it; how
far those are apart, in checkpoints of the series, is its width.
"""

import argparse

import numpy as np

from circuit_drift.sweep.adaptive import FEWEST, choose
from circuits.tracking.changepoints import Products, splits

UNITS, EDGES, DRAWS = 16, 60, 99
KINDS = {
    "anywhere": "a new circuit, at any checkpoint",
    "early": "a new circuit, even in the logarithm of the step",
    "small": "cosine of about .8 to the circuit before",
    "noisy": "scores with twice the noise of their own",
    "back": "half of the changes go back to the circuit before the last",
    "excursion": "there and back within a thirteenth to a quarter of the checkpoints",
    "near": "two changes next to one another",
    "ends": "at one of the first and one of the last three checkpoints",
    "drift": "beside a steady drift as large as the circuit",
    "growing": "scores that grow twentyfold, evenly in the logarithm of the step",
    "uneven": "steps drawn at random",
}


def steps_of(kind: str, size: int, draw: np.random.Generator) -> np.ndarray:
    """[size] steps."""
    if kind == "uneven":
        return np.append(0, np.sort(draw.choice(np.arange(1, 1000 * size), size - 1, replace=False)))
    early = min(10, size // 6)
    return np.array([0, *(2**k for k in range(early)), *range(1000, 1000 * (size - early), 1000)])


def cuts_of(kind: str, places: np.ndarray, draw: np.random.Generator) -> list[int]:
    """Where a circuit begins: positions of checkpoints, at least so many apart."""
    size = len(places)
    apart, count = (4, 1 + int(draw.integers(0, 4))) if size >= 60 else (2, 1 + int(draw.integers(0, 2)))
    if kind in ("early", "growing"):
        drawn = [int(np.abs(places - wanted).argmin()) for wanted in draw.uniform(0.5, places[-1], count)]
    elif kind in ("near", "excursion"):
        least, most = (apart, 2 * apart) if kind == "near" else (max(2, size // 13), max(3, size // 4))
        width = int(draw.integers(least, most + 1))
        begin = int(draw.integers(apart, max(apart + 1, size - width - apart)))
        drawn = [begin, begin + width]
    elif kind == "ends":
        drawn = [int(draw.integers(1, 4)), size - int(draw.integers(1, 4))]
    else:
        drawn = draw.choice(np.arange(apart, size - apart), min(count, size - 2 * apart), replace=False).tolist()
    edge = 1 if kind == "ends" else min(3, apart)
    cuts: list[int] = []
    for cut in sorted(drawn):
        if edge <= cut <= size - edge and (not cuts or cut - cuts[-1] >= apart):
            cuts.append(cut)
    return cuts


def curve(kind: str, size: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The logarithm of the steps, and the scores [16, 60] of every checkpoint."""
    draw = np.random.default_rng(seed)
    places = np.log(steps_of(kind, size, draw) + 1.0)
    cuts = cuts_of(kind, places, draw)
    patterns = [draw.standard_normal(EDGES)]
    for _ in cuts:
        fresh = draw.standard_normal(EDGES)
        back = len(patterns) > 1 and (kind == "excursion" or (kind == "back" and draw.random() < 0.5))
        patterns.append(patterns[-2] if back else patterns[-1] + 0.7 * fresh if kind == "small" else fresh)
    shared = 0.5 * draw.standard_t(4, (UNITS, EDGES))
    own = (0.3 if kind == "noisy" else 0.15) * draw.standard_normal((size, UNITS, EDGES))
    drift = (1 if kind == "drift" else 0) * np.outer(np.linspace(0, 1, size), draw.standard_normal(EDGES))
    strength = 20 ** ((places / places[-1] - 1) if kind == "growing" else np.zeros(size))
    means = np.array(patterns)[np.searchsorted(cuts, np.arange(size), "right")] + drift
    return places, [strength[i] * (means[i] + shared) + own[i] for i in range(size)]


def looked(kind: str, size: int, seed: int) -> tuple[int, list[int], int]:
    """How many change points all have, how wide the bracket of each that was found is, and what others were found."""
    places, scores = curve(kind, size, seed)
    count = size // 10 + 5
    evenly = np.linspace(0, places[-1], max(FEWEST, count // 3))  # as `circuit_drift.sweep.adaptive.start`
    first = sorted({int(np.abs(places - wanted).argmin()) for wanted in evenly})
    chosen = choose([size], count, first, lambda place: {"circuit": scores[place]})
    some = {
        (chosen[split.index - 1], chosen[split.index])
        for split in splits(Products([scores[place] for place in chosen]), draws=DRAWS)
    }
    whole = [split.index for split in splits(Products(scores), draws=DRAWS)]
    brackets = {next((pair for pair in some if pair[0] < cut <= pair[1]), None) for cut in whole} - {None}
    return len(whole), [pair[1] - pair[0] for pair in brackets if pair], len(some - brackets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=154)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    print(f"{given.checkpoints // 10 + 5} of {given.checkpoints} checkpoints, {given.draws} curves each")
    print("| changes | bracketed of those of all | others | median width |\n|---|---|---|---|")
    for kind in given.kinds:
        found = [looked(kind, given.checkpoints, seed) for seed in range(given.draws)]
        widths = [width for _, each, _ in found for width in each]
        whole, others = sum(each[0] for each in found), sum(each[2] for each in found)
        print(f"| {KINDS[kind]} | {len(widths)} of {whole} | {others} | {np.median(widths or 0):.0f} |", flush=True)


if __name__ == "__main__":
    main()
