"""ROUGE-1 recall of a short answer (Lin 2004), as studies of knowledge acquisition score generated text."""

import re
from collections import Counter

from checkpoints.errors import BadPrompt

_WORD = re.compile(r"[^\W_]+")


def rouge1_recall(reference: str, answer: str) -> float:
    """Share of the reference's words that the answer holds, each counted as often as both have it.

    Words are the runs of letters and digits of the lower-cased text, without stemming: on ASCII text the
    tokenisation of the ``rouge_score`` package.

    Raises:
        BadPrompt: the reference has no word.
    """
    wanted = Counter(_words(reference))
    if not wanted:
        raise BadPrompt(f"the reference {reference!r} has no word to recall; give each probe an answer in words")
    return (wanted & Counter(_words(answer))).total() / wanted.total()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
