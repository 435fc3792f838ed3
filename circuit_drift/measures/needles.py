"""Needle prompts in tokens, built once for each tokenizer."""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import heads
from circuit_drift.prompts import NeedleSource
from heads.prompts.needles import NeedleSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_built: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[NeedleSource, NeedleSet]]" = WeakKeyDictionary()


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
