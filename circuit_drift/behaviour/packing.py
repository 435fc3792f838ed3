"""Many short prompts in few forward passes: padded at their end, and what they share at their beginning read once."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from checkpoints.model.forward import row_logits
from checkpoints.model.rope import of_one_regime
from checkpoints.model.writing import keeps_keys

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Ids = tuple[int, ...]
WORTHWHILE = 0.5


def last_logits(
    model: "PreTrainedModel", prompts: Sequence[Ids], *, batch_size: int = 64, share: bool = True
) -> "Iterator[tuple[list[int], torch.Tensor]]":
    """Float32 logits that follow each prompt, batch by batch.

    Prompts are padded on the right, where a causal model cannot see it. One length of prefix is shared, the one that
    saves the most tokens, if it saves at least half of them (`shared_length`): every distinct prefix of a batch is
    then read once, and its keys and values serve all of its continuations. Below that a second pass costs more than
    it saves (`benchmarks/lab/cost.py`).

    Args:
        model: any causal language model, in eval mode.
        prompts: token ids.
        batch_size: prompts in a forward pass; changes no number beyond rounding.
        share: share prefixes, where the model keeps keys and values in every layer.

    Yields:
        positions in ``prompts`` and their logits [prompts, vocabulary].
    """
    import torch

    start = shared_length(prompts) if share and keeps_keys(model) else 0
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i][:start] if start else (), len(prompts[i])))
    short = [i for i in order if len(prompts[i]) <= start]
    long = [i for i in order if len(prompts[i]) > start]
    with torch.no_grad():
        for rows in _chunks(short, batch_size):
            for own in of_one_regime(model, [len(prompts[i]) for i in rows]):
                yield [rows[place] for place in own], _read(model, [prompts[rows[place]] for place in own], 0)
        for rows in _chunks(long, batch_size):
            for own in of_one_regime(model, [len(prompts[i]) for i in rows]):
                yield [rows[place] for place in own], _read(model, [prompts[rows[place]] for place in own], start)


def shared_length(prompts: Sequence[Ids], *, least: float = WORTHWHILE) -> int:
    """The length of prefix whose sharing saves the most tokens over all prompts.

    Args:
        prompts: token ids.
        least: share of all tokens that must be saved.

    Returns:
        the length; 0 where too little is saved.
    """
    saved = {
        length: length * (len(longer) - len({prompt[:length] for prompt in longer}))
        for length in range(1, max(map(len, prompts), default=0))
        if (longer := [prompt for prompt in prompts if len(prompt) > length])
    }
    best = max(saved, key=lambda length: saved[length], default=0)
    return best if best and saved[best] >= least * sum(map(len, prompts)) else 0


def _chunks(rows: list[int], size: int) -> Iterator[list[int]]:
    return (rows[at : at + size] for at in range(0, len(rows), size))


def _read(model: "PreTrainedModel", prompts: Sequence[Ids], start: int) -> "torch.Tensor":
    """Logits that follow each prompt; the first ``start`` tokens of equal beginnings are read once."""
    import torch

    device = next(model.parameters()).device
    ends = torch.tensor([[len(prompt) - start - 1] for prompt in prompts], device=device)
    longest = int(ends.max()) + 1
    rest = torch.tensor([[*p[start:], *[p[-1]] * (longest + start - len(p))] for p in prompts], device=device)
    if not start:
        return row_logits(model, rest, ends)[:, 0].float()
    number = {prefix: n for n, prefix in enumerate(dict.fromkeys(prompt[:start] for prompt in prompts))}
    cache = model.base_model(torch.tensor(list(number), device=device), use_cache=True).past_key_values
    cache.batch_select_indices(torch.tensor([number[prompt[:start]] for prompt in prompts], device=device))
    return row_logits(model, rest, ends, past_key_values=cache, use_cache=True)[:, 0].float()
