"""What probes cost, as ratios measured in one run.

    python benchmarks/lab_cost.py              # both ratios, one thread, a few minutes
    python benchmarks/lab_cost.py --steps 100  # a shorter training run

1. Knowledge probes: tokens per second over all facts of the lab, against the plain forward pass over the same batches.
2. Training: seconds of probing for each second of training while a stage of the shipped recipe's continual pre-training
   is probed, with knowledge alone and with needles too: at the checkpoints of the recipe without a limit, and at every
   epoch (each person told once, which takes two steps) within 15 % of the time.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch

import circuits
import heads
from circuit_drift.lab import probes
from circuit_drift.lab.data import RowStream
from circuit_drift.lab.probing import Knowledge, Prober, Schedule, answers
from circuit_drift.lab.probing.gauges import _batches
from circuit_drift.lab.recipe import CPT_CHECKPOINTS, CPT_MIX, Recipe, Stage
from circuit_drift.lab.tokenizer import make_tokenizer
from circuit_drift.lab.train import build_model, train
from circuit_drift.lab.world import make_world
from circuit_drift.measures import RetrievalMeasure
from circuit_drift.prompts import NeedleSource

BATCH = 64


def facts_of(world, *, per_class: int) -> tuple[circuits.Fact, ...]:
    return tuple(circuits.Fact(**record) for record in probes.fact_records(world, 0, per_class=per_class))


def median_seconds(*runs: Callable[[], object], repeats: int = 7) -> list[float]:
    """Median CPU seconds of each, interleaved."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            began = time.process_time()
            run()
            taken.append(time.process_time() - began)
    return [sorted(taken)[len(taken) // 2] for taken in times]


@torch.no_grad()
def forward(model, facts) -> None:
    """The plain forward over the same batches, with logits everywhere."""
    for rows in _batches([len(prompt) for prompt in facts.clean], BATCH):
        model(input_ids=torch.tensor([facts.clean[row] for row in rows]), use_cache=False)


def knowledge_rate() -> dict[str, float]:
    world, tokenizer = make_world(0), make_tokenizer()
    model = build_model(Recipe(), tokenizer).eval()
    facts = circuits.tokenize_facts(tokenizer, facts_of(world, per_class=200))
    tokens = sum(map(len, facts.clean))
    probe, plain = median_seconds(lambda: answers(model, facts, batch_size=BATCH), lambda: forward(model, facts))
    return {
        "facts": len(facts),
        "probe_tokens_per_s": round(tokens / probe),
        "forward_tokens_per_s": round(tokens / plain),
        "ratio": round(plain / probe, 3),
    }


def steps_per_epoch(recipe: Recipe, world, tokenizer) -> int:
    """Optimizer steps in which every person of the first batch is told once: epochs of continual pre-training."""
    facts = world.batch(1)
    stream = RowStream(tokenizer, CPT_MIX, facts, random.Random(0))
    people = len({fact.person for fact in facts})
    told, steps = 0, 0
    original = stream._next_person

    def counted():
        nonlocal told
        told += 1
        return original()

    stream._next_person = counted
    while told < people:
        steps += 1
        stream.rows(recipe.tokens_per_step // 512, 512, filler=1000)
    return steps


def training_share(steps: int, *, needles: int, share: float, checkpoints: bool) -> dict[str, object]:
    """Train and probe, at the recipe's checkpoints or at every epoch, within a share of the time."""
    world, tokenizer = make_world(0), make_tokenizer()
    recipe = replace(Recipe(), rows=((0, 512),), stages=(Stage("cpt", 1, steps, 0.2, CPT_MIX, CPT_CHECKPOINTS),))
    epoch = steps_per_epoch(recipe, world, tokenizer)
    gauge = Knowledge(facts_of(world, per_class=64))
    with tempfile.TemporaryDirectory() as folder:
        prober = Prober(
            "bench",
            tokenizer,
            measures=[retrieval(needles)] if needles else [],
            gauges=[gauge],
            schedule=Schedule(every=epoch, start=False),
            share=share,
            store=folder,
        )
        for model, moment in train(recipe, world, tokenizer, every=None if checkpoints else epoch):
            prober.after_step(model, step=moment.step, force=checkpoints)
        taken = len(prober.recorder.points)
    budget = prober.budget
    return {
        "probed": "at the recipe's checkpoints" if checkpoints else f"every epoch ({epoch} steps)",
        "allowed_share": share,
        "steps": steps,
        "facts": len(gauge.facts),
        "needle_prompts": needles * 2,
        "probes": taken,
        "passed_over": len(prober.passed_over),
        "training_s": round(budget.training, 1),
        "probe_s": round(budget.spent / max(taken, 1), 3),
        "share": round(budget.used, 4),
    }


def retrieval(count: int) -> RetrievalMeasure:
    records = probes.needle_records(0, count=count)
    needles = tuple(heads.Needle(**{**r, "distractors": tuple(r["distractors"])}) for r in records)
    return RetrievalMeasure(NeedleSource(needles, probes.haystack(0), 256, (0.3, 0.7), 0, "the lab"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of the probed training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"knowledge": knowledge_rate()}))
    for needles in (0, 8):
        for checkpoints, share in ((True, 1e9), (False, 0.15)):
            row = training_share(options.steps, needles=needles, share=share, checkpoints=checkpoints)
            print(json.dumps({"training": row}), flush=True)


if __name__ == "__main__":
    main()
