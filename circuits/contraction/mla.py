"""The gradient of readers behind a latent: multi-head latent attention in the terms of plain projections.

A head's query is up(norm(down(norm(x)))). With g the gradient at ``up``'s output, c_hat and s' the inner norm's
direction and scale, and s the outer one's, the gradient in front of the outer norm is

    centre(G W^T g) / (s s') - E m / (s s') - x_hat a,    W = up gain' down,  E = centre(G down^T c_hat),

with m = (up(gain' c_hat) . g) / rank. So each head has one effective projection W [w, d], as a plain one, and the inner
norm adds a direction E that all heads share. Keys and values likewise; a head's rotary keys come straight from
``down``. They are one for all heads, so a head's own gradient is taken at the attention function and turned back
by the transpose of the rotation, which queries have with them for every head.

Shapes, as suffixes of names: b facts, t tokens, d the stream's width, l a latent's width (its rank), h heads, w a
head's width, p the width of a head's rotary keys, r one layer's attention readers (query, key, value heads in turn).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import linear, pad

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import Block, Latent, Norm, Projection, linear_weight
from circuits.trace.mla import LatentTrace
from circuits.trace.trace import LayerTrace, widen


class Along(NamedTuple):
    """A direction of the stream and how much of it each reader's gradient still holds, to be subtracted."""

    direction_btd: Tensor
    share_btr: Tensor


@dataclass(frozen=True, slots=True)
class HeadGradients:
    """What one step adds for one layer's readers.

    Attributes:
        heads_btrw: for the rows of the readers' projections, or of `effective_weight`.
        along: what is still to be subtracted.
    """

    heads_btrw: Tensor
    along: tuple[Along, ...]


def effective_weight(block: Block, dtype: torch.dtype) -> Tensor:
    """[r, w, d] from a head's query, key and value back to the normalised stream."""
    latent = _latent(block)
    down_ld = linear_weight(latent.kv_down).detach().to(dtype)
    if latent.q_down is None or latent.q_norm is None:
        query = block.q.weight.detach().to(dtype)
    else:
        query = _through(block.q, latent.q_norm, linear_weight(latent.q_down).detach().to(dtype))
    key, value = (_through(p, latent.kv_norm, down_ld[: latent.rank]) for p in (block.k, block.v))
    rotary_hpd = down_ld[latent.rank :].expand(block.k.heads, -1, -1)
    return _stacked(query, torch.cat([key, rotary_hpd], 1), value, dim=-2)


def latent_gradients(
    block: Block, seen: LayerTrace, gradients: tuple[Tensor, Tensor, Tensor], weight: float, *, freeze: bool
) -> HeadGradients:
    """One step's share.

    Args:
        block: a layer with a latent path.
        seen: what it showed in this pass.
        gradients: [b, t, ...] at ``up`` of queries, at ``up`` of keys and values, and at the attention function's keys.
        weight: of the step.
        freeze: whether the scales of norms count as constants.
    """
    at_q, at_kv, at_key = gradients
    norm = block.attention_norm
    x_hat_btd, inverse_bt1 = (None, at_q.new_ones(())) if norm is None else norm.normalise(widen(seen.attention_in))
    query, from_q_btd = _queries(block, seen, at_q)
    key, value, from_kv_btd = _keys_and_values(block, seen, at_kv, at_key)
    scale = inverse_bt1.unsqueeze(-1)
    heads_btrw = _stacked(query.heads * scale, key.heads * scale, value.heads * scale, dim=-1, readers=-2) * weight
    if freeze:
        return HeadGradients(heads_btrw, ())
    queries, others = block.q.heads, block.k.heads + block.v.heads
    along = []
    if from_q_btd is not None:
        along.append((_through_norm(norm, from_q_btd), pad(query.inner, (0, others)) * inverse_bt1))
    both = torch.cat([key.inner, value.inner], -1)
    along.append((_through_norm(norm, from_kv_btd), pad(both, (queries, 0)) * inverse_bt1))
    if x_hat_btd is not None:
        every = torch.cat([query.outer, key.outer, value.outer], -1)
        along.append((x_hat_btd, every * inverse_bt1 / x_hat_btd.shape[-1]))
    return HeadGradients(heads_btrw, tuple(Along(direction, share * weight) for direction, share in along))


