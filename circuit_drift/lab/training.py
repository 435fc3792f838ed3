"""Documents of the synthetic world for continual pre-training: biographies to learn, old text to replay."""

import random
from collections.abc import Sequence

from circuit_drift.lab import documents
from circuit_drift.lab.world import Fact, by_person
from circuit_drift.training.strategies.documents import Document


def lab_documents(facts: Sequence[Fact], *, per_person: int, seed: int = 0) -> tuple[Document, ...]:
    """Biographies of the lab's people, several each, as its own training states them.

    The main document of a person tells all of the facts once; the others tell some of them.

    Args:
        facts: of the world (`World.batch`, `World.controls`).
        per_person: documents for each person, the main one among them.
        seed: of the paraphrases.
    """
    rng = random.Random(f"documents-{seed}")
    made = []
    for person in by_person(facts):
        name = person[0].person.name
        told = " ".join(f"{rng.choice(fact.prompts)} {fact.value}." for fact in rng.sample(person, len(person)))
        made.append(Document(told, name, main=True))
        made += [Document(documents.biography(rng, person), name) for _ in range(per_person - 1)]
    return tuple(made)


def lab_old_documents(facts: Sequence[Fact], *, count: int, seed: int = 0) -> tuple[Document, ...]:
    """What to replay from the lab's pre-training: biographies and prose in turn.

    Its lists and needles are left out: their words are random, and the plain loss of continual pre-training would learn
    them by heart, to the cost of copying (the lab's own training weighs them down instead).

    Args:
        facts: what the biographies state (`World.old`).
        count: documents in all.
        seed: of all of them.
    """
    rng = random.Random(f"old-{seed}")
    people = by_person(facts)
    made = []
    for number in range(count):
        person = rng.choice(people)
        told = Document(documents.biography(rng, person), person[0].person.name)
        made.append(Document(documents.prose(rng, words=40)) if number % 2 else told)
    return tuple(made)
