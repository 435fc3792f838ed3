"""Facts as clean/corrupt prompt pairs, and their token ids.

A fact is scored where its answer is produced: at the last prompt token for an answer of one token, by default the only
kind accepted; over every answer token, each after the right ones before it, where whole answers are asked for. Clean
and corrupt prompt must have the same number of tokens, so that each position of one replaces the same of the other.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import Record, read_records
from checkpoints.results.text import counted
from checkpoints.tokenizers.framing import Ids

_TEXTS = ("clean", "corrupt", "answer", "wrong")
_MAPPINGS = ("labels", "segments")

Answers = Literal["auto", "one token", "first token", "whole"]
Refusal = tuple[int, str]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fact:
    """One clean/corrupt pair.

    Attributes:
        clean: the prompt, ending right before the answer.
        corrupt: the same prompt about something else, with the same number of tokens.
        answer: what follows the clean prompt.
        wrong: what follows the corrupt prompt.
        labels: anything to group by (class, relation, person, ...).
        segments: named parts of the clean prompt as they are written in it, such as subject -> "Paris".
        space: whether a space stands between prompt and answer, where neither has one there; None decides as running
            text is written (`checkpoints.tokenizers.framing.gap`): ``of`` + ``France`` with a space, ``said: "`` +
            ``Yes`` and ``17`` + ``45`` without.
    """

    clean: str
    corrupt: str
    answer: str
    wrong: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    segments: Mapping[str, str] = field(default_factory=dict)
    space: bool | None = None


class Facts(tuple[Fact, ...]):
    """The facts of a file, with the lines that hold none.

    Attributes:
        refused: (position among the file's lines that are not blank, reason).
    """

    refused: tuple[Refusal, ...] = ()

    @classmethod
    def of(cls, facts: Iterable[Fact], refused: Iterable[Refusal]) -> "Facts":
        """Both together."""
        made = cls(facts)
        made.refused = tuple(refused)
        return made

    def __repr__(self) -> str:
        return f"{counted(len(self), 'fact')}{_counted(self.refused)}"


@dataclass(frozen=True, slots=True)
class FactSet:
    """Facts in token ids of one tokenizer.

    Attributes:
        clean: N prompts, each a tuple of ids.
        corrupt: N prompts, each as long as its clean one.
        answer: N answers, each a tuple of ids.
        wrong: N wrong answers, each a tuple of ids.
        facts: the N facts kept.
        refused: (position in the input, reason) of every fact that cannot be scored; what `load_facts` refused is
            counted in, so that positions are those among the file's lines.
        segments: N mappings from a segment's name to its first token and the one after its last; empty where none is
            named.
        front: the tokens that the tokenizer puts in front of every prompt; None where the ids are given by hand.
        answers: which answers are kept, and how.
    """

    clean: tuple[Ids, ...]
    corrupt: tuple[Ids, ...]
    answer: tuple[Ids, ...]
    wrong: tuple[Ids, ...]
    facts: tuple[Fact, ...]
    refused: tuple[Refusal, ...] = ()
    segments: tuple[Mapping[str, tuple[int, int]], ...] = ()
    front: Ids | None = None
    answers: Answers | None = None

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        lengths = sorted(map(len, self.clean)) or [0]
        return f"{counted(len(self), 'fact')} of {lengths[0]} to {lengths[-1]} tokens{_counted(self.refused)}"

    @property
    def answer_id(self) -> NDArray[np.int64]:
        """[N] first token of each answer."""
        return np.array([ids[0] for ids in self.answer], dtype=np.int64)

    @property
    def wrong_id(self) -> NDArray[np.int64]:
        """[N] first token of each wrong answer."""
        return np.array([ids[0] for ids in self.wrong], dtype=np.int64)

    @property
    def lengths(self) -> tuple[int, ...]:
        """N numbers of tokens a forward pass reads: the prompt's, and the answer's but the last."""
        return tuple(len(prompt) + len(answer) - 1 for prompt, answer in zip(self.clean, self.answer, strict=True))

    def units(self, groups: int | None) -> NDArray[np.intp]:
        """[N] the unit of each fact: itself, or one of so many disjoint groups.

        Raises:
            BadPrompt: more groups than facts, or none; or no facts at all.
        """
        if not len(self):
            raise BadPrompt("there are no facts to score: the set is empty")
        units = len(self) if groups is None else groups
        if not 1 <= units <= len(self):
            raise BadPrompt(f"groups must lie between 1 and the number of facts, {len(self)}; got {groups}")
        return np.arange(len(self)) % units

    @property
    def hash(self) -> str:
        """sha256 of the token ids: equal exactly when the same prompts are scored the same way."""
        single = all(len(ids) == 1 for ids in (*self.answer, *self.wrong))
        answers = [self.answer_id.tolist(), self.wrong_id.tolist()] if single else [self.answer, self.wrong]
        return hashlib.sha256(json.dumps([self.clean, self.corrupt, *answers]).encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> "FactSet":
        """Some of the facts, in the order given."""
        chosen = list(indices)
        return FactSet(
            clean=tuple(self.clean[i] for i in chosen),
            corrupt=tuple(self.corrupt[i] for i in chosen),
            answer=tuple(self.answer[i] for i in chosen),
            wrong=tuple(self.wrong[i] for i in chosen),
            facts=tuple(self.facts[i] for i in chosen),
            refused=self.refused,
            segments=tuple(self.segments[i] for i in chosen) if self.segments else (),
            front=self.front,
            answers=self.answers,
        )

    @classmethod
    def from_ids(
        cls,
        clean: Iterable[Iterable[int]],
        corrupt: Iterable[Iterable[int]],
        answer: Iterable[int | Iterable[int]],
        wrong: Iterable[int | Iterable[int]],
        *,
        front: Iterable[int] | None = None,
    ) -> "FactSet":
        """Facts given as token ids, without a tokenizer.

        Nothing is added to them: the prompts are read as they stand, front tokens included. Give each prompt up to its
        last token before the answer; clean and corrupt prompt of one fact are of the same length.

            facts = FactSet.from_ids([[1, 5, 6]], [[1, 7, 6]], answer=[9], wrong=[[10, 11]], front=[1])

        Args:
            clean: N prompts.
            corrupt: N prompts, each as long as its clean one.
            answer: N answers, each one id or several.
            wrong: N wrong answers.
            front: the tokens with which every prompt begins and that are none of its words; `HeadRoles` leave
                them out. Without it, the model's own BOS token where a prompt begins with it.

        Raises:
            BadPrompt: a pair that cannot be scored.
        """
        rows = [tuple(map(_as_ids, row)) for row in zip(clean, corrupt, answer, wrong, strict=True)]
        for index, row in enumerate(rows):
            if reason := obstacle(*row):
                raise BadPrompt(f"fact {index}: {reason}")
        facts = [Fact(str(list(c)), str(list(d)), _name(a), _name(w)) for c, d, a, w in rows]
        return fact_set(rows, facts, [], front=None if front is None else tuple(map(int, front)))


def load_facts(path: Path | str) -> Facts:
    """Read facts from JSON lines with ``clean``, ``corrupt``, ``answer``, ``wrong``, and perhaps more.

    A list of such objects, or one such object over many lines, is read as well.

    ``labels``, ``segments`` and ``space`` are as in `Fact`; any further key of a line becomes a label. A line that is
    no such object is refused with its reason and the others go on: `Facts.refused`, which `tokenize_facts` passes on.

    Raises:
        BadPrompt: the file cannot be read, or no line of it is a fact.
    """
    facts: list[Fact] = []
    refused: list[Refusal] = []
    for index, record in enumerate(read_records(path, "facts")):
        try:
            facts.append(_parse(record))
        except BadPrompt as error:
            refused.append((index, str(error)))
    if not facts:
        reasons = "; ".join(reason for _, reason in refused[:3])
        raise BadPrompt(
            f"{path} holds no facts; write one JSON object with {', '.join(_TEXTS)} on each line. {reasons}".rstrip()
        )
    if refused:
        logger.warning(
            "%s: %d of %d lines refused, the first: %s", path, len(refused), len(facts) + len(refused), refused[0][1]
        )
    return Facts.of(facts, refused)


def default_facts() -> tuple[Fact, ...]:
    """Capitals, languages and landmarks in clean/corrupt pairs, for tokenizers of real languages."""
    with as_file(files("circuits") / "data" / "facts.jsonl") as path:
        return tuple(_parse(record) for record in read_records(path, "the built-in facts"))


def fact_set(
    rows: Sequence[tuple[Ids, ...]],
    facts: Sequence[Fact],
    refused: Sequence[Refusal],
    segments: Sequence[Mapping[str, tuple[int, int]]] = (),
    *,
    front: Ids | None,
    answers: Answers | None = None,
) -> FactSet:
    """Facts of rows (clean, corrupt, answer, wrong) of token ids."""
    clean, corrupt, answer, wrong = zip(*rows, strict=True) if rows else ((), (), (), ())
    return FactSet(clean, corrupt, answer, wrong, tuple(facts), tuple(refused), tuple(segments), front, answers)


def obstacle(clean: Ids, corrupt: Ids, answer: Ids, wrong: Ids) -> str | None:
    """Why a pair cannot be scored."""
    if not clean:
        return "the prompt is empty"
    if not (answer and wrong):
        return "the answer or the wrong answer is empty"
    if len(clean) != len(corrupt):
        return f"the clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}; they must be equal"
    if clean == corrupt:
        return "the clean and the corrupt prompt are the same tokens"
    if answer == wrong:
        tokens = "token" if len(answer) == 1 else "tokens"
        return f"the answer and the wrong answer are the same {tokens}, {_name(answer)}"
    return None


def _counted(refused: Sequence[Refusal]) -> str:
    """How many were refused, and why the first was."""
    return f"; {len(refused)} refused, the first: {refused[0][1]}" if refused else ""


def _as_ids(value: int | Iterable[int]) -> Ids:
    return tuple(map(int, value)) if isinstance(value, Iterable) else (int(value),)


def _name(ids: Ids) -> str:
    return " ".join(map(str, ids))


def _parse(read: Record) -> Fact:
    where, record = read.where, read.value
    if read.problem is not None:
        raise BadPrompt(f"{where} is not JSON: {read.problem}")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in _TEXTS):
        raise BadPrompt(f"{where} must be an object whose {', '.join(_TEXTS)} are strings")
    labels, segments = (record.get(name, {}) for name in _MAPPINGS)
    for name, value in zip(_MAPPINGS, (labels, segments), strict=True):
        if not isinstance(value, dict):
            raise BadPrompt(f"{where}: {name} must be an object, not {value!r}")
    if not all(isinstance(text, str) for text in segments.values()):
        raise BadPrompt(f"{where}: segments must be strings, parts of the clean prompt; got {segments!r}")
    space = record.get("space")
    if space is not None and not isinstance(space, bool):
        raise BadPrompt(f"{where}: space says whether one stands before the answer, true or false; got {space!r}")
    others = {name: value for name, value in record.items() if name not in (*_TEXTS, *_MAPPINGS, "space")}
    clean, corrupt, answer, wrong = (record[name] for name in _TEXTS)
    return Fact(clean, corrupt, answer, wrong, labels={**others, **labels}, segments=segments, space=space)
