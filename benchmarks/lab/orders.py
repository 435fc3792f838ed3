"""What training does anyway, by data orders: a checkpoint of the shipped series trained on in several of them.

    OMP_NUM_THREADS=1 python -m benchmarks.lab.orders train OUT
    OMP_NUM_THREADS=1 python -m benchmarks.lab.orders compare OUT

Each order is a series of its own under OUT. ``more`` goes on with the pre-training that ends there, at its last
learning rate; ``taught`` trains on the first batch of new facts, as the series itself did. Orders differ by the seed of
their documents alone. The series keeps no optimizer's state, so that momentum begins anew, as at every stage of it.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

import circuit_drift
from checkpoints import open_checkpoint
from circuit_drift.lab.build import save_checkpoint, write_manifest
from circuit_drift.lab.recipe import PRETRAIN_MIX, Recipe, Stage
from circuit_drift.lab.tokenizer import make_tokenizer
from circuit_drift.lab.train import Moment, Training
from circuit_drift.lab.world import make_world

SERIES = "series/first-light"
PROMPTS = ("facts.jsonl", "needles.jsonl", "haystack.txt")
RECIPE = Recipe()
LAST_RATE = RECIPE.lr_scale(RECIPE.stages[0].steps - 1)
KINDS = {
    "more": (RECIPE.stages[0], Stage("pretrain", 0, 300, LAST_RATE, PRETRAIN_MIX, (20, 150, 300))),
    "taught": RECIPE.stages[:2],
}
"""What follows the checkpoint, by name: the stage that ends with it, and the one to train."""
SHIPPED = {9020, 9300, 9600}


def train(out: Path, kinds: list[str], orders: list[int]) -> None:
    """Train every order of every kind that is not there yet."""
    loaded = open_checkpoint(f"{SERIES}@{RECIPE.stages[0].steps}").load(dtype="float32")
    weights = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    world, tokenizer = make_world(RECIPE.seed), make_tokenizer()
    for kind in kinds:
        for order in orders:
            folder = out / f"{kind}-{order}"
            if (folder / f"checkpoint-{RECIPE.stages[0].steps + KINDS[kind][1].steps}").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            for name in PROMPTS:
                shutil.copy(Path(SERIES) / name, folder)
            training = Training(replace(RECIPE, order=order, stages=KINDS[kind]), world, tokenizer)
            training.begin(1, weights)
            moments: list[Moment] = []
            for model, moment in training:
                if moment.saved:
                    save_checkpoint(folder / f"checkpoint-{moment.step}", model, tokenizer)
                    moments.append(moment)
                    print(f"{kind}, order {order}: step {moment.step}, loss {moment.loss:.3f}", flush=True)
                    write_manifest(folder / "manifest.csv", moments)


def compare(out: Path, orders: list[int], steps: list[int], store: Path) -> None:
    """Every two orders beside the others, then what the series did beside all of them, a row each."""
    print("| pair | beside | what it says first | and of the floor | called beyond |\n|---|---|---|---|---|")
    for step in steps:
        for a, b, floor in _asked(out, orders, step):
            pair = circuit_drift.diff(a, b, floor=floor, store=store, measures=["heads", "circuit"], progress=False)
            called = "yes" if pair.exceeds_floor else "no"
            told = " | ".join(pair.verdict[:2])
            print(f"| {_short(a)} and {_short(b)} | {', '.join(map(_short, floor))} | {told} | {called} |", flush=True)


def _asked(out: Path, orders: list[int], step: int) -> Iterator[tuple[str, str, list[str]]]:
    """(A, B, siblings of A): pairs of orders of ``more``, and the series from its checkpoint to the same step."""
    at = {order: f"{out}/more-{order}@{step}" for order in orders}
    for one, other in combinations(orders, 2):
        yield at[one], at[other], [at[order] for order in orders if order not in (one, other)]
    begin = RECIPE.stages[0].steps
    for end in sorted({step, 9300, 9600} & SHIPPED):
        yield f"{SERIES}@{begin}", f"{SERIES}@{end}", list(at.values())


def _short(place: str) -> str:
    return place.rpartition("/")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["train", "compare"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--orders", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", nargs="+", type=int, default=[9300], help="that orders are compared at")
    parser.add_argument("--store", type=Path, help="where results are kept; OUT/store unless given")
    given = parser.parse_args()
    if given.do == "train":
        train(given.out, given.kinds, given.orders)
    else:
        compare(given.out, given.orders, given.steps, given.store or given.out / "store")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
