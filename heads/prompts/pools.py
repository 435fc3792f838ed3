"""Word pools and generated prose that ship with the package, so that every probe works offline."""

import json
import random
from functools import cache
from importlib.resources import files
from typing import Any

from heads.prompts.needles import Needle

VALUE_WORDS = 10


@cache
def words() -> dict[str, list[Any]]:
    """The word pools."""
    pools: dict[str, list[Any]] = json.loads(
        files("heads.prompts").joinpath("data/words.json").read_text(encoding="utf-8")
    )
    return pools


def people(draw: random.Random, count: int) -> list[str]:
    """Different full names."""
    names = [f"{first} {last}" for first in words()["first_names"] for last in words()["last_names"]]
    return draw.sample(names, count)


def default_haystack(seed: int = 0, *, sentences: int = 3000) -> str:
    """Plain prose of generated sentences, about eleven words each, that states none of the needles' answers."""
    draw = random.Random(f"haystack/{seed}")
    pools = [words()[part] for part in ("subjects", "actions", "objects", "endings")]
    return " ".join(" ".join(draw.choice(pool) for pool in pools) + "." for _ in range(sentences))


def default_needles(seed: int = 0, *, count: int = 12) -> tuple[Needle, ...]:
    """Half RULER-style (magic words of a key), half LongBio-style (a person's trades), each with one distractor.

    Values are lists of ten words, so that no tokenizer makes fewer than ten tokens of them: a score moves in steps
    of one answer token, and a threshold of 0.1 means nothing below ten. The forms follow NVIDIA/RULER's ``niah``
    task and LongBio (arXiv 2506.02921); words and names are our own.
    """
    draw = random.Random(f"needles/{seed}")
    keys = iter(draw.sample(words()["nouns"], count + count % 2))
    names = iter(people(draw, count + count % 2))
    make = (lambda: _magic(draw, next(keys), next(keys)), lambda: _trades(draw, next(names), next(names)))
    return tuple(make[i % 2]() for i in range(count))


def _magic(draw: random.Random, key: str, other: str) -> Needle:
    chosen = draw.sample([noun for noun in words()["nouns"] if noun not in (key, other)], 2 * VALUE_WORDS)
    answer, wrong = " ".join(chosen[:VALUE_WORDS]), " ".join(chosen[VALUE_WORDS:])
    said = "The special magic words for {} are: {}."
    question = f"\nWhat are all the special magic words for {key} mentioned in the provided text? "
    question += f"The special magic words for {key} mentioned in the provided text are:"
    return Needle(said.format(key, answer), answer, question, (said.format(other, wrong),), labels={"form": "ruler"})


def _trades(draw: random.Random, name: str, other: str) -> Needle:
    chosen = draw.sample(words()["trades"], 2 * VALUE_WORDS)
    answer, wrong = ", ".join(chosen[:VALUE_WORDS]), ", ".join(chosen[VALUE_WORDS:])
    said = "In the course of a long life {} worked as a {}."
    question = f"\nQuestion: Which trades did {name} practise?\nAnswer: In the course of a long life {name} worked as a"
    return Needle(said.format(name, answer), answer, question, (said.format(other, wrong),), labels={"form": "longbio"})
