"""What retrieval scores cost, as ratios measured in one run.

    python benchmarks/heads_cost.py            # everything but the long case, a few minutes on one core
    python benchmarks/heads_cost.py --long     # S = 32,768 too
    python -m benchmarks.heads_cost --demo     # the demo's model and length, 48 prompts in batches of 8
    python -m benchmarks.heads_cost --prefixes 256 512 1024 2048   # shared prefixes against batches of 8; --demo too
    python benchmarks/heads_cost.py --cuda     # a Llama-3.1-8B-shaped random model at S = 65,536 in bf16

Times are medians of interleaved repeats, in CPU seconds of one thread where nothing else is said (wall seconds on a
GPU); memory is the peak of a fresh process above what it holds before the measured call. Eager attention writes its
maps to some 4 GB of fresh pages, so its time depends on what else the machine's memory is asked for: run it alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import heads
from checkpoints.model.forward import row_logits
from heads.prompts.needles import NeedlePrompt, NeedleSet

ROWS = 24
SIZE = 4096
MODEL = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
MODEL |= {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 65536}
# attention takes the share of the work here that it takes in models people train, about a quarter at S = 4096
WIDE = {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 2}


def tiny(attention: str = "sdpa", **overrides: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**(MODEL | overrides))
    return LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()


def prompts(size: int, *, depths: tuple[float, ...] = (0.5,), seed: int = 0) -> NeedleSet:
    """One haystack, one needle of ROWS tokens at several depths."""
    draw = np.random.default_rng(seed)
    hay = draw.integers(3, 4096, size - ROWS).tolist()
    hidden = draw.integers(3, 4096, ROWS).tolist()
    made = []
    for depth in depths:
        at = 1 + round(depth * (size - ROWS - 20))
        span = (at, at + ROWS)
        ids = (1, *hay[1:at], *hidden, *hay[at:], *hidden)
        made.append(NeedlePrompt(ids, size, (span,), (span,), (), (size - 10, size), depth, depth, 0))
    return NeedleSet(tuple(made), (), size)


@torch.no_grad()
def forward(model: LlamaForCausalLM, needle_set: NeedleSet, **options: bool) -> None:
    """The plain forward over the same tokens, with logits at as many positions."""
    for prompt in needle_set:
        model(torch.tensor([prompt.ids], device=model.device), use_cache=False, logits_to_keep=ROWS, **options)


def seconds(
    *runs: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Median seconds of each, interleaved, after one run of each that does not count."""
    taken = np.zeros((repeats + 1, len(runs)))
    for repeat in range(repeats + 1):
        for i, run in enumerate(runs):
            start = clock()
            run()
            taken[repeat, i] = clock() - start
    return np.median(taken[1:], axis=0).tolist()


def least(*runs: Callable[[], object], repeats: int = 9) -> list[float]:
    """Least processor seconds of each, interleaved: short runs beside other work are disturbed one way only."""
    taken = np.zeros((repeats, len(runs)))
    for repeat in range(repeats):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            taken[repeat, i] = time.process_time() - start
    return taken.min(axis=0).tolist()


def peak(run: Callable[[], object]) -> int:
    """Bytes by which a call raises the process's peak above what it holds before."""
    before = _status("VmRSS")
    run()
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def in_a_fresh_process(case: str) -> dict[str, float]:
    """A case's figures; large blocks go back to the system at once there, so that the peak is what was in use."""
    command, settings = [sys.executable, __file__, "--case", case], {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | settings)
    return json.loads(found.stdout.splitlines()[-1])


def memory(case: str) -> dict[str, float]:
    attention = {"eager": "eager"}.get(case, "sdpa")
    model, one = tiny(attention), prompts(SIZE)
    runs = {
        "plain": lambda: forward(model, one),
        "scores": lambda: heads.score(model, one),
        "eager": lambda: forward(model, one, output_attentions=True),
    }
    forward(model, prompts(256))
    heads.score(model, prompts(256))
    return {"bytes": peak(runs[case])}


def long_context() -> dict[str, float]:
    model = tiny(num_hidden_layers=4)
    start = time.process_time()
    scores = heads.score(model, prompts(32768 - ROWS))
    whole = _status("VmHWM")
    return {"seconds": time.process_time() - start, "bytes": whole, "finite": float(np.isfinite(scores.mean).all())}


def cpu(*, with_long: bool) -> dict[str, object]:
    fused, wide, one, ten = tiny(), tiny(**WIDE), prompts(SIZE), prompts(SIZE, depths=tuple(np.linspace(0, 1, 10)))
    eager = tiny("eager")
    runs = (
        lambda: forward(fused, one),
        lambda: heads.score(fused, one),
        lambda: forward(eager, one, output_attentions=True),
    )
    plain, scored, maps = seconds(*runs)
    torch.set_num_threads(2)
    plain_2, scored_2, maps_2 = seconds(*runs, clock=time.perf_counter)
    torch.set_num_threads(1)
    separate, shared = seconds(
        lambda: heads.score(wide, ten, batch_size=1),
        lambda: heads.score(wide, ten, prefix="shared"),
        repeats=1,
    )
    bytes_of = {case: in_a_fresh_process(case)["bytes"] for case in ("plain", "scores", "eager")}
    allowance = ROWS * SIZE * MODEL["num_attention_heads"] * 4
    found: dict[str, object] = {
        "plain forward, s": plain,
        "scores, s": scored,
        "scores / plain, time (<= 1.15)": scored / plain,
        "plain forward, MB": bytes_of["plain"] / 1e6,
        "scores, MB": bytes_of["scores"] / 1e6,
        "(scores - n S H 4 bytes) / plain, memory (<= 1.10)": (bytes_of["scores"] - allowance) / bytes_of["plain"],
        "eager with maps, s": maps,
        "eager with maps, MB": bytes_of["eager"] / 1e6,
        "eager with maps / scores, time (>= 8)": maps / scored,
        "two threads, wall: plain forward, s": plain_2,
        "two threads, wall: scores / plain (<= 1.15)": scored_2 / plain_2,
        "two threads, wall: eager with maps / scores (>= 8)": maps_2 / scored_2,
        "ten depths separate, s": separate,
        "ten depths shared, s": shared,
        "shared / separate, time (<= 0.65)": shared / separate,
    }
    if with_long:
        long = in_a_fresh_process("long")
        found |= {
            "S = 32,768, 4 layers, s": long["seconds"],
            "S = 32,768, whole process, GB (<= 4)": long["bytes"] / 1e9,
        }
    return found


