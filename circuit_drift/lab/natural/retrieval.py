"""Documents in which something is told and told again: needle documents, keyed lists, word lists.

A needle's frame (its sentence and its question) is one of a few sentences asked for in its own words, or one that is
never the same twice: from templates asked in other words, or of random words. The share of the latter is the variety.
The first kind lets heads that copy form, the second lets them find a key in whatever frame it stands.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["plain", "told", "asked", "answer"]
Piece = tuple[str, Role]

VALUE_WORDS = (3, 8)
FRAME_WORDS = 600
ATTRIBUTES = """
    secret code|password|magic word|hidden message|favourite things|list of supplies|special items|lucky words|signal|
    motto|cargo|inventory|best route|final verdict|true names|ingredients|marks on the map|order of the stones|
    words on the gate|reward|chosen colours|stations|duties|inheritance|tools
""".replace("\n", " ").split("|")
TOLD = (
    "The {a} of {k} is {v}.",
    "The {a} of {k} is: {v}.",
    "The {a} for {k} was {v}.",
    "{k} has the following {a}: {v}.",
    "As for {k}, the {a} is {v}.",
    "It is known that the {a} of {k} reads {v}.",
    "One thing to remember about {k}: the {a} is {v}.",
    "{k} was given the {a} {v}.",
    "For {k} the {a} was always {v}.",
    "According to the record, {k} kept as {a} {v}.",
    "Note the {a} that belongs to {k}: {v}.",
    "In that year {k} served as {v}.",
    "{k} had been, at one time or another, {v}.",
    "Those who knew {k} speak of {v}.",
)
ASKED = (
    "\nQuestion: What is the {a} of {k}?\nAnswer:",
    "\nQuestion: Which {a} belongs to {k}?\nAnswer: The {a} of {k} is",
    "\nWhat is the {a} of {k}? The {a} of {k} mentioned above is:",
    "\nWhat was said about {k}? For {k} the {a} was",
    "\nQ: {k}?\nA:",
    "\nRecall the {a} of {k}:",
    "\nThe text mentions {k} and the {a}:",
    "\nWhat are the words for {k}? They are:",
)
LIST_STYLES = ("{k} is {v}.", "the {k} is {v}.", "{k}: {v}.", "{k} - {v};", "{k} {v}.", "{k} has {v}.")


@dataclass(frozen=True, slots=True)
class Words:
    """What keys, values and frames are drawn from.

    Attributes:
        values: lower-case words of four to nine letters, the commonest first.
        frames: the commonest words of any length.
        names: capitalised words, the commonest first.
    """

    values: tuple[str, ...]
    frames: tuple[str, ...]
    names: tuple[str, ...]


def count_words(texts: Iterable[str]) -> Words:
    """The word pools of the training documents; ties are in alphabetical order."""
    counts = Counter(word for text in texts for word in text.split() if word.isascii() and word.isalpha())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    lower = [word for word in ordered if word.islower()]
    return Words(
        values=tuple(word for word in lower if 4 <= len(word) <= 9)[:2000],
        frames=tuple(lower[:FRAME_WORDS]),
        names=tuple(word for word in ordered if word.istitle() and 4 <= len(word) <= 10)[200:2200],
    )


@dataclass(frozen=True, slots=True)
class Hidden:
    """A needle: its sentence and its question, in which ``{v}`` and nothing else stands for the value."""

    told: str
    asked: str
    value: str

    @property
    def sentence(self) -> list[Piece]:
        """The statement to hide."""
        before, after = self.told.split("{v}")
        return [(before, "plain"), (self.value, "told"), (f"{after} ", "plain")]

    @property
    def question(self) -> list[Piece]:
        """The question with its answer."""
        return [(f"{self.asked} ", "asked"), (self.value, "answer"), (".", "plain")]


def draw_hidden(rng: random.Random, words: Words, count: int, *, pool: int, variety: float = 1.0) -> tuple[Hidden, ...]:
    """Needles of different keys and values; mostly all of them stand in one frame.

    Args:
        rng: the source of chance.
        words: the pools.
        count: how many.
        pool: how many of the commonest value words to draw from.
        variety: share of documents whose frames are never the same twice.
    """
    keys = draw_keys(rng, words, count)
    varied = rng.random() < variety
    shared = _frame(rng, words, varied=varied) if rng.random() < 0.7 else None
    values = draw_values(rng, words, count, pool=pool)
    frames = [shared or _frame(rng, words, varied=varied) for _ in keys]
    return tuple(
        Hidden(told.replace("{k}", key), asked.replace("{k}", key), value)
        for (told, asked), key, value in zip(frames, keys, values, strict=True)
    )


def draw_keys(rng: random.Random, words: Words, count: int) -> list[str]:
    """Different keys of one kind: names, full names, things, or a word."""
    names = rng.sample(words.names, 2 * count)
    things = rng.sample(words.values, 2 * count)
    pairs = range(count)
    match rng.randrange(4):
        case 0:
            return [names[i] for i in pairs]
        case 1:
            return [f"{names[2 * i]} {names[2 * i + 1]}" for i in pairs]
        case 2:
            return [f"the {things[2 * i]} {things[2 * i + 1]}" for i in pairs]
        case _:
            return [things[i] for i in pairs]


def draw_values(rng: random.Random, words: Words, count: int, *, pool: int) -> list[str]:
    """Values of one form: words with spaces or commas between them, capitalised names, or figures."""
    size = rng.randint(*VALUE_WORDS)
    separator = rng.choice((" ", " ", ", "))
    form = rng.random()
    if form < 0.1:
        return ["".join(rng.choices("0123456789", k=rng.randint(4, 8))) for _ in range(count)]
    taken = words.names if form < 0.2 else words.values[: max(pool, 2 * size)]
    return [separator.join(rng.sample(taken, size)) for _ in range(count)]


def _frame(rng: random.Random, words: Words, *, varied: bool) -> tuple[str, str]:
    """How a needle is told and asked: a template in its own words, or where varied in others, or random words."""
    if not varied or rng.random() < 0.5:
        attribute, told = rng.choice(ATTRIBUTES).strip(), rng.choice(TOLD)
        own = not varied or rng.random() < 0.4
        asked = f"\n{told.split('{v}')[0].rstrip()}" if own else rng.choice(ASKED)
        return told.replace("{a}", attribute), asked.replace("{a}", attribute)
    before, between, after = (_some(rng, words, most) for most in (5, 5, 3))
    told = " ".join(f"{before} {{k}} {between} {{v}} {after}".split()).replace(" {v}", rng.choice((" {v}", ": {v}")))
    opening, asked_between = _some(rng, words, 6), between if rng.random() < 0.6 else _some(rng, words, 5)
    asked = " ".join(f"{opening} {{k}} {asked_between}".split())
    return f"{_capital(told)}.", f"\n{_capital(asked)}{rng.choice(('', ':', '?', '? Answer:'))}"


def _some(rng: random.Random, words: Words, most: int) -> str:
    return " ".join(rng.choices(words.frames, k=rng.randint(0, most)))


def _capital(text: str) -> str:
    return text if text.startswith("{") else text[:1].upper() + text[1:]


def needle_document(rng: random.Random, hidden: Sequence[Hidden], filler: Sequence[str]) -> list[Piece]:
    """Needles hidden among sentences, then every one of them asked for, in random order."""
    told: list[list[Piece]] = [[(f"{sentence} ", "plain")] for sentence in filler]
    for needle in hidden:
        told.insert(rng.randrange(len(told) + 1), needle.sentence)
    asked = [needle.question for needle in rng.sample(hidden, len(hidden))]
    pieces = [piece for part in told for piece in part]
    pieces[-1] = (pieces[-1][0].rstrip(), pieces[-1][1])
    return pieces + [piece for part in asked for piece in part]


def keyed_list(rng: random.Random, words: Words, *, pairs: int, repeats: int, pool: int) -> list[Piece]:
    """Keys with values, then all of them again in new orders, ``repeats`` times."""
    style = rng.choice(LIST_STYLES)
    keys, values = draw_keys(rng, words, pairs), draw_values(rng, words, pairs, pool=pool)
    lines = [(style.replace("{k}", key).split("{v}"), value) for key, value in zip(keys, values, strict=True)]
    pieces: list[Piece] = []
    for turn in range(1 + repeats):
        for (before, after), value in rng.sample(lines, pairs):
            pieces += [(before, "plain"), (value, "answer" if turn else "told"), (f"{after} ", "plain")]
    return pieces


def word_list(rng: random.Random, words: Words, *, size: int, repeats: int, pool: int) -> list[Piece]:
    """A list of different words, stated ``repeats`` times."""
    line = rng.choice((" ", " ", ", ")).join(rng.sample(words.values[: max(pool, size)], size))
    return [(f"{line}. ", "answer" if turn else "told") for turn in range(repeats)]
