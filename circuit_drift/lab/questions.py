"""Diagnostic probes of the lab's facts: the kinds of arXiv 2601.03858, in several forms, as facts and as choices.

Kinds: ``factual``; ``rephrased``, in words that no document uses; ``entity linking``, the person described, not named;
``time-sensitive``, the value of now against the former one; ``temporal``, which of the two came first.
Forms: ``cloze``, ``paraphrase``, ``question``, ``reversed`` (from the value to the person), ``multiple choice``.

Whatever has one right continuation is a `circuits.Fact`, a clean/corrupt pair ready for circuits, and is asked by the
`Knowledge` gauge; what is right only among given options is a `Choice`, asked by the `Choices` gauge.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import circuits
from circuit_drift.behaviour.choices import Choice
from circuit_drift.lab import world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("factual", "rephrased", "entity linking", "time-sensitive", "temporal")
FORMS = ("cloze", "paraphrase", "question", "reversed", "multiple choice")
STRATA: Mapping[str, tuple[int, int]] = {"low": (1, 1), "medium": (2, 5), "high": (6, 10)}
"""Documents of a person in each stratum of frequency, as in arXiv 2502.11196: 1, 2 to 5, more than 5."""

_ASKED = {
    "birthplace": "Question: Where was {} born? Answer:",
    "employer": "Question: For whom does {} work? Answer:",
    "profession": "Question: What is the profession of {}? Answer:",
    "instrument": "Question: What instrument does {} play? Answer:",
    "hobby": "Question: What is the hobby of {}? Answer:",
}
_DESCRIBED = "The {} that comes from the city of {}"


@dataclass(frozen=True, slots=True)
class FactProbes:
    """The probes of some facts.

    Attributes:
        facts: with labels ``fact`` (the unit of the ledger), ``person``, ``relation``, ``class``, ``batch``, ``kind``,
            ``form`` and, where strata are given, ``frequency``.
        choices: with the same labels.
        refused: (probe, reason) of what cannot be asked.
    """

    facts: tuple[circuits.Fact, ...]
    choices: tuple[Choice, ...]
    refused: tuple[tuple[str, str], ...] = ()


def questions(
    facts: Sequence[world.WorldFact],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    options: int = 4,
    frequency: Mapping[str, str] | None = None,
    seed: int = 0,
) -> FactProbes:
    """Ask every fact in every kind and form that it allows.

    Args:
        facts: of the world; the people whom others are told from are taken from them.
        tokenizer: if given, probes with words that it does not know are refused.
        options: of a multiple choice.
        frequency: person -> stratum (`in_strata`).
        seed: of rivals and options.
    """
    rng = random.Random(f"questions-{seed}")
    known = _by_person(facts)
    described = Counter(name for name in map(_description, known.values()) if name)
    pairs: list[circuits.Fact] = []
    choices: list[Choice] = []
    for fact in facts:
        rivals = [one for one in facts if one.relation == fact.relation and one.value != fact.value]
        if not rivals:
            continue
        rival = rng.choice(rivals)
        about = _labels(fact, frequency)
        pairs += _statements(fact, rival, about, rng)
        pairs += _linked(fact, known, described, about, rng)
        choices += _choices(fact, rival, rivals, about, options, rng)
    return _posable(pairs, choices, tokenizer)


def _statements(
    fact: world.WorldFact, rival: world.WorldFact, about: Mapping[str, Any], rng: random.Random
) -> Iterator[circuits.Fact]:
    """The fact as its documents tell it, as none does, and as a question."""
    relation = world.RELATION[fact.relation]
    told = rng.choice(relation.templates)
    held_out = relation.held_out if fact.spare_paraphrase else None
    asked = (
        ("factual", "cloze", told.replace("{name}", "{}")),
        ("rephrased", "paraphrase", held_out.replace("{name}", "{}") if held_out else None),
        ("factual", "question", _ASKED[fact.relation]),
    )
    for kind, form, text in asked:
        if text is not None:
            clean, corrupt = (text.format(one.person.name) for one in (fact, rival))
            labels = {**about, "kind": kind, "form": form}
            yield circuits.Fact(clean, corrupt, f" {fact.value}", f" {rival.value}", labels)


def _linked(
    fact: world.WorldFact,
    known: Mapping[world.Person, Mapping[str, str]],
    described: Mapping[str, int],
    about: Mapping[str, Any],
    rng: random.Random,
) -> Iterator[circuits.Fact]:
    """The person described by profession and birthplace, where these two belong to nobody else here."""
    own = _description(known[fact.person])
    if fact.relation in ("profession", "birthplace") or own is None or described[own] > 1:
        return
    others = [
        (other, values[fact.relation])
        for person, values in known.items()
        if (other := _description(values)) and described[other] == 1 and person != fact.person
        if values.get(fact.relation, fact.value) != fact.value
    ]
    if others:
        other, value = rng.choice(others)
        asked = world.RELATION[fact.relation].templates[0].replace("{name}", "{}")
        labels = {**about, "kind": "entity linking", "form": "cloze"}
        yield circuits.Fact(asked.format(own), asked.format(other), f" {fact.value}", f" {value}", labels)


def _choices(
    fact: world.WorldFact,
    rival: world.WorldFact,
    rivals: Sequence[world.WorldFact],
    about: Mapping[str, Any],
    options: int,
    rng: random.Random,
) -> Iterator[Choice]:
    """The value among others, the person among two, and for a changed value the one of now and the order of both."""
    prompt = world.RELATION[fact.relation].templates[0].format(name=fact.person.name)
    values = sorted({one.value for one in rivals})
    wrong = rng.sample(values, min(options - 1, len(values)))
    labels = {**about, "kind": "factual"}
    yield Choice(prompt, _options(fact.value, wrong), {**labels, "form": "multiple choice"})
    names = _options(fact.person.name, [rival.person.name])
    yield Choice(f"{fact.value} is the {fact.relation} of", names, {**labels, "form": "reversed"})
    if fact.former is not None:
        labels = {**about, "form": "multiple choice"}
        yield Choice(prompt, _options(fact.value, [fact.former]), {**labels, "kind": "time-sensitive"})
        orders = _options(f"{fact.value} after {fact.former}", [f"{fact.former} after {fact.value}"])
        yield Choice(prompt, orders, {**labels, "kind": "temporal"})


def _options(right: str, wrong: Iterable[str]) -> tuple[str, ...]:
    return tuple(f" {text}" for text in (right, *wrong))


def _by_person(facts: Sequence[world.WorldFact]) -> dict[world.Person, dict[str, str]]:
    return {group[0].person: {fact.relation: fact.value for fact in group} for group in world.by_person(facts)}


def _description(values: Mapping[str, str]) -> str | None:
    if not {"profession", "birthplace"} <= values.keys():
        return None
    return _DESCRIBED.format(values["profession"], values["birthplace"])


def _labels(fact: world.WorldFact, frequency: Mapping[str, str] | None) -> dict[str, Any]:
    about: dict[str, Any] = {"fact": fact.key, "person": fact.person.name, "relation": fact.relation}
    about |= {"class": fact.kind, "batch": str(fact.batch)}
    return about | ({"frequency": frequency[fact.person.name]} if frequency else {})


def _posable(
    pairs: Sequence[circuits.Fact], choices: Sequence[Choice], tokenizer: "PreTrainedTokenizerBase | None"
) -> FactProbes:
    """All of them, or those whose every word a tokenizer knows."""
    refused: list[tuple[str, str]] = []

    def known(text: str, *parts: str) -> bool:
        if tokenizer is None or tokenizer.unk_token_id is None:
            return True
        if all(tokenizer.unk_token_id not in tokenizer(part).input_ids for part in (text, *parts)):
            return True
        refused.append((text, "the tokenizer does not know all of its words"))
        return False

    facts = tuple(fact for fact in pairs if known(fact.clean, fact.corrupt))
    kept = tuple(choice for choice in choices if known(choice.prompt, *choice.options))
    return FactProbes(facts, kept, tuple(refused))


def in_strata(facts: Sequence[world.WorldFact], *, seed: int = 0) -> dict[str, str]:
    """Person -> stratum of `STRATA`, each as often as the others in every exposure class.

    Args:
        facts: of the world.
        seed: of the choice.
    """
    rng = random.Random(f"strata-{seed}")
    people = [group[0] for group in world.by_person(facts)]
    found: dict[str, str] = {}
    for kind in dict.fromkeys(first.kind for first in people):
        names = [first.person.name for first in people if first.kind == kind]
        strata = [list(STRATA)[number % len(STRATA)] for number in range(len(names))]
        found |= dict(zip(rng.sample(names, len(names)), strata, strict=True))
    return found


def stratified_documents(
    facts: Sequence[world.WorldFact], strata: Mapping[str, str], *, seed: int = 0
) -> tuple[tuple[str, str], ...]:
    """(person, biography): as many of each person as the stratum says, in random order.

    Args:
        facts: what is told; all facts of a person in every document, so that facts share their frequency.
        strata: from `in_strata`.
        seed: of counts, paraphrases and order.
    """
    rng = random.Random(f"stratified-{seed}")
    made = []
    for group in world.by_person(facts):
        name = group[0].person.name
        count = rng.randint(*STRATA[strata[name]])
        made += [(name, _biography(rng, group)) for _ in range(count)]
    return tuple(rng.sample(made, len(made)))


def _biography(rng: random.Random, facts: Sequence[world.WorldFact]) -> str:
    return " ".join(f"{rng.choice(fact.prompts)} {fact.value}." for fact in rng.sample(list(facts), len(facts)))
