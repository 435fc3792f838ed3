"""What measures over the run's needles share: their source, and the prompts in tokens, built once a tokenizer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import heads
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.prompts import NeedleSource
from heads.prompts.needles import NeedleSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    """The prompts in tokens; those built last with a tokenizer are kept, since a run asks the same again and again."""
    known = _built.get(tokenizer)
    if known is None or known[0] is not source:
        prompts = heads.needle_prompts(
            tokenizer,
            source.needles,
            source.haystack,
            length=source.length,
            depths=source.depths,
            seed=source.seed,
        )
        known = _built[tokenizer] = (source, prompts)
    return known[1]
