"""What edge attribution costs, as a multiple of the plain passes it cannot do without.

    OMP_NUM_THREADS=1 python benchmarks/circuits_cost.py            # the tables of the documentation
    python benchmarks/circuits_cost.py --cases gpt2_small --device cuda
    OMP_NUM_THREADS=1 python benchmarks/circuits_cost.py --lengths 64 256 1024 4096

The floor of EAP is one corrupt forward and one clean forward and backward; of EAP-IG with m steps two forwards and m
forward-backwards: plain transformers, fused attention, frozen parameters, logits at the last position only, gradients
down to the embeddings. Circuits at 20 sizes, from a thousandth of the edges to all of them, are held against one
circuit of 5 %, each with its clean and corrupt run: alone, and with the random circuits that they bring by default;
beside them the 22 plain forward passes that 20 sizes cannot do without.
Seconds are processor time on one CPU thread, wall time on a GPU. Memory is the growth of the peak above the loaded
model, each case in a process of its own. With --lengths: what EAP takes beyond its floor, for each of the same number
of tokens in prompts of several lengths, in batches of the same number of tokens.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, GPT2Config, LlamaConfig, PretrainedConfig

import circuits
from circuits.attribution.nodes import attribute_nodes
from circuits.attribution.positions import attribute_positions
from circuits.facts.batch import batches, logit_difference
from circuits.facts.facts import FactSet
from circuits.intervention.faithfulness_measure import faithfulness_curve
from circuits.trace.trace import forward, frozen

STEPS = 5
CASES = ("gpt2_small", "llama_gqa")
BASES = {
    "eap floor": "eap floor",
    "eap": "eap floor",
    "eap-ig floor": "eap-ig floor",
    "eap-ig": "eap-ig floor",
    "conductance": "eap-ig floor",
    "one circuit": "one circuit",
    "20 sizes": "one circuit",
    "22 plain forwards": "one circuit",
    "one circuit, random beside": "one circuit, random beside",
    "20 sizes, random beside": "one circuit, random beside",
}
SIZES = tuple(float(share) for share in np.geomspace(0.001, 1, 20))


def config(case: str, length: int) -> PretrainedConfig:
    if case == "gpt2_small":
        return GPT2Config(n_positions=max(1024, length))
    if case == "llama_gqa":
        return LlamaConfig(
            vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
            num_key_value_heads=4, max_position_embeddings=max(2048, length),
        )  # fmt: skip
    if case == "llama_gqa_2_layers":
        return LlamaConfig(
            vocab_size=1024, hidden_size=256, intermediate_size=704, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=max(2048, length),
        )  # fmt: skip
    if case == "deepseek_dense":
        return DeepseekV3Config(
            vocab_size=4096, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=8, q_lora_rank=192, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32,
            v_head_dim=64, first_k_dense_replace=4, max_position_embeddings=max(2048, length),
        )  # fmt: skip
    if case == "llama_8b":
        return LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=max(2048, length),
        )  # fmt: skip
    raise SystemExit(f"unknown case {case}")


def facts(n: int, length: int, vocab: int) -> FactSet:
    """Random pairs that differ from the second token on, so that no position can be skipped."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(5, vocab, (n, length), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 1] = (corrupt[:, 1] + 7) % vocab
    return FactSet.from_ids(clean.tolist(), corrupt.tolist(), [1] * n, [2] * n)


