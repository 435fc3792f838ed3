"""The gradient of readers behind a latent: multi-head latent attention in the terms of plain projections.

A head's query is up(norm(down(norm(x)))). With d the gradient at ``up``'s output, c_hat and s' the inner norm's
direction and scale, and s the outer one's, the gradient in front of the outer norm is

    centre(G W^T d) / (s s') - D m / (s s') - x_hat a,    W = up gain' down,  D = centre(G down^T c_hat),

with m = (up(gain' c_hat) . d) / rank. So each head has one effective projection W [head_dim, d_model], as a plain one,
and the inner norm adds a direction D that all heads share. Keys and values likewise; a head's rotary keys come straight
from ``down``. They are one for all heads, so a head's own gradient is taken at the attention function and turned back
by the transpose of the rotation, which queries have with them for every head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import Block, Norm, Projection, linear_weight
from circuits.trace.mla import LatentTrace
from circuits.trace.trace import LayerTrace, widen


@dataclass(frozen=True, slots=True)
class HeadGradients:
    """What one step adds for one layer's readers, queries, keys, values in turn.

    Attributes:
        heads: [b, t, readers, width] for the rows of `effective_weight`.
        directions: [b, t, d] each.
        alongs: [b, t, readers] each, how much of its direction to subtract.
    """

    heads: Tensor
    directions: list[Tensor]
    alongs: list[Tensor]


def effective_weight(block: Block, dtype: torch.dtype) -> Tensor:
    """[readers, width, d] from a head's query, key and value back to the normalised stream."""
    latent = block.latent
    assert latent is not None
    down = linear_weight(latent.kv_down).detach().to(dtype)
    if latent.q_down is None or latent.q_norm is None:
        query = block.q.weight.detach().to(dtype)
    else:
        query = _through(block.q, latent.q_norm, linear_weight(latent.q_down).detach().to(dtype))
    key, value = (_through(p, latent.kv_norm, down[: latent.rank]) for p in (block.k, block.v))
    rotary = down[latent.rank :].expand(block.k.heads, -1, -1)
    return _stacked(query, torch.cat([key, rotary], 1), value, dim=-2)


def latent_gradients(
    block: Block, seen: LayerTrace, gradients: tuple[Tensor, Tensor, Tensor], *, freeze: bool
) -> HeadGradients:
    """One step's share, from the gradients at ``up`` of queries, of keys and values, and at the attention's keys."""
    latent, states, norm = block.latent, seen.latent, block.attention_norm
    assert latent is not None
    assert states is not None
    at_q, at_kv, at_key = gradients
    at_kv = at_kv.flatten(1, -2)  # some attentions keep the latents as of a single head
    keys_values = widen(seen.k).flatten(1, -2)
    b, t = at_q.shape[:2]
    readers = block.q.heads + 2 * block.k.heads
    if norm is None:
        inverse, x_hat = at_q.new_ones(()), None
    else:
        x_hat, inverse = norm.normalise(widen(seen.attention_in))
    kv_down = widen(states.kv_down)
    rotated = _turned_back(block, seen, at_key)
    kv = _Inner(block.k.module, latent.kv_norm, kv_down[..., : latent.rank])
    rotary_along = (rotated * _offset_free(latent.kv_down, norm, kv_down)[..., None, latent.rank :]).sum(-1)
    key = kv.read(block.k, keys_values, at_kv, _offset_free(latent.kv_down, norm, kv_down)[..., : latent.rank])
    value = kv.read(block.v, keys_values, at_kv, _offset_free(latent.kv_down, norm, kv_down)[..., : latent.rank])
    if latent.q_down is None or latent.q_norm is None or states.q_down is None:
        delta = block.q.select(at_q)
        query = _Read(
            delta, delta.new_zeros(b, t, block.q.heads), (delta * normed_part(block.q, norm, widen(seen.q))).sum(-1)
        )
        shared_q = None
    else:
        q_down = widen(states.q_down)
        inner = _Inner(block.q.module, latent.q_norm, q_down)
        query = inner.read(block.q, widen(seen.q), at_q, _offset_free(latent.q_down, norm, q_down))
        shared_q = inner.direction(linear_weight(latent.q_down).detach())
    key = _Read(torch.cat([key.heads, rotated], -1), key.inner, key.along + rotary_along)
    scaled = inverse.unsqueeze(-1)
    heads = _stacked(query.heads * scaled, key.heads * scaled, value.heads * scaled, dim=-1, readers=-2)
    if freeze:
        return HeadGradients(heads, [], [])
    directions, alongs = [], []
    none = query.inner.new_zeros(b, t, readers)
    first = block.q.heads
    if shared_q is not None:
        directions.append(_through_norm(norm, shared_q))
        alongs.append(torch.cat([query.inner, none[..., first:]], -1) * inverse)
    directions.append(_through_norm(norm, kv.direction(linear_weight(latent.kv_down).detach()[: latent.rank])))
    alongs.append(torch.cat([none[..., :first], key.inner, value.inner], -1) * inverse)
    if x_hat is not None:
        directions.append(x_hat)
        alongs.append(torch.cat([query.along, key.along, value.along], -1) * inverse / x_hat.shape[-1])
    return HeadGradients(heads, directions, alongs)


