"""Answers that a model writes: greedy, in batches, with its keys and values kept."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from checkpoints.model.finite import finite
from checkpoints.model.rope import depends_on_length
from heads.detect.generation import stop_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = tuple[int, ...]


def written(
    model: "PreTrainedModel",
    prompts: Sequence[Ids],
    *,
    new_tokens: int,
    stop_ids: Sequence[int] = (),
    batch_size: int = 64,
) -> tuple[Ids, ...]:
    """Greedy continuations, each as `heads.detect.generation.generate` writes it alone.

    Prompts of one length share a batch, so that nothing is padded; a batch ends when its last answer does.

    Args:
        model: a causal language model with a cache, in eval mode.
        prompts: token ids.
        new_tokens: at most this many.
        stop_ids: end an answer, besides the model's end-of-sequence tokens; the token that ends it is included.
        batch_size: prompts at a time; changes no answer beyond ties.
    """
    found: dict[int, Ids] = {}
    for rows in _same_length(prompts, batch_size):
        answers = _batch(model, [prompts[i] for i in rows], new_tokens, {*stop_ids, *stop_tokens(model)})
        found |= zip(rows, answers, strict=True)
    return tuple(found[i] for i in range(len(prompts)))


def _same_length(prompts: Sequence[Ids], size: int) -> Iterator[list[int]]:
    by_length: dict[int, list[int]] = {}
    for position, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(position)
    for rows in by_length.values():
        yield from (rows[at : at + size] for at in range(0, len(rows), size))


def _batch(model: "PreTrainedModel", prompts: Sequence[Ids], new_tokens: int, stops: set[int]) -> list[Ids]:
    import torch

    step = torch.tensor(prompts, device=next(model.parameters()).device)
    cache, tokens = None, list[torch.Tensor]()
    keeps = not depends_on_length(model)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=step.device)
    ends = torch.tensor(sorted(stops), device=step.device)
    with torch.no_grad():
        while len(tokens) < new_tokens and not done.all():
            out = model(step, past_key_values=cache, use_cache=keeps)
            cache, chosen = out.past_key_values if keeps else None, finite(out.logits[:, -1]).argmax(dim=-1)
            tokens.append(chosen)
            done |= torch.isin(chosen, ends)
            step = chosen[:, None] if keeps else torch.cat([step, chosen[:, None]], dim=1)
    return [_ended(row, stops) for row in torch.stack(tokens, dim=1).tolist()]


def _ended(row: list[int], stops: set[int]) -> Ids:
    """A row up to its first stop."""
    last = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
    return tuple(row[: last + 1])
