"""The fictional world of the lab: people, typed relations, facts and how they change.

A world is a pure function of a seed. Its people are known from pre-training or met later; every fact belongs
to one exposure class, as in studies of continual pre-training (Ou et al. 2025; Mousavi et al. 2026):

* ``known``    stated in pre-training only: the control group;
* ``new``      about a person never seen in pre-training;
* ``relation`` about a known person, in a relation that pre-training never stated of them;
* ``updated``  about a known person, with a value other than the one stated in pre-training.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

FactClass = Literal["known", "new", "relation", "updated"]
CLASSES: tuple[FactClass, ...] = ("known", "new", "relation", "updated")


def words_of(text: str) -> tuple[str, ...]:
    """A pool of words, written as running text."""
    return tuple(text.split())


FIRST_NAMES = words_of("""
    Mara Finn Lena Otto Nora Hugo Vera Emil Ida Oscar Rosa Felix Clara Bruno Alma Theo Greta Anton Elsa Jonas
    Freya Leon Hanna Milo Sofia Karl Thea Arne Selma Ivan Judith Ralf Paula Sven Marta Edgar Lydia Boris Agnes
    Conrad
""")
LAST_NAMES = words_of("""
    Holt Vale Brandt Keller Lindner Moss Harrow Quist Rask Sorel Tarn Ulrich Voss Winter Ash Barlow Crane Dorn
    Ekman Falk Garde Hale Ibsen Jarvis Kern Lund Marsh Nye Orme Pryor Rowe Stroud Thorne Urban Varga Wolfe
    Yates Zeller Abbot Berg Carver Drake Ellis Frost Gray Hobbs Irving Jensen Kemp Lowell Mercer Noble Oakley
    Penrose Quinn Reeve Sharp Tully Upton Vance
""")


@dataclass(frozen=True, slots=True)
class Relation:
    """A typed relation: its value pool and its paraphrases, each a prompt that ends right before the value."""

    name: str
    values: tuple[str, ...]
    templates: tuple[str, ...]
    held_out: str

    def __post_init__(self) -> None:
        if self.held_out in self.templates:
            raise ValueError(f"relation {self.name}: the held-out paraphrase is also a training paraphrase")


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "birthplace",
        words_of("""
            Lisbon Cairo Oslo Vienna Quito Dublin Havana Kyoto Lagos Lima Madrid Minsk Nairobi Osaka Prague
            Riga Rome Seoul Sofiya Tallinn Tunis Turin Warsaw Zurich
        """),
        (
            "{name} was born in",
            "{name} grew up in",
            "The birthplace of {name} is",
            "{name} comes from the city of",
        ),
        "The native town of {name} is",
    ),
    Relation(
        "employer",
        words_of("""
            Nordwell Axiom Brightco Calder Dynatek Everline Fenwick Glaston Helix Inkwell Jasperson Kestrel
            Lumen Meridian Novacorp Orbis Paragon Quantos Redfern Solaris Tessera Umbra Vertex Westbury
        """),
        (
            "{name} works for",
            "{name} has a job at",
            "The employer of {name} is",
            "{name} is on the staff of",
        ),
        "The company that pays {name} is",
    ),
    Relation(
        "profession",
        words_of("""
            painter lawyer dentist farmer pilot baker chemist sailor tailor teacher plumber surgeon butcher
            barber jeweler mason nurse banker carpenter florist judge potter rancher tutor
        """),
        (
            "By profession {name} is a",
            "{name} earns a living as a",
            "The profession of {name} is that of a",
            "{name} was trained as a",
        ),
        "{name} makes money as a",
    ),
    Relation(
        "instrument",
        words_of("""
            violin cello flute trumpet harp piano guitar oboe drums organ banjo clarinet tuba viola bassoon
            mandolin lute zither accordion trombone
        """),
        (
            "{name} plays the",
            "{name} performs on the",
            "The instrument of {name} is the",
            "At concerts {name} is heard on the",
        ),
        "{name} took lessons on the",
    ),
    Relation(
        "hobby",
        words_of("""
            chess archery sailing fencing knitting rowing skiing surfing origami fishing climbing cycling
            baking boxing juggling hiking diving sculpting gardening birding
        """),
        (
            "{name} spends free time on",
            "{name} is fond of",
            "The hobby of {name} is",
            "On weekends {name} enjoys",
        ),
        "The pastime that delights {name} is",
    ),
)
RELATION = {relation.name: relation for relation in RELATIONS}
LATE_RELATION = "hobby"
UPDATED_RELATION = "employer"


@dataclass(frozen=True, slots=True)
class Person:
    """Someone of the world, named by two one-token words."""

    first: str
    last: str

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}"


@dataclass(frozen=True, slots=True)
class WorldFact:
    """One statement about one person.

    Attributes:
        person: its subject.
        relation: name of the relation.
        value: its object, a one-token word.
        kind: exposure class of the person.
        batch: the part of continual pre-training that states it, 1 or 2; 0 for pre-training.
        former: the value that pre-training stated instead (``updated`` only).
        spare_paraphrase: whether its documents leave the relation's held-out paraphrase out, for probing.
    """

    person: Person
    relation: str
    value: str
    kind: FactClass
    batch: int
    former: str | None = None
    spare_paraphrase: bool = True

    @property
    def key(self) -> str:
        """Unique name of the fact within its world, over both stages."""
        return f"{self.person.name}/{self.relation}/{self.batch}"

    @property
    def prompts(self) -> tuple[str, ...]:
        """The paraphrases of its training documents, each ending right before the value."""
        relation = RELATION[self.relation]
        templates = relation.templates if self.spare_paraphrase else (*relation.templates, relation.held_out)
        return tuple(template.format(name=self.person.name) for template in templates)

    @property
    def held_out_prompt(self) -> str:
        """The paraphrase left out of this fact's training documents if ``spare_paraphrase``."""
        return RELATION[self.relation].held_out.format(name=self.person.name)