@dataclass(frozen=True, slots=True)
class _Read:
    """What some heads read, before the outer norm's scale.

    Attributes:
        heads: [b, t, h, w] gradient over s'.
        inner: [b, t, h] m / s', along the inner norm's direction.
        outer: [b, t, h] (p . the gradient at the latent), along the outer norm's.
    """

    heads: Tensor
    inner: Tensor
    outer: Tensor


def _queries(block: Block, seen: LayerTrace, at_q: Tensor) -> tuple[_Read, Tensor | None]:
    """What queries read, and [b, t, d] the direction that the norm of their latent adds, if they have a latent."""
    latent, states, output = _latent(block), _states(seen), widen(seen.q)
    if latent.q_down is None or latent.q_norm is None or states.q_down is None:
        delta_bthw = block.q.select(at_q)
        outer_bth = (delta_bthw * normed_part(block.q, block.attention_norm, output)).sum(-1)
        return _Read(delta_bthw, torch.zeros_like(outer_bth), outer_bth), None
    q_down_btl = widen(states.q_down)
    inner = _Inner(block.q.module, latent.q_norm, q_down_btl)
    read = inner.read(block.q, output, at_q, _offset_free(latent.q_down, block.attention_norm, q_down_btl))
    return read, inner.direction(linear_weight(latent.q_down).detach())


def _keys_and_values(block: Block, seen: LayerTrace, at_kv: Tensor, at_key: Tensor) -> tuple[_Read, _Read, Tensor]:
    """What keys and values read, rotary keys included, and [b, t, d] the direction that their latent's norm adds."""
    latent, kv_down = _latent(block), widen(_states(seen).kv_down)
    normed = _offset_free(latent.kv_down, block.attention_norm, kv_down)
    inner = _Inner(block.k.module, latent.kv_norm, kv_down[..., : latent.rank])
    # some attentions keep the latents as of a single head
    output, gradient = (rearrange(x, "b ... out -> b (...) out") for x in (widen(seen.k), at_kv))
    key, value = (inner.read(heads, output, gradient, normed[..., : latent.rank]) for heads in (block.k, block.v))
    rotary_bthp = _turned_back(block, seen, at_key)
    rotary_bth = (rotary_bthp * normed[..., None, latent.rank :]).sum(-1)
    whole = _Read(torch.cat([key.heads, rotary_bthp], -1), key.inner, key.outer + rotary_bth)
    return whole, value, inner.direction(linear_weight(latent.kv_down).detach()[: latent.rank])


def _latent(block: Block) -> Latent:
    assert block.latent is not None
    return block.latent


def _states(seen: LayerTrace) -> LatentTrace:
    assert seen.latent is not None
    return seen.latent


@dataclass(frozen=True, slots=True)
class _Inner:
    """A latent with its norm, at one pass."""

    up: torch.nn.Module
    norm: Norm
    latent_btl: Tensor

    def read(self, projection: Projection, output: Tensor, gradient: Tensor, part_btl: Tensor) -> _Read:
        """Pull the gradient at ``up``'s output back to the latent, in the heads' own coordinates.

        Args:
            projection: the heads' rows of ``up``.
            output: [b, t, out] of ``up``.
            gradient: [b, t, out] there.
            part_btl: p = down(gain * x_hat) of the outer norm.
        """
        c_hat_btl, inverse_bt1 = self.norm.normalise(self.latent_btl)
        delta_bthw = projection.select(gradient)
        mean_bth = (delta_bthw * normed_part(projection, self.norm, output)).sum(-1) / c_hat_btl.shape[-1]
        weight = linear_weight(self.up).detach().to(part_btl.dtype)
        gained_btl = self.norm.centre(part_btl) * self.norm.gain.to(part_btl.dtype)
        carried_bthw = projection.select(linear(gained_btl, weight))
        outer_bth = (delta_bthw * carried_bthw).sum(-1) - mean_bth * (part_btl * c_hat_btl).sum(-1, keepdim=True)
        return _Read(delta_bthw * inverse_bt1.unsqueeze(-1), mean_bth * inverse_bt1, outer_bth * inverse_bt1)

    def direction(self, down_ld: Tensor) -> Tensor:
        """[b, t, d] down^T c_hat."""
        c_hat_btl = self.norm.normalise(self.latent_btl)[0]
        return c_hat_btl @ down_ld.to(c_hat_btl.dtype)