def floor(model: torch.nn.Module, data: FactSet, *, forwards: int, passes: int, size: int) -> None:
    """Plain passes: so many without a graph, so many with a backward to the embeddings."""
    embed = model.get_input_embeddings()

    def leaf(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_()

    with frozen(model):
        for batch in batches(data, size, model):
            for _ in range(forwards):
                with torch.no_grad():
                    forward(model, batch, batch.corrupt)
            for _ in range(passes):
                handle = embed.register_forward_hook(leaf)
                metric = logit_difference(forward(model, batch, batch.clean), batch).sum()
                handle.remove()
                metric.backward()


def plain_forwards(model: torch.nn.Module, data: FactSet, *, passes: int, size: int) -> None:
    """Plain forward passes over the clean prompts."""
    with frozen(model), torch.no_grad():
        for batch in batches(data, size, model):
            for _ in range(passes):
                forward(model, batch, batch.clean)


def job(name: str, model: torch.nn.Module, data: FactSet, size: int) -> Callable[[], object]:
    if name.endswith("floor"):
        forwards, passes = (1, 1) if name == "eap floor" else (2, STEPS)
        return lambda: floor(model, data, forwards=forwards, passes=passes, size=size)
    if name == "22 plain forwards":
        return lambda: plain_forwards(model, data, passes=22, size=size)
    if name == "eap nodes":
        return lambda: attribute_nodes(model, data, method="eap", batch_size=size)
    if name == "eap neurons":
        return lambda: attribute_nodes(model, data, method="eap", level="neurons", batch_size=size)
    if name == "eap positions":
        return lambda: attribute_positions(model, data, method="eap", batch_size=size)
    if name == "eap query heads":
        return lambda: circuits.attribute(model, data, method="eap", kv="query heads", batch_size=size)
    if BASES[name].startswith("eap"):
        return lambda: circuits.attribute(model, data, method=name, ig_steps=STEPS, batch_size=size)
    graph = circuits.attribute(model, data, method="eap", batch_size=size)
    beside = name.endswith("beside")
    if name.startswith("20"):
        options = {"shares": SIZES, "n_random": int(beside), "batch_size": size}
        return lambda: faithfulness_curve(model, graph, data, **options)
    circuit = graph.prune(round(0.05 * int(graph.mask.sum())))
    return lambda: circuits.faithfulness(model, circuit, data, n_random=3 * beside, batch_size=size)


def beside(options: argparse.Namespace, model: torch.nn.Module, data: FactSet) -> None:
    """EAP and its floor in turn, so that both meet the same load: best seconds of each, as JSON."""
    best = {"eap floor": float("inf"), "eap": float("inf")}
    for _ in range(options.repeats):
        for name in best:
            start = time.process_time()
            job(name, model, data, options.batch)()
            best[name] = min(best[name], time.process_time() - start)
    print(json.dumps({"floor": best["eap floor"], "seconds": best["eap"]}))


def measure(options: argparse.Namespace) -> None:
    """One job in this process: seconds (best) and peak growth, as JSON."""
    settings = config(options.case, options.length)
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, options.dtype)).eval()
    data = facts(options.facts, options.length, settings.vocab_size)
    if options.job == "eap beside its floor":
        beside(options, model, data)
        return
    run = job(options.job, model, data, options.batch)
    cuda = options.device == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    best = float("inf")
    for _ in range(options.repeats):
        start = clock()
        run()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    peak = (
        torch.cuda.max_memory_allocated() - held
        if cuda
        else 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    )
    print(json.dumps({"seconds": best, "mib": peak / 2**20}))


def in_a_process(
    name: str, case: str, options: argparse.Namespace, settings: dict[str, str] | None = None, **changed: int
) -> dict[str, float]:
    """Seconds and MiB of one job."""
    arguments = [sys.executable, __file__, "--job", name, "--case", case]
    for key in ("facts", "length", "batch", "repeats", "dtype", "device"):
        arguments += [f"--{key}", str(changed.get(key, getattr(options, key)))]
    environment = os.environ | (settings or {})
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout))


def mebibytes(name: str, case: str, options: argparse.Namespace, **changed: int) -> float:
    """Peak of one job in a process that gives large blocks back at once, so that the peak is what was in use."""
    found = in_a_process(name, case, options, {"MALLOC_MMAP_THRESHOLD_": "65536"}, repeats=1, **changed)
    return found["mib"]


def by_length(case: str, options: argparse.Namespace) -> None:
    """EAP less its floor, per token, relative to the shortest prompts."""
    tokens = max(options.lengths)
    print(f"\n{case}, {tokens} tokens in prompts of several lengths, {options.dtype}, {options.device}\n")
    print(
        "| length | floor, µs a token | EAP - floor, µs a token | relative | EAP - floor, MiB |\n|---|---|---|---|---|"
    )
    first = 0.0
    for length in options.lengths:
        sizes = {"length": length, "facts": tokens // length, "batch": tokens // length}
        floor, own = (mebibytes(name, case, options, **sizes) for name in ("eap floor", "eap"))
        both = in_a_process("eap beside its floor", case, options, **sizes)
        extra = (both["seconds"] - both["floor"]) / tokens * 1e6
        first = first or extra
        print(
            f"| {length} | {both['floor'] / tokens * 1e6:.0f} | {extra:.0f} | {extra / first:.2f} "
            f"| {own - floor:.0f} |",
            flush=True,
        )


def table(case: str, options: argparse.Namespace, jobs: tuple[str, ...]) -> None:
    print(f"\n{case}, {options.facts} x {options.length} tokens, {options.dtype}, {options.device}\n")
    print("| | s | x floor or one | MiB above the model | x floor or one |\n|---|---|---|---|---|")
    rows: dict[str, dict[str, float]] = {}
    for name in jobs:
        rows[name] = in_a_process(name, case, options) | {"mib": mebibytes(name, case, options)}
        base, own = rows[BASES.get(name, "eap floor")], rows[name]
        print(
            f"| {name} | {own['seconds']:.2f} | {own['seconds'] / base['seconds']:.2f} | {own['mib']:.0f} "
            f"| {own['mib'] / max(base['mib'], 1e-9):.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--jobs", nargs="+", default=tuple(BASES))
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", nargs="+", type=int, help="cost per token at several lengths instead")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        measure(options)
        return
    if options.lengths:
        by_length("llama_gqa_2_layers", options)
        return
    for case in options.cases:
        table(case, options, tuple(options.jobs))


if __name__ == "__main__":
    if "--device" not in sys.argv or "cpu" in sys.argv:
        torch.set_num_threads(1)
    main()
