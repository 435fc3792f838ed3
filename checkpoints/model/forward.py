"""Passes of a causal language model that several packages make: logits where they are asked for, and greedy writing."""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.model.finite import finite
from checkpoints.model.rope import depends_on_length


def kept_logits(model: PreTrainedModel, ids: Tensor, positions: Tensor, **inputs: Any) -> Tensor:
    """Logits of some positions, [batch, P, vocabulary]: those of all at once would dwarf the model.

    Models that can leave the others out of the unembedding do.

    Args:
        model: any causal language model.
        ids: [batch, S] token ids.
        positions: [P] positions within ``ids``, of every row.
        inputs: passed on to the model; no cache is kept unless asked for.
    """
    inputs = {"use_cache": False, **inputs}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: Tensor = model(ids, logits_to_keep=positions, **inputs).logits
        return logits
    return model(ids, **inputs).logits[:, positions]  # type: ignore[no-any-return]


def row_logits(model: PreTrainedModel, ids: Tensor, rows: Tensor, **inputs: Any) -> Tensor:
    """Logits of positions of each row's own, [batch, rows, vocabulary].

    Args:
        model: any causal language model.
        ids: [batch, S] token ids.
        rows: [batch, R] positions within ``ids``.
        inputs: passed on to the model.

    Raises:
        CorruptWeights: some of them are NaN or infinite.
    """
    wanted, place = torch.unique(rows, return_inverse=True)
    logits = kept_logits(model, ids, wanted, **inputs)
    return finite(logits.gather(1, place[..., None].expand(-1, -1, logits.shape[-1])))


def token_rank(logits: Tensor, tokens: Tensor) -> Tensor:
    """How many tokens the logits [..., vocabulary] rank above each of ``tokens`` [...]; 0 = it is the top one."""
    return (logits > logits.gather(-1, tokens[..., None])).sum(-1)


def stop_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """The model's own end-of-sequence tokens."""
    ids = model.config.get_text_config().eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


@torch.no_grad()
def greedy(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, new_tokens: int, stops: Collection[int] = ()
) -> list[tuple[int, ...]]:
    """Greedy continuations of prompts of one length, each up to its first stop, which it includes.

    Keys and values are kept from token to token, unless positions are turned by angles that depend on the length.

    Args:
        model: any causal language model with a cache, in eval mode.
        prompts: token ids, all of one length.
        new_tokens: at most this many.
        stops: tokens that end a continuation.

    Raises:
        CorruptWeights: some of the logits are NaN or infinite.
    """
    step = torch.tensor([list(prompt) for prompt in prompts], device=model.device)
    cache, keeps, written = None, not depends_on_length(model), list[Tensor]()
    done = torch.zeros(len(prompts), dtype=torch.bool, device=step.device)
    ends = torch.tensor(sorted(stops), device=step.device)
    while len(written) < new_tokens and not done.all():
        out = model(step, past_key_values=cache, use_cache=keeps)
        cache, chosen = out.past_key_values if keeps else None, finite(out.logits[:, -1]).argmax(dim=-1)
        written.append(chosen)
        done |= torch.isin(chosen, ends)
        step = chosen[:, None] if keeps else torch.cat([step, chosen[:, None]], dim=1)
    rows = torch.stack(written, dim=1).tolist() if written else [[] for _ in prompts]
    return [_ended(row, stops) for row in rows]


def _ended(row: list[int], stops: Collection[int]) -> tuple[int, ...]:
    """A row up to its first stop."""
    last = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
    return tuple(row[: last + 1])
