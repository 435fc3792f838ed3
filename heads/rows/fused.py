"""The attention output itself, fused where a kernel fits and in blocks of queries where none does."""

from dataclasses import dataclass

import torch
from torch import Tensor

from heads.rows.masks import LazyMask
from heads.rows.reduce import Logits

BLOCK_ELEMENTS = 2**24
BLOCK_ROWS = 512
_CPU_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call of a model.

    Attributes:
        layer: its number.
        query: [batch, heads, queries, d], after rotary embedding and QK-norm.
        key: [batch, KV heads, keys, d], not repeated.
        value: [batch, KV heads, keys, d of values].
        mask: who sees whom.
        logits: scaling, softcap and sinks.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: LazyMask
    logits: Logits


def fused_output(call: Call) -> Tensor:
    """Attention output [batch, heads, queries, d of values], in blocks of queries where no fused kernel fits."""
    query, key, value, mask, logits = call.query, call.key, call.value, call.mask, call.logits
    batch, heads, queries, _ = query.shape
    exact = logits.softcap is not None or logits.sinks is not None
    if mask.earlier == 0 and not exact:
        return _sdpa(query, key, value, None, logits.scaling)
    if mask.earlier and not exact and _returns_normaliser(query, key, value):
        return _behind_prefix(query, key, value, mask.earlier, logits.scaling)
    rows = BLOCK_ELEMENTS // (batch * mask.n_keys * (heads if exact else 1))
    step = min(max(rows, 16), BLOCK_ROWS)
    outputs = []
    for at, keys, allowed in mask.blocks(queries, step, query.device):
        block = query[:, :, at], key[:, :, keys], value[:, :, keys], allowed
        outputs.append(_softmax(*block, logits) if exact else _sdpa(*block, logits.scaling))
    return torch.cat(outputs, dim=2)


def rows_output(call: Call, positions: Tensor) -> Tensor:
    """Attention output of some queries and 0 for all others, [batch, heads, queries, d of values].

    For the last layer of a model that is read at these queries only: O(rows x keys) instead of O(queries x keys).

    Args:
        call: the attention call.
        positions: [batch, rows] absolute positions of the queries.
    """
    index = (positions - call.mask.query_start)[:, None, :, None]
    query = call.query.gather(2, index.expand(-1, call.query.shape[1], -1, call.query.shape[-1]))
    keys = call.mask.key_start + torch.arange(call.mask.n_keys, device=query.device)
    allowed = call.mask.allowed(positions, keys)
    if call.logits.softcap is not None or call.logits.sinks is not None:
        rows = _softmax(query, call.key, call.value, allowed, call.logits)
    else:
        batch, heads, _, width = query.shape
        grouped = query.reshape(batch, call.key.shape[1], -1, width)
        allowed = allowed.repeat(1, heads // call.key.shape[1], 1)
        rows = _sdpa(grouped, call.key, call.value, allowed, call.logits.scaling)
        rows = rows.reshape(batch, heads, -1, rows.shape[-1])
    output = rows.new_zeros(*call.query.shape[:3], rows.shape[-1])
    return output.scatter_(2, index.expand_as(rows), rows)


def _returns_normaliser(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the fused kernel at hand tells the softmax's normaliser, without which two parts cannot be joined."""
    alike = query.device.type == "cpu" and key.shape[-1] == value.shape[-1]
    return alike and not torch.is_grad_enabled() and hasattr(torch.ops.aten, _CPU_KERNEL)


def _behind_prefix(query: Tensor, key: Tensor, value: Tensor, earlier: int, scaling: float) -> Tensor:
    """Causal attention of queries behind a cached prefix: prefix and rest apart, no mask, joined by normalisers."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    kernel = getattr(torch.ops.aten, _CPU_KERNEL)
    before, weight_before = kernel(query, key[:, :, :earlier], value[:, :, :earlier], scale=scaling)
    own, weight_own = kernel(query, key[:, :, earlier:], value[:, :, earlier:], is_causal=True, scale=scaling)
    share = torch.sigmoid(weight_own - weight_before)[..., None].to(own.dtype)
    return torch.lerp(before, own, share)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, scaling: float) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    grouped = allowed is None and key.shape[-1] == value.shape[-1] <= 256
    if repeats > 1 and not grouped:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if allowed is None else _open_empty_rows(allowed)[:, None],
        is_causal=allowed is None and query.shape[2] > 1,
        scale=scaling,
        enable_gqa=repeats > 1 and grouped,
    )


def _softmax(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, logits: Logits) -> Tensor:
    """Attention of one block of queries written out: the fused kernels know neither softcap nor sinks."""
    scores = logits.of(query, key).masked_fill(~_open_empty_rows(allowed)[:, None], -torch.inf)
    if logits.sinks is not None:
        sinks = logits.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(dim=-1)[..., : key.shape[2]].to(value.dtype)
    grouped = weights.reshape(key.shape[0], key.shape[1], -1, key.shape[2])
    return (grouped @ value).reshape(*query.shape[:3], value.shape[-1])


def _open_empty_rows(allowed: Tensor) -> Tensor:
    """Let a query that sees nothing (a padding token) see everything: its output is unused, but must be finite."""
    return allowed | ~allowed.any(dim=-1, keepdim=True)
