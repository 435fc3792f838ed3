"""Needles in haystacks, built in token space: every span is known by construction, none is searched for.

A prompt is ``[bos] haystack + needle + haystack + question``, followed by the answer's own token ids as they stand
in the needle, to be teacher-forced (arXiv 2604.02650, section 3.2: "continuous NIAH").
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import BadPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
SENTENCE_END = (".", "!", "?", "\n")


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence to hide, and what to ask for.

    Attributes:
        needle: the sentence that states the answer.
        answer: the part of it that is to be retrieved; occurs in it exactly once.
        question: what follows the haystack, verbatim; ends where the answer begins ("... Answer:").
        distractors: sentences of the same form with other answers, hidden in the same haystack.
        labels: anything to group results by.
    """

    needle: str
    answer: str
    question: str
    distractors: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NeedlePrompt:
    """One needle at one depth, as token ids.

    Attributes:
        ids: prompt and answer together.
        answer_start: where the teacher-forced answer begins; the rows that predict it start one before.
        answer_span: the answer's place inside the needle, [start, stop): the positions a retrieval head reads.
        needle_span: the whole needle.
        distractor_spans: the distractors.
        question_span: the question, from the end of the haystack to the answer.
        depth: share of the haystack that stands before the needle, as achieved.
        requested_depth: as asked for.
        needle: index of the needle in the list given.
    """

    ids: tuple[int, ...]
    answer_start: int
    answer_span: Span
    needle_span: Span
    distractor_spans: tuple[Span, ...]
    question_span: Span
    depth: float
    requested_depth: float
    needle: int
    text: str = field(repr=False, default="")

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
    """

    prompts: tuple[NeedlePrompt, ...]
    refused: tuple[tuple[int, str], ...]
    length: int

    @property
    def hash(self) -> str:
        """Sha256 of the token ids and spans: equal hashes mean identical prompts."""
        content = [[p.ids, p.answer_start, p.answer_span, p.needle_span] for p in self.prompts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[NeedlePrompt]:
        return iter(self.prompts)


def load_needles(path: Path | str) -> tuple[Needle, ...]:
    """Read needles from JSONL: one object a line with the fields of `Needle`.

    Raises:
        BadPrompt: the file cannot be read, or a line is no needle; the line is named.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadPrompt(f"cannot read needles from {path}: {error}") from error
    needles = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not needles:
        raise BadPrompt(f"{path} holds no needle: each line is an object with needle, answer and question")
    return tuple(needles)


def _parse(line: str, where: str) -> Needle:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadPrompt(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise BadPrompt(f"{where} is no JSON object: give needle, answer and question")
    strings = [record.get(name) for name in ("needle", "answer", "question")]
    distractors = record.get("distractors", [])
    if not all(isinstance(s, str) and s for s in strings) or not isinstance(distractors, list):
        raise BadPrompt(f"{where}: needle, answer and question must be non-empty strings, distractors a list")
    if unknown := set(record) - {"needle", "answer", "question", "distractors", "labels"}:
        raise BadPrompt(f"{where} has unknown fields {sorted(unknown)}: put them under labels")
    needle, answer, question = map(str, strings)
    return Needle(needle, answer, question, tuple(map(str, distractors)), record.get("labels", {}))


def needle_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack_text: str,
    *,
    length: int,
    depths: Sequence[float],
    seed: int = 0,
) -> NeedleSet:
    """Hide every needle at every depth of a haystack.

    Pieces are tokenized once each, as they stand after a sentence's end, and joined as token ids: one space between
    pieces unless a piece begins with white space. The haystack is a window of the text that starts at a sentence
    drawn by seed and needle, running on from its beginning when the text is too short. Insertions move back to the
    nearest sentence boundary. A tokenizer with a BOS token gets exactly one, in front.

    Args:
        tokenizer: any transformers tokenizer.
        needles: what to hide.
        haystack_text: running text; its sentences end in ``. ! ?`` or a newline.
        length: tokens of the prompt from BOS to the end of the question; the answer comes on top.
        depths: shares of the haystack before the needle, in [0, 1].
        seed: of the window and the distractors' places.

    Returns:
        the prompts, and for each needle that cannot be scored the reason.

    Raises:
        BadPrompt: no depth, a depth outside [0, 1], or an empty haystack.
    """
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise BadPrompt(f"depths must be shares in [0, 1], one at least: got {list(depths)}")
    haystack = _Haystack.of(tokenizer, haystack_text)
    prompts: list[NeedlePrompt] = []
    refused: list[tuple[int, str]] = []
    for index, needle in enumerate(needles):
        try:
            pieces = _Pieces.of(tokenizer, needle)
            window = haystack.window(length - pieces.size, random.Random(f"{seed}/{index}/window"))
            _check_unique(pieces, window)
        except BadPrompt as reason:
            refused.append((index, str(reason)))
            continue
        for depth in depths:
            places = random.Random(f"{seed}/{index}/distractors")
            prompts.append(_build(tokenizer, pieces, window, haystack.ends, depth, index, places))
    return NeedleSet(tuple(prompts), tuple(refused), length)


