"""How often the audit is wrong: faults of every kind planted in series that are in order.

    python benchmarks/audit_confusion.py series/first-light --draws 20

Each draw links the series into a scratch folder, plants one fault at a random step, and asks whether the audit names
that fault at that step. "Also named" counts other findings beside it. The unspoiled series are audited first.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from safetensors.torch import load_file, save_file

from checkpoints import Series, open_series
from checkpoints.audit import audit

Tensors = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="+", help="folders of series known to be in order")
    parser.add_argument("--draws", type=int, default=20, help="draws of each fault in each series")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| series | checkpoints | findings when in order |\n|---|---|---|")
    for folder in options.series:
        report = audit(open_series(folder))
        print(f"| {report.series} | {len(report.checkpoints)} | {len(report.findings)} |")
    print("\n| planted | draws | named, with its steps | noticed at its steps | missed | also named |")
    print("|---|---|---|---|---|---|")
    for kind, plant in FAULTS.items():
        counts = np.zeros(5, int)
        for folder in options.series:
            for _ in range(options.draws):
                counts += draw(Path(folder), kind, plant, rng)
        print(f"| {kind} | " + " | ".join(map(str, counts)) + " |")


def draw(folder: Path, kind: str, plant: Callable[[Series, Generator], set[str]], rng: Generator) -> np.ndarray:
    """One draw: (1, named exactly, noticed, missed, other findings)."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch) / folder.name, copy_function=os.link)
        series = open_series(copy)
        wanted = plant(series, rng)
        findings = audit(open_series(copy)).findings
        of_kind = {label for finding in findings if finding.kind == kind for label in finding.checkpoints}
        named = {label for finding in findings for label in finding.checkpoints}
        others = sum(finding.kind != kind for finding in findings)
        return np.array([1, of_kind == wanted, bool(named & wanted), not named & wanted, others])


def rewrite(series: Series, place: int, change: Callable[[Tensors], object]) -> set[str]:
    """Change one checkpoint's tensors, in a file of its own."""
    file = series[place].path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    file.unlink()
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return {series[place].label}


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps(content))


def exchange(series: Series, rng: Generator) -> set[str]:
    a, b = rng.choice(len(series), 2, replace=False)
    files = [series[int(i)].path / "model.safetensors" for i in (a, b)]
    spare = files[0].with_suffix(".spare")
    files[0].rename(spare), files[1].rename(files[0]), spare.rename(files[1])
    return {series[int(a)].label, series[int(b)].label}


def shuffle(series: Series, rng: Generator) -> set[str]:
    """Every matrix's values in another order: the weights of a run that shares nothing with this one."""

    def permute(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.flatten()[torch.from_numpy(rng.permutation(tensor.numel()))].view_as(tensor)

    return rewrite(series, int(rng.integers(len(series))), permute)


def disturb(series: Series, rng: Generator) -> set[str]:
    def add_noise(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            noise = torch.from_numpy(rng.normal(size=tuple(tensor.shape))) * tensor.float().std() * 2
            tensors[name] = (tensor.float() + noise).to(tensor.dtype) if tensor.dim() > 1 else tensor

    return rewrite(series, int(rng.integers(1, len(series) - 1)), add_noise)


def repeat(series: Series, rng: Generator) -> set[str]:
    a, b = sorted(int(i) for i in rng.choice(len(series), 2, replace=False))
    target = series[a].path / "model.safetensors"
    target.unlink()
    shutil.copy(series[b].path / "model.safetensors", target)
    return {series[a].label, series[b].label}


def copy_half(series: Series, rng: Generator) -> set[str]:
    place = int(rng.integers(len(series) - 2))
    last = load_file(series[-1].path / "model.safetensors")
    names = sorted(last)[: max(1, len(last) // 2)]
    return rewrite(series, place, lambda t: t.update({n: last[n] for n in names})) | {series[-1].label}


def a_matrix(tensors: Tensors, rng: Generator) -> torch.Tensor:
    names = sorted(name for name, tensor in tensors.items() if tensor.dim() > 1)
    return tensors[names[rng.integers(len(names))]]


def spoil(series: Series, rng: Generator) -> set[str]:
    change = lambda t: a_matrix(t, rng).view(-1)[:1].fill_(float("nan"))  # noqa: E731
    return rewrite(series, int(rng.integers(len(series))), change)


def blank(series: Series, rng: Generator) -> set[str]:
    return rewrite(series, int(rng.integers(1, len(series))), lambda t: a_matrix(t, rng).zero_())


def truncate(series: Series, rng: Generator) -> set[str]:
    place = int(rng.integers(len(series)))
    file = series[place].path / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: int(rng.integers(len(content)))])
    return {series[place].label}


def change_config(series: Series, rng: Generator) -> set[str]:
    place = int(rng.integers(len(series)))
    edit_json(series[place].path / "config.json", initializer_range=0.123)
    return {series[place].label}


def untie(series: Series, rng: Generator) -> set[str]:
    place = int(rng.integers(len(series)))
    path = series[place].path / "config.json"
    edit_json(path, tie_word_embeddings=not json.loads(path.read_text()).get("tie_word_embeddings", False))
    return {series[place].label}


def change_dtype(series: Series, rng: Generator) -> set[str]:
    change = lambda t: t.update({n: v.half() for n, v in t.items()})  # noqa: E731
    return rewrite(series, int(rng.integers(len(series))), change)


FAULTS: dict[str, Callable[[Series, Generator], set[str]]] = {
    "misplaced": exchange,
    "foreign": shuffle,
    "off_path": disturb,
    "identical": repeat,
    "copied_tensors": copy_half,
    "non_finite": spoil,
    "all_zero": blank,
    "damaged_files": truncate,
    "config_changed": change_config,
    "tie_flipped": untie,
    "dtype_changed": change_dtype,
}


if __name__ == "__main__":
    main()
