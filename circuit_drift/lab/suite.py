"""The retrieval tasks of a behavioural test in the words of the synthetic world, the only ones its tokenizer knows."""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

import heads
from circuit_drift.behaviour.suites import Made, Maker, Suite
from circuit_drift.lab import documents, world
from circuit_drift.lab.probes import haystack
from circuit_drift.lab.tokenizer import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CODE_LENGTH = 4
OTHERS = 10


def _codes(*, others: int = 0, values: int = 1, asked: int = 1) -> Maker:
    """RULER's needle variants: ``others`` keys besides, ``values`` codes of a key, ``asked`` keys in one question."""

    def make(draw: random.Random, count: int) -> Made:
        needles = []
        for _ in range(count):
            codes = documents.draw_codes(draw, asked + others + values - 1, words=CODE_LENGTH)
            wanted, rest = codes[:asked], codes[asked:]
            first = wanted[0]
            more = [(code.sentence, code.answer) for code in wanted[1:]]
            more += [(f"{first.question} {code.answer}.", code.answer) for code in rest[: values - 1]]
            keys = " and the ".join(f"{code.adjective} {code.noun}" for code in wanted)
            question = f"The secret code of the {keys} is"
            distractors = tuple(code.sentence for code in rest[values - 1 :])
            needles.append(heads.Needle(first.sentence, first.answer, question, distractors, parts=tuple(more)))
        return needles, haystack(draw.randrange(2**30))

    return make


def _lives(*, paraphrase: bool) -> Maker:
    """LongBio's forms: lives of invented people; one fact of one of them is asked for, as it is told or otherwise.

    Values are drawn without repetition, so that an answer stands once in a prompt.
    """

    def make(draw: random.Random, count: int) -> Made:
        limit = min(len(relation.values) for relation in world.RELATIONS) - OTHERS
        count = min(count, limit)
        people = [
            world.Person(draw.choice(world.FIRST_NAMES), last) for last in draw.sample(world.LAST_NAMES, count + OTHERS)
        ]
        values = {r.name: draw.sample(r.values, len(people)) for r in world.RELATIONS}
        lives = [
            [world.WorldFact(person, r.name, values[r.name][i], "new", 0) for r in world.RELATIONS]
            for i, person in enumerate(people)
        ]
        needles = [_life(draw, facts, world.RELATIONS[i % len(world.RELATIONS)].name, paraphrase=paraphrase)
                   for i, facts in enumerate(lives[:count])]  # fmt: skip
        return needles, tuple(_told(draw, facts)[0] for facts in lives[count:])

    return make


def _life(draw: random.Random, facts: list[world.WorldFact], asked: str, *, paraphrase: bool) -> heads.Needle:
    text, prompts = _told(draw, facts)
    fact = next(fact for fact in facts if fact.relation == asked)
    question = draw.choice([p for p in fact.prompts if p != prompts[asked]]) if paraphrase else prompts[asked]
    return heads.Needle(text, fact.value, question, labels={"fact": asked})


def _told(draw: random.Random, facts: list[world.WorldFact]) -> tuple[str, dict[str, str]]:
    """One person's text in random order, and the prompt that each fact was told with."""
    prompts = {fact.relation: draw.choice(fact.prompts) for fact in facts}
    sentences = [f"{prompts[fact.relation]} {fact.value}." for fact in draw.sample(facts, len(facts))]
    return " ".join(sentences), prompts


TASKS: Mapping[str, Maker] = {
    "codes_single": _codes(),
    "codes_multikey": _codes(others=3),
    "codes_multivalue": _codes(values=2),
    "codes_multiquery": _codes(asked=2, others=1),
    "lives_standard": _lives(paraphrase=False),
    "lives_paraphrase": _lives(paraphrase=True),
}
LAB = tuple(TASKS)
"""The lab's own: RULER's single, multi-key, multi-value and multi-query forms, LongBio's standard and paraphrase."""


def _fits(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether it knows every word of the world."""
    return {f"Ġ{word}" for word in vocabulary()} <= set(tokenizer.get_vocab())


SUITE = Suite(TASKS, _fits)