@dataclass(frozen=True, slots=True)
class _Read:
    """Of some heads: [b, t, heads, width] gradient over s', [b, t, heads] m / s', and p . (gradient at the latent)."""

    heads: Tensor
    inner: Tensor
    along: Tensor


@dataclass(frozen=True, slots=True)
class _Inner:
    """A latent with its norm, at one pass."""

    up: torch.nn.Module
    norm: Norm
    latent: Tensor

    def read(self, projection: Projection, output: Tensor, gradient: Tensor, part: Tensor) -> _Read:
        """Pull the gradient at ``up``'s output back to the latent, in the heads' own coordinates.

        Args:
            projection: the heads' rows of ``up``.
            output: [b, t, out] of ``up``.
            gradient: [b, t, out] there.
            part: [b, t, rank] p = down(gain * x_hat) of the outer norm.
        """
        c_hat, inverse = self.norm.normalise(self.latent)
        delta = projection.select(gradient)
        mean = (delta * normed_part(projection, self.norm, output)).sum(-1) / c_hat.shape[-1]
        weight = linear_weight(self.up).detach().to(part.dtype)
        carried = projection.select(linear(self.norm.centre(part) * self.norm.gain.to(part.dtype), weight))
        along = (delta * carried).sum(-1) - mean * (part * c_hat).sum(-1, keepdim=True)
        return _Read(delta * inverse.unsqueeze(-1), mean * inverse, along * inverse)

    def direction(self, down: Tensor) -> Tensor:
        """[b, t, d] down^T c_hat."""
        c_hat = self.norm.normalise(self.latent)[0]
        return c_hat @ down.to(c_hat.dtype)


def _through(projection: Projection, norm: Norm, down: Tensor) -> Tensor:
    """[heads, width, d] up gain' down."""
    return norm.centre(projection.weight.detach().to(down.dtype) * norm.gain.to(down.dtype)) @ down


def _through_norm(norm: Norm | None, direction: Tensor) -> Tensor:
    """centre(G direction)."""
    return direction if norm is None else norm.centre(direction * norm.gain.to(direction.dtype))


def normed_part(projection: Projection, norm: Norm | None, output: Tensor) -> Tensor:
    """[b, t, heads, width] W(gain * x_hat): the output without what the bias and the norm's bias add."""
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
    """[b, t, heads, rotary] each head's gradient at the rotary keys, before their rotation.

    Queries are rotated as keys are, head by head, so that the pull-back through theirs is that of the keys.
    """
    states = seen.latent
    assert states is not None
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
