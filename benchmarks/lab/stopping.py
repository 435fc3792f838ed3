"""How often the stopping rule errs: runs that are only noise, and runs that forget, against its bounds.

python benchmarks/lab/stopping.py --runs 300     # about two minutes on one core

Noise: facts that are never taught, of the shipped series' pre-training; facts that it teaches; answers that flicker
with a fixed chance; the published run (tests/lab/fixtures) with its epochs shuffled. Forgetting: facts of the shipped
series in continual pre-training; recall that falls from 0.8 within three checkpoints. Each run draws its facts with
replacement. Saturation: recall that stands, and recall that still rises by so much per doubling, one answer in twenty
wrong by chance. Each figure is the share of runs that are stopped: of noise the false-stop rate, of forgetting and of
what stands one minus the missed-stop rate.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from circuit_drift.training.stopping import Curve

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 200
PATIENCE = 2
SIZES = (20, 100)
STEPS = tuple(int(100 * 2**i) for i in range(13))

Make = Callable[[int, np.random.Generator], np.ndarray]


def shipped() -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Recall [fact, checkpoint], what the facts are, and the steps."""
    frame = pd.read_csv(ROOT / "series/first-light/fact_recall.csv")
    table = frame.pivot(index="fact", columns="step", values="correct")
    about = frame.groupby("fact")[["class", "batch"]].first().loc[table.index]
    return table.to_numpy(dtype=float), about, table.columns.to_numpy()


def published() -> np.ndarray:
    frame = pd.read_csv(ROOT / "tests/lab/fixtures/entity_recall_llama1b_lora.csv")
    return frame.pivot(index="entity", columns="epoch", values="rouge1_recall").to_numpy(dtype=float)


def of(rows: np.ndarray) -> Make:
    return lambda n, rng: rows[rng.integers(len(rows), size=n)]


def flicker(chance: np.ndarray | float) -> Make:
    return lambda n, rng: (rng.random((n, 13)) < chance).astype(float)


def mixed(n: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.random((n, 13)) < rng.beta(0.5, 0.5, size=(n, 1))).astype(float)


def shuffled(rows: np.ndarray) -> Make:
    return lambda n, rng: rng.permuted(rows[rng.integers(len(rows), size=n)], axis=1)


def fall(size: float) -> np.ndarray:
    return np.r_[np.full(8, 0.8), 0.8 - size * np.minimum(1, np.arange(1, 6) / 2)]


def forgetting() -> dict[str, Make]:
    recall, about, steps = shipped()
    pretraining, first = steps <= 9000, (steps >= 9000) & (steps <= 9300)
    taught = (about["class"] == "known").to_numpy()
    batch = ((about["class"] != "known") & (about["batch"] == 1)).to_numpy()
    return {
        "noise: never taught (shipped)": of(recall[~taught][:, pretraining]),
        "noise: taught (shipped)": of(recall[taught][:, pretraining]),
        "noise: flicker .05": flicker(0.05),
        "noise: flicker .5": flicker(0.5),
        "noise: flicker .95": flicker(0.95),
        "noise: flicker, each its own": mixed,
        "noise: published, shuffled": shuffled(published()),
        "lost: old facts in cpt (shipped)": of(recall[taught][:, first]),
        "lost: batch 1 in batch 2 (shipped)": of(recall[batch][:, steps >= 9000]),
        "lost: .1 of .8": flicker(fall(0.1)),
        "lost: .2 of .8": flicker(fall(0.2)),
        "lost: .3 of .8": flicker(fall(0.3)),
    }


def saturating() -> dict[str, Make]:
    """Recall of facts that stay as they are but for one in twenty, or of which more and more are known."""

    def rising(slope: float) -> Make:
        def make(n: int, rng: np.random.Generator) -> np.ndarray:
            level = 0.3 + slope * np.arange(13)
            known = rng.random((n, 1)) < level
            return np.where(rng.random((n, 13)) < 0.05, ~known, known).astype(float)

        return make

    return {"stands": rising(0.0), **{f"rises {slope} a doubling": rising(slope) for slope in (0.02, 0.03, 0.05)}}


def curve_of(rows: np.ndarray, bound: float, rng: np.random.Generator) -> Curve:
    n = len(rows)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n @ rows
    steps = STEPS[: rows.shape[1]]
    return Curve("recall", steps, np.array(steps, dtype=float), rows.mean(axis=0), draws, bound)


def highest(curve: Curve, bound: float) -> bool:
    """The rule without its holding: the highest value of all, as it was before."""
    split = len(curve.steps) - PATIENCE
    if split < 1:
        return False
    best = int(curve.values[:split].argmax())
    low = np.quantile(curve.draws[:, [best]] - curve.draws[:, split:], 0.025, axis=0)
    return bool((curve.values[best] - curve.values[split:] > bound).all() and (low > 0).all())


def stopped(rows: np.ndarray, rule: Callable[[Curve], bool], bound: float, rng: np.random.Generator) -> bool:
    curve = curve_of(rows, bound, rng)
    return any(rule(curve.until(step)) for step in curve.steps)


def rates(worlds: dict[str, Make], rules: dict[str, tuple[Callable[[Curve], bool], float]], runs: int) -> pd.DataFrame:
    rows = {}
    for world, make in worlds.items():
        cells = {}
        for name, (rule, bound) in rules.items():
            shares = []
            for size in SIZES:
                rng = np.random.default_rng(0)
                shares.append(np.mean([stopped(make(size, rng), rule, bound, rng) for _ in range(runs)]))
            cells[name] = " / ".join(f"{share:.2f}" for share in shares)
        rows[world] = cells
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    held = {
        f"held {bound}": ((lambda curve, b=bound: curve.fallen_since(PATIENCE, b) is not None), 0.02)
        for bound in (0.02, 0.05, 0.1, 0.2)
    }
    print(f"stopped for forgetting, {' / '.join(map(str, SIZES))} facts, {runs} runs, bound:")
    print(rates(forgetting(), {"highest 0.02": (lambda curve: highest(curve, 0.02), 0.02), **held}, runs).to_string())
    still = {str(b): ((lambda curve: curve.still_since(PATIENCE) is not None), b) for b in (0.01, 0.02, 0.05, 0.1)}
    print(f"\nstopped for saturation, bound per doubling:\n{rates(saturating(), still, runs).to_string()}")


if __name__ == "__main__":
    main()
