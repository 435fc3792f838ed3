"""Greedy answers, and how much of the true answer they hold."""

from collections import Counter
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from checkpoints.model.finite import finite
from checkpoints.model.plain import takes_model
from checkpoints.model.rope import depends_on_length

NEW_TOKENS = 50


@torch.no_grad()
@takes_model
def generate(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int] = (),
    new_tokens: int = NEW_TOKENS,
    end_of_sequence: bool = True,
) -> tuple[int, ...]:
    """Greedy continuation of one prompt, at least one token; a stop token ends it and is included.

    Keys and values are kept from token to token, unless positions are turned by angles that depend on the length.

    Args:
        model: any causal language model with a cache.
        prompt: token ids.
        stop_ids: end the answer.
        new_tokens: at most this many.
        end_of_sequence: the model's own end-of-sequence tokens end it too.
    """
    stops = {*stop_ids, *(stop_tokens(model) if end_of_sequence else ())}
    keeps = not depends_on_length(model)
    cache = DynamicCache(config=model.config.get_text_config()) if keeps else None
    step = torch.tensor([list(prompt)], device=model.device)
    written: list[int] = []
    while len(written) < new_tokens and not (written and written[-1] in stops):
        logits = model(step, past_key_values=cache, use_cache=keeps).logits[0, -1]
        written.append(int(finite(logits).argmax()))
        chosen = torch.tensor([[written[-1]]], device=model.device)
        step = chosen if keeps else torch.cat([step, chosen], dim=1)
    return tuple(written)


def stop_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """The model's own end-of-sequence tokens."""
    ids = model.config.get_text_config().eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


def recall(written: Sequence[int], answer: Sequence[int]) -> float:
    """Share of the answer's tokens that were written, each as often as it was (ROUGE-1 recall over token ids)."""
    found = Counter(written) & Counter(answer)
    return sum(found.values()) / len(answer)


def contains(written: Sequence[int], answer: Sequence[int]) -> bool:
    """Whether the answer stands in what was written, token for token."""
    size = len(answer)
    return any(tuple(written[i : i + size]) == tuple(answer) for i in range(len(written) - size + 1))
