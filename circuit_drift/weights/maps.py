"""Linear maps given as two thin factors, compared without ever forming them.

A head's map of queries and keys is W = Q^T K with Q, K of [head_dim, inputs], and <W1, W2> = sum (Q1 Q2^T) * (K1 K2^T),
which costs head_dim^2 x inputs. What a norm in front multiplies, and biases, belong to the map: factors are taken
behind the norm's gain, with one more input that is always 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Factors:
    """The maps of some heads, ``left^T right``.

    Attributes:
        left: [heads, head_dim, inputs].
        right: [heads, head_dim, outputs].
    """

    left: Tensor
    right: Tensor

    def dot(self, other: "Factors") -> Tensor:
        """[heads] inner products of the maps, in float64."""
        left = self.left.double() @ other.left.double().transpose(1, 2)
        right = self.right.double() @ other.right.double().transpose(1, 2)
        return (left * right).sum((1, 2))


def compared(a: Factors, b: Factors) -> tuple[Tensor, Tensor]:
    """How much maps changed.

    Returns:
        [heads] Frobenius norm of B's map minus A's over that of A's, and the cosine of the two; NaN where A's is zero.
    """
    step = _between(a, b)
    size, other = a.dot(a), b.dot(b)
    cosine = a.dot(b) / (size * other).sqrt()
    return (step.dot(step).clamp(min=0) / size).sqrt(), cosine.clamp(-1, 1)


def _between(a: Factors, b: Factors) -> Factors:
    """B's maps minus A's as factors of twice the width: exact where the change is small."""
    left = torch.cat([a.left.double(), b.left.double() - a.left.double()], 1)
    right = torch.cat([b.right.double() - a.right.double(), b.right.double()], 1)
    return Factors(left, right)


def folded(weight: Tensor, bias: Tensor | None, gain: Tensor | None, shift: Tensor | None, *, centred: bool) -> Tensor:
    """[..., inputs + 1] a linear map behind a norm, as a map of the normalised vector and of 1.

    Args:
        weight: [..., inputs].
        bias: [...], of the map.
        gain: [inputs] of the norm; ``None`` = 1.
        shift: [inputs], the norm's bias.
        centred: whether the norm takes the mean away.
    """
    whole = weight.double()
    constant = whole.new_zeros(whole.shape[:-1]) if shift is None else whole @ shift.double()
    constant = constant if bias is None else constant + bias.double()
    if gain is not None:
        whole = whole * gain.double()
    if centred:
        whole = whole - whole.mean(-1, keepdim=True)
    return torch.cat([whole, constant[..., None]], -1)
