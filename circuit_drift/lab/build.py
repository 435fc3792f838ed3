"""Build a checkpoint series from a seed: ``python -m circuit_drift.lab.build --seed 0 --out DIR``."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from checkpoints.errors import DriftError, StoreError
from checkpoints.files.states import read_state
from checkpoints.results.disk import draft_folder, whole_file, write_file
from checkpoints.series import manifest
from circuit_drift.lab import probes
from circuit_drift.lab.recipe import Recipe
from circuit_drift.lab.tables import live_row, measure_series, write_csv
from circuit_drift.lab.tokenizer import make_tokenizer
from circuit_drift.lab.world import World, make_world

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

    from circuit_drift.lab.train import Moment, Training

Row = dict[str, Any]
STATE_FILE = "unfinished.pt"


def build_series(recipe: Recipe, folder: Path, *, every: int = 250, needles: int = 48) -> None:
    """Train the recipe and write a whole series folder.

    Checkpoints are written as training goes on, everything measured comes from the saved bf16 files afterwards,
    and ``curve.csv`` holds the cheaper measures of the live model at multiples of ``every`` steps.
    A build that is interrupted leaves a series of the checkpoints so far and, beside them, the state of training at the
    last one: the same call goes on from there, to the same bytes. One thread is used: with more, sums would depend on
    the machine's number of cores.

    Args:
        recipe: the whole recipe.
        folder: where to write; made if need be.
        every: steps between the rows of ``curve.csv``.
        needles: how many needles the series' probes hold.

    Raises:
        StoreError: the folder holds a series already, or an unfinished one of another recipe, or cannot be written.
        DriftError: this torch cannot run the recipe.
    """
    import torch

    from circuit_drift.lab.train import Training

    _make(folder)
    what = f"{recipe} every={every} needles={needles} torch={torch.__version__}"
    kept = unfinished(folder, what)
    torch.set_num_threads(1)
    world, tokenizer = make_world(recipe.seed), make_tokenizer()
    write_probes(folder, world, recipe.seed, needles=needles)
    training = Training(recipe, world, tokenizer, every=every)
    moments, curve = _resume(training, kept)
    with tqdm(total=recipe.steps, initial=moments[-1].step if moments else 0, desc="training", unit="step") as bar:
        for model, moment in training:
            bar.update(moment.step - bar.n)
            curve.append(live_row(model, tokenizer, world, moment))
            write_csv(folder / "curve.csv", curve)
            if moment.saved:
                save_checkpoint(folder / f"checkpoint-{moment.step}", model, tokenizer)
                moments.append(moment)
                write_manifest(folder / "manifest.csv", moments)
                so_far = {"moments": list(map(asdict, moments)), "curve": curve}
                keep(folder, {"what": what, "training": training.state(), **so_far})
    measure_series(folder, world, tokenizer, moments)
    (folder / STATE_FILE).unlink()


def phase_change_curves(recipe: Recipe, seeds: Sequence[int], path: Path, *, steps: int, every: int = 100) -> None:
    """Train the beginning of the recipe for several seeds and write their curves to one CSV; no checkpoint."""
    import torch

    from circuit_drift.lab.train import train

    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in tqdm(seeds, desc="seeds"):
        world, tokenizer = make_world(seed), make_tokenizer()
        for model, moment in train(replace(recipe, seed=seed), world, tokenizer, every=every):
            if moment.step > steps:
                break
            rows.append({"seed": seed, **live_row(model, tokenizer, world, moment)})
            write_csv(path, rows)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error}") from error


def unfinished(folder: Path, what: str) -> dict[str, Any] | None:
    """The state that an interrupted build of ``what`` left, as `keep` wrote it; None where there is nothing.

    Raises:
        StoreError: the folder holds a finished series, or the beginning of another one.
    """
    if not (folder / STATE_FILE).exists():
        if (folder / "manifest.csv").exists():
            raise StoreError(f"{folder} holds a series already: name another folder, or delete it first")
        return None
    kept = read_state(folder / STATE_FILE)
    if kept["what"] != what:
        raise StoreError(
            f"{folder} holds an unfinished series of another recipe or torch: {kept['what']}; name another folder, or "
            "delete this one"
        )
    return kept


def _resume(training: Training, kept: dict[str, Any] | None) -> tuple[list[Moment], list[Row]]:
    """Put training where it was kept; the moments and the curve so far."""
    from circuit_drift.lab.train import Moment

    if kept is None:
        return [], []
    training.restore(kept["training"])
    return [Moment(**fields) for fields in kept["moments"]], kept["curve"]


def keep(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of training, and ``what`` is trained, beside its last checkpoint; at once or not at all."""
    import torch

    with whole_file(folder / STATE_FILE) as draft:
        torch.save(state, draft)


def write_probes(folder: Path, world: World, seed: int, *, needles: int) -> None:
    """Write the series' own probes: facts, needles and the text they are hidden in."""
    probes.write_jsonl(folder / "facts.jsonl", probes.fact_records(world, seed))
    probes.write_jsonl(folder / "needles.jsonl", probes.needle_records(seed, count=needles))
    write_file(folder / "haystack.txt", probes.haystack(seed) + "\n")


def save_checkpoint(path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast | None) -> None:
    """Write a bf16 copy of the model, with its tokenizer unless the series has it; whole or not at all."""
    import copy

    import torch

    with draft_folder(path) as part:
        rounded: PreTrainedModel = copy.deepcopy(model)
        torch.nn.Module.to(rounded, dtype=torch.bfloat16)
        rounded.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)


def write_manifest(path: Path, moments: Iterable[Moment]) -> None:
    """Write the manifest that `checkpoints.open_series` reads."""
    folders = ((m, path.parent / f"checkpoint-{m.step}") for m in moments)
    manifest.write_manifest(path, (manifest.ManifestRow(m.step, f, m.stage, None, m.tokens) for m, f in folders))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m circuit_drift.lab.build", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of world, weights and documents")
    parser.add_argument("--out", type=Path, required=True, help="series folder, or the CSV with --seeds")
    parser.add_argument("--seeds", type=int, nargs="+", help="train only the beginning, for each of these seeds")
    parser.add_argument("--steps", type=int, default=2000, help="length of the beginning")
    options = parser.parse_args()
    try:
        if options.seeds:
            phase_change_curves(Recipe(), options.seeds, options.out, steps=options.steps)
        else:
            build_series(Recipe(seed=options.seed), options.out)
    except DriftError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
