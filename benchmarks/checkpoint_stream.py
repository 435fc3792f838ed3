"""What it costs to go from one checkpoint to the next, as ratios measured in one run.

    python benchmarks/checkpoint_stream.py --checkpoints 30

A Llama of 125 million parameters with random weights is written once and linked under the names of a series, so
that every file is in memory and what is timed is the main thread's work, not the disk. Bare means
`from_pretrained` and one pass over all weights, without which memory-mapped ones would not have been read. The
measure of the sweep is one forward pass.
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
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from checkpoints import Series, open_series

IDS = torch.arange(256)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in (torch.bfloat16, torch.float32):
            series = write_series(Path(scratch) / str(dtype).removeprefix("torch."), options.checkpoints, dtype)
            report(series)


def write_series(root: Path, count: int, dtype: torch.dtype) -> Series:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(root / "checkpoint-0")
    for step in range(1, count):
        shutil.copytree(root / "checkpoint-0", root / f"checkpoint-{step}", copy_function=os.link)
    return open_series(root)


def report(series: Series) -> None:
    timed(bare(series))  # warm up
    plain = timed(bare(series))
    fresh = timed(series.models())
    reused = timed(series.models(reuse=True))
    print(
        f"\nstored as {series.name}, {len(series)} checkpoints; main thread's CPU seconds a step, median [10 %, 90 %]"
    )
    for name, times in (("bare from_pretrained", plain), ("a fresh model", fresh), ("the live model", reused)):
        low, middle, high = np.quantile(times[1:], [0.1, 0.5, 0.9])
        print(f"  {name:<22} {middle:.3f} [{low:.3f}, {high:.3f}]   {middle / np.median(plain[1:]):.2f} x bare")
    model = series[0].load().model
    compute = sum(timed(forward(model) for _ in series))
    sweep = sum(timed(forward(loaded.model) for loaded in series.models(reuse=True)))
    larger = max(sum(plain), compute)
    print(f"  sweep of one forward pass each: {sweep:.2f} s")
    print(f"  reading all: {sum(plain):.2f} s, computing all: {compute:.2f} s")
    print(f"  {sweep / larger:.2f} x the larger of the two")


def bare(series: Series) -> Iterator[object]:
    for checkpoint in series:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
        yield [float(parameter.detach().sum()) for parameter in model.parameters()]


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
