"""Measures of a lab model: held-out loss, recall of facts, needles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuit_drift.lab import probes
from circuit_drift.lab.world import WorldFact

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from circuit_drift.lab.data import Rows
    from heads.prompts.needles import NeedleSet

DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True)
class Recall:
    """What a model answers to one prompt.

    Attributes:
        rank: tokens of the vocabulary more likely than the value; 0 = recalled.
        probability: of the value.
    """

    rank: int
    probability: float


def token_losses(model: PreTrainedModel, rows: Rows) -> torch.Tensor:
    """Loss of every token but each row's first, in nats: [rows, length - 1]; documents do not see each other."""
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.from_numpy(rows.ids)
    logits = model(input_ids=ids, position_ids=torch.from_numpy(rows.positions), use_cache=False).logits
    return cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


def recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[WorldFact],
    prompts: Sequence[str],
) -> tuple[Recall, ...]:
    """The rank and probability of each fact's value after its prompt, over the whole vocabulary."""
    import torch

    from checkpoints.model.forward import row_logits, token_rank

    ids = [list(tokenizer(prompt).input_ids) for prompt in prompts]
    lengths = torch.tensor([len(row) for row in ids])
    padded = torch.tensor([row + [int(tokenizer.pad_token_id)] * (int(lengths.max()) - len(row)) for row in ids])
    values = torch.tensor([tokenizer(fact.value, add_special_tokens=False).input_ids for fact in facts])
    with torch.no_grad():
        logits = row_logits(model, padded, lengths[:, None] - 1)[:, 0].float()
    ranks = token_rank(logits, values[:, 0]).tolist()
    chances = logits.softmax(-1).gather(1, values)[:, 0].tolist()
    return tuple(Recall(rank, chance) for rank, chance in zip(ranks, chances, strict=True))


def needle_set(
    tokenizer: PreTrainedTokenizerFast,
    records: Sequence[probes.Record],
    haystack: str,
    *,
    length: int,
    distractors: int,
) -> NeedleSet:
    """Prompts of ``length`` tokens from needle records, every needle at every depth.

    Args:
        tokenizer: the series' own.
        records: objects with the fields of ``heads.Needle``.
        haystack: the text to hide them in.
        length: tokens up to the end of the question.
        distractors: how many of a record's distractors to hide as well.
    """
    import heads

    needles = [heads.Needle(**{**r, "distractors": tuple(r["distractors"][:distractors])}) for r in records]
    return heads.needle_prompts(tokenizer, needles, haystack, length=length, depths=DEPTHS)
