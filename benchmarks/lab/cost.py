"""What probes cost, as ratios measured in one run.

    python benchmarks/lab/cost.py answers            # knowledge probes against a plain forward pass: half a minute
    python benchmarks/lab/cost.py training           # probing every epoch: one to two minutes on one thread

1. Answers of one checkpoint: prompt tokens per second of knowledge probes over all facts of the lab, against the plain
   forward pass over the same batches; and answers per second with and without shared prefixes, for prompts that begin
   with as many tokens of worked examples.
2. Training: seconds of probing for each second of training, on slices of the shipped recipe that are probed at every
   epoch, an epoch being the steps in which every person is told once. No probe is skipped. The whole recipe's share
   follows from the slices and its numbers of steps.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch

import circuits
import heads
from circuit_drift.behaviour import Copying, Knowledge, answers, panel
from circuit_drift.behaviour.packing import last_logits
from circuit_drift.lab import documents, probes
from circuit_drift.lab.data import RowStream
from circuit_drift.lab.recipe import Recipe
from circuit_drift.lab.tokenizer import make_tokenizer
from circuit_drift.lab.train import build_model, train
from circuit_drift.lab.world import make_world
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.prompts import FactSource, NeedleSource
from circuit_drift.training import Prober, Schedule

BATCH = 64
ROW = 512


def facts_of(world, *, per_class: int = 200) -> tuple[circuits.Fact, ...]:
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
def forward(model, prompts) -> None:
    """The plain forward over batches of one length, with logits everywhere."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prompt in prompts:
        by_length.setdefault(len(prompt), []).append(prompt)
    for rows in by_length.values():
        for at in range(0, len(rows), BATCH):
            model(input_ids=torch.tensor(rows[at : at + BATCH]), use_cache=False)


def drain(model, prompts, *, share: bool) -> None:
    for _ in last_logits(model, prompts, batch_size=BATCH, share=share):
        pass


def answering() -> None:
    world, tokenizer = make_world(0), make_tokenizer()
    model = build_model(Recipe(), tokenizer).eval()
    facts = circuits.tokenize_facts(tokenizer, facts_of(world))
    tokens = sum(map(len, facts.clean))
    probe, plain = median_seconds(lambda: answers(model, facts, batch_size=BATCH), lambda: forward(model, facts.clean))
    row = {"facts": len(facts), "probe_tokens_per_s": round(tokens / probe), "ratio": round(plain / probe, 2)}
    print(json.dumps({"answers": row}))
    for shots in (0, 10, 20, 40, 80):
        prompts = [(p[0], *range(10, 10 + shots), *p[1:]) for p in facts.clean[::4]]
        runs = [lambda p=prompts: forward(model, p), *(lambda p=prompts, s=s: drain(model, p, share=s) for s in (0, 1))]
        plain, alone, shared = median_seconds(*runs, repeats=3)
        row = {
            "shared_tokens": shots,
            "tokens_per_s_vs_forward": round(plain / shared, 2),
            "answers_per_s": round(len(prompts) / shared),
            "answers_per_s_unshared": round(len(prompts) / alone),
        }
        print(json.dumps({"prefixes": row}), flush=True)


def steps_per_epoch(recipe: Recipe, world, tokenizer, stage: int) -> int:
    """Optimizer steps in which every person of a stage is told once."""
    chosen = recipe.stages[stage]
    facts = world.batch(chosen.batch) if chosen.batch else world.old
    stream = RowStream(tokenizer, chosen.mix, facts, random.Random(0))
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
        stream.rows(recipe.tokens_per_step // ROW, ROW, filler=1000)
    return steps


def configurations(world) -> dict[str, dict]:
    """Every kind of measure; the lighter one leaves the circuit to the checkpoints and asks fewer facts."""
    facts = facts_of(world)
    copying = Copying(count=2, length=12, words=documents.CODE_WORDS)
    light = {"measures": [retrieval(2, length=96)], "gauges": [Knowledge(panel(facts, per_group=12)), copying]}
    circuit = CircuitMeasure(FactSource(panel(facts, per_group=2), "the lab"))
    full = {"measures": [retrieval(4, length=128), circuit], "gauges": [Knowledge(panel(facts, per_group=24)), copying]}
    return {"knowledge, skill, heads, needle PPL": light, "the same and the circuit": full}


def retrieval(count: int, *, length: int) -> RetrievalMeasure:
    records = probes.needle_records(0, count=count, distractors=1)
    needles = tuple(heads.Needle(**{**r, "distractors": tuple(r["distractors"])}) for r in records)
    return RetrievalMeasure(NeedleSource(needles, probes.haystack(0), length, (0.5,), 0, "the lab"))


def training_share(name: str, what: dict, stage: int, epochs: int) -> dict[str, object]:
    """Train a slice of a stage at full row length, and probe it at every epoch."""
    world, tokenizer = make_world(0), make_tokenizer()
    whole = Recipe()
    epoch = steps_per_epoch(whole, world, tokenizer, stage)
    slice_of = replace(whole.stages[stage], steps=epochs * epoch, checkpoints=())
    recipe = replace(whole, rows=((0, ROW),), stages=(slice_of,))
    with tempfile.TemporaryDirectory() as folder:
        prober = Prober(
            "bench", tokenizer, schedule=Schedule(every=epoch, start=False), share=math.inf, store=folder, **what
        )
        began, probing = time.process_time(), 0.0
        for model, moment in train(recipe, world, tokenizer, every=epoch):
            before = time.process_time()
            prober.after_step(model, step=moment.step)
            probing += time.process_time() - before
        spent = time.process_time() - began
        points = prober.recorder.points
    failed = [point["step"] for point in points if point["failures"]]
    return {
        "measures": name,
        "stage": slice_of.name,
        "steps_per_epoch": epoch,
        "probes": len(points),
        "skipped": len(prober.passed_over),
        "failed": len(failed),
        "training_s": round(prober.budget.training, 1),
        "probe_ms": round(1e3 * prober.budget.spent / len(points)),
        "share": round(prober.budget.used, 4),
        "share_of_cpu": round(probing / (spent - probing), 4),
    }


def training() -> None:
    shares: dict[str, dict[str, float]] = {}
    recipe = Recipe()
    for name, what in configurations(make_world(0)).items():
        for stage, epochs in ((0, 6), (1, 40)):
            row = training_share(name, what, stage, epochs)
            shares.setdefault(name, {})[str(row["stage"])] = float(row["share"])
            print(json.dumps({"training": row}), flush=True)
    steps = {stage.name: sum(s.steps for s in recipe.stages if s.name == stage.name) for stage in recipe.stages}
    for name, found in shares.items():
        whole = sum(found[stage] * count for stage, count in steps.items()) / sum(steps.values())
        print(json.dumps({"whole recipe": {"measures": name, "share": round(whole, 4)}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("answers", "training"))
    torch.set_num_threads(1)
    {"answers": answering, "training": training}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
