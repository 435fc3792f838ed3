"""What it costs to go from one checkpoint to the next, as ratios measured in one run.

    python benchmarks/checkpoint_stream.py --checkpoints 30
    python benchmarks/checkpoint_stream.py --checkpoints 8 --family gpt_neox

A model of 125 million parameters with random weights is written once and linked under the names of a series, so that
every file is in memory and what is timed is the main thread's work, not the disk. Bare means `from_pretrained` and one
pass over all weights, without which memory-mapped ones would not have been read; with a bridge built anew means that,
then wrapped by TransformerLens as it comes. Weights in place, hooks and bridge ready is one step of the stream with
the model reused and `LoadedModel.bridge`. The measure of the sweep is one forward pass.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
)
from transformers.utils import logging

from checkpoints import Series, open_series

IDS = torch.arange(256)[None]
WIDTHS = {"vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
FAMILIES = {
    "llama": LlamaConfig(**WIDTHS, intermediate_size=2048, num_key_value_heads=4),
    "gpt2": GPT2Config(vocab_size=32000),
    "gpt_neox": GPTNeoXConfig(**WIDTHS, intermediate_size=3072),
    "mixtral": MixtralConfig(
        **WIDTHS | {"hidden_size": 512, "num_attention_heads": 8},
        intermediate_size=1024,
        num_key_value_heads=4,
        num_local_experts=4,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in (torch.bfloat16, torch.float32):
            root = Path(scratch) / f"{options.family}-{str(dtype).removeprefix('torch.')}"
            report(write_series(root, options.checkpoints, FAMILIES[options.family], dtype))


def write_series(root: Path, count: int, config: PreTrainedConfig, dtype: torch.dtype) -> Series:
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(root / "checkpoint-0")
    for step in range(1, count):
        shutil.copytree(root / "checkpoint-0", root / f"checkpoint-{step}", copy_function=os.link)
    return open_series(root)


def report(series: Series) -> None:
    timed(wrapped(series))  # warm up
    times = {
        "bare from_pretrained": timed(bare(series)),
        "with a bridge built anew": timed(wrapped(series)),
        "a fresh model": timed(series.models()),
        "the live model": timed(series.models(reuse=True)),
        "and its native bridge": timed(loaded.bridge() for loaded in series.models(reuse=True)),
        "and its stock bridge": timed(loaded.bridge("stock") for loaded in series.models(reuse=True)),
    }
    plain, anew = (np.median(times[name][1:]) for name in ("bare from_pretrained", "with a bridge built anew"))
    print(f"\n{series.name}, {len(series)} checkpoints; main thread's CPU seconds a step, median [10 %, 90 %]")
    for name, found in times.items():
        low, middle, high = np.quantile(found[1:], [0.1, 0.5, 0.9])
        print(f"  {name:<25} {middle:.3f} [{low:.3f}, {high:.3f}]   {middle / plain:.2f} x bare, {middle / anew:.2f} x "
              "bare with a bridge built anew")  # fmt: skip
    model = series[0].load().model
    compute = sum(timed(forward(model) for _ in series))
    sweep = sum(timed(forward(loaded.model) for loaded in series.models(reuse=True)))
    reading = sum(times["bare from_pretrained"])
    print(f"  sweep of one forward pass each: {sweep:.2f} s")
    print(f"  reading all: {reading:.2f} s, computing all: {compute:.2f} s")
    print(f"  {sweep / max(reading, compute):.2f} x the larger of the two")


def bare(series: Series) -> Iterator[torch.nn.Module]:
    for checkpoint in series:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
        _ = [float(parameter.detach().sum()) for parameter in model.parameters()]
        yield model


def wrapped(series: Series) -> Iterator[object]:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    for model in bare(series):
        yield build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def forward(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def timed(steps: Iterator[object], clock: Callable[[], float] = time.thread_time) -> list[float]:
    """Seconds that each step of an iterator takes; other jobs on the machine do not count."""
    times, start = [], clock()
    for _ in steps:
        times.append(clock() - start)
        start = clock()
    return times


if __name__ == "__main__":
    main()
