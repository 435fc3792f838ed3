"""Does ``--steps 'adaptive N'`` find the change points that the whole sweep finds? On a stored run of every checkpoint.

    OMP_NUM_THREADS=1 python -m benchmarks.series.adaptive STORE series/first-light

Nothing is measured: what a checkpoint would have given is read from the store of ``run SERIES``. A change point is
found where one of the chosen checkpoints brackets it, between two neighbours that were measured, and no other with it.
"""

import argparse
from pathlib import Path

from checkpoints import open_series
from checkpoints.series.selection import lines
from circuit_drift import load_run
from circuit_drift.sweep.adaptive import choose, start, values_of
from circuits import track


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("series")
    parser.add_argument("--count", type=int, help="checkpoints to choose; default: a tenth and five")
    given = parser.parse_args()
    series, run = open_series(given.series), load_run(given.store, measures=["heads", "circuit"])
    points = {point.step: point for point in run}
    steps = [checkpoint.step for checkpoint in series]
    count = given.count or len(steps) // 10 + 5
    chosen = choose(
        [len(line) for line in lines(series.checkpoints)],
        count,
        start(series, count),
        lambda place: values_of(points[steps[place]]),
    )
    whole = change_steps(points, steps)
    some = change_steps(points, [steps[place] for place in chosen])
    print(f"{len(steps)} checkpoints; change points: {told(whole)}")
    print(f"{len(chosen)} chosen: {', '.join(str(steps[place]) for place in chosen)}; change points: {told(some)}")
    found = {pair for pair in some if any(pair[0] <= before and after <= pair[1] for before, after in whole)}
    print(f"bracketed, each by itself: {len(found)} of {len(whole)}")


def change_steps(points: dict, steps: list) -> list[tuple[int, int]]:
    """The steps before and after every change point of the circuit over these checkpoints."""
    found = track([(step, points[step].circuit) for step in steps])
    return [(found.steps[split.index - 1], found.steps[split.index]) for split in found.change_points]


def told(pairs: list[tuple[int, int]]) -> str:
    return ", ".join(f"{before} to {after}" for before, after in pairs) or "none"


if __name__ == "__main__":
    main()
