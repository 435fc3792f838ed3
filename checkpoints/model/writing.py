"""Greedy writing: many prompts in one batch, each as it would be continued alone."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from checkpoints.errors import BadPrompt
from checkpoints.model.finite import finite
from checkpoints.model.rope import depends_on_length

Ids = Sequence[int]
WORTHWHILE = 0.25
"""Share of a batch's tokens from which a beginning that all its rows share is read once, in a pass of its own."""


def stop_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """The model's own end-of-sequence tokens."""
    ids = model.config.get_text_config().eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


def keeps_keys(model: PreTrainedModel) -> bool:
    """Whether every layer keeps keys and values, so that a prefix can be continued in several ways."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    state = getattr(model, "_is_stateful", False)
    plain = all(kind.endswith("attention") and not kind.startswith("linear") for kind in kinds)
    return plain and not state and not depends_on_length(model)


def takes_padding(model: PreTrainedModel, length: int) -> bool:
    """Whether rows of up to so many tokens may be padded at their beginning without a change of their numbers.

    Args:
        model: any causal language model.
        length: tokens of the longest row, with what is still to be written. Beyond a window of attention, padding
            would take the place of tokens.
    """
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    told = {"attention_mask", "position_ids"} <= inspect.signature(model.forward).parameters.keys()
    return told and keeps_keys(model) and length <= min((window for window in windows if window), default=length)


def batches(model: PreTrainedModel, prompts: Sequence[Ids], *, new_tokens: int, size: int) -> Iterator[list[int]]:
    """Places of the prompts that `greedy` may write together, nearly alike in length.

    Args:
        model: any causal language model.
        prompts: token ids.
        new_tokens: to be written, at most.
        size: prompts at a time.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    longest = max(map(len, prompts), default=0) + new_tokens
    groups = [order] if takes_padding(model, longest) else _by_length(prompts, order)
    for group in groups:
        yield from (group[at : at + size] for at in range(0, len(group), size))


@torch.no_grad()
def greedy(
    model: PreTrainedModel, prompts: Sequence[Ids], *, new_tokens: int, stops: Collection[int] = ()
) -> list[tuple[int, ...]]:
    """Greedy continuations of prompts, each up to its first stop, which it includes.

    Keys and values are kept from token to token, unless positions are turned by angles that depend on the length; a
    beginning that all prompts share is read once, and a row that has stopped leaves the batch.

    Args:
        model: any causal language model with a cache, in eval mode.
        prompts: token ids; of one length where the model does not take padding (`batches`).
        new_tokens: at most this many.
        stops: tokens that end a continuation.

    Raises:
        BadPrompt: prompts of several lengths, and a model that does not take padding.
        CorruptWeights: some of the logits are NaN or infinite.
    """
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) > 1 and not takes_padding(model, max(lengths) + new_tokens):
        raise BadPrompt(
            f"{type(model).__name__} cannot write after prompts of {min(lengths)} to {max(lengths)} tokens in one "
            "batch: put those of one length together"
        )
    written: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    step = _begun(model, prompts) if new_tokens else None
    while step is not None and going:
        logits, cache = step.run(model)
        chosen = logits.argmax(dim=-1)
        tokens = chosen.tolist()
        for row, token in zip(going, tokens, strict=True):
            if not _ended(written[row], stops):
                written[row].append(token)
        open_ = [place for place, row in enumerate(going) if not _ended(written[row], stops)]
        if not open_ or max(map(len, written)) == new_tokens:
            break
        if len(open_) < len(going) and _can_drop(cache):
            going = [going[place] for place in open_]
            keep = torch.tensor(open_, device=chosen.device)
            step, chosen = step.only(keep, cache), chosen[keep]
        step = step.then(chosen, cache)
    return [tuple(row) for row in written]


@dataclass(frozen=True, slots=True)
class _Step:
    """What the model reads next.

    Attributes:
        ids: [rows, T] tokens.
        mask: [rows, S] 1 for every token so far that is none of the padding, ``ids`` included; None without padding.
        cache: keys and values of the tokens before ``ids``; None where there are none.
        keeps: whether they are kept at all.
    """

    ids: Tensor
    mask: Tensor | None
    cache: Any
    keeps: bool

    def run(self, model: PreTrainedModel) -> tuple[Tensor, Any]:
        """Logits [rows, vocabulary] of the next token, and the cache with these tokens in it."""
        inputs: dict[str, Any] = {}
        if self.mask is not None:
            positions = (self.mask.cumsum(dim=-1) - 1).clamp(min=0)
            inputs = {"attention_mask": self.mask, "position_ids": positions[:, -self.ids.shape[1] :]}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            inputs["logits_to_keep"] = 1
        out = model(self.ids, past_key_values=self.cache, use_cache=self.keeps, **inputs)
        return finite(out.logits[:, -1]), out.past_key_values if self.keeps else None

    def only(self, rows: Tensor, cache: Any) -> "_Step":
        """Some of the rows; the cache loses the others too."""
        if cache is not None:
            cache.batch_select_indices(rows)
        return replace(self, ids=self.ids[rows], mask=None if self.mask is None else self.mask[rows])

    def then(self, chosen: Tensor, cache: Any) -> "_Step":
        """The step after this one, with a token more in every row."""
        token = chosen[:, None]
        mask = None if self.mask is None else torch.cat([self.mask, torch.ones_like(token)], dim=1)
        return replace(self, ids=token if self.keeps else torch.cat([self.ids, token], dim=1), mask=mask, cache=cache)


def _begun(model: PreTrainedModel, prompts: Sequence[Ids]) -> _Step:
    """The first step: what all prompts share is in the cache already, the rest is padded at its beginning."""
    keeps = not depends_on_length(model)
    start, cache = _shared(prompts) if keeps and keeps_keys(model) else 0, None
    if start:
        alike = torch.tensor([list(prompts[0][:start])], device=model.device)
        cache = model.base_model(alike, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(prompts))
    rest = [list(prompt[start:]) for prompt in prompts]
    longest = max(map(len, rest))
    gaps = [longest - len(row) for row in rest]
    ids = torch.tensor([[row[0]] * gap + row for row, gap in zip(rest, gaps, strict=True)], device=model.device)
    mask = torch.tensor([[1] * start + [0] * gap + [1] * (longest - gap) for gap in gaps], device=model.device)
    return _Step(ids, mask if any(gaps) else None, cache, keeps)


def _shared(prompts: Sequence[Ids]) -> int:
    """Tokens that all prompts begin with, where reading them once is worth a pass; one token of each is always left."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    start = min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
    return start if start * (len(prompts) - 1) >= WORTHWHILE * sum(map(len, prompts)) else 0


def _by_length(prompts: Sequence[Ids], order: Sequence[int]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for place in order:
        found.setdefault(len(prompts[place]), []).append(place)
    return list(found.values())


def _can_drop(cache: Any) -> bool:
    """Whether rows can leave a cache: where it is none, or keys and values alone."""
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return cache is None or (isinstance(cache, DynamicCache) and all(type(layer) in plain for layer in cache.layers))


def _ended(row: Sequence[int], stops: Collection[int]) -> bool:
    return bool(row) and row[-1] in stops
