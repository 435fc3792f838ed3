"""Peak memory of rows and edges beside what a plan tells by shapes, in bfloat16, at the width of an 8B model.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=65536 python -m benchmarks.told_memory --layers 20 --methods eap eap-ig
    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=65536 python -m benchmarks.told_memory --layers 20 --methods plain heads

``plain`` is the fused forward over the same tokens as ``heads``, with logits at as many positions: the floor of rows.
Weights are random and the vocabulary small, so that as many layers as the memory holds stand for the whole. Told and
held are bytes beside the weights; the process's own memory before the model was made is no part of either.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import circuits
import heads
from benchmarks.circuits_cost import facts
from circuit_drift.sweep.by_shape import ANSWER, Workload, shape_memory, without_weights
from heads.prompts.needles import NeedlePrompt, NeedleSet

VOCABULARY = 1024
EDGES = ("eap", "eap-ig")


def config(layers: int, width: int = 4096) -> LlamaConfig:
    """Llama 3 8B's width, or another."""
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=7 * width // 2, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip


def random_model(settings: LlamaConfig) -> LlamaForCausalLM:
    """In bfloat16, frozen."""
    model: LlamaForCausalLM = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16).eval()
    return model.requires_grad_(requires_grad=False)


def needles(count: int, length: int) -> NeedleSet:
    """Random prompts of that length, each ending with tokens that stand in it before."""
    made = []
    for number, row in enumerate(np.random.default_rng(0).integers(3, VOCABULARY, (count, length)).tolist()):
        span, end = (length // 4, length // 4 + ANSWER), length - ANSWER
        ids = (*row[:end], *row[slice(*span)])
        made.append(NeedlePrompt(ids, end, (span,), (span,), (), (end - 4, end), 0.25, 0.25, number))
    return NeedleSet(tuple(made), (), length)


@torch.no_grad()
def forward(model: LlamaForCausalLM, prompts: NeedleSet) -> None:
    """One batch."""
    model(torch.tensor([prompt.ids for prompt in prompts]), use_cache=False, logits_to_keep=ANSWER)


def runs(count: int, length: int, ig_steps: int) -> dict[str, Callable[[LlamaForCausalLM], object]]:
    """What is measured, by name."""
    prompts, asked = needles(count, length), facts(count, length, VOCABULARY)
    return {
        "plain": lambda model: forward(model, prompts),
        "heads": lambda model: heads.score(model, prompts, batch_size=count),
        "eap": lambda model: circuits.attribute(model, asked, method="eap"),
        "eap-ig": lambda model: circuits.attribute(model, asked, method="eap-ig", ig_steps=ig_steps),
    }


def held_now() -> int:
    """Bytes of this process in main memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def peak() -> int:
    """Most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--ig-steps", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["eap"], help="plain, heads, eap, eap-ig: by what they take")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = without_weights(config(given.layers), "bfloat16")
    measured = runs(given.facts, given.length, given.ig_steps)
    for method in given.methods:
        measured[method](random_model(config(2, 256)))  # so that all libraries are loaded
    before = held_now()
    model = random_model(config(given.layers))
    loaded = held_now()
    print(f"weights {(loaded - before) / 2**30:.2f} GiB, made at a peak of {peak() / 2**30:.2f} GiB", flush=True)
    print("| method | told, GiB | held, GiB | processor, s |\n|---|---|---|---|")
    for method in given.methods:
        edges = given.facts if method in EDGES else 0
        asked = Workload(method, given.facts, given.length, edges, at_clean=method == "eap")
        told = shape_memory(shape, asked, cpu=True)
        start = time.process_time()
        measured[method](model)
        seconds = time.process_time() - start
        row = (told.beside + told.host) / 2**30, (peak() - loaded) / 2**30, seconds
        print(f"| {method} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
