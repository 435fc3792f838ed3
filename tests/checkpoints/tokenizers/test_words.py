"""Words in any script: accents split none, and where no space stands between words, letters are what is searched."""

import unicodedata

import pytest

from checkpoints.tokenizers.words import is_unspaced, plain_form, words_of


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Port-of-Spain, 1962_x", ["port", "of", "spain", "1962", "x"]),
        ("Côte d'Ivoire", ["côte", "d", "ivoire"]),
        ("首都は東京です", list("首都は東京です")),
        ("HunYuan是混元", ["hunyuan", "是", "混", "元"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("— …", []),
    ],
)
def test_words_are_the_same_composed_and_decomposed(text, wanted):
    assert words_of(text) == wanted
    assert words_of(unicodedata.normalize("NFD", text)) == wanted


def test_a_name_has_one_plain_form():
    assert plain_form(unicodedata.normalize("NFD", "Côte d\u2019Ivoire")) == "Côte d'Ivoire"
    assert [is_unspaced(letter) for letter in "東가aя"] == [True, False, False, False]
