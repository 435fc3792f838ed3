"""What the shipped series knows at each checkpoint, and what eight strategies of continual pre-training do to it.

python benchmarks/lab/knowledge.py series       # ledger of the shipped series, five paraphrases a fact: 1 minute
python benchmarks/lab/knowledge.py strategies   # trains eight strategies from step 9000, some minutes on one core
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from checkpoints import open_series
from circuit_drift import knowledge
from circuit_drift.behaviour import Knowledge
from circuit_drift.lab.paraphrases import paraphrased
from circuit_drift.lab.world import make_world
from circuit_drift.replicate.knowledge_study import few_needles, study
from circuit_drift.training import probe_series
from circuit_drift.training.strategies import outcome_frame, retrieval_frame, run_all, write_comparison
from circuit_drift.training.strategies import strategies as trained_strategies


def shipped() -> None:
    world = make_world(0)
    facts = [fact for part in (world.controls[:80], world.batch(1), world.batch(2)) for fact in paraphrased(part)]
    book = knowledge.ledger(probe_series(open_series("demo"), Knowledge(tuple(facts), unit="fact")))
    columns = ["step", "mean", "known", "known_low", "known_high", "acquired", "retained", "forgotten", "noise"]
    print(book.to_frame()[columns].round(3).to_string(index=False))
    print(*book.findings, sep="\n")
    for value, part in book.by("class").items():
        print(value, json.dumps(part.outcome))


def strategies(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = study(Path(folder) / "material", seed=seed)
        began = time.process_time()
        run_all(config, Path(folder) / "out", measures=[few_needles()])
        print(f"{len(config.strategies)} strategies in {time.process_time() - began:.0f} s of CPU")
        write_comparison(Path(folder) / "out", f"strategies-{seed}.html")
        print(outcome_frame(Path(folder) / "out").round(3).to_string(index=False))
        print(retrieval_frame(Path(folder) / "out").round(3).to_string(index=False))
        for one in trained_strategies(Path(folder) / "out"):
            kept = {
                name: f"{part.outcome['known_last']}/{len(part.known)}" for name, part in one.ledger.by("class").items()
            }
            print(one.name, kept, one.divergence.sentence, sep="; ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("series", "strategies"))
    parser.add_argument("--seed", type=int, default=0, help="of the documents and their order")
    torch.set_num_threads(1)
    options = parser.parse_args()
    if options.what == "series":
        shipped()
    else:
        strategies(options.seed)


if __name__ == "__main__":
    main()
