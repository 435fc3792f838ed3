"""Probes for retrieval, generated offline from a seed: needles with the haystack they belong to.

Forms follow the tasks they are named after; words, names and sentences are our own. `Probe.prompts` builds token ids
with exact spans for any tokenizer, length and depth.
"""

import random
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from heads.prompts.building import needle_prompts
from heads.prompts.needles import Needle, NeedleSet
from heads.prompts.pools import default_haystack, people, words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNITS = 1500


@dataclass(frozen=True, slots=True)
class Probe:
    """Needles and the haystack they are hidden in.

    Attributes:
        name: of the task.
        needles: what to hide and ask for.
        haystack: running text, or units that nothing may split.
    """

    name: str
    needles: tuple[Needle, ...]
    haystack: str | tuple[str, ...]

    def prompts(
        self, tokenizer: "PreTrainedTokenizerBase", *, length: int, depths: Sequence[float], seed: int = 0
    ) -> NeedleSet:
        """Build the prompts (`heads.needle_prompts`)."""
        return needle_prompts(tokenizer, self.needles, self.haystack, length=length, depths=depths, seed=seed)


def probe(name: str, *, seed: int = 0, count: int = 12, density: float = 0.5) -> Probe:
    """Make a probe by name.

    Args:
        name: one of `heads.prompts.probes.PROBES`.
        seed: of words and numbers.
        count: needles.
        density: LongBio: probability that another person's text also states what is asked.

    Raises:
        BadPrompt: no probe of that name, a density outside [0, 1], or more needles than the probe has words for.
    """
    if name not in _MAKERS:
        raise BadPrompt(f"no probe is called {name!r}; there are {list(_MAKERS)}")
    if count < 1:
        raise BadPrompt(f"a probe hides one needle at least: got count = {count}")
    if not 0 <= density <= 1:
        raise BadPrompt(f"density is a probability in [0, 1]: got {density}")
    needles, haystack = _MAKERS[name](random.Random(f"{name}/{seed}"), count, density)
    if len(needles) < count or not haystack:
        raise BadPrompt(f"{name} makes {len(needles) - (not haystack)} different needles at most: got count = {count}")
    return Probe(name, tuple(needles), haystack)


Made = tuple[list[Needle], str | tuple[str, ...]]


def _niah(draw: random.Random, count: int, _: float) -> Made:
    """The needle sentence itself is the answer, repeated in full (arXiv 2604.02650, 3.2)."""
    needles = []
    pools = (_some(draw, pool, count) for pool in ("cities", "hobbies", "nouns"))
    for city, hobby, noun in zip(*pools, strict=True):
        sentence = f"The best thing to do in {city} on a free afternoon is {hobby} beside the old {noun}."
        question = f"\nQuestion: What is the best thing to do in {city}?\nAnswer:"
        needles.append(Needle(sentence, sentence, question))
    return needles, default_haystack(draw.randrange(2**30))


