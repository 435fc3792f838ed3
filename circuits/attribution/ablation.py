"""What a writer is replaced by: what it wrote in the corrupt run, nothing, or its mean over the facts."""

from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from checkpoints.errors import BadPrompt, UnsupportedArchitecture, require_choice
from checkpoints.model.anatomy import Anatomy
from circuits.facts.batch import Batch, batches
from circuits.facts.facts import FactSet
from circuits.trace.trace import Trace, run
from circuits.trace.writers import Writers

Ablation = Literal["corrupt", "zero", "mean", "mean-positional"]


def find_ablation(ablation: str) -> None:
    """Refuse an unknown name.

    Raises:
        BadPrompt: it is none of ``corrupt``, ``zero``, ``mean`` and ``mean-positional``.
    """
    require_choice("ablation", ablation, get_args(Ablation))


def fixed_values(parts: Anatomy, facts: FactSet, ablation: Ablation, batch_size: int) -> Writers | None:
    """What every writer carries in place of its output where that does not depend on the fact.

    Args:
        parts: the model, in evaluation mode.
        facts: N facts, whose clean prompts the means are taken over.
        ablation: ``zero``; ``mean`` over all facts and positions; ``mean-positional`` over the facts at each position.
        batch_size: facts in one pass.

    Returns:
        Tensors [1, 1 or t, ...] that broadcast over facts and positions; ``None`` for ``corrupt``.

    Raises:
        BadPrompt: an unknown name, or ``mean-positional`` over prompts of different lengths.
    """
    find_ablation(ablation)
    if ablation == "corrupt":
        return None
    if ablation == "zero":
        weight = parts.blocks[0].output_weight
        dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
        empty = weight.new_zeros(1, 1, parts.d_model, dtype=dtype)
        heads = weight.new_zeros(1, 1, parts.n_heads, parts.head_dim, dtype=dtype)
        return Writers(empty, (heads,) * parts.n_layers, (empty,) * parts.n_layers)
    lengths = set(facts.lengths)
    if ablation == "mean-positional" and len(lengths) > 1:
        raise BadPrompt(
            f"means at each position need prompts of one length, and these have {min(lengths)} to {max(lengths)} "
            "tokens; use ablation='mean', over all positions"
        )
    return _mean(parts, facts, by_position=ablation == "mean-positional", batch_size=batch_size)


def _mean(parts: Anatomy, facts: FactSet, *, by_position: bool, batch_size: int) -> Writers:
    total: Writers | None = None
    count = len(facts) if by_position else sum(facts.lengths)
    device = parts.blocks[0].output_weight.device
    for batch in batches(facts, batch_size, parts.model):
        with torch.no_grad():
            trace = run(parts, batch, batch.clean, readers=False)
        own = token_share(parts, batch, Writers.of(parts, trace))
        real = torch.arange(batch.clean.shape[1], device=device)[None] <= batch.last[:, None]
        found = own.map(partial(_sum, real=real, by_position=by_position))
        total = found if total is None else total + found
    assert total is not None
    return total.map(lambda x: x / count)


def _sum(x: Tensor, real: Tensor, *, by_position: bool) -> Tensor:
    """Sum of [b, t, ...] over facts, and over real positions."""
    weights = real.to(x.dtype).reshape(*real.shape, *[1] * (x.ndim - 2))
    return (x * weights).sum((0,) if by_position else (0, 1), keepdim=True)


def replacement(parts: Anatomy, batch: Batch, fixed: Writers | None, corrupt: Writers) -> Writers:
    """What the writers of a batch are replaced by, with learned positions, which no writer writes, left in place."""
    if fixed is None:
        return corrupt
    return replace(fixed, stream=fixed.stream + positions(parts, batch, corrupt.stream.dtype))


def everywhere(batch: Batch, fixed: Writers | None) -> Batch:
    """The batch as an ablation sees it: values that are no prompt's differ from the first position on."""
    return batch if fixed is None else replace(batch, first=torch.zeros_like(batch.first))


def token_share(parts: Anatomy, batch: Batch, writers: Writers) -> Writers:
    """The same without learned positions in the input's share."""
    return replace(writers, stream=writers.stream - positions(parts, batch, writers.stream.dtype))


def positions(parts: Anatomy, batch: Batch, dtype: torch.dtype) -> Tensor:
    """[1, t or 1, d] learned position embeddings, the constant part of the stream in front of layer 0.

    Raises:
        UnsupportedArchitecture: the model has another embedding beside that of its tokens.
    """
    base = parts.model.base_model
    found = {
        name: module
        for name, module in base.named_children()
        if isinstance(module, nn.Embedding) and module is not parts.embedding
    }
    if not found:
        return torch.zeros(1, 1, parts.d_model, dtype=dtype, device=batch.clean.device)
    if set(found) != {"wpe"}:
        raise UnsupportedArchitecture(
            f"{type(parts.model).__name__} adds {', '.join(found)} to its token embeddings, and what the tokens alone "
            "write is not known; use ablation='corrupt'"
        )
    return found["wpe"].weight.detach()[None, : batch.clean.shape[1]].to(dtype)


def check_share(parts: Anatomy, batch: Batch, trace: Trace) -> None:
    """Refuse a model whose first stream is not a multiple of token embeddings plus known positions.

    Raises:
        UnsupportedArchitecture: something else is added in front of layer 0.
    """
    own = trace.stream.detach() - positions(parts, batch, trace.stream.dtype)
    with torch.no_grad():
        tokens = parts.embedding(batch.clean)
    scale = (own * tokens).sum() / (tokens * tokens).sum()
    error = float((own - scale * tokens).norm() / own.norm())
    if not error < (1e-3 if own.dtype in (torch.float32, torch.float64) else 5e-2):
        raise UnsupportedArchitecture(
            f"{type(parts.model).__name__}: the stream in front of layer 0 is not the token embedding plus learned "
            f"positions (relative error {error:.2g}), so the input cannot be ablated alone; use ablation='corrupt'"
        )
