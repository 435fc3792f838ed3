"""Passes of a causal language model that several packages make: logits where they are asked for."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.model.finite import finite


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
