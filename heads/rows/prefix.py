"""Keys and values of a prompt kept for the next one, up to the first token in which they differ."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Literal

import torch
from transformers import DynamicCache, PreTrainedModel

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.rope import depends_on_length

Prefix = Literal["separate", "shared", "auto"]
LEAST_TOKENS, LEAST_SHARE = 512, 0.25
"""Tokens of a prompt, and share of all that need not run, from which on prompts one by one cost less than batches."""


class SharedPrefix:
    """The cache of the prompt that ran last; one sequence at a time.

    Every layer keeps all of its keys, windowed layers too, so that the cache can be cut back anywhere.

    Args:
        model: any model whose layers keep keys and values.

    Raises:
        UnsupportedArchitecture: a layer keeps a running state, which cannot be cut back, or positions are turned by
            angles that depend on the length.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if depends_on_length(model):
            raise UnsupportedArchitecture(
                f"{type(model).__name__} turns positions by angles that depend on the length of the whole sequence, so "
                "that no prompt can go on from another's keys: use prefix='separate'"
            )
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
        if others := {kind for kind in kinds if not kind.endswith("attention") or kind.startswith("linear")}:
            raise UnsupportedArchitecture(
                f"{type(model).__name__} has layers of kind {sorted(others)}, whose state cannot be cut back to a "
                "shared prefix: use prefix='separate'"
            )
        self._cache = DynamicCache()
        self._ids: tuple[int, ...] = ()

    def reuse(self, ids: Sequence[int], *, keep: int) -> int:
        """Cut the cache back to what the new sequence shares with the last, and take the new one as the last.

        Args:
            ids: the whole new sequence.
            keep: position from which on tokens must run again, because their rows are wanted.

        Returns:
            how many tokens need not run.
        """
        shared = agreeing(self._ids, ids, keep)
        if surplus := len(self._ids) - shared:
            self._cache.crop(-surplus)
        self._ids = tuple(ids)
        return shared

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model needs to go on from the cache."""
        return {"past_key_values": self._cache, "use_cache": True}


def cache_for(model: PreTrainedModel, prefix: Prefix, sequences: Sequence[Sequence[int]]) -> SharedPrefix | None:
    """What sequences go on from each other by; None where each runs whole.

    Args:
        model: that runs them.
        prefix: ``auto`` where it pays: in float32 on a CPU, for long sequences that share much. Narrower floats round
            where what is cached and what is not are joined, and a GPU would rather run several sequences at once.
        sequences: in the order in which they would run one by one.
    """
    if prefix != "auto":
        return SharedPrefix(model) if prefix == "shared" else None
    whole = sum(map(len, sequences))
    saved = sum(agreeing(before, after, len(after)) for before, after in pairwise(sequences))
    long = whole >= LEAST_TOKENS * len(sequences)
    if not long or saved < LEAST_SHARE * whole or model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    with suppress(UnsupportedArchitecture):
        return SharedPrefix(model)
    return None


def agreeing(before: Sequence[int], after: Sequence[int], most: int) -> int:
    """How many tokens two sequences begin with alike, at most so many."""
    shared = 0
    while shared < min(len(before), len(after), most) and before[shared] == after[shared]:
        shared += 1
    return shared
