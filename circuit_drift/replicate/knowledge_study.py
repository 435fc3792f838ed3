"""The lab's own comparison: new facts told to the shipped series, under the strategies of arXiv 2601.03858."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.results.disk import write_file
from circuit_drift.lab import probes
from circuit_drift.lab.documents import lab_documents, lab_old_documents
from circuit_drift.lab.paraphrases import paraphrased
from circuit_drift.lab.world import World, by_person, make_world
from circuit_drift.training.strategies.settings.config import Config
from circuit_drift.training.strategies.settings.documents import write_documents
from circuit_drift.training.strategies.settings.strategy import Lora, Strategy

if TYPE_CHECKING:
    from circuit_drift.lab.world import WorldFact
    from circuit_drift.measures.base import Measure

LR = 1e-3
LEARNED_CLASSES = ("new", "relation", "updated")
NEEDLES, DEPTHS, LENGTH = 8, (0.3, 0.7), 256

STRATEGIES = (
    Strategy("full", lr=LR),
    Strategy("LoRA", lr=5e-3, lora=Lora(r=8, alpha=16)),
    Strategy("annotation", lr=LR, tags=("<entity>", "</entity>")),
    Strategy("curriculum", lr=LR, documents="unlearned"),
    Strategy("KL-original", lr=LR, kl=1.0),
    Strategy("KL-previous", lr=LR, kl=1.0, kl_to="previous"),
    Strategy("main-only", lr=LR, documents="main"),
    Strategy("replay", lr=LR, replay=1.0),
)
"""The paper's strategies and replay, at learning rates for a model of this size."""
NAMES = tuple(strategy.name for strategy in STRATEGIES)


def study(
    folder: Path | str,
    names: Sequence[str] = NAMES,
    *,
    people: int = 20,
    epochs: int = 10,
    per_person: int = 4,
    seed: int = 0,
) -> Config:
    """Write documents and probes of the shipped series' first batch of new facts, and compare strategies over them.

    Every entity is a person, probed on each of the facts that training tells (or, of those known before, told) in all
    five paraphrases, one of which no document uses.

    Args:
        folder: where documents and probes are written; made if need be.
        names: which of `STRATEGIES`.
        people: of each class of prior exposure, 20 at most: new, relation, updated; and known, who never occur again,
            in replayed documents neither.
        epochs: passes over the documents.
        per_person: documents for each person, the main one among them.
        seed: of the documents and of their order.

    Raises:
        ValueError: no such strategy.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(f"there is no strategy {unknown[0]}; there are {', '.join(NAMES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world = make_world(0)
    told, known = _told(world, people), _people(world.controls, people)
    write_documents(folder / "new.jsonl", lab_documents(told, per_person=per_person, seed=seed))
    others = [fact for fact in world.controls if fact not in known]
    write_documents(folder / "old.jsonl", lab_old_documents(others, count=2 * len(by_person(told)), seed=seed))
    write_documents(folder / "text.jsonl", [d for d in lab_old_documents(others, count=80, seed=1) if d.entity is None])
    facts = (*paraphrased(told), *paraphrased(known))
    lines = "".join(json.dumps(asdict(fact)) + "\n" for fact in facts)
    write_file(folder / "facts.jsonl", lines)
    return Config(
        "demo@9000",
        folder / "new.jsonl",
        folder / "facts.jsonl",
        tuple(STRATEGIES[NAMES.index(name)] for name in names),
        replay=folder / "old.jsonl",
        text=folder / "text.jsonl",
        epochs=epochs,
        batch=16,
        entity="person",
        unit="person",
        retrieval=("gold", "entity", "all"),
        measures=("circuit",),
        seed=seed,
    )


def few_needles() -> "Measure":
    """The needle measure over a handful of the lab's own needles: a skill that no document trains."""
    import heads
    from circuit_drift.measures.heads import RetrievalMeasure
    from circuit_drift.prompts import NeedleSource

    records = probes.needle_records(0, count=NEEDLES)
    needles = tuple(heads.Needle(**{**r, "distractors": tuple(r["distractors"])}) for r in records)
    return RetrievalMeasure(NeedleSource(needles, probes.haystack(0), LENGTH, DEPTHS, 0, "the lab"))


def _told(world: World, people: int) -> "list[WorldFact]":
    """The facts of the first batch, of so many people of each class."""
    batch = world.batch(1)
    return [fact for kind in LEARNED_CLASSES for fact in _people([f for f in batch if f.kind == kind], people)]


def _people(facts: "list[WorldFact] | tuple[WorldFact, ...]", count: int) -> "list[WorldFact]":
    return [fact for person in by_person(facts)[:count] for fact in person]
