"""Needles hidden in haystacks, in token space: every span is known by construction, none is searched for.

A prompt is ``[front] haystack + needle + haystack + question``, followed by the answer's token ids as they continue the
question, to be teacher-forced (arXiv 2604.02650, section 3.2: "continuous NIAH"). In front stands what the tokenizer
itself puts there (`checkpoints.tokenizers.framing`).
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from checkpoints.errors import BadPrompt
from checkpoints.tokenizers.framing import front_ids, gap
from heads.prompts.haystacks import Haystack, Ids, Window, continuation
from heads.prompts.needles import Needle, NeedlePrompt, NeedleSet, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOLERANCE = 0.1
UNIT_TOLERANCE = 0.5


def needle_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str | Sequence[str],
    *,
    length: int,
    depths: Sequence[float],
    seed: int = 0,
    tolerance: float | None = None,
) -> NeedleSet:
    """Hide every needle at every depth of a haystack.

    Pieces are tokenized once each, as they stand after a sentence's end, and joined as token ids: one space between
    pieces unless a piece begins with white space or in a script that puts none between sentences. The haystack is a
    window of the text that starts at a boundary drawn by seed and needle, running on from its beginning when the text
    is too short. A needle goes to the end of the sentence before its depth; where that is too far, of the sentence
    behind it, else between two words. `NeedlePrompt.depth` says where it came to stand. In front stands what the
    tokenizer itself puts there.

    Args:
        tokenizer: any transformers tokenizer.
        needles: what to hide.
        haystack: running text in any script; or units that nothing may split.
        length: tokens of the prompt from its first to the end of the question; the answer comes on top.
        depths: shares of the haystack before the needle, in [0, 1].
        seed: of the window and of the places of distractors and further parts.
        tolerance: share of the haystack by which a needle may miss its depth; one that would miss it by more is
            refused. By default a tenth in running text, a half among units, which may be long.

    Returns:
        the prompts, and for each needle that cannot be scored the reason; a haystack of which the tokenizer does not
        know most is a reason too.

    Raises:
        BadPrompt: no depth, a depth or a tolerance outside [0, 1], or an empty haystack.
    """
    depths = [float(depth) for depth in depths]
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise BadPrompt(f"depths must be shares in [0, 1], one at least: got {depths}")
    if tolerance is None:
        tolerance = TOLERANCE if isinstance(haystack, str) else UNIT_TOLERANCE
    if not 0 <= tolerance <= 1:
        raise BadPrompt(f"tolerance is a share in [0, 1] of the haystack: got {tolerance}")
    hay = Haystack.of(tokenizer, haystack)

    def build(pieces: "_Pieces", index: int) -> list[NeedlePrompt]:
        if length < pieces.size:
            raise BadPrompt(
                f"needle, distractors and question take {pieces.size} tokens: raise the length of {length}; "
                f"{2 * pieces.size} leaves as much for the haystack"
            )
        window = hay.window(length - pieces.size, random.Random(f"{seed}/{index}/window"))
        _check_unique(pieces, window.ids)
        at = [(depth, window.place(depth, tolerance)) for depth in depths]
        return [_join(tokenizer, pieces, window, place, depth, index, seed) for depth, place in at]

    return _build_all(tokenizer, needles, length, build)


def least_length(tokenizer: "PreTrainedTokenizerBase", needles: Sequence[Needle]) -> int:
    """Tokens that the longest of the needles takes with its distractors and question, the haystack left out.

    Needles that cannot be put into tokens at all are passed over; 0 where none can.
    """
    sizes = [0]
    for needle in needles:
        with suppress(BadPrompt):
            sizes.append(_Pieces.of(tokenizer, needle).size)
    return max(sizes)


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
    hay = Haystack.of(tokenizer, haystack)

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


def _build_all(
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    length: int,
    build: "Callable[[_Pieces, int], list[NeedlePrompt]]",
) -> NeedleSet:
    """Build every needle's prompts, or note why not."""
    prompts: list[NeedlePrompt] = []
    refused: list[tuple[int, str]] = []
    least = 0
    for index, needle in enumerate(needles):
        try:
            pieces = _Pieces.of(tokenizer, needle)
            prompts += build(pieces, index)
            least = max(least, pieces.size)
        except BadPrompt as reason:
            refused.append((index, str(reason)))
    longest = length or max((p.answer_start for p in prompts), default=0)
    return NeedleSet(tuple(prompts), tuple(refused), longest, front_ids(tokenizer), least)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Token ids of everything but the haystack.

    Attributes:
        front: what the tokenizer puts in front.
        hidden: the needle, its further parts, then the distractors.
        answers: the answer's place in the needle and in each part.
        rank: how many distractors come first; None scatters them.
        asked: the answer as it continues the question.
        separator: what stands between the parts' answers.
    """

    front: Ids
    intro: Ids
    hidden: tuple[Ids, ...]
    answers: tuple[Span, ...]
    rank: int | None
    question: Ids
    asked: Ids
    separator: Ids

    @staticmethod
    def of(tokenizer: "PreTrainedTokenizerBase", needle: Needle) -> "_Pieces":
        gold = [_with_answer(tokenizer, *pair) for pair in ((needle.needle, needle.answer), *needle.parts)]
        front = front_ids(tokenizer)
        intro = continuation(tokenizer, needle.intro) if needle.intro else ()
        question, asked = _asked(tokenizer, needle)
        hidden = (*(ids for ids, _ in gold), *(continuation(tokenizer, text) for text in needle.distractors))
        starts = {*front, tokenizer.bos_token_id}
        if found := [token for piece in (intro, question, *hidden) for token in piece if token in starts]:
            raise BadPrompt(
                f"the text holds {tokenizer.convert_ids_to_tokens(found[0])!r}, a BOS token or one that the tokenizer "
                "puts in front: take it out"
            )
        comma = continuation(tokenizer, "a,")[len(continuation(tokenizer, "a")) :] if needle.parts else ()
        return _Pieces(front, intro, hidden, tuple(span for _, span in gold), needle.rank, question, asked, comma)

    @property
    def size(self) -> int:
        return sum(map(len, (self.front, self.intro, self.question, *self.hidden)))

    @property
    def sides(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Which of the hidden, the needle aside, stand anywhere, which ahead of it, and which behind it."""
        gold = len(self.answers)
        parts, distractors = range(1, gold), range(gold, len(self.hidden))
        if self.rank is None:
            return distractors, (), parts
        return (), distractors[: self.rank], (*parts, *distractors[self.rank :])

    @property
    def golds(self) -> list[Ids]:
        return [ids[slice(*span)] for ids, span in zip(self.hidden, self.answers, strict=False)]

    @property
    def answer(self) -> Ids:
        return self.asked + tuple(token for gold in self.golds[1:] for token in (*self.separator, *gold))


