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
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import Record, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS = ("clean", "corrupt", "answer", "wrong")
_MAPPINGS = ("labels", "segments")

Answers = Literal["one token", "first token", "whole"]
Ids = tuple[int, ...]
Refusal = tuple[int, str]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fact:
    """One clean/corrupt pair.

    Attributes:
        clean: the prompt, ending right before the answer.
        corrupt: the same prompt about something else, with the same number of tokens.
        answer: what follows the clean prompt. A space is put between prompt and answer if neither has one.
        wrong: what follows the corrupt prompt.
        labels: anything to group by (class, relation, person, ...).
        segments: named parts of the clean prompt as they are written in it, such as subject -> "Paris".
    """

    clean: str
    corrupt: str
    answer: str
    wrong: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    segments: Mapping[str, str] = field(default_factory=dict)


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
        return f"{len(self)} facts{_counted(self.refused)}"


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
    """

    clean: tuple[Ids, ...]
    corrupt: tuple[Ids, ...]
    answer: tuple[Ids, ...]
    wrong: tuple[Ids, ...]
    facts: tuple[Fact, ...]
    refused: tuple[Refusal, ...] = ()
    segments: tuple[Mapping[str, tuple[int, int]], ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        lengths = sorted(map(len, self.clean)) or [0]
        return f"{len(self)} facts of {lengths[0]} to {lengths[-1]} tokens{_counted(self.refused)}"

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
        )

    @classmethod
    def from_ids(
        cls,
        clean: Iterable[Iterable[int]],
        corrupt: Iterable[Iterable[int]],
        answer: Iterable[int | Iterable[int]],
        wrong: Iterable[int | Iterable[int]],
    ) -> "FactSet":
        """Facts given as token ids, without a tokenizer; an answer is one id or several.

        Raises:
            BadPrompt: a pair that cannot be scored.
        """
        rows = [tuple(map(_as_ids, row)) for row in zip(clean, corrupt, answer, wrong, strict=True)]
        for index, row in enumerate(rows):
            if reason := _obstacle(*row):
                raise BadPrompt(f"fact {index}: {reason}")
        facts = [Fact(str(list(c)), str(list(d)), _name(a), _name(w)) for c, d, a, w in rows]
        return _fact_set(rows, facts, [])


def load_facts(path: Path | str) -> Facts:
    """Read facts from JSON lines with ``clean``, ``corrupt``, ``answer``, ``wrong``; perhaps ``labels``, ``segments``.

    A list of such objects, or one such object over many lines, is read as well.

    Any further key of a line becomes a label. A line that is no such object is refused with its reason and the others
    go on: `Facts.refused`, which `tokenize_facts` passes on.

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


def tokenize_facts(
    tokenizer: "PreTrainedTokenizerBase", facts: Iterable[Fact], *, answers: Answers = "one token"
) -> FactSet:
    """Turn facts into token ids, refusing one by one those that cannot be scored.

    The tokenizer's own beginning-of-sequence token is put in front exactly when it puts one there by itself.

    Args:
        tokenizer: of the model.
        facts: what to ask.
        answers: ``one token`` refuses longer ones; ``whole`` keeps all tokens of each, so that metrics run over the
            whole answer; ``first token`` cuts longer ones there, as published tools do.

    Raises:
        BadPrompt: no fact is left; the message gives the first reasons. Or an unknown kind of answers.
    """
    if answers not in get_args(Answers):
        raise BadPrompt(f"unknown answers {answers!r}; choose from {', '.join(get_args(Answers))}")
    unread = facts.refused if isinstance(facts, Facts) else ()
    facts, places = tuple(facts), {index for index, _ in unread}
    positions = [index for index in range(len(facts) + len(unread)) if index not in places]
    kept, rows, segments, refused = [], [], [], list(unread)
    for index, fact in zip(positions, facts, strict=True):
        try:
            clean, answer = _split(tokenizer, fact.clean, fact.answer, "answer", answers)
            corrupt, wrong = _split(tokenizer, fact.corrupt, fact.wrong, "wrong answer", answers)
            spans = {name: _segment(tokenizer, fact.clean, clean, name, text) for name, text in fact.segments.items()}
        except BadPrompt as error:
            refused.append((index, str(error)))
            continue
        if reason := _obstacle(clean, corrupt, answer, wrong):
            refused.append((index, reason))
            continue
        kept.append(fact)
        rows.append((clean, corrupt, answer, wrong))
        segments.append(spans)
    if not kept:
        reasons = "; ".join(f"fact {index}: {reason}" for index, reason in refused[:3])
        raise BadPrompt(f"none of {len(facts)} facts can be scored with this tokenizer. {reasons}")
    return _fact_set(rows, kept, sorted(refused), segments if any(segments) else ())


def _fact_set(
    rows: Sequence[tuple[Ids, ...]],
    facts: Sequence[Fact],
    refused: Sequence[Refusal],
    segments: Sequence[Mapping[str, tuple[int, int]]] = (),
) -> FactSet:
    clean, corrupt, answer, wrong = zip(*rows, strict=True) if rows else ((), (), (), ())
    return FactSet(clean, corrupt, answer, wrong, tuple(facts), tuple(refused), tuple(segments))


def _obstacle(clean: Ids, corrupt: Ids, answer: Ids, wrong: Ids) -> str | None:
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


def _split(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, what: str, answers: Answers
) -> tuple[Ids, Ids]:
    """Token ids of the prompt, and those that the answer adds to it."""
    space = "" if prompt[-1:].isspace() or answer[:1].isspace() else " "
    ids, whole = prompt_ids(tokenizer, prompt), prompt_ids(tokenizer, prompt + space + answer)
    if whole[: len(ids)] != ids:
        raise BadPrompt(f"the {what} {answer!r} changes how the prompt's last word is split; end the prompt at a word")
    added = whole[len(ids) :]
    if len(added) > 1 and answers == "first token":
        added = added[:1]
    if len(added) != 1 and answers != "whole":
        tokens = tokenizer.convert_ids_to_tokens(list(added))
        raise BadPrompt(f"the {what} {answer!r} is {len(added)} tokens ({' '.join(map(str, tokens))}), not one")
    if tokenizer.unk_token_id in added:
        raise BadPrompt(f"the {what} {answer!r} is unknown to the tokenizer")
    return ids, added


def _segment(tokenizer: "PreTrainedTokenizerBase", prompt: str, ids: Ids, name: str, text: str) -> tuple[int, int]:
    """First token that holds part of a segment's text, and the one after the last; of its first occurrence."""
    start = prompt.find(text)
    if start < 0 or not text:
        raise BadPrompt(f"the segment {name!r}, {text!r}, is not in the clean prompt {prompt!r}")
    if not tokenizer.is_fast:
        raise BadPrompt(f"the segment {name!r} needs a tokenizer that tells where its tokens stand (a fast one)")
    places = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    front = len(ids) - len(places)
    inside = [i + front for i, (low, high) in enumerate(places) if low < start + len(text) and high > start]
    return inside[0], inside[-1] + 1


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Ids of a text with the front token that the tokenizer adds by itself, and without one at the end."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    full = tokenizer(text).input_ids
    bos = tokenizer.bos_token_id
    starts = bos is not None and full[:1] == [bos] and plain[:1] != [bos]
    return tuple([bos, *plain] if starts else plain)


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
    others = {name: value for name, value in record.items() if name not in (*_TEXTS, *_MAPPINGS)}
    clean, corrupt, answer, wrong = (record[name] for name in _TEXTS)
    return Fact(clean, corrupt, answer, wrong, labels={**others, **labels}, segments=segments)
