"""What the shipped series knows at each checkpoint, and what five strategies of continual pre-training do to it.

python benchmarks/lab_knowledge.py series       # ledger of the shipped series, five paraphrases a fact: 1 minute
python benchmarks/lab_knowledge.py strategies   # trains five strategies from step 9000, a few minutes on one core
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from checkpoints import open_series
from circuit_drift.lab import documents, knowledge
from circuit_drift.lab.cpt import (
    Config,
    Strategy,
    comparison_frame,
    lab_documents,
    run_all,
    strategy_ledgers,
    write_documents,
)
from circuit_drift.lab.probing import Copying, Knowledge, paraphrased, probe_series, verdict
from circuit_drift.lab.world import make_world

STRATEGIES = (
    Strategy("full", lr=2e-3),
    Strategy("replay", lr=2e-3, replay=1.0),
    Strategy("kl", lr=2e-3, kl=1.0),
    Strategy("frozen", lr=2e-3, freeze=("model.embed_tokens*",)),
    Strategy("curriculum", lr=2e-3, curriculum=True),
)


def shipped() -> None:
    world = make_world(0)
    facts = [fact for part in (world.controls[:80], world.batch(1), world.batch(2)) for fact in paraphrased(part)]
    book = knowledge.ledger(probe_series(open_series("demo"), Knowledge(tuple(facts), unit="fact")))
    columns = ["step", "mean", "known", "known_low", "known_high", "acquired", "retained", "forgotten", "noise"]
    print(book.to_frame()[columns].round(3).to_string(index=False))
    print(*book.findings, sep="\n")
    for value, part in book.by("class").items():
        print(value, json.dumps(part.outcome))


def strategies(out: Path) -> None:
    world = make_world(0)
    write_documents(out / "new.jsonl", lab_documents(world.batch(1), per_person=6))
    write_documents(out / "old.jsonl", lab_documents(world.controls, per_person=4))
    facts = (*paraphrased(world.batch(1)), *paraphrased(world.controls[:100]))
    (out / "facts.jsonl").write_text("".join(json.dumps(asdict(fact)) + "\n" for fact in facts))
    config = Config(
        "demo@9000",
        out / "new.jsonl",
        out / "facts.jsonl",
        STRATEGIES,
        replay=out / "old.jsonl",
        epochs=4,
        batch=16,
        entity="person",
        unit="fact",
    )
    run_all(config, out, gauges=[Copying(words=documents.CODE_WORDS)])
    print(comparison_frame(out).round(3).to_string(index=False))
    for name, book in strategy_ledgers(out).items():
        kept = {value: f"{part.outcome['known_last']}/{len(part.known)}" for value, part in book.by("class").items()}
        print(name, kept, f"noise {book.noise.sum()} of {book.moves.acquired.sum()} acquisitions")
        print("   ", verdict(book.scores, by="class").sentence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("series", "strategies"))
    torch.set_num_threads(1)
    if parser.parse_args().what == "series":
        shipped()
    else:
        with tempfile.TemporaryDirectory() as folder:
            strategies(Path(folder))


if __name__ == "__main__":
    main()