def _asked(tokenizer: "PreTrainedTokenizerBase", needle: Needle) -> tuple[Ids, Ids]:
    """Ids of the question, and those that the answer adds to it."""
    text = needle.question.rstrip(" ")
    space = " " if text != needle.question and needle.space is None else gap(text, needle.answer, needle.space)
    question, whole = continuation(tokenizer, text), continuation(tokenizer, text + space + needle.answer)
    if whole[: len(question)] != question or len(whole) == len(question):
        raise BadPrompt(
            f"the answer {needle.answer!r} changes how the end of the question, {text[-20:]!r}, is split into tokens; "
            "end the question at a word, or say with space whether one stands between them"
        )
    return question, whole[len(question) :]


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
    if set(pieces.front) & set(window):
        raise BadPrompt("the haystack holds a token that the tokenizer puts in front, such as a BOS token: take it out")
    distractors = pieces.hidden[len(pieces.answers) :]
    elsewhere = [
        ("haystack", window),
        ("intro", pieces.intro),
        ("question", pieces.question),
        *(("distractor", ids) for ids in distractors),
    ]
    for name, ids in elsewhere:
        if any(_contains(ids, gold) for gold in pieces.golds):
            raise BadPrompt(f"the answer also stands in the {name}: it could be copied from there")


def _contains(ids: Ids, part: Ids) -> bool:
    return any(ids[i : i + len(part)] == part for i, token in enumerate(ids) if token == part[0])


def _join(
    tokenizer: "PreTrainedTokenizerBase",
    pieces: _Pieces,
    window: Window,
    place: int,
    depth: float,
    index: int,
    seed: int,
) -> NeedlePrompt:
    """The needle at its place among everything else that is hidden."""
    ids = [*pieces.front, *pieces.intro]
    starts = [0] * len(pieces.hidden)
    last = 0
    others = _others(pieces, window, place, random.Random(f"{seed}/{index}/others"))
    for placed in sorted([_Placed(place, 0, 0), *others]):
        ids += window.ids[last : placed.at]
        starts[placed.number] = len(ids)
        ids += pieces.hidden[placed.number]
        last = placed.at
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


class _Placed(NamedTuple):
    """One of the hidden pieces in the window; sorted, they come as they are read.

    Attributes:
        at: haystack tokens before it.
        turn: its order among those at the same place: below 0 ahead of the needle, which has 0, above behind it.
        number: which of `_Pieces.hidden` it is.
    """

    at: int
    turn: int
    number: int


def _others(pieces: _Pieces, window: Window, place: int, draw: random.Random) -> list[_Placed]:
    """Places of parts and distractors, the needle's given.

    Scattered distractors stay where they are whatever the needle's depth, so that depths share their prefix.
    """
    scattered, ahead, behind = pieces.sides
    placed = [_Placed(draw.choice(window.bounds), n, n) for n in scattered]
    before = sorted(draw.randint(0, place) for _ in ahead)
    placed += [_Placed(window.near(at), n - len(pieces.hidden), n) for n, at in zip(ahead, before, strict=True)]
    after = sorted(draw.randint(place, len(window.ids)) for _ in behind)
    return placed + [_Placed(max(place, window.near(at)), n, n) for n, at in zip(behind, after, strict=True)]
