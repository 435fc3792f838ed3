"""Prior exposure: how often a reference corpus mentions an entity, or how well a model knows it; and classes."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_records, read_text
from checkpoints.results.disk import can_be
from checkpoints.tokenizers.words import is_unspaced, plain_form
from circuit_drift.benchmark.facts import Known
from circuit_drift.benchmark.probes import cloze_rows
from circuit_drift.benchmark.recipe import Recipe
from circuit_drift.benchmark.sources import Source

if TYPE_CHECKING:
    from checkpoints.loading.load import LoadedModel

EDGES = (r"(?<!\w)", r"(?!\w)")
TOLD = {"high": (6, 10), "middle": (2, 5), "low": (1, 1)}
"""How many documents an entity of each class gets (Ou et al. 2025, by how often it is told)."""


def mentions(sources: Sequence[Source], corpus: Path) -> dict[str, float]:
    """Entity -> mentions by any of its names, as whole words in their own case, in the texts of a folder or file.

    Text files and the ``text`` of JSON lines are read; a longer name that holds a shorter one counts for itself alone.
    A name may be broken over two lines, its accents be letters of their own, its apostrophe be curled; in scripts that
    put no space between words it may stand between any letters.

    Raises:
        BadPrompt: the corpus is not there, holds no text, or has a line that is none.
    """
    if not can_be(corpus) or not corpus.exists():
        raise BadPrompt(f"the reference corpus {corpus} is not there; name a folder or a file of text")
    owner: dict[str, str] = {}
    for source in sources:
        for name in source.names:
            owner.setdefault(" ".join(plain_form(name).split()), source.entity)
    pattern = re.compile("|".join(_whole(name) for name in sorted(owner, key=len, reverse=True)))
    found = {source.entity: 0.0 for source in sources}
    read = 0
    for text in _texts(corpus):
        read += 1
        for match in pattern.finditer(plain_form(text)):
            found[owner[" ".join(match.group().split())]] += 1
    if not read:
        raise BadPrompt(f"the reference corpus {corpus} holds no text; name a folder of .txt, .md or .jsonl files")
    return found


def _whole(name: str) -> str:
    """A pattern of a name that is no part of a longer word."""
    before, after = (
        "" if is_unspaced(letter) else edge for letter, edge in zip((name[0], name[-1]), EDGES, strict=True)
    )
    return before + r"\s+".join(map(re.escape, name.split())) + after


def _texts(corpus: Path) -> Iterable[str]:
    files = sorted(corpus.rglob("*")) if corpus.is_dir() else [corpus]
    for file in files:
        if file.suffix in (".txt", ".md"):
            yield read_text(file, "the reference corpus", BadPrompt)
        elif file.suffix == ".jsonl":
            for record in read_records(file, "the reference corpus"):
                if not isinstance(record.value, dict) or not isinstance(record.value.get("text"), str):
                    why = record.problem or "it needs an object with a text"
                    raise BadPrompt(f"the reference corpus, {file}, {record.where} is no text: {why}")
                yield record.value["text"]


def own_recall(facts: Sequence[Known], loaded: "LoadedModel") -> dict[str, float]:
    """Entity -> mean log probability that a model gives to each token of its facts' values, in nats."""
    from circuit_drift.behaviour.skills import forced_tokens
    from circuit_drift.measures.tokenizers import tokenizer_of
    from circuits.facts.questions import Question, tokenize_questions

    rows = cloze_rows(facts)
    asked = tokenize_questions(
        tokenizer_of(loaded), [Question(row["prompt"], row["answer"], {"entity": row["entity"]}) for row in rows]
    )
    pairs = [(list(prompt), list(answer)) for prompt, answer in zip(asked.clean, asked.answer, strict=True)]
    _, nll = forced_tokens(loaded.model, pairs)
    found: dict[str, list[float]] = {}
    for question, values in zip(asked.facts, nll, strict=True):
        found.setdefault(question.labels["entity"], []).append(-float(values.mean()))
    return {entity: float(np.mean(values)) for entity, values in found.items()}


@dataclass(frozen=True, slots=True)
class Cast:
    """Who is trained and who is not.

    Attributes:
        trained: entity -> class.
        controls: entity -> class; never trained.
        told: entity -> documents it gets.
    """

    trained: Mapping[str, str]
    controls: Mapping[str, str]
    told: Mapping[str, int]


def cast(exposure: Mapping[str, float], recipe: Recipe, barred: frozenset[str] = frozenset()) -> Cast:
    """Entities drawn from classes of prior exposure, controls alike: evenly spread over the same class.

    Args:
        exposure: entity -> prior exposure.
        recipe: how many of which classes.
        barred: who can be no control.

    Raises:
        BadPrompt: a class has too few entities.
    """
    trained: dict[str, str] = {}
    controls: dict[str, str] = {}
    classes = _classes(exposure, recipe)
    for number, (name, members) in enumerate(classes.items()):
        share = recipe.controls // len(classes) + (number < recipe.controls % len(classes))
        wanted = recipe.per_class + share
        if len(members) < wanted:
            raise BadPrompt(
                f"the class {name} has {len(members)} entities, and {wanted} are wanted ({recipe.per_class} trained, "
                f"{share} controls): lower per_class or controls, or give more documents"
            )
        drawn = random.Random(f"cast-{recipe.seed}-{name}").sample(members, wanted)
        ranked = sorted(drawn, key=lambda entity: (exposure[entity], entity))
        spread = _spread([entity for entity in ranked if entity not in barred], share)
        for entity in ranked:
            (controls if entity in spread else trained)[entity] = name
    told = {entity: _documents(entity, name, recipe) for entity, name in (*trained.items(), *controls.items())}
    return Cast(trained, controls, told)


def _spread(ranked: Sequence[str], count: int) -> set[str]:
    """So many of a ranking, as evenly spread over it as can be."""
    count = min(count, len(ranked))
    return {ranked[int((place + 0.5) * len(ranked) / count)] for place in range(count)}


def _classes(exposure: Mapping[str, float], recipe: Recipe) -> dict[str, list[str]]:
    ranked = sorted(exposure, key=lambda entity: (-exposure[entity], entity))
    if recipe.classes == "frequent-rare":
        quarter = len(ranked) // 4
        return {"frequent": ranked[:quarter], "rare": ranked[len(ranked) - quarter :]}
    if recipe.classes == "told":
        random.Random(f"told-{recipe.seed}").shuffle(ranked)
    ends = [round(len(ranked) * part / 3) for part in range(4)]
    return {name: ranked[ends[at] : ends[at + 1]] for at, name in enumerate(("high", "middle", "low"))}


def _documents(entity: str, name: str, recipe: Recipe) -> int:
    if recipe.classes != "told":
        return recipe.documents
    return random.Random(f"told-{recipe.seed}-{entity}").randint(*TOLD[name])
