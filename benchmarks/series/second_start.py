"""Peak memory and time of ``circuit-drift run`` over many checkpoints whose results are all stored: the second start.

    OMP_NUM_THREADS=1 python -m benchmarks.series.second_start STORE CHECKPOINTS

STORE is one that `benchmarks.series.memory` synthesised. CHECKPOINTS is made where it is not there: a small checkpoint
for each of the run's, by whose hashes the results are linked, since a run looks at files and results, not at a model.
"""

import argparse
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.series.memory import measured
from checkpoints import Checkpoint, open_series
from circuit_drift.measures.base import Measure
from circuit_drift.measures.registry import build_measures
from circuit_drift.measures.stored import store_key
from circuit_drift.prompts import prompts_for
from circuit_drift.store.store import Store

MODEL = Path("series/first-light/checkpoint-0")
MEASURES = ("heads", "circuit")


def write_checkpoints(folder: Path, steps: list[int]) -> None:
    """Copies of one small checkpoint, each with a weight of its own."""
    tensors = load_file(MODEL / "model.safetensors")
    name = min(tensors)
    for place, step in enumerate(steps):
        own = folder / f"checkpoint-{step}"
        shutil.copytree(MODEL, own)
        changed = tensors[name].clone()
        changed.view(-1)[0] = place / 1024
        save_file({**tensors, name: changed}, own / "model.safetensors", metadata={"format": "pt"})


def link_results(store: Store, folder: Path) -> None:
    """Put the synthetic results where a run of these checkpoints looks for them."""
    series = open_series(folder)
    points = store.read_run("synthetic")["points"]
    measures = build_measures(prompts_for(series.path), MEASURES, next(iter(series)))
    for checkpoint, point in zip(series, points, strict=True):
        for measure in measures:
            _link(store, checkpoint, store.folder(measure.name, point["keys"][measure.name]), measure)


def _link(store: Store, checkpoint: Checkpoint, result: Path, measure: Measure) -> None:
    place = store.folder(measure.name, store_key(checkpoint, measure, "float32"))
    place.mkdir(parents=True, exist_ok=True)
    for file in result.iterdir():
        if not (place / file.name).exists():
            os.link(file, place / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("checkpoints", type=Path)
    given = parser.parse_args()
    store = Store.existing(given.store)
    if not given.checkpoints.is_dir():
        steps = [point["step"] for point in store.read_run("synthetic")["points"]]
        write_checkpoints(given.checkpoints, steps)
        link_results(store, given.checkpoints)
    before = len(list(store.results()))
    output = given.store / "output.txt"
    asked = [str(given.checkpoints), "--store", str(given.store), "--measures", ",".join(MEASURES)]
    status, wall, processor, peak = measured(["-m", "circuit_drift.cli", "run", *asked], output)
    if status or len(list(store.results())) > before:
        raise RuntimeError(f"run ended with {status}, or measured what was stored: {output.read_text()[-2000:]}")
    print(f"run, all stored: wall {wall:.1f} s, processor {processor:.1f} s, peak {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
