"""Needles hidden in haystacks, in token space: every span is known by construction, none is searched for.

A prompt is ``[bos] haystack + needle + haystack + question``, followed by the answer's own token ids as they stand
in the needle, to be teacher-forced (arXiv 2604.02650, section 3.2: "continuous NIAH").
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from heads.prompts.needles import Needle, NeedlePrompt, NeedleSet, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
SENTENCE_END = (".", "!", "?", "\n")
MOSTLY = 0.5


def needle_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str | Sequence[str],
    *,
    length: int,
    depths: Sequence[float],
    seed: int = 0,
) -> NeedleSet:
    """Hide every needle at every depth of a haystack.

    Pieces are tokenized once each, as they stand after a sentence's end, and joined as token ids: one space between
    pieces unless a piece begins with white space. The haystack is a window of the text that starts at a boundary
    drawn by seed and needle, running on from its beginning when the text is too short. Insertions move back to the
    nearest boundary. A tokenizer with a BOS token gets exactly one, in front.

    Args:
        tokenizer: any transformers tokenizer.
        needles: what to hide.
        haystack: running text, whose sentences end in ``. ! ?`` or a newline; or units that nothing may split.
        length: tokens of the prompt from BOS to the end of the question; the answer comes on top.
        depths: shares of the haystack before the needle, in [0, 1].
        seed: of the window and of the places of distractors and further parts.

    Returns:
        the prompts, and for each needle that cannot be scored the reason; a haystack of which the tokenizer does not
        know most is a reason too.

    Raises:
        BadPrompt: no depth, a depth outside [0, 1], or an empty haystack.
    """
    depths = [float(depth) for depth in depths]
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise BadPrompt(f"depths must be shares in [0, 1], one at least: got {depths}")
    hay = _Haystack.of(tokenizer, haystack)

    def build(pieces: "_Pieces", index: int) -> list[NeedlePrompt]:
        if length < pieces.size:
            raise BadPrompt(f"needle, distractors and question take {pieces.size} tokens: raise the length of {length}")
        window = hay.window(length - pieces.size, random.Random(f"{seed}/{index}/window"))
        _check_unique(pieces, window.ids)
        at = [(depth, window.boundary(round(depth * len(window.ids)))) for depth in depths]
        return [_join(tokenizer, pieces, window, place, depth, index, seed) for depth, place in at]

    return _build_all(tokenizer, needles, length, build)


def interference_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str | Sequence[str],
    *,
    distances: Sequence[int],
    befores: Sequence[int],
    seed: int = 0,
) -> NeedleSet:
    """Hide every needle at fixed distances to the question, with more or less text before it.

    The "modified NIAH" of arXiv 2604.02650, figure 8: the absolute distance (tokens after the needle) is held while
    the interference length (tokens before it) grows. The text is not cut at sentence boundaries here, since lengths
    are what is studied. `NeedlePrompt.distance` and `NeedlePrompt.before` say what was built.

    Args:
        tokenizer: any transformers tokenizer.
        needles: what to hide; without distractors or parts.
        haystack: running text or units.
        distances: haystack tokens after the needle.
        befores: haystack tokens before it.
        seed: of the window.

    Raises:
        BadPrompt: a negative length, no length, or an empty haystack.
    """
    grid = [(distance, before) for distance in distances for before in befores]
    if not grid or min(map(min, grid)) < 0:
        raise BadPrompt(f"distances and befores are token counts from 0 on: got {list(distances)}, {list(befores)}")
    hay = _Haystack.of(tokenizer, haystack)

    def build(pieces: "_Pieces", index: int) -> list[NeedlePrompt]:
        if len(pieces.hidden) > 1:
            raise BadPrompt("the interference grid hides one sentence: leave distractors and parts out")
        out = []
        for distance, before in grid:
            window = hay.window(distance + before, random.Random(f"{seed}/{index}/window"))
            _check_unique(pieces, window.ids)
            share = before / (distance + before) if distance + before else 0.0
            out.append(_join(tokenizer, pieces, window, before, share, index, seed))
        return out

    return _build_all(tokenizer, needles, 0, build)


def continuation(tokenizer: "PreTrainedTokenizerBase", text: str, *, anchor: str = ".") -> Ids:
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


def _build_all(
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    length: int,
    build: "Callable[[_Pieces, int], list[NeedlePrompt]]",
) -> NeedleSet:
    """Build every needle's prompts, or note why not."""
    prompts: list[NeedlePrompt] = []
    refused: list[tuple[int, str]] = []
    for index, needle in enumerate(needles):
        try:
            prompts += build(_Pieces.of(tokenizer, needle), index)
        except BadPrompt as reason:
            refused.append((index, str(reason)))
    return NeedleSet(tuple(prompts), tuple(refused), length or max((p.answer_start for p in prompts), default=0))


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of haystack, and where something may be inserted: before the first token, after each unit."""

    ids: Ids
    bounds: tuple[int, ...]

    def boundary(self, at: int) -> int:
        return max(bound for bound in self.bounds if bound <= at)


@dataclass(frozen=True, slots=True)
class _Haystack:
    ids: Ids
    ends: tuple[int, ...]
    unknown: float

    @staticmethod
    def of(tokenizer: "PreTrainedTokenizerBase", haystack: str | Sequence[str]) -> "_Haystack":
        if isinstance(haystack, str):
            ids = tuple(tokenizer.encode(haystack, add_special_tokens=False, verbose=False))
            marks = {i for i in set(ids) if str(tokenizer.decode([i])).rstrip(" ").endswith(SENTENCE_END)}
            ends = tuple(i + 1 for i, token in enumerate(ids) if token in marks)
        else:
            units = [continuation(tokenizer, unit) for unit in haystack]
            ids = tuple(token for unit in units for token in unit)
            ends = tuple(accumulate(map(len, units)))
        if not ids or not "".join(haystack).strip():
            raise BadPrompt("the haystack is empty: give it running text")
        return _Haystack(ids, ends, ids.count(tokenizer.unk_token_id) / len(ids))

    def window(self, size: int, draw: random.Random) -> _Window:
        if self.unknown > MOSTLY:
            raise BadPrompt(
                f"the tokenizer does not know {self.unknown:.0%} of the haystack: give it text in the model's own words"
            )
        starts = [end for end in self.ends if end < len(self.ids)]
        start = draw.choice([0, *starts])
        rounds = size // len(self.ids) + 2
        ids = (self.ids * rounds)[start : start + size]
        shifted = (end + turn * len(self.ids) - start for turn in range(rounds) for end in self.ends)
        return _Window(ids, (0, *(bound for bound in shifted if 0 < bound <= size)))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Token ids of everything but the haystack.

    Attributes:
        hidden: the needle, its further parts, then the distractors.
        answers: the answer's place in the needle and in each part.
        rank: how many distractors come first; None scatters them.
        separator: what stands between the parts' answers.
    """

    bos: Ids
    intro: Ids
    hidden: tuple[Ids, ...]
    answers: tuple[Span, ...]
    rank: int | None
    question: Ids
    separator: Ids

    @staticmethod
    def of(tokenizer: "PreTrainedTokenizerBase", needle: Needle) -> "_Pieces":
        gold = [_with_answer(tokenizer, *pair) for pair in ((needle.needle, needle.answer), *needle.parts)]
        bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
        intro = continuation(tokenizer, needle.intro) if needle.intro else ()
        question = continuation(tokenizer, needle.question)
        hidden = (*(ids for ids, _ in gold), *(continuation(tokenizer, text) for text in needle.distractors))
        if any(token in bos for piece in (intro, question, *hidden) for token in piece):
            raise BadPrompt(f"the text holds the BOS token {tokenizer.bos_token!r}: take it out")
        comma = continuation(tokenizer, "a,")[len(continuation(tokenizer, "a")) :] if needle.parts else ()
        return _Pieces(bos, intro, hidden, tuple(span for _, span in gold), needle.rank, question, comma)

    @property
    def size(self) -> int:
        return sum(map(len, (self.bos, self.intro, self.question, *self.hidden)))

    @property
    def golds(self) -> list[Ids]:
        return [ids[slice(*span)] for ids, span in zip(self.hidden, self.answers, strict=False)]

    @property
    def answer(self) -> Ids:
        first, *rest = self.golds
        return first + tuple(token for gold in rest for token in (*self.separator, *gold))


