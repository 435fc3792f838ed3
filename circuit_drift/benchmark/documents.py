"""An entity's documents: chunks of its running text, and written ones that tell its facts; one is the main one."""

import random
import re
from collections.abc import Sequence

from circuit_drift.benchmark.checks import without_duplicates
from circuit_drift.benchmark.facts import Known, states
from circuit_drift.benchmark.recipe import Recipe
from circuit_drift.benchmark.sources import Source
from circuit_drift.training.strategies import Document

SENTENCE = re.compile(r"(?<=[.!?;])\s+")


def documents_of(source: Source, facts: Sequence[Known], recipe: Recipe, *, count: int) -> list[Document]:
    """The documents of one entity, the main one first: that which tells most of its facts.

    Chunks that tell no fact are left out; where there are fewer than asked for, the others are written: each tells
    every fact once, in an order of its own, and in the next of its statements. The first written one tells all.

    Args:
        source: the entity.
        facts: of it.
        recipe: length of chunks, likeness of duplicates, seed.
        count: how many documents.
    """
    chunks = [chunk for text in source.texts for chunk in chunks_of(text, recipe.chunk)]
    telling = [(sum(states(chunk, fact.value) for fact in facts), chunk) for chunk in chunks]
    kept = [chunk for told, chunk in sorted(telling, key=lambda pair: -pair[0]) if told]
    written = _written(source.entity, facts, recipe.seed, count=count)
    texts = without_duplicates([written[0], *kept, *written[1:]], recipe.alike)[:count]
    told = [sum(states(text, fact.value) for fact in facts) for text in texts]
    main = told.index(max(told))
    order = [texts[main], *texts[:main], *texts[main + 1 :]]
    return [Document(text, source.entity, place == 0) for place, text in enumerate(order)]


def chunks_of(text: str, words: int) -> list[str]:
    """Runs of whole sentences of at most so many words; a longer sentence is cut."""
    pieces = [piece for sentence in SENTENCE.split(text) for piece in _cut(sentence.split(), words)]
    found: list[list[str]] = []
    for piece in pieces:
        if found and len(found[-1]) + len(piece) <= words:
            found[-1] += piece
        else:
            found.append(list(piece))
    return [" ".join(chunk) for chunk in found]


def _cut(words: list[str], longest: int) -> list[list[str]]:
    return [words[start : start + longest] for start in range(0, len(words), longest)]


def _written(entity: str, facts: Sequence[Known], seed: int, *, count: int) -> list[str]:
    rng = random.Random(f"documents-{seed}-{entity}")
    found = []
    for number in range(max(1, count)):
        order = rng.sample(list(facts), len(facts)) if number else list(facts)
        told = [f.form.fill(f.form.statements[number % len(f.form.statements)], entity, f.value) for f in order]
        found.append(" ".join(sentence[:1].upper() + sentence[1:] for sentence in told))
    return found
