"""Probes of a world, in the formats that ``heads`` and ``circuits`` read, and their files in a series folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checkpoints.results.disk import write_file
from circuit_drift.lab import documents
from circuit_drift.lab.world import CLASSES, World, WorldFact

NEEDLE_WORDS = 10
HAYSTACK_WORDS = 4000

Record = dict[str, Any]


def needle_records(seed: int, *, count: int = 48, distractors: int = 2) -> tuple[Record, ...]:
    """Needles with distractors of other keys: objects with the fields of ``heads.Needle``.

    The question restates the key and ends right before the value, ten code words that stand in no distractor.
    """
    rng = random.Random(f"needles-{seed}")
    records = []
    for _ in range(count):
        asked, *others = documents.draw_codes(rng, 1 + distractors, words=NEEDLE_WORDS)
        records.append(
            {
                "needle": asked.sentence,
                "answer": asked.answer,
                "question": asked.question,
                "distractors": [other.sentence for other in others],
                "labels": {"key": f"{asked.adjective} {asked.noun}"},
            }
        )
    return tuple(records)


def haystack(seed: int) -> str:
    """Prose of many topics that holds no key, no code word and no fact."""
    rng = random.Random(f"haystack-{seed}")
    stories = (documents.prose(rng, words=60) for _ in range(HAYSTACK_WORDS // 60))
    return " ".join(stories)


def fact_records(world: World, seed: int, *, per_class: int = 16) -> tuple[Record, ...]:
    """Clean/corrupt pairs: objects with the fields of ``circuits.Fact``, ``per_class`` of each exposure class.

    The corrupt prompt names someone of the same class and batch who has another value in the same relation, and
    that value is the wrong answer. Both prompts use the same training paraphrase; half of each class (but not of
    the control group) comes from each batch of continual pre-training.
    """
    rng = random.Random(f"facts-{seed}")
    records: list[Record] = []
    for kind in CLASSES:
        pool = world.controls if kind == "known" else tuple(f for f in world.learned if f.kind == kind)
        batches = sorted({fact.batch for fact in pool})
        for batch in batches:
            records += _pairs(rng, [f for f in pool if f.batch == batch], per_class // len(batches))
    return tuple(records)


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_file(path, "".join(json.dumps(record) + "\n" for record in records))


def read_jsonl(path: Path) -> tuple[Record, ...]:
    """Read what `write_jsonl` wrote."""
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)


def _pairs(rng: random.Random, pool: list[WorldFact], count: int) -> list[Record]:
    records: list[Record] = []
    for fact in rng.sample(pool, len(pool)):
        rivals = [f for f in pool if f.relation == fact.relation and f.value != fact.value]
        if len(records) == count or not rivals:
            continue
        rival = rng.choice(rivals)
        template = rng.randrange(len(fact.prompts) - (not fact.spare_paraphrase))
        records.append(
            {
                "clean": fact.prompts[template],
                "corrupt": rival.prompts[template],
                "answer": f" {fact.value}",
                "wrong": f" {rival.value}",
                "labels": {
                    "class": fact.kind,
                    "relation": fact.relation,
                    "person": fact.person.name,
                    "template": template,
                    "batch": fact.batch,
                },
            }
        )
    return records