def _with_answer(tokenizer: "PreTrainedTokenizerBase", sentence: str, answer: str) -> tuple[Ids, Span]:
    """A sentence's ids in running text, and the answer's span in them."""
    whole, span = answer_in(lambda text: continuation(tokenizer, text), sentence, answer)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in whole[slice(*span)]:
        raise BadPrompt(f"the tokenizer does not know all of answer {answer!r}")
    return whole, span


def answer_in(encode: Callable[[str], Ids], sentence: str, answer: str) -> tuple[Ids, Span]:
    """A sentence's ids and the answer's span in them; its first token may hold the space before the answer.

    Args:
        encode: text to ids; of a beginning of the sentence it must give a beginning of the ids.
        sentence: the needle.
        answer: the part of it that is asked for.

    Raises:
        BadPrompt: the answer is not there exactly once, or shares a token with what is around it.
    """
    found = sentence.count(answer)
    if found != 1:
        raise BadPrompt(f"answer {answer!r} stands {found} times in the needle, not once")
    at = sentence.index(answer)
    before = sentence[:at].rstrip()
    whole = encode(sentence)
    head = encode(before) if before else ()
    tail = encode(sentence[: at + len(answer)])
    if whole[: len(tail)] != tail or tail[: len(head)] != head:
        raise BadPrompt(f"the tokenizer merges answer {answer!r} with the text around it in the needle")
    return whole, (len(head), len(tail))


