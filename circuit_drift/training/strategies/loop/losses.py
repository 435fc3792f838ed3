"""What an optimizer step lowers: the loss on the documents, and the divergence from reference models."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuit_drift.training.strategies.loop.batches import IGNORED, Batch
from circuit_drift.training.strategies.settings.strategy import Divergence

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def losses(
    model: "torch.nn.Module", batch: Batch, references: "Sequence[PreTrainedModel]", divergence: Divergence = "kl"
) -> "tuple[torch.Tensor, torch.Tensor | float]":
    """Mean NLL of the documents' tokens, and the mean divergence from each reference at the same places, in nats.

    Args:
        model: what is trained.
        batch: on its device.
        references: what it is held to; of several, the mean of the divergences.
        divergence: ``kl`` = KL(reference || model), ``js`` = Jensen-Shannon.
    """
    import torch
    from torch.nn.functional import cross_entropy

    logits = model(**batch.inputs, use_cache=False).logits[:, :-1].float()
    targets = batch.labels[:, 1:].to(logits.device)
    loss = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED)
    if not references:
        return loss, 0.0
    there = targets != IGNORED
    own = logits[there].log_softmax(dim=-1)
    found = []
    for reference in references:
        with torch.no_grad():
            old = reference(**batch.inputs, use_cache=False).logits[:, :-1].float().to(own.device)
        held = old[there].log_softmax(dim=-1)
        found.append(_divergence(divergence, own, held))
    return loss, found[0] if len(found) == 1 else torch.stack(found).mean()


def _divergence(kind: Divergence, own: "torch.Tensor", held: "torch.Tensor") -> "torch.Tensor":
    """Mean over places of the divergence between log probabilities [places, vocabulary]."""
    import torch
    from torch.nn.functional import kl_div

    if kind == "kl":
        return kl_div(own, held, reduction="batchmean", log_target=True)
    middle = torch.logaddexp(own, held) - math.log(2)
    halves = [kl_div(middle, side, reduction="batchmean", log_target=True) for side in (own, held)]
    return (halves[0] + halves[1]) / 2


def targets_in(batch: Batch) -> int:
    """How many tokens of a batch are to be predicted."""
    return int((batch.labels[:, 1:] != IGNORED).sum())
