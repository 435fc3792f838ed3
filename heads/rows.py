"""Chosen attention rows at the price of the fused forward.

A model runs its fused attention through a function registered in transformers' attention interface. For the rows
asked for, and no others, the attention weights are computed again in float32, streamed over blocks of keys with
an online softmax, and reduced at once to what detectors need. Nothing of size S x S exists at any time: the cost
is O(rows x S) per head and the memory O(rows x block) for one layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from heads.masks import LazyMask, lazy_mask
from heads.reduce import KeyGroups, Logits, RowStats, reduce_rows

# No "sdpa" in the name: transformers would then apply its own checks and reject softcap and sinks.
ROWS = "drift_rows"
BLOCK_ELEMENTS = 2**24


@dataclass(frozen=True, slots=True)
class RowRequest:
    """Which rows to reduce, and over which groups of keys.

    Attributes:
        positions: [batch, rows] absolute positions of the scored queries.
        groups: says which keys belong to which named group (needle, distractor, first token, ...).
        top: how many of the largest weights to keep for each row.
        key_block: keys treated at a time; changes memory, not results.
        directions: layer -> [variants, batch, heads, rows, d of values], along which to sum attended values.
    """

    positions: Tensor
    groups: KeyGroups
    top: int = 0
    key_block: int = 4096
    directions: Callable[[int], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class _Capture:
    request: RowRequest
    sink: Callable[[int, RowStats], None]


_active: ContextVar[_Capture | None] = ContextVar("drift_rows_capture", default=None)


@contextmanager
def capture_rows(model: PreTrainedModel, request: RowRequest, sink: Callable[[int, RowStats], None]) -> Iterator[None]:
    """Send the requested rows of every attention layer to ``sink(layer, stats)`` while the block runs.

    The model's attention implementation is put back afterwards, whatever happens inside.

    Raises:
        UnsupportedArchitecture: the model does not use transformers' attention interface.
    """
    with _attention(model):
        token = _active.set(_Capture(request, sink))
        try:
            yield
        finally:
            _active.reset(token)


@contextmanager
def _attention(model: PreTrainedModel) -> Iterator[None]:
    if not model._can_set_attn_implementation():
        raise UnsupportedArchitecture(
            f"{type(model).__name__} does not use transformers' attention interface (ALiBi families such as "
            "BLOOM, MPT and Falcon have attention code of their own): its rows cannot be read"
        )
    before = {id(part.config): part for part in model.modules() if isinstance(part, PreTrainedModel)}
    previous = [(part.config, part.config._attn_implementation) for part in before.values()]
    try:
        model.set_attn_implementation(ROWS)
        yield
    finally:
        for config, name in previous:
            config._attn_implementation = name


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: LazyMask,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in the calling convention of transformers: fused output, rows on the side.

    Args:
        module: the attention module that calls; supplies `layer_idx`.
        query: [batch, heads, queries, d], after rotary embedding and QK-norm.
        key: [batch, KV heads, keys, d], not repeated.
        value: [batch, KV heads, keys, d of values].
        attention_mask: what `lazy_mask` built.
        dropout: must be 0.
        scaling: factor on the logits; 1/sqrt(d) when the model passes none.
        softcap: cap * tanh(logit / cap) before the mask (Gemma 2).
        s_aux: [heads] learned sinks: an extra logit in the softmax's denominator (GPT-OSS).
        position_bias: refused.
        is_causal: refused when False.

    Returns:
        [batch, queries, heads, d of values] and no weights.
    """
    layer = getattr(module, "layer_idx", None)
    if not isinstance(attention_mask, LazyMask) or position_bias is not None or is_causal is False or layer is None:
        raise UnsupportedArchitecture(
            f"{type(module).__name__} builds its own mask, adds a position bias or has no layer index: "
            "its attention rows cannot be computed again correctly"
        )
    if dropout:
        raise UnsupportedArchitecture(f"{type(module).__name__} applies dropout: call model.eval() first")
    logits = Logits(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    capture = _active.get()
    if capture is not None and (positions := _rows_here(capture.request, attention_mask, query)) is not None:
        index = (positions - attention_mask.query_start)[:, None, :, None]
        rows = query.gather(2, index.expand(-1, query.shape[1], -1, query.shape[-1]))
        request = capture.request
        stats = reduce_rows(
            rows,
            key,
            attention_mask,
            positions,
            logits,
            request.groups,
            top=request.top,
            block=request.key_block,
            value=value,
            directions=None if request.directions is None else request.directions(layer),
        )
        capture.sink(layer, stats)
    output = fused_output(query, key, value, attention_mask, logits)
    return output.transpose(1, 2).contiguous(), None


def _rows_here(request: RowRequest, mask: LazyMask, query: Tensor) -> Tensor | None:
    """The request's positions if this call holds them, None if it holds none of them."""
    positions = request.positions.to(query.device).expand(query.shape[0], -1)
    inside = (positions >= mask.query_start) & (positions < mask.query_start + query.shape[2])
    if bool(inside.all()):
        return positions
    if bool(inside.any()):
        raise BadPrompt("scored rows fall into two pieces of a chunked forward: keep them all in the last one")
    return None


def fused_output(query: Tensor, key: Tensor, value: Tensor, mask: LazyMask, logits: Logits) -> Tensor:
    """Attention output [batch, heads, queries, d of values], in blocks of queries where no fused kernel fits."""
    batch, heads, queries, _ = query.shape
    exact = logits.softcap is not None or logits.sinks is not None
    if mask.plain and not exact:
        return _sdpa(query, key, value, None, logits.scaling)
    rows = BLOCK_ELEMENTS // (batch * mask.n_keys * (heads if exact else 1))
    step = min(max(rows, 16), 1024)
    outputs = []
    for at, keys, allowed in mask.blocks(queries, step, query.device):
        block = query[:, :, at], key[:, :, keys], value[:, :, keys], allowed
        outputs.append(_softmax(*block, logits) if exact else _sdpa(*block, logits.scaling))
    return torch.cat(outputs, dim=2)


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


AttentionInterface.register(ROWS, rows_attention)
AttentionMaskInterface.register(ROWS, lazy_mask)
