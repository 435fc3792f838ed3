"""Where something may be put into a text without cutting a sentence, or failing that a word, in any script."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING

import regex

from checkpoints.tokenizers.framing import UNSPACED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Places = tuple[int, ...]

_CLOSERS = r"(?:[\p{Pe}\p{Pi}\p{Pf}\"'`*_]|[ \u00a0\u202f][»›]|\[[\p{L}\p{N} ]{1,12}\]|[¹²³⁰⁴-⁹])*"
_SENTENCE = regex.compile(
    rf"""  [.!?…]+ {_CLOSERS} (?= \s | $ | {UNSPACED})            # Latin, Greek, Cyrillic, Hebrew: white space follows
         | (?: (?![.!?]) \p{{Sentence_Terminal}} )+ {_CLOSERS}  # scripts with a mark of their own
         | \S (?= [^\S\n]*\n)                                   # the end of a line, of code or verse
    """,
    regex.VERBOSE,
)
_WORD = regex.compile(r"\S(?=\s)|[、，；：](?=\S)")
_LETTER = regex.compile(rf"{UNSPACED}\p{{M}}*(?={UNSPACED}|\p{{P}}|\p{{L}})")


def places(text: str) -> tuple[Places, Places, Places]:
    """Characters that stand before each place in a text: ends of sentences; of words; letters where words have no end.

    A sentence ends behind its mark and the quotes, brackets and footnote numbers that close with it, and at the end of
    a line; a full stop inside a number or a name of dots ends none.
    """
    sentence, word, letter = (
        tuple(match.end() for match in pattern.finditer(text)) for pattern in (_SENTENCE, _WORD, _LETTER)
    )
    return sentence, word, letter


def tokenized(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[tuple[int, ...], tuple[Places, ...]]:
    """Token ids of a text, and how many tokens stand before each of its places, where a token ends there.

    The places are those of `places`, in its order. A token may run on into the white space behind a place.
    """
    if tokenizer.is_fast:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, spans = tuple(found["input_ids"]), [tuple(span) for span in found["offset_mapping"]]
    else:
        ids = tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False))
        text, spans = _spelled(tokenizer, ids)
    return ids, tuple(_before(text, spans, at) for at in places(text))


def _spelled(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> tuple[str, list[tuple[int, ...]]]:
    """The text as its tokens spell it one by one, for a tokenizer that does not say where its tokens stand."""
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids))]
    pieces = [piece.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n") for piece in pieces]
    spans: list[tuple[int, ...]] = []
    end = 0
    for piece in pieces:
        spans.append((end, end + len(piece)))
        end += len(piece)
    return "".join(pieces), spans


def _before(text: str, spans: list[tuple[int, ...]], at: Places) -> Places:
    starts = [start for start, _ in spans]
    found: dict[int, None] = {}
    for place in at:
        count = bisect_left(starts, place)
        end = spans[count - 1][1] if count else 0
        if count and (end <= place or text[place:end].isspace()):
            found[count] = None
    return tuple(found)
