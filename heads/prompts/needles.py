"""Needles and the prompts made of them, as values; needles are read from JSONL."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import Record, read_records

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence to hide, and what to ask for.

    Attributes:
        needle: the sentence that states the answer.
        answer: the part of it that is to be retrieved; occurs in it exactly once.
        question: what follows the haystack, verbatim; ends where the answer begins ("... Answer:").
        distractors: sentences of the same form with other answers, hidden in the same haystack.
        rank: how many of the distractors come before the needle, all of them in order; None scatters them.
        parts: further (sentence, answer) pairs that belong to the answer, hidden in the same haystack; the whole answer
            lists them after the first, separated by commas. They follow the needle in order.
        intro: what stands before the haystack.
        labels: anything to group results by.
        space: whether a space stands between question and answer; None decides as running text is written
            (`checkpoints.tokenizers.framing.gap`): none where the question ends in a newline or an opening quote, say.
    """

    needle: str
    answer: str
    question: str
    distractors: tuple[str, ...] = ()
    rank: int | None = None
    parts: tuple[tuple[str, str], ...] = ()
    intro: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    space: bool | None = None


@dataclass(frozen=True, slots=True)
class NeedlePrompt:
    """One needle at one depth, as token ids.

    Attributes:
        ids: prompt and answer together.
        answer_start: where the teacher-forced answer begins; the rows that predict it start one before.
        answer_spans: places of the answer inside the needle and its further parts, [start, stop): the positions that a
            retrieval head reads.
        needle_spans: the needle's sentences, in the same order.
        distractor_spans: the distractors.
        question_span: the question, from the end of the haystack to the answer.
        depth: share of the haystack that stands before the needle, as achieved.
        requested_depth: as asked for.
        needle: index of the needle in the list given.
    """

    ids: tuple[int, ...]
    answer_start: int
    answer_spans: tuple[Span, ...]
    needle_spans: tuple[Span, ...]
    distractor_spans: tuple[Span, ...]
    question_span: Span
    depth: float
    requested_depth: float
    needle: int
    text: str = field(repr=False, default="")

    @property
    def answer_span(self) -> Span:
        """Place of the answer in the needle itself."""
        return self.answer_spans[0]

    @property
    def needle_span(self) -> Span:
        """The needle itself."""
        return self.needle_spans[0]

    @property
    def answer_in_needle(self) -> tuple[int, ...]:
        """Token ids of the answer in the needle itself; those of `answer` differ where it follows another character."""
        return self.ids[slice(*self.answer_span)]

    @property
    def gold(self) -> tuple[int, ...]:
        """Every position that holds a token of the answer."""
        return tuple(position for span in self.answer_spans for position in range(*span))

    @property
    def before(self) -> int:
        """Tokens before the needle, those in front included: the interference length of arXiv 2604.02650, figure 8."""
        return self.needle_span[0]

    @property
    def distance(self) -> int:
        """Tokens between needle and question: the absolute distance of the same figure."""
        return self.question_span[0] - self.needle_span[1]

    @property
    def answer(self) -> tuple[int, ...]:
        """Token ids of the answer."""
        return self.ids[self.answer_start :]


@dataclass(frozen=True, slots=True)
class NeedleSet:
    """Prompts that can be scored, and why the others cannot.

    Attributes:
        prompts: in the order needle, depth.
        refused: (index of the needle, reason).
        length: tokens in a prompt, the answer not counted.
        front: the tokens that the tokenizer puts in front of every prompt.
        least: tokens of the longest prompt without its haystack, the answer not counted.
    """

    prompts: tuple[NeedlePrompt, ...]
    refused: tuple[tuple[int, str], ...]
    length: int
    front: tuple[int, ...] = ()
    least: int = 0

    @property
    def hash(self) -> str:
        """Sha256 of the token ids and spans: equal hashes mean identical prompts."""
        content = [[p.ids, p.answer_start, p.answer_spans, p.needle_spans] for p in self.prompts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def require_fit(self, positions: int, spare: int = 0) -> None:
        """Refuse prompts beyond a model's positions, with the length that fits.

        Args:
            positions: of the model.
            spare: tokens that come on top of prompt and answer.

        Raises:
            BadPrompt: the longest prompt with its answer takes more.
        """
        longest = max(len(prompt.ids) for prompt in self.prompts) + spare
        if longest <= positions:
            return
        told = f"prompts of {self.length} tokens take {longest} with their answers, the model has {positions} positions"
        fits = self.length - (longest - positions)
        if fits < self.least:
            raise BadPrompt(
                f"{told}: no length fits, since needle and question take up to {self.least} tokens and leave no place "
                "for the answer; give shorter needles (needles, --needles)"
            )
        alone = f"; needle and question alone take {self.least}" if self.least else ""
        raise BadPrompt(f"{told}: take a length of {fits} or less (length, --length){alone}")

    def __repr__(self) -> str:
        return f"<NeedleSet: {len(self)} prompts of {self.length} tokens, {len(self.refused)} needles refused>"

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[NeedlePrompt]:
        return iter(self.prompts)


def load_needles(path: Path | str) -> tuple[Needle, ...]:
    """Read needles from JSONL: one object a line with the fields of `Needle`; a list of such objects is read too.

    Raises:
        BadPrompt: the file cannot be read, or a line is no needle; the line is named.
    """
    needles = [_parse(record, f"{path}, {record.where}") for record in read_records(path, "needles")]
    if not needles:
        raise BadPrompt(f"{path} holds no needle: each line is an object with needle, answer and question")
    return tuple(needles)


def _parse(read: Record, where: str) -> Needle:
    if read.problem is not None:
        raise BadPrompt(f"{where} is not JSON: {read.problem}")
    record = read.value
    if not isinstance(record, dict):
        raise BadPrompt(f"{where} is no JSON object: give needle, answer and question")
    strings = [record.get(name) for name in ("needle", "answer", "question")]
    distractors = record.get("distractors", [])
    if not isinstance(distractors, list) or not _texts([*strings, *distractors]):
        raise BadPrompt(f"{where}: needle, answer and question must be non-empty strings, distractors a list of such")
    if unknown := set(record) - {f.name for f in fields(Needle)}:
        raise BadPrompt(f"{where} has unknown fields {sorted(unknown)}: put them under labels")
    needle, answer, question = map(str, strings)
    parts, rank = record.get("parts", []), record.get("rank")
    if not isinstance(parts, list) or not all(isinstance(p, list) and len(p) == 2 and _texts(p) for p in parts):
        raise BadPrompt(f"{where}: parts are [sentence, answer] pairs of non-empty strings, got {parts!r}")
    if rank is not None and (type(rank) is not int or not 0 <= rank <= len(distractors)):
        raise BadPrompt(
            f"{where}: rank counts the distractors before the needle, 0 to {len(distractors)} here, got {rank!r}"
        )
    intro, labels = record.get("intro", ""), record.get("labels", {})
    if not isinstance(intro, str) or not isinstance(labels, dict):
        raise BadPrompt(f"{where}: intro is a string and labels are an object")
    space = record.get("space")
    if space is not None and not isinstance(space, bool):
        raise BadPrompt(f"{where}: space says whether one stands before the answer, true or false, got {space!r}")
    pairs = tuple((sentence, part) for sentence, part in parts)
    return Needle(needle, answer, question, tuple(distractors), rank, pairs, intro, labels, space)


def _texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) and value for value in values)
