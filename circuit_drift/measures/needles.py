"""What measures over the run's needles share: their source, and the prompts in tokens, built once a tokenizer."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import heads
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.prompts import DEFAULT_LENGTH, NeedleSource
from heads.prompts.needles import NeedleSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEP = 8

logger = logging.getLogger(__name__)
_built: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[NeedleSource, NeedleSet]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class OverNeedles(Measure):
    """A measure without arguments whose numbers depend on the run's needles alone; batches change none."""

    source: NeedleSource

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the run's needles."""
        cls.refuse_arguments(asked)
        return cls(asked.prompts.needles)

    def params(self) -> dict[str, Any]:
        """The prompts."""
        return {"prompts": self.source.hash}

    @property
    def origins(self) -> dict[str, str]:
        """Of the needles."""
        return {"needles": self.source.origin}


def needle_prompts_of(tokenizer: "PreTrainedTokenizerBase", source: NeedleSource) -> "NeedleSet":
    """The prompts in tokens; those built last with a tokenizer are kept, since a run asks the same again and again.

    Where the usual length holds no needle at all, as with the long token sequences of a small vocabulary, prompts are
    longer, and a warning says so; a length that was asked for stays.
    """
    known = _built.get(tokenizer)
    if known is None or known[0] is not source:
        prompts = _of_length(tokenizer, source, source.length)
        if not len(prompts) and source.length == DEFAULT_LENGTH:
            prompts = _longer(tokenizer, source, prompts)
        known = _built[tokenizer] = (source, prompts)
    return known[1]


def _of_length(tokenizer: "PreTrainedTokenizerBase", source: NeedleSource, length: int) -> "NeedleSet":
    return heads.needle_prompts(
        tokenizer, source.needles, source.haystack, length=length, depths=source.depths, seed=source.seed
    )


def _longer(tokenizer: "PreTrainedTokenizerBase", source: NeedleSource, short: NeedleSet) -> NeedleSet:
    """Prompts of a quarter more tokens than the longest needle takes, where it is length that none had."""
    from heads.prompts.building import least_length

    least = least_length(tokenizer, source.needles)
    if least <= source.length:
        return short
    length = -(-5 * least // (4 * STEP)) * STEP
    logger.warning(
        "needles with their distractors and question take up to %d tokens, so prompts have %d tokens instead of %d "
        "(--length)",
        least,
        length,
        source.length,
    )
    return _of_length(tokenizer, source, length)