def demo() -> dict[str, object]:
    """Checkpoint 9000 of the shipped series on needles of 256 tokens: the rows, and with detectors, of a plain pass."""
    from heads.detect.answer_rows import answer_groups
    from heads.detect.retrieval import last_layer, pad
    from heads.rows.rows import RowRequest, capture_rows

    model, few = demo_needles(256, 48)
    batches = [few.prompts[start : start + 8] for start in range(0, 48, 8)]
    padded, narrow = [pad(batch) for batch in batches], last_layer(model)

    @torch.no_grad()
    def plain() -> None:
        for ids, rows in padded:
            row_logits(model, ids, rows)

    @torch.no_grad()
    def captured() -> None:
        for batch, (ids, rows) in zip(batches, padded, strict=True):
            top = max(len(prompt.gold) for prompt in batch)
            request = RowRequest(rows, answer_groups(batch, ids.shape[1], ids.device), top=top, narrow=narrow)
            with capture_rows(model, request, lambda layer, stats: None):
                row_logits(model, ids, rows)

    alone, with_rows, scored = least(plain, captured, lambda: heads.score(model, few))
    return {
        "plain forward, s": alone,
        "rows / plain, least times (<= 1.10)": with_rows / alone,
        "scores, detectors and records included / plain": scored / alone,
    }


def prefixes(model: PreTrainedModel, needles: NeedleSet) -> float:
    """Processor time of `heads.score` in batches of 8, of that with shared prefixes."""
    batches, shared = seconds(
        lambda: heads.score(model, needles, batch_size=8),
        lambda: heads.score(model, needles, prefix="shared"),
        repeats=1,
    )
    return batches / shared


def at_five_depths(size: int) -> NeedleSet:
    """Two needles at five depths each, in prompts of so many tokens."""
    depths = tuple(np.linspace(0.1, 0.9, 5))
    one, other = prompts(size - ROWS, depths=depths), prompts(size - ROWS, depths=depths, seed=1)
    return replace(one, prompts=(*one.prompts, *(replace(prompt, needle=1) for prompt in other.prompts)))


def demo_needles(length: int, count: int) -> tuple[PreTrainedModel, NeedleSet]:
    """Checkpoint 9000 of the shipped series, and needle prompts as commands ask it."""
    from checkpoints import open_series
    from circuit_drift.measures.needles import needle_prompts_of
    from circuit_drift.prompts import prompts_for

    series = open_series("series/first-light")
    loaded = series.at(9000).load(device="cpu")
    drawn = needle_prompts_of(loaded.tokenizer, prompts_for(series.path, length=length).needles)
    return loaded.model, replace(drawn, prompts=drawn.prompts[:count])


def cuda(size: int = 65536) -> dict[str, object]:
    """Llama-3.1-8B's shape with random weights, bf16; the share of the matrix-product peak measured here."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rope_theta=500000.0,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    torch.set_default_dtype(torch.float32)
    one = prompts(size - ROWS)
    flops = 2 * 6.98e9 * size + 2 * 2 * 32 * 32 * 128 * size * size / 2
    plain, scored = _wall(lambda: forward(model, one)), _wall(lambda: heads.score(model, one))
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / _wall(lambda: square @ square, repeats=20)
    return {
        "S": size,
        "plain forward, s": plain,
        "scores, s": scored,
        "scores / plain, time": scored / plain,
        "peak memory, GB": torch.cuda.max_memory_allocated() / 1e9,
        "matrix-product peak, TFLOP/s": rate / 1e12,
        "share of that peak": flops / scored / rate,
    }


def _wall(run: Callable[[], object], repeats: int = 3) -> float:
    taken = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=["plain", "scores", "eager", "long"])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--prefixes", type=int, nargs="+", help="lengths at which prefixes are shared")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.case == "long":
        print(json.dumps(long_context()))
    elif chosen.case:
        print(json.dumps(memory(chosen.case)))
    elif chosen.prefixes:
        for size in chosen.prefixes:
            asked = demo_needles(size, 20) if chosen.demo else (tiny(), at_five_depths(size))
            print(f"batches of 8 / shared prefixes, {size:,} tokens: {prefixes(*asked):.2f}", flush=True)
    else:
        found = demo() if chosen.demo else cuda() if chosen.cuda else cpu(with_long=chosen.long)
        for name, value in found.items():
            print(f"{name:55} {value:.3f}")


if __name__ == "__main__":
    main()
