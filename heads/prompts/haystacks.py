"""Haystacks in token space: a stretch of text, and where in it something may be inserted."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from checkpoints.tokenizers.framing import unspaced
from heads.prompts.boundaries import Places, tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
MOSTLY = 0.5


def continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> Ids:
    """Token ids of a text as it stands after a sentence's end, not as a text's beginning.

    A space comes before it unless it begins with white space or in a script that puts none between sentences.

    Raises:
        BadPrompt: the tokenizer merges the text with what stands before it.
    """
    return continuations(tokenizer, (text,))[0]


def continuations(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> list[Ids]:
    """`continuation` of each of some texts."""
    encode = partial(tokenizer.encode, add_special_tokens=False, verbose=False)
    anchors = cache(encode)  # a haystack of units would have the same full stop encoded before each
    return [_continuation(encode, anchors, text) for text in texts]


def _continuation(encode: Callable[[str], list[int]], anchors: Callable[[str], list[int]], text: str) -> Ids:
    spaced = not text[:1].isspace() and not unspaced(text)
    for anchor in (".",) if spaced or text[:1].isspace() else ("。", "\n", "."):
        before, ids = anchors(anchor), encode((anchor + " " * spaced + text).rstrip(" "))
        if ids[: len(before)] == before and len(ids) > len(before):
            return tuple(ids[len(before) :])
    raise BadPrompt(f"the tokenizer merges {text[:40]!r} with the full stop before it")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of haystack.

    Attributes:
        ids: its tokens.
        levels: how many tokens stand before each place where something may be inserted, the best kind of place first:
            ends of sentences (or units), then of words, then letters of scripts without them; 0 is in each.
    """

    ids: Ids
    levels: tuple[Places, ...]

    def place(self, depth: float, tolerance: float) -> int:
        """The place for a depth: the sentence end before it, else the one behind it, else those of words.

        Args:
            depth: share of the window that is to stand before the place.
            tolerance: share of the window by which the place may miss it.

        Raises:
            BadPrompt: no place is near enough; says where the nearest is.
        """
        wanted, size = round(depth * len(self.ids)), len(self.ids)
        for level in self.levels:
            for found in _around(level, wanted):
                if found == wanted or abs(found - wanted) < tolerance * size:
                    return found
        nearest = min((at for level in self.levels for at in level), key=lambda at: abs(at - wanted))
        raise BadPrompt(
            f"depth {depth:g} cannot be reached: the nearest place that cuts no sentence, word or unit is at "
            f"{nearest / size:.2f}, more than {tolerance:g} of the haystack away; use a haystack of shorter sentences "
            "or units, a greater length, or raise tolerance="
        )

    def near(self, at: int) -> int:
        """The end of a sentence at a place or before it, of a word where there is none but the beginning."""
        return max(bound for bound in self.bounds if bound <= at)

    @property
    def bounds(self) -> Places:
        """The ends of sentences (or units); of words, or letters, where there are none."""
        return next((level for level in self.levels if len(level) > 1), self.levels[0])


@dataclass(frozen=True, slots=True)
class Haystack:
    """The whole text in tokens.

    Attributes:
        ids: its tokens.
        levels: as in `Window`, without 0.
        unknown: share of tokens that the tokenizer does not know.
    """

    ids: Ids
    levels: tuple[Places, ...]
    unknown: float

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", haystack: str | Sequence[str]) -> "Haystack":
        """Tokenize running text, or units that nothing may split.

        Raises:
            BadPrompt: it is empty.
        """
        levels: tuple[Places, ...]
        if isinstance(haystack, str):
            ids, levels = tokenized(tokenizer, haystack)
        else:
            units = continuations(tokenizer, haystack)
            ids = tuple(token for unit in units for token in unit)
            levels = (tuple(accumulate(map(len, units))),)
        if not ids or not "".join(haystack).strip():
            raise BadPrompt("the haystack is empty: give it running text")
        return cls(ids, levels, ids.count(tokenizer.unk_token_id) / len(ids))

    def window(self, size: int, draw: random.Random) -> Window:
        """So many tokens from a drawn end of a sentence on, running on from the beginning where the text ends.

        Raises:
            BadPrompt: the tokenizer does not know most of the text.
        """
        if self.unknown > MOSTLY:
            raise BadPrompt(
                f"the tokenizer does not know {self.unknown:.0%} of the haystack: give it text in the model's own words"
            )
        ends = next((level for level in self.levels if level), ())
        start = draw.choice([0, *(end for end in ends if end < len(self.ids))])
        rounds = size // len(self.ids) + 2
        ids = (self.ids * rounds)[start : start + size]
        return Window(ids, tuple(self._shifted(level, start, size, rounds) for level in self.levels))

    def _shifted(self, level: Places, start: int, size: int, rounds: int) -> Places:
        found = [0]
        for shift in (turn * len(self.ids) - start for turn in range(rounds)):
            found += (end + shift for end in level[bisect_right(level, -shift) : bisect_right(level, size - shift)])
        return tuple(found)


def _around(level: Places, wanted: int) -> tuple[int, ...]:
    """The last place of a level that is not behind the one wanted, and the first that is."""
    before = max(at for at in level if at <= wanted)
    behind = min((at for at in level if at > wanted), default=before)
    return before, behind