@dataclass(frozen=True, slots=True)
class _Haystack:
    ids: tuple[int, ...]
    ends: frozenset[int]

    @staticmethod
    def of(tokenizer: "PreTrainedTokenizerBase", text: str) -> "_Haystack":
        ids = tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False))
        if not ids:
            raise BadPrompt("the haystack is empty: give it running text")
        ends = {i for i in set(ids) if str(tokenizer.decode([i])).rstrip(" ").endswith(SENTENCE_END)}
        return _Haystack(ids, frozenset(ends))

    def window(self, size: int, draw: random.Random) -> tuple[int, ...]:
        if size < 0:
            raise BadPrompt(f"needle, distractors and question are {-size} tokens longer than the prompt")
        starts = [i + 1 for i, token in enumerate(self.ids[:-1]) if token in self.ends] or [0]
        start = draw.choice([0, *starts])
        around = self.ids[start:] + self.ids[:start]
        return (around * (size // len(around) + 1))[:size]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Token ids of everything but the haystack."""

    bos: tuple[int, ...]
    needle: tuple[int, ...]
    answer: Span
    question: tuple[int, ...]
    distractors: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(tokenizer: "PreTrainedTokenizerBase", needle: Needle) -> "_Pieces":
        needle_ids, answer = _with_answer(tokenizer, needle)
        bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
        question = continuation(tokenizer, needle.question)
        distractors = tuple(continuation(tokenizer, text) for text in needle.distractors)
        if any(token in bos for piece in (needle_ids, question, *distractors) for token in piece):
            raise BadPrompt(f"the text holds the BOS token {tokenizer.bos_token!r}: take it out")
        return _Pieces(bos, needle_ids, answer, question, distractors)

    @property
    def size(self) -> int:
        return sum(map(len, (self.bos, self.needle, self.question, *self.distractors)))

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.needle[slice(*self.answer)]


def continuation(tokenizer: "PreTrainedTokenizerBase", text: str, *, anchor: str = ".") -> tuple[int, ...]:
    """Token ids of a text as it stands after a sentence's end, not as a text's beginning.

    Raises:
        BadPrompt: the tokenizer merges the text with what stands before it.
    """
    joined = anchor + text if text[:1].isspace() else f"{anchor} {text}"
    before = tokenizer.encode(anchor, add_special_tokens=False)
    ids = tokenizer.encode(joined.rstrip(" "), add_special_tokens=False, verbose=False)
    if ids[: len(before)] != before or len(ids) == len(before):
        raise BadPrompt(f"the tokenizer merges {text[:40]!r} with the full stop before it")
    return tuple(ids[len(before) :])


def _with_answer(tokenizer: "PreTrainedTokenizerBase", needle: Needle) -> tuple[tuple[int, ...], Span]:
    """The needle's ids and the answer's span in them; its first token may hold the space before the answer."""
    found = needle.needle.count(needle.answer)
    if found != 1:
        raise BadPrompt(f"answer {needle.answer!r} stands {found} times in the needle, not once")
    at = needle.needle.index(needle.answer)
    before = needle.needle[:at].rstrip()
    whole = continuation(tokenizer, needle.needle)
    head = continuation(tokenizer, before) if before else ()
    tail = continuation(tokenizer, needle.needle[: at + len(needle.answer)])
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tail[len(head) :]:
        raise BadPrompt(f"the tokenizer does not know all of answer {needle.answer!r}")
    if whole[: len(tail)] != tail or tail[: len(head)] != head:
        raise BadPrompt(f"the tokenizer merges answer {needle.answer!r} with the text around it in the needle")
    return whole, (len(head), len(tail))


def _check_unique(pieces: _Pieces, window: tuple[int, ...]) -> None:
    if set(pieces.bos) & set(window):
        raise BadPrompt("the haystack holds the BOS token: take it out")
    elsewhere = [("haystack", window), ("question", pieces.question), *(("distractor", d) for d in pieces.distractors)]
    for name, ids in elsewhere:
        if _contains(ids, pieces.answer_ids):
            raise BadPrompt(f"the answer also stands in the {name}: it could be copied from there")


def _contains(ids: tuple[int, ...], part: tuple[int, ...]) -> bool:
    return any(ids[i : i + len(part)] == part for i, token in enumerate(ids) if token == part[0])


def _build(
    tokenizer: "PreTrainedTokenizerBase",
    pieces: _Pieces,
    window: tuple[int, ...],
    ends: frozenset[int],
    depth: float,
    index: int,
    places: random.Random,
) -> NeedlePrompt:
    bounds = [0, *(i + 1 for i, token in enumerate(window) if token in ends)]
    place = max(bound for bound in bounds if bound <= round(depth * len(window)))
    others = [(places.choice(bounds), number, ids) for number, ids in enumerate(pieces.distractors, 1)]
    ids = list(pieces.bos)
    spans: dict[int, Span] = {}
    last = 0
    for at, number, piece in sorted([(place, 0, pieces.needle), *others]):
        ids += window[last:at]
        spans[number] = (len(ids), len(ids) + len(piece))
        ids += piece
        last = at
    ids += window[last:] + pieces.question
    start = spans[0][0]
    return NeedlePrompt(
        ids=(*ids, *pieces.answer_ids),
        answer_start=len(ids),
        answer_span=(start + pieces.answer[0], start + pieces.answer[1]),
        needle_span=spans[0],
        distractor_spans=tuple(spans[n] for n in sorted(spans) if n),
        question_span=(len(ids) - len(pieces.question), len(ids)),
        depth=place / len(window) if window else 0.0,
        requested_depth=depth,
        needle=index,
        text=str(tokenizer.decode(ids)),
    )
