"""The words of a text in any script, by which a text is searched for an answer or a name."""

import unicodedata

import regex

from checkpoints.tokenizers.framing import UNSPACED

_WORD = regex.compile(
    rf"{UNSPACED}\p{{M}}*|(?:(?!{UNSPACED})[\p{{L}}\p{{N}}])(?:(?!{UNSPACED})[\p{{L}}\p{{N}}\p{{M}}])*"
)
_UNSPACED = regex.compile(UNSPACED)
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\uff07": "'"})


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits with their marks; of scripts that put no space between words, letters.

    Composed and decomposed letters are the same, so that an accent never splits a word.
    """
    return list(_WORD.findall(unicodedata.normalize("NFC", text).lower()))


def plain_form(text: str) -> str:
    """A text in which a name is found however it is written: composed letters, straight apostrophes."""
    return unicodedata.normalize("NFC", text).translate(_APOSTROPHES)


def is_unspaced(letter: str) -> bool:
    """Whether a letter is of a script that puts no space between words."""
    return _UNSPACED.match(letter) is not None