def _check_unique(pieces: _Pieces, window: Ids) -> None:
    if set(pieces.bos) & set(window):
        raise BadPrompt("the haystack holds the BOS token: take it out")
    distractors = pieces.hidden[len(pieces.answers) :]
    elsewhere = [("haystack", window), ("question", pieces.question), *(("distractor", ids) for ids in distractors)]
    for name, ids in elsewhere:
        if any(_contains(ids, gold) for gold in pieces.golds):
            raise BadPrompt(f"the answer also stands in the {name}: it could be copied from there")


def _contains(ids: Ids, part: Ids) -> bool:
    return any(ids[i : i + len(part)] == part for i, token in enumerate(ids) if token == part[0])


def _join(
    tokenizer: "PreTrainedTokenizerBase",
    pieces: _Pieces,
    window: _Window,
    place: int,
    depth: float,
    index: int,
    seed: int,
) -> NeedlePrompt:
    """The needle at its place among everything else that is hidden."""
    ids = [*pieces.bos, *pieces.intro]
    starts = [0] * len(pieces.hidden)
    last = 0
    for at, _, number in sorted([(place, 0, 0), *_places(pieces, window, place, f"{seed}/{index}/others")]):
        ids += window.ids[last:at]
        starts[number] = len(ids)
        ids += pieces.hidden[number]
        last = at
    ids += window.ids[last:] + pieces.question
    spans = tuple((start, start + len(piece)) for start, piece in zip(starts, pieces.hidden, strict=True))
    gold = len(pieces.answers)
    return NeedlePrompt(
        ids=(*ids, *pieces.answer),
        answer_start=len(ids),
        answer_spans=tuple((start + a, start + b) for start, (a, b) in zip(starts, pieces.answers, strict=False)),
        needle_spans=spans[:gold],
        distractor_spans=spans[gold:],
        question_span=(len(ids) - len(pieces.question), len(ids)),
        depth=place / len(window.ids) if window.ids else 0.0,
        requested_depth=depth,
        needle=index,
        text=str(tokenizer.decode(ids)),
    )


def _places(pieces: _Pieces, window: _Window, place: int, seed: str) -> list[tuple[int, int, int]]:
    """(place, order among equal places, number) of parts and distractors.

    Scattered distractors stay where they are whatever the needle's depth, so that depths share their prefix.
    """
    draw, size = random.Random(seed), len(window.ids)
    gold, total = len(pieces.answers), len(pieces.hidden)
    distractors = range(gold, total)
    scattered = distractors if pieces.rank is None else ()
    before = distractors[: pieces.rank or 0]
    behind = (*range(1, gold), *(n for n in distractors if n not in scattered and n not in before))
    places = [(draw.choice(window.bounds), n, n) for n in scattered]
    ahead = sorted(draw.randint(0, place) for _ in before)
    places += [(window.boundary(at), n - total, n) for n, at in zip(before, ahead, strict=True)]
    later = sorted(draw.randint(place, size) for _ in behind)
    return places + [(max(place, window.boundary(at)), n, n) for n, at in zip(behind, later, strict=True)]
