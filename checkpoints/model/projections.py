"""Linear maps from the residual stream to the heads' queries, keys and values."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from checkpoints.model.norms import Norm
from checkpoints.model.packed import is_packed, unpacked


def linear_weight(module: nn.Module) -> Tensor:
    """[out, in] of a linear map, whichever way it stores it; what stands for a packed one is made anew."""
    if is_packed(module):
        return unpacked(module)
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


@dataclass(frozen=True, slots=True)
class Projection:
    """The query, key or value projection, head by head.

    Attributes:
        module: the linear map, perhaps fused with others.
        rows: [heads, head_dim] which of the module's outputs belong to which head.
        copies: how many query heads read each head, where each of them is to have a reader of its own; the output
            is then that of the expanded model, with every head repeated.
        offset: where in that output the heads start.
    """

    module: nn.Module
    rows: Tensor
    copies: int = 1
    offset: int | None = None

    @property
    def heads(self) -> int:
        """How many heads, copies counted."""
        return len(self.rows) * self.copies

    @property
    def width(self) -> int:
        """head_dim."""
        return self.rows.shape[1]

    @property
    def places(self) -> Tensor:
        """[heads, head_dim] where in the output each head is."""
        if self.offset is None:
            return self.rows
        return torch.arange(self.heads * self.width).reshape(self.heads, self.width) + self.offset

    @property
    def weight(self) -> Tensor:
        """[heads, head_dim, in]."""
        own = _strided(linear_weight(self.module).T, self.rows).movedim(0, -1)
        return own if self.copies == 1 else own.repeat_interleave(self.copies, 0)

    @property
    def bias(self) -> Tensor | None:
        """[heads, head_dim] or ``None``."""
        bias = getattr(self.module, "bias", None)
        if bias is None:
            return None
        own = _strided(bias, self.rows)
        return own if self.copies == 1 else own.repeat_interleave(self.copies, 0)

    def select(self, output: Tensor) -> Tensor:
        """[..., heads, head_dim] the heads' part of the module's output [..., out]; a view."""
        return _strided(output, self.places)


@dataclass(frozen=True, slots=True)
class Latent:
    """The low-rank path of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

    Queries, keys and values are ``up(norm(down(x)))``; a rotary part of the keys, shared by all heads, comes straight
    from the last outputs of ``kv_down``.

    Attributes:
        q_down, q_norm: ``None`` where queries come straight from the stream.
        kv_down: to the latent of keys and values, and to the rotary part.
        kv_norm: of the latent.
    """

    q_down: nn.Module | None
    q_norm: Norm | None
    kv_down: nn.Module
    kv_norm: Norm

    @property
    def rank(self) -> int:
        """Width of the latent of keys and values; what follows in the output of ``kv_down`` is the rotary part."""
        return self.kv_norm.gain.numel()


def _strided(output: Tensor, rows: Tensor) -> Tensor:
    """[..., heads, head_dim] evenly spaced stretches of [..., out]; a view."""
    heads, head_dim = rows.shape
    start = int(rows[0, 0])
    stride = int(rows[1, 0]) - start if heads > 1 else head_dim
    return output[..., start:].unfold(-1, head_dim, stride)[..., :heads, :]
