"""Which attribution method agrees with the ground truth on trained models, and whose circuits are faithful.

    python benchmarks/circuits_methods.py series/first-light@20000 --facts 24

Agreement: Pearson and Spearman of mean edge scores with exact patching, and overlap of the strongest edges. Circuits:
faithfulness at a few sizes, and the distance from 1 over all (CMD, lower is better). On the facts that the checkpoint
recalls, or on all if it recalls few.
"""

import argparse

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

import circuits
from checkpoints import open_checkpoint
from circuits.pruning import prune

METHODS = {
    "EAP": {"method": "eap"},
    "clean-corrupted": {"method": "clean-corrupted"},
    "EAP-IG left 5": {"method": "eap-ig", "rule": "left"},
    "EAP-IG right 5": {"method": "eap-ig", "rule": "right"},
    "EAP-IG midpoint 5": {"method": "eap-ig"},
    "EAP-IG midpoint 20": {"method": "eap-ig", "ig_steps": 20},
    "conductance 5": {"method": "conductance"},
    "conductance 20": {"method": "conductance", "ig_steps": 20},
}
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="+", help="SERIES@STEP or checkpoint folders beside their facts.jsonl")
    parser.add_argument("--facts", type=int, default=24)
    options = parser.parse_args()
    for reference in options.checkpoint:
        table(reference, options.facts)


def table(reference: str, count: int) -> None:
    loaded = open_checkpoint(reference).load()
    every = circuits.tokenize_facts(
        loaded.tokenizer, circuits.load_facts(loaded.checkpoint.path.parent / "facts.jsonl")
    )
    known = np.flatnonzero(circuits.attribute(loaded.model, every, method="eap").answer_rank == 0)
    facts = every.subset((known if len(known) >= 8 else np.arange(len(every)))[:count].tolist())
    exact = circuits.exact_edges(loaded.model, facts, batch_size=count)
    truth = exact.mean[exact.mask]
    n = round(0.05 * len(truth))
    print(f"\n{reference}: {len(facts)} facts, {len(truth)} edges\n")
    print(f"| method | Pearson | Spearman | overlap of {n} | faithfulness at 2 / 5 / 10 % | CMD |")
    print("|---|---|---|---|---|---|")
    scored = {name: circuits.attribute(loaded.model, facts, **how) for name, how in METHODS.items()}
    for name, graph in {**scored, "exact": exact}.items():
        scores = graph.mean[graph.mask]
        agreement = pearsonr(scores, truth).statistic, spearmanr(scores, truth).statistic
        both = prune(graph.shape, graph.mean, n).mask & prune(graph.shape, exact.mean, n).mask
        curve = circuits.faithfulness_curve(loaded.model, graph, facts, shares=SHARES, n_random=0, batch_size=count)
        at = " / ".join(f"{curve.values[SHARES.index(share)]:.2f}" for share in (0.02, 0.05, 0.1))
        print(
            f"| {name} | {agreement[0]:.3f} | {agreement[1]:.3f} | {both.sum() / n:.2f} | {at} | {curve.cmd:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