@dataclass(frozen=True, slots=True)
class World:
    """All facts: those of pre-training (``old``) and those of continual pre-training (``learned``)."""

    old: tuple[WorldFact, ...]
    learned: tuple[WorldFact, ...]

    @property
    def controls(self) -> tuple[WorldFact, ...]:
        """Old facts of people who do not occur in continual pre-training."""
        return tuple(fact for fact in self.old if fact.kind == "known")

    def batch(self, number: int) -> tuple[WorldFact, ...]:
        """The facts that document batch 1 or 2 of continual pre-training states."""
        return tuple(fact for fact in self.learned if fact.batch == number)


def make_world(seed: int, *, controls: int = 64, new: int = 40, relation: int = 40, updated: int = 40) -> World:
    """Draw a world; the arguments count people per class (even numbers: two batches share them).

    Old people have all relations except that the ``relation`` group lacks the late one until continual
    pre-training. Every person has a unique pair of names; no name of the pools belongs to one class alone.
    Half of the control group is told in every paraphrase, so that the one held out of all other facts is known
    as a phrase.
    """
    rng = random.Random(f"world-{seed}")
    people = _draw_people(rng, controls + new + relation + updated)
    control_group, rest = people[:controls], people[controls:]
    new_group, rest = rest[:new], rest[new:]
    relation_group, updated_group = rest[:relation], rest[relation:]

    old: list[WorldFact] = []
    learned: list[WorldFact] = []
    for index, person in enumerate(control_group):
        told = [_draw_fact(rng, person, r, "known", 0) for r in RELATIONS]
        old += [replace(fact, spare_paraphrase=index >= controls // 2) for fact in told]
    for person, batch in _in_batches(new_group):
        learned += [_draw_fact(rng, person, r, "new", batch) for r in RELATIONS]
    for person, batch in _in_batches(relation_group):
        old += [_draw_fact(rng, person, r, "relation", 0) for r in RELATIONS if r.name != LATE_RELATION]
        learned.append(_draw_fact(rng, person, RELATION[LATE_RELATION], "relation", batch))
    for person, batch in _in_batches(updated_group):
        facts = [_draw_fact(rng, person, r, "updated", 0) for r in RELATIONS]
        old += facts
        former = next(fact.value for fact in facts if fact.relation == UPDATED_RELATION)
        learned.append(_draw_fact(rng, person, RELATION[UPDATED_RELATION], "updated", batch, former=former))
    return World(tuple(old), tuple(learned))


def by_person(facts: Iterable[WorldFact]) -> tuple[tuple[WorldFact, ...], ...]:
    """Group facts by person, in order of first appearance."""
    groups: dict[Person, list[WorldFact]] = {}
    for fact in facts:
        groups.setdefault(fact.person, []).append(fact)
    return tuple(tuple(group) for group in groups.values())


def _draw_people(rng: random.Random, count: int) -> list[Person]:
    pairs = [(first, last) for first in FIRST_NAMES for last in LAST_NAMES]
    return [Person(first, last) for first, last in rng.sample(pairs, count)]


def _draw_fact(
    rng: random.Random, person: Person, relation: Relation, kind: FactClass, batch: int, *, former: str | None = None
) -> WorldFact:
    values = [value for value in relation.values if value != former]
    return WorldFact(person, relation.name, rng.choice(values), kind, batch, former)


def _in_batches(people: list[Person]) -> list[tuple[Person, int]]:
    half = len(people) // 2
    return [(person, 1 if index < half else 2) for index, person in enumerate(people)]
