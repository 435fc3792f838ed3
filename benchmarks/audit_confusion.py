"""How often the audit is wrong: faults of every kind planted in series that are in order.

    python benchmarks/audit_confusion.py series/first-light --draws 20
    python benchmarks/audit_confusion.py --train --draws 10 --depth samples

Each draw links the series into a scratch folder, plants one fault at a random step, and asks whether the audit names
that fault at that step. "Also named" counts other findings beside it. The unspoiled series are audited first. With
--train, short runs of four architectures are trained for it.
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
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from checkpoints import Series, open_series
from checkpoints.audit import Depth, audit

Tensors = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="*", help="folders of series known to be in order")
    parser.add_argument("--train", action="store_true", help="train short runs of four architectures, and use them")
    parser.add_argument("--draws", type=int, default=20, help="draws of each fault in each series")
    parser.add_argument("--depth", choices=("samples", "weights"), default="weights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trained = [str(train(Path(scratch) / name, name)) for name in CONFIGS] if options.train else []
        confuse([*options.series, *trained], options.draws, options.depth)


def confuse(folders: list[str], draws: int, depth: Depth) -> None:
    """Print what is found in the series as they are, and of each kind of fault planted in them."""
    rng = np.random.default_rng(0)
    print("| series | checkpoints | findings when in order |\n|---|---|---|")
    for folder in folders:
        report = audit(open_series(folder), depth=depth)
        print(f"| {report.series} | {len(report.checkpoints)} | {len(report.faults)} |")
    print("\n| planted | draws | named, with its steps | noticed at its steps | missed | also named |")
    print("|---|---|---|---|---|---|")
    for kind, plant in FAULTS.items():
        counts = np.zeros(5, int)
        for folder in folders:
            for _ in range(draws):
                counts += draw(Path(folder), kind, plant, rng, depth)
        print(f"| {kind} | " + " | ".join(map(str, counts)) + " |")


def draw(
    folder: Path, kind: str, plant: Callable[[Series, Generator], set[str]], rng: Generator, depth: Depth
) -> np.ndarray:
    """One draw: (1, named exactly, noticed, missed, other findings)."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch) / folder.name, copy_function=os.link)
        series = open_series(copy)
        wanted = plant(series, rng)
        faults = audit(open_series(copy), depth=depth).faults
        of_kind = {label for fault in faults if fault.kind == kind for label in fault.checkpoints}
        named = {label for fault in faults for label in fault.checkpoints}
        others = sum(fault.kind != kind for fault in faults)
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


def change_tokenizer(series: Series, rng: Generator) -> set[str]:
    place = int(rng.integers(len(series)))
    words = {f"w{i}": i for i in rng.permutation(50).tolist()}
    content = {"version": "1.0", "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    path = series[place].path / "tokenizer.json"
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content))
    return {series[place].label}


def reshape(series: Series, rng: Generator) -> set[str]:
    def cut(tensors: Tensors) -> None:
        name = str(rng.choice(sorted(name for name, tensor in tensors.items() if tensor.dim() > 1)))
        tensors[name] = tensors[name][:-1].clone()

    return rewrite(series, int(rng.integers(len(series))), cut)


def remove(series: Series, rng: Generator) -> set[str]:
    """Take away a checkpoint out of an evenly spaced stretch: its neighbours are named."""
    steps = [step or 0 for step in series.steps]
    even = [i for i in range(2, len(steps) - 2) if len(set(np.diff(steps[i - 2 : i + 3]).tolist())) == 1]
    place = int(rng.choice(even))
    manifest = series.path / "manifest.csv"
    if manifest.exists():
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.unlink()
        manifest.write_text("".join(line for line in lines if not line.rstrip().endswith(f",{series[place].name}")))
    shutil.rmtree(series[place].path)
    return {series[place - 1].label, series[place + 1].label}


def train(root: Path, name: str) -> Path:
    """A short real run: copying random words, with Adam; its checkpoints close together at first, then evenly apart."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            kept = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
            model.save_pretrained(root / f"checkpoint-{step}", state_dict=kept)
            words = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"w0": 0}, "unk_token": "w0"}}
            (root / f"checkpoint-{step}" / "tokenizer.json").write_text(json.dumps(words))
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 8) * (1 - 0.9 * step / STEPS[-1])
        words = torch.randint(0, 64, (8, 16))
        ids = torch.cat([words, words], dim=1)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return root


STEPS = (0, 1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112)
SMALL = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 96, "max_position_embeddings": 64}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL),
    "llama": lambda: LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SMALL, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
}
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
    "tokenizer_changed": change_tokenizer,
    "tensors_changed": reshape,
    "missing_steps": remove,
}


if __name__ == "__main__":
    main()
