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
    """One step's share, from the gradients at ``up`` of queries, of keys and values, and at the attention's keys.

    Args:
        block: a layer of latent attention.
        seen: its trace.
        gradients: [b, t, out of ``up``] of queries; the same of keys and values; [b, heads, t, width] of the keys.
        freeze: whether the norms' scales count as constants.
    """
    latent, norm = block.latent, block.attention_norm
    assert latent is not None
    at_q, at_kv, at_key = gradients
    x_hat, inverse = (None, at_q.new_ones(())) if norm is None else norm.normalise(widen(seen.attention_in))
    query, query_latent = _query(block, seen, at_q)
    key, value, kv_latent = _key_value(block, seen, at_kv, at_key)
    scale = inverse.unsqueeze(-1)  # 1 / s
    heads = _stacked(query.heads * scale, key.heads * scale, value.heads * scale, dim=-1, readers=-2)
    if freeze:
        return HeadGradients(heads, [], [])
    directions, alongs = [], []  # D of queries, D of keys and values, x_hat; and how much of each to subtract
    none_q, none_kv = torch.zeros_like(query.inner), torch.zeros_like(torch.cat([key.inner, value.inner], -1))
    if query_latent is not None and latent.q_down is not None:
        directions.append(_through_norm(norm, query_latent.direction(linear_weight(latent.q_down).detach())))
        alongs.append(torch.cat([query.inner, none_kv], -1) * inverse)
    down = linear_weight(latent.kv_down).detach()[: latent.rank]
    directions.append(_through_norm(norm, kv_latent.direction(down)))
    alongs.append(torch.cat([none_q, key.inner, value.inner], -1) * inverse)
    if x_hat is not None:
        directions.append(x_hat)
        alongs.append(torch.cat([query.along, key.along, value.along], -1) * inverse / x_hat.shape[-1])
    return HeadGradients(heads, directions, alongs)


def _query(block: Block, seen: LayerTrace, at_q: Tensor) -> "tuple[_Read, _Inner | None]":
    """What the queries' readers get, and the latent they come from, if from any."""
    latent, states, norm = block.latent, seen.latent, block.attention_norm
    assert latent is not None
    assert states is not None
    if latent.q_down is None or latent.q_norm is None or states.q_down is None:
        delta = block.q.select(at_q)  # [b, t, heads, width]
        along = (delta * normed_part(block.q, norm, widen(seen.q))).sum(-1)
        return _Read(delta, delta.new_zeros(delta.shape[:-1]), along), None
    q_down = widen(states.q_down)  # [b, t, rank]
    inner = _Inner(block.q.module, latent.q_norm, q_down)
    return inner.read(block.q, widen(seen.q), at_q, _offset_free(latent.q_down, norm, q_down)), inner


def _key_value(block: Block, seen: LayerTrace, at_kv: Tensor, at_key: Tensor) -> "tuple[_Read, _Read, _Inner]":
    """What the readers of keys and of values get, and the latent that both come from."""
    latent, states = block.latent, seen.latent
    assert latent is not None
    assert states is not None
    at_kv, output = at_kv.flatten(1, -2), widen(seen.k).flatten(1, -2)  # some keep the latents as of a single head
    kv_down = widen(states.kv_down)  # [b, t, rank + rotary]
    part = _offset_free(latent.kv_down, block.attention_norm, kv_down)
    inner = _Inner(block.k.module, latent.kv_norm, kv_down[..., : latent.rank])
    key, value = (inner.read(p, output, at_kv, part[..., : latent.rank]) for p in (block.k, block.v))
    rotated = _turned_back(block, seen, at_key)  # [b, t, heads, rotary]
    along = key.along + (rotated * part[..., None, latent.rank :]).sum(-1)
    return _Read(torch.cat([key.heads, rotated], -1), key.inner, along), value, inner


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
