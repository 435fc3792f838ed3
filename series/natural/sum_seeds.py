"""Sums up what was measured of further seeds, whose weights are not shipped: sum_seeds.py STORE SEED...

Of seed 1 these are the runs `natural-seed1` (heads) and `extended-seed1` (maps). `seeds/whole/natural-seed1` is the
track of all steps that this series has, `seeds/later/natural-seed1` that since heads retrieve; `seeds/extension.csv`
has the mean answer NLL by length, before the extension and after it.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

import circuit_drift
from checkpoints import open_series
from circuit_drift.replicate.long_context import follow, stored_maps
from circuit_drift.replicate.long_context_seeds import first_retrieves

HERE = Path(__file__).resolve().parent
SEEDS = HERE / "seeds"


def main(store: str, *seeds: str) -> None:
    """Write the two tracks of every seed, and the table of the extension of all."""
    steps = {checkpoint.step for checkpoint in open_series(HERE) if checkpoint.stage == "pretrain"}
    rows = []
    for seed in seeds:
        name = f"natural-seed{seed}"
        run = circuit_drift.load_run(store, name)
        run = replace(run, points=tuple(point for point in run if point.step in steps))
        whole = follow(run)
        whole.save(SEEDS / "whole" / name)
        follow(run, since=first_retrieves(whole)).save(SEEDS / "later" / name)
        maps, _ = stored_maps(circuit_drift.load_run(store, f"extended-seed{seed}"))
        for step, found in maps.items():
            rows += [(seed, step, int(n), round(nll, 5)) for n, nll in zip(found.rows, found.row_nll, strict=True)]
    pd.DataFrame(rows, columns=["seed", "step", "length", "answer_nll"]).to_csv(SEEDS / "extension.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