def _ruler(
    *,
    haystack: str = "essay",
    keys: str = "word",
    values: str = "number",
    n_keys: int = 1,
    n_values: int = 1,
    n_asked: int = 1,
) -> Callable[[random.Random, int, float], Made]:
    """One of RULER's needle tasks (NVIDIA/RULER): how many keys, values and questions, and in what haystack."""

    def make(draw: random.Random, count: int, _: float) -> Made:
        kind = {"number": "numbers", "uuid": "ids"}[values]
        needles = []
        for _ in range(count):
            names = [_key(draw, keys) for _ in range(n_keys)]
            asked = names[:n_asked]
            said = [(name, _value(draw, values)) for name in asked for _ in range(n_values)]
            (first, *rest) = [(_magic(kind, name, value), value) for name, value in said]
            others = tuple(_magic(kind, name, _value(draw, values)) for name in names[n_asked:])
            wanted = ", ".join(asked)
            question = f"\nWhich magic {kind} of {wanted} does the text mention? The magic {kind} of {wanted} are"
            needles.append(Needle(*first, question, others, parts=tuple(rest), intro=_INTRO.format(kind)))
        if haystack == "needles":
            hay: str | tuple[str, ...] = tuple(
                _magic(kind, _key(draw, keys), _value(draw, values)) for _ in range(UNITS)
            )
        elif haystack == "noise":
            hay = tuple(words()["noise"]) * (UNITS // 5)
        else:
            hay = default_haystack(draw.randrange(2**30))
        return needles, hay

    return make


_INTRO = "Some magic {} are hidden in the following text. Remember them: you will be asked about them afterwards.\n"


def _magic(kind: str, key: str, value: str) -> str:
    return f"One of the magic {kind} of {key} is {value}."


def _key(draw: random.Random, kind: str) -> str:
    return _value(draw, "uuid") if kind == "uuid" else "-".join(draw.sample(words()["nouns"], 2))


def _value(draw: random.Random, kind: str) -> str:
    return str(draw.randrange(10**6, 10**7)) if kind == "number" else str(uuid.UUID(int=draw.getrandbits(128)))


def _variable_tracking(draw: random.Random, count: int, _: float) -> Made:
    """One chain of assignments of four hops; every variable of the chain is asked for (RULER's ``vt``)."""
    needles = []
    for _ in range(count):
        names = ["".join(draw.choices("ABCDEFGHKLMNPRSTVWXZ", k=5)) for _ in range(5)]
        value = draw.randrange(10**4, 10**5)
        lines = [f"VAR {names[0]} = {value}.", *(f"VAR {b} = VAR {a}." for a, b in pairwise(names))]
        (first, *rest) = zip(lines, names, strict=True)
        question = f"\nQuestion: Which variables hold the value {value}?\nAnswer: The variables that hold {value} are"
        needles.append(Needle(*first, question, parts=tuple(rest)))
    return needles, tuple(words()["noise"]) * (UNITS // 5)


_FACTS: Mapping[str, tuple[str, str, str, str]] = {
    "birthplace": ("{} was born in {}.", "{} first saw the light of day in {}.", "My life began in {}.", "cities"),
    "hobby": ("The hobby of {} is {}.", "In free hours {} loves {}.", "In my free hours I love {}.", "hobbies"),
    "major": ("{} studied {}.", "The degree of {} was in {}.", "My own degree was in {}.", "majors"),
    "work city": ("{} works in {}.", "The employer of {} sits in {}.", "The office that pays me is in {}.", "cities"),
}
_ASKED = {"birthplace": "Where was {} born?", "hobby": "What is the hobby of {}?"}
_ASKED |= {"major": "What did {} study?", "work city": "Where does {} work?"}


def _longbio(form: str) -> Callable[[random.Random, int, float], Made]:
    """Short lives of invented people; one fact of one of them is asked for, its whole sentence being the answer.

    After LongBio (arXiv 2506.02921): ``standard`` states facts as they are asked, ``paraphrase`` otherwise,
    ``pronoun`` in the first person.
    """

    def make(draw: random.Random, count: int, density: float) -> Made:
        names = people(draw, min(UNITS // 10, 180))
        asked, others = names[:count], names[count:]
        needles = []
        golds: set[str] = set()
        for number, name in enumerate(asked):
            fact = list(_FACTS)[number % len(_FACTS)]
            text, sentences = _life(draw, name, form)
            golds.add(sentences[fact])
            question = f"\nQuestion: {_ASKED[fact].format(name)}\nAnswer:"
            needles.append(Needle(text, sentences[fact], question, labels={"fact": fact}))
        silent = [{fact for fact in _FACTS if draw.random() > density} for _ in others]
        lives = [_life(draw, name, form, silent=left, unsaid=golds) for name, left in zip(others, silent, strict=True)]
        return needles, tuple(text for text, _ in lives)

    return make


def _life(
    draw: random.Random, name: str, form: str, *, silent: Set[str] = frozenset(), unsaid: Set[str] = frozenset()
) -> tuple[str, dict[str, str]]:
    """One person's text, and the sentence of each fact in it: without some facts, and without some sentences."""
    sentences = {fact: draw.choice([s for s in _ways(name, fact, form) if s not in unsaid]) for fact in _FACTS}
    day = f"{draw.randint(1, 28)} {draw.choice(words()['months'])} {draw.randint(1930, 2000)}"
    head = f"Here {name} speaks." if form == "pronoun" else f"Here follows the life of {name}."
    kept = [f"The records open on {day}.", *(s for fact, s in sentences.items() if fact not in silent)]
    return f"\n{head} {' '.join(draw.sample(kept, len(kept)))} Here it ends.", sentences


def _ways(name: str, fact: str, form: str) -> list[str]:
    """The sentence of a fact with every value it can take."""
    standard, paraphrase, pronoun, pool = _FACTS[fact]
    if form == "pronoun":
        return [pronoun.format(value) for value in words()[pool]]
    return [(standard if form == "standard" else paraphrase).format(name, value) for value in words()[pool]]


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def _mrcr(times: int) -> Callable[[random.Random, int, float], Made]:
    """A long chat in which one request comes several times; the answer to one of them is asked for by its rank."""

    def make(draw: random.Random, count: int, _: float) -> Made:
        pairs = [(form, topic) for form in words()["forms"] for topic in words()["topics"]]
        draw.shuffle(pairs)
        needles = []
        for number, (form, topic) in enumerate(pairs[: min(count, len(pairs) // 2)]):
            rank = number % times
            replies = [_reply(draw, topic) for _ in range(times)]
            turns = [_turn(form, topic, reply) for reply in replies]
            question = f"\nUser: Repeat the {_ORDINALS[rank]} {form} about {topic}, and nothing else.\nAssistant:"
            needles.append(Needle(turns.pop(rank), replies[rank], question, tuple(turns), rank=rank))
        others = pairs[len(pairs) // 2 :] * (UNITS // (len(pairs) - len(pairs) // 2))
        return needles, tuple(_turn(form, topic, _reply(draw, topic)) for form, topic in others)

    return make


def _documents(draw: random.Random, count: int, _: float) -> Made:
    """One of many short documents answers the question in a few words (RULER's ``qa``)."""
    places = [(noun, city) for noun in words()["nouns"] for city in words()["cities"]]
    draw.shuffle(places)
    names = people(draw, len(words()["first_names"]) * len(words()["last_names"]))
    asked, others = names[:count], names[count:]
    needles = []
    for (noun, city), name in zip(places, asked, strict=False):
        question = f"\nQuestion: Who built the {noun} house of {city}?\nAnswer:"
        needles.append(Needle(_document(draw, noun, city, name), name, question))
    rest = places[count : count + UNITS]
    return needles, tuple(_document(draw, *place, draw.choice(others)) for place in rest)


def _document(draw: random.Random, noun: str, city: str, builder: str) -> str:
    day = f"{draw.randint(1, 28)} {draw.choice(words()['months'])} {draw.randint(1700, 1950)}"
    said = [
        f"It was built by {builder} and opened on {day}.",
        f"Its keeper was a {draw.choice(words()['trades'])}.",
        f"Today it is used for {draw.choice(words()['hobbies'])}.",
    ]
    return f"\nDocument: The {noun} house of {city}. {' '.join(draw.sample(said, len(said)))}"


def _reply(draw: random.Random, topic: str) -> str:
    first, second = (" ".join(draw.choice(words()[pool]) for pool in ("subjects", "actions", "objects")) for _ in "ab")
    teller = f"{draw.choice(words()['trades'])} {draw.randrange(100, 1000)}"
    return f"{first}; {second[0].lower()}{second[1:]}, says {teller} of {topic}."


def _turn(form: str, topic: str, reply: str) -> str:
    return f"\nUser: Write a {form} about {topic}.\nAssistant: {reply}"


def _nolima(draw: random.Random, count: int, _: float) -> Made:
    """The question shares no content word with the needle: a landmark stands for its country (after NoLiMa)."""
    pairs = draw.sample(words()["landmarks"], min(count, len(words()["landmarks"])))
    names = people(draw, 2 * len(pairs))
    needles = []
    for (landmark, country), name, other in zip(pairs, names[::2], names[1::2], strict=True):
        away, _ = draw.choice([pair for pair in words()["landmarks"] if pair[1] != country])
        said = "Every morning {} walks the dog past {}."
        question = f"\nQuestion: Which person lives in {country}?\nAnswer: The person who lives in {country} is"
        needles.append(Needle(said.format(name, landmark), name, question, (said.format(other, away),)))
    return needles, default_haystack(draw.randrange(2**30))


def _some(draw: random.Random, pool: str, count: int) -> list[str]:
    """Words of a pool in random order, again and again when there are too few."""
    out: list[str] = []
    while len(out) < count:
        out += draw.sample(words()[pool], len(words()[pool]))
    return out[:count]


_MAKERS: Mapping[str, Callable[[random.Random, int, float], Made]] = {
    "niah": _niah,
    "ruler_single_1": _ruler(haystack="noise"),
    "ruler_single_2": _ruler(),
    "ruler_single_3": _ruler(values="uuid"),
    "ruler_multikey_1": _ruler(n_keys=4),
    "ruler_multikey_2": _ruler(haystack="needles"),
    "ruler_multikey_3": _ruler(haystack="needles", keys="uuid", values="uuid"),
    "ruler_multivalue": _ruler(n_values=4),
    "ruler_multiquery": _ruler(n_keys=4, n_asked=4),
    "variable_tracking": _variable_tracking,
    "longbio_standard": _longbio("standard"),
    "longbio_paraphrase": _longbio("paraphrase"),
    "longbio_pronoun": _longbio("pronoun"),
    "ruler_qa": _documents,
    "mrcr": _mrcr(4),
    "mrcr_2": _mrcr(2),
    "mrcr_8": _mrcr(8),
    "nolima": _nolima,
}
PROBES = tuple(_MAKERS)
"""Names of the probes: arXiv 2604.02650's continuous NIAH, RULER's needles and variables, LongBio's, MRCR's, ..."""
