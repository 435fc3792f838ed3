"""Documents of the lab: biographies, prose, word lists, keyed lists and needle documents.

Every generator takes a ``random.Random`` first and returns text in which words are separated by one space.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from circuit_drift.lab.world import WorldFact, by_person, words_of
from circuit_drift.training.strategies.settings.documents import Document

ADJECTIVES = words_of("""
    red blue green golden silver purple yellow crimson wooden copper marble velvet frozen hollow ancient
    broken painted hidden gilded rusty
""")
NOUNS = words_of("""
    lantern anchor compass hammer mirror candle ladder bottle basin helmet kettle barrel statue chalice saddle
    banner locket goblet cradle trunk bell drum shield crown wheel tablet ring mask vase clock
""")
CODE_WORDS = words_of("""
    amber coral maple raven cedar falcon onyx willow tiger meadow pepper cobalt ginger harbor ivory jasmine
    lemon mulberry nectar olive panther quartz ribbon saffron thistle umber basalt walnut yarrow zephyr acorn
    bamboo cactus daisy ember fossil garnet hazel indigo juniper kiwi lotus mango nutmeg orchid papaya quail
    radish salmon topaz urchin vanilla wasabi yucca zinnia almond beetle clover dolphin eagle fennel gecko
    heron iris jackal koala lilac magnet nickel otter pebble quince robin sable tulip velour walrus yogurt
    zebra apricot badger camel dune elm fig goose hornet ibis jade kelp lynx moth newt owl plum raccoon spruce
    trout viper wren yak basil cherry dill emerald ferret grape hyena jaguar kale lobster mint
""")

QUESTION = "The secret code of the {} {} is"
LIST_STYLES = ("{0} {1} is {2}.", "the {0} {1} is {2}.", "{1} is {2}.", "{1} {2}.")


@dataclass(frozen=True, slots=True)
class HiddenCode:
    """A needle: a key (adjective and noun) and its value of distinct code words."""

    adjective: str
    noun: str
    words: tuple[str, ...]

    @property
    def question(self) -> str:
        """The prompt that restates the key and ends right before the value."""
        return QUESTION.format(self.adjective, self.noun)

    @property
    def answer(self) -> str:
        """The value, as it stands in the sentence."""
        return " ".join(self.words)

    @property
    def sentence(self) -> str:
        """The statement to hide: question, value, full stop."""
        return f"{self.question} {self.answer}."


def draw_codes(rng: random.Random, count: int, *, words: int) -> tuple[HiddenCode, ...]:
    """Hidden codes of ``words`` code words that share no adjective, no noun and no code word."""
    adjectives = rng.sample(ADJECTIVES, count)
    nouns = rng.sample(NOUNS, count)
    codes = rng.sample(CODE_WORDS, count * words)
    return tuple(HiddenCode(adjectives[i], nouns[i], tuple(codes[i * words : (i + 1) * words])) for i in range(count))


def needle_document(rng: random.Random, codes: Sequence[HiddenCode], *, filler: int) -> str:
    """Codes hidden in about ``filler`` words of prose, then every one of them told again, in random order."""
    told = sentences(rng, words=filler)
    for code in codes:
        told.insert(rng.randrange(len(told) + 1), code.sentence)
    asked = rng.sample(codes, len(codes))
    return " ".join([*told, *(code.sentence for code in asked)])


def word_list(rng: random.Random, *, words: int, repeats: int) -> str:
    """A list of distinct code words, stated ``repeats`` times."""
    line = " ".join(rng.sample(CODE_WORDS, words))
    return " ".join([f"{line}."] * repeats)


def keyed_list(rng: random.Random, *, pairs: int, words: int, repeats: int) -> str:
    """Keys with values of ``words`` code words, then all of them again in new orders, ``repeats`` times."""
    style = rng.choice(LIST_STYLES)
    lines = [style.format(c.adjective, c.noun, c.answer) for c in draw_codes(rng, pairs, words=words)]
    return " ".join(line for _ in range(1 + repeats) for line in rng.sample(lines, len(lines)))


def biography(rng: random.Random, facts: Sequence[WorldFact]) -> str:
    """Some or all given facts of one person, in random order, each in a random training paraphrase."""
    chosen = rng.sample(list(facts), rng.randint(1, len(facts)))
    return " ".join(f"{rng.choice(fact.prompts)} {fact.value}." for fact in chosen)


@dataclass(frozen=True, slots=True)
class Topic:
    """Words that keep company in prose."""

    things: tuple[str, ...]
    verbs: tuple[str, ...]
    places: tuple[str, ...]


TOPICS = tuple(
    Topic(words_of(things), words_of(verbs), words_of(places))
    for things, verbs, places in (
        (
            "captain crew passenger fisherman gull boat ship net",
            "crossed watched reached followed left",
            "river shore island bay lighthouse pier",
        ),
        (
            "gardener neighbor child horse dog cart fence orchard",
            "trimmed planted carried found mended",
            "field barn hill valley cottage lane",
        ),
        (
            "student professor librarian visitor letter book map diary",
            "read copied opened borrowed studied",
            "library hall tower office archive school",
        ),
        (
            "merchant cook guest waiter basket bread soup plate",
            "sold served tasted bought weighed",
            "market kitchen inn square cellar street",
        ),
        (
            "traveler guide shepherd stranger lamp rope tent blanket",
            "climbed passed packed lost repaired",
            "mountain forest camp bridge road cave",
        ),
    )
)
QUALITIES = words_of("young quiet tired careful small heavy pale loyal curious narrow bright dusty")
MANNERS = words_of("slowly quickly silently gladly rarely often again alone")
MOMENTS = ("at dawn", "before noon", "after the storm", "in the evening", "late at night", "during the winter")
SENTENCES = (
    "The {quality} {thing} {verb} the {second} near the {place}.",
    "The {thing} {manner} {verb} a {quality} {second} {moment}.",
    "The {thing} {verb} the {second} and the {third} {moment}.",
    "No {thing} {verb} the {quality} {place} {moment}.",
    "Near the {place} a {quality} {thing} {manner} {verb} the {second}.",
    "The {second} of the {thing} was {quality}, but the {third} was not.",
)
LONGEST_SENTENCE = 20  # tokens, with room to spare


def sentences(rng: random.Random, *, words: int) -> list[str]:
    """Sentences on one topic, at least ``words`` words in all (none for 0)."""
    topic = rng.choice(TOPICS)
    out: list[str] = []
    count = 0
    while count < words:
        out.append(_sentence(rng, topic))
        count += len(out[-1].split()) + 1
    return out


def prose(rng: random.Random, *, words: int) -> str:
    """A small story without facts, keys or code words."""
    return " ".join(sentences(rng, words=words))


def _sentence(rng: random.Random, topic: Topic) -> str:
    thing, second, third = rng.sample(topic.things, 3)
    return rng.choice(SENTENCES).format(
        thing=thing,
        second=second,
        third=third,
        verb=rng.choice(topic.verbs),
        place=rng.choice(topic.places),
        quality=rng.choice(QUALITIES),
        moment=rng.choice(MOMENTS),
        manner=rng.choice(MANNERS),
    )


def lab_documents(facts: Sequence[WorldFact], *, per_person: int, seed: int = 0) -> tuple[Document, ...]:
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
        made += [Document(biography(rng, person), name) for _ in range(per_person - 1)]
    return tuple(made)


def lab_old_documents(facts: Sequence[WorldFact], *, count: int, seed: int = 0) -> tuple[Document, ...]:
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
        told = Document(biography(rng, person), person[0].person.name)
        made.append(Document(prose(rng, words=40)) if number % 2 else told)
    return tuple(made)
