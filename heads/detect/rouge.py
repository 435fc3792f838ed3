"""ROUGE-1 recall of a short answer (Lin 2004): how many of its words were written."""

import re
from collections import Counter
from collections.abc import Callable

from checkpoints.errors import BadPrompt, DriftError
from checkpoints.tokenizers.words import words_of

_PUBLISHED_WORD = re.compile(r"[a-z0-9]+")


def rouge1_recall(reference: str, written: str) -> float:
    """Share of the reference's words that were written, each counted as often as both have it.

    Words are those of `checkpoints.tokenizers.words.words_of`, without stemming: on ASCII text the tokenisation of the
    ``rouge_score`` package, in scripts without spaces single letters.

    Args:
        reference: the true answer.
        written: the model's.

    Raises:
        BadPrompt: the reference has no word.
    """
    wanted = Counter(words_of(reference))
    if not wanted:
        raise BadPrompt(f"the reference {reference!r} has no word to recall; give each probe an answer in words")
    return _share(wanted, Counter(words_of(written)))


def published_recall(reference: str, written: str) -> float:
    """The same as ``rouge_score`` with stems computes it, in whose place `rouge1_recall` is to be preferred.

    ASCII words alone, as their Porter stems where they have more than three letters; 0 where the reference has none.

    Raises:
        DriftError: without the package nltk.
    """
    stem = _stemmer()
    wanted, found = (Counter(map(stem, _PUBLISHED_WORD.findall(text.lower()))) for text in (reference, written))
    return _share(wanted, found) if wanted else 0.0


def _share(wanted: Counter[str], found: Counter[str]) -> float:
    return (wanted & found).total() / wanted.total()


def _stemmer() -> Callable[[str], str]:
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise DriftError(
            "the published ROUGE stems words, which needs the package nltk: pip install 'circuit-drift[parity]', or "
            "leave 'stemming' out of defects="
        ) from error
    porter = PorterStemmer()
    return lambda word: str(porter.stem(word)) if len(word) > 3 else word