def _through(projection: Projection, norm: Norm, down: Tensor) -> Tensor:
    """[h, w, d] up gain' down."""
    return norm.centre(projection.weight.detach().to(down.dtype) * norm.gain.to(down.dtype)) @ down


def _through_norm(norm: Norm | None, direction: Tensor) -> Tensor:
    """centre(G direction)."""
    return direction if norm is None else norm.centre(direction * norm.gain.to(direction.dtype))


def normed_part(projection: Projection, norm: Norm | None, output: Tensor) -> Tensor:
    """[b, t, h, w] W(gain * x_hat): the output without what the bias and the norm's bias add."""
    part = projection.select(output)
    if projection.bias is not None:
        part = part - projection.bias
    if norm is not None and norm.bias is not None and bool(norm.bias.any()):
        part = part - projection.weight.to(part.dtype) @ norm.bias.to(part.dtype)
    return part


def _offset_free(module: torch.nn.Module, norm: Norm | None, output: Tensor) -> Tensor:
    """The same of a whole module."""
    bias = getattr(module, "bias", None)
    if bias is not None:
        output = output - bias.detach()
    if norm is not None and norm.bias is not None:
        output = output - linear_weight(module).detach().to(output.dtype) @ norm.bias.to(output.dtype)
    return output


def _turned_back(block: Block, seen: LayerTrace, at_key: Tensor) -> Tensor:
    """[b, t, h, p] each head's gradient at the rotary keys, before their rotation.

    Queries are rotated as keys are, head by head, so that the pull-back through theirs is that of the keys.
    """
    states = _states(seen)
    size = at_key.shape[-1] - block.k.width
    at_query = torch.zeros_like(states.query)
    at_query[..., -size:] = at_key[..., -size:]
    (back,) = torch.autograd.grad(states.query, seen.q, at_query, retain_graph=True)
    turned = block.q.select(back)[..., -size:]
    if block.index == 0:
        _check_rotation(states, at_key[:, :1], turned[:, :, 0], size)
    return widen(turned)


def _check_rotation(states: LatentTrace, at_key: Tensor, turned: Tensor, size: int) -> None:
    """One head's own way back through the keys must be the one found through the queries."""
    alone = torch.zeros_like(states.key)
    alone[:, :1, :, -size:] = at_key[..., -size:]
    (back,) = torch.autograd.grad(states.key, states.kv_down, alone, retain_graph=True)
    difference = float((back[..., -size:] - turned).norm())
    if not difference <= 1e-2 * float(turned.norm()):
        raise UnsupportedArchitecture(
            "queries and keys of the latent attention are not rotated alike; a head's keys cannot be told apart"
        )


def _stacked(query: Tensor, key: Tensor, value: Tensor, *, dim: int, readers: int = 0) -> Tensor:
    """One after the other along ``readers``, padded with zeros to the same width along ``dim``."""
    width = max(x.shape[dim] for x in (query, key, value))
    empty = (0,) * (2 * (-1 - dim))
    return torch.cat([pad(x, (*empty, 0, width - x.shape[dim])) for x in (query, key, value)], readers)
