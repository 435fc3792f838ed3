"""Some facts as padded tensors, and what their answers get from the logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.forward import token_rank
from checkpoints.model.rope import of_one_regime
from circuits.facts.facts import FactSet


@dataclass(frozen=True, slots=True)
class Batch:
    """Some facts as tensors, padded on the right.

    After both prompts of a fact stand its answer's tokens but the last, so that each token of the answer is produced
    after the right ones before it. Answers of one token, n = b and ``row`` = 0, 1, ..., are the usual case.

    Attributes:
        indices: positions in the fact set.
        clean, corrupt: [b, t] token ids.
        attention_mask: [b, t], or ``None`` where all are of one length.
        last: [b] last real position.
        first: [b] first position at which the two prompts differ; before it nothing differs, exactly.
        row, place: [n] row and position at which each answer token is produced, all facts' tokens one after the other.
        answer: [n] token ids.
        wrong: [n] token ids; -1 all over a fact whose wrong answer has another number of tokens than the answer.
        segments: into how many parts each row's scores are split.
        stretches: per row (row * segments + part, first position, one after the last) of every stretch of a part, or
            ``None`` where rows are not split.
    """

    indices: tuple[int, ...]
    clean: Tensor
    corrupt: Tensor
    attention_mask: Tensor | None
    last: Tensor
    first: Tensor
    row: Tensor
    place: Tensor
    answer: Tensor
    wrong: Tensor
    segments: int = 1
    stretches: tuple[tuple[tuple[int, int, int], ...], ...] | None = None

    @property
    def targets(self) -> int:
        """How many scores there are of every edge."""
        return len(self.indices) * self.segments

    def per_fact(self, values: Tensor) -> Tensor:
        """[b] sums over each fact's answer tokens of values [n]."""
        if len(values) == len(self.indices):
            return values
        return values.new_zeros(len(self.indices)).index_add(0, self.row, values)


def batches(facts: FactSet, size: int, model: PreTrainedModel) -> Iterator[Batch]:
    """Facts in batches of similar length, on the model's device, padded on the right with token 0.

    Facts that would change each other by their lengths are kept apart (`checkpoints.model.rope`).
    """
    if size < 1:
        raise BadPrompt(f"batch_size must be at least 1, got {size}")
    lengths = facts.lengths
    order = sorted(range(len(facts)), key=lengths.__getitem__)
    device = next(model.parameters()).device
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        for places in of_one_regime(model, [lengths[i] for i in batch]):
            yield make_batch(facts, [batch[place] for place in places], device)


def make_batch(facts: FactSet, indices: Sequence[int], device: torch.device) -> Batch:
    """The facts at some positions of the set as one batch."""
    every = facts.lengths
    lengths = [every[i] for i in indices]
    width = max(lengths)

    def padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
        filled = [[*rows[i], *facts.answer[i][:-1]] for i in indices]
        return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in filled], device=device)

    clean, corrupt = padded(facts.clean), padded(facts.corrupt)
    equal = min(lengths) == width
    mask = None if equal else (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long().to(device)
    tokens = [
        (
            row,
            len(facts.clean[i]) - 1 + k,
            answer,
            facts.wrong[i][k] if len(facts.wrong[i]) == len(facts.answer[i]) else -1,
        )
        for row, i in enumerate(indices)
        for k, answer in enumerate(facts.answer[i])
    ]
    row, place, answer, wrong = torch.tensor(tokens, device=device).T
    return Batch(
        indices=tuple(indices),
        clean=clean,
        corrupt=corrupt,
        attention_mask=mask,
        last=torch.tensor(lengths, device=device) - 1,
        first=(clean != corrupt).int().argmax(1),
        row=row,
        place=place,
        answer=answer,
        wrong=wrong,
    )


def logit_difference(logits: Tensor, batch: Batch) -> Tensor:
    """[b] logit(answer) - logit(wrong), summed over the answer's tokens."""
    wanted, other = (logits.gather(1, ids[:, None])[:, 0] for ids in (batch.answer, batch.wrong))
    return batch.per_fact(wanted - other)


def answer_rank(logits: Tensor, batch: Batch) -> Tensor:
    """[b] how many tokens are ranked above the answer's; for several tokens, above the one that fares worst."""
    rank = token_rank(logits, batch.answer)
    if len(rank) == len(batch.indices):
        return rank
    return rank.new_zeros(len(batch.indices)).scatter_reduce(0, batch.row, rank, "amax")
