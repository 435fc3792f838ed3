"""Key and value readers for each query head where the model shares them: GQA seen as MHA with repeated heads.

The outputs of the key and value projections are repeated, once for each query head of a group, and the model's own
attention is told that no head is shared. Rotary embeddings and norms of keys act on the copies, each copy gets its own
gradient, and a group's score is the sum of its members'. The published tools' un-grouping gives the same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from einops import repeat
from torch import Tensor, nn

from checkpoints.errors import require_choice
from checkpoints.model.anatomy import Anatomy, Block, Projection
from circuits.graph.shape import GraphShape

KeyValue = Literal["groups", "query heads"]
_KEY_NORMS = ("k_norm", "k_layernorm", "key_layernorm")


def view(parts: Anatomy, kv: KeyValue) -> Anatomy:
    """The model's parts with one key and one value reader for each group, or for each query head.

    Raises:
        BadPrompt: an unknown kind.
    """
    require_choice("kv", kv, get_args(KeyValue))
    if kv == "groups" or parts.n_kv_heads == parts.n_heads:
        return parts
    copies = parts.n_heads // parts.n_kv_heads
    return replace(parts, n_kv_heads=parts.n_heads, blocks=tuple(_repeated(block, copies) for block in parts.blocks))


def view_for(parts: Anatomy, shape: GraphShape) -> Anatomy:
    """The view that a graph was made under."""
    return view(parts, "query heads" if shape.n_kv_heads == shape.n_heads else "groups")


@contextmanager
def expanded(parts: Anatomy) -> Iterator[None]:
    """Let the model run with the heads of `view`, and put everything back on leaving."""
    handles: list[Any] = []
    kept: list[tuple[nn.Module, str, Any]] = []
    try:
        for block in parts.blocks:
            if block.k.copies > 1:
                handles += [module.register_forward_hook(_repeater(ps)) for module, ps in _modules(block).items()]
                kept += _ungroup(block)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name, value in kept:
            setattr(module, name, value)


def _repeated(block: Block, copies: int) -> Block:
    """A block whose key and value heads are there once for each query head."""
    k, v = (replace(projection, copies=copies, offset=0) for projection in (block.k, block.v))
    if block.q.module is block.k.module:
        size = block.q.heads * block.q.width
        k, v = replace(k, offset=size), replace(v, offset=2 * size)
    return replace(block, k=k, v=v)


def _modules(block: Block) -> dict[nn.Module, list[Projection]]:
    """The modules whose outputs change, with what each of them holds, in order."""
    found: dict[nn.Module, list[Projection]] = {}
    for projection in (block.q, block.k, block.v):
        found.setdefault(projection.module, []).append(projection)
    return {module: held for module, held in found.items() if any(p.copies > 1 for p in held)}


def _repeater(projections: Sequence[Projection]) -> Callable[..., Tensor]:
    def copy(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        own = ((replace(p, copies=1, offset=None).select(output), p.copies) for p in projections)
        return torch.cat([repeat(x, "... kv width -> ... (kv copies width)", copies=copies) for x, copies in own], -1)

    return copy


def _ungroup(block: Block) -> list[tuple[nn.Module, str, Any]]:
    """Tell the attention that every query head has its own key and value; returns what to put back."""
    kept: list[tuple[nn.Module, str, Any]] = []
    for name, value in (("num_key_value_groups", 1), ("num_key_value_heads", block.q.heads)):
        if hasattr(block.attention, name):
            kept.append((block.attention, name, getattr(block.attention, name)))
            setattr(block.attention, name, value)
    groups, width = block.k.rows.shape
    for name in _KEY_NORMS:
        weight = getattr(getattr(block.attention, name, None), "weight", None)
        if weight is None or groups == 1 or weight.numel() != groups * width:
            continue
        norm = getattr(block.attention, name)
        heads = repeat(weight.detach().view(groups, width), "kv width -> (kv copies) width", copies=block.k.copies)
        kept.append((norm, "weight", weight))
        norm.weight = nn.Parameter(heads.view(-1, *weight.shape[1:]), requires_grad=False)
    return kept
