"""Norms in closed form, recognised by what they compute, and norms of any other kind by their own derivative."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from checkpoints.errors import UnsupportedArchitecture

NormKind = Literal["layer", "rms", "other"]
_USUAL_EPS = (1e-5, 1e-6, 1e-12)


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm and its closed form: ``y = gain * x_hat + bias`` with ``x_hat = centre(x) / sigma``.

    A norm of another kind has no such form; it can only be pulled back, by the module's own derivative.

    Attributes:
        module: where it lives.
        kind: ``layer`` (centred), ``rms``, or ``other``.
        gain: [d_model], what multiplies the normalised vector (for Gemma 1 + weight).
        bias: [d_model] or ``None``.
        eps: added to the mean square.
    """

    module: nn.Module
    kind: NormKind
    gain: Tensor
    bias: Tensor | None
    eps: float

    @property
    def closed(self) -> bool:
        """Whether the closed form holds."""
        return self.kind != "other"

    def centre(self, x: Tensor) -> Tensor:
        """Subtract the mean over the last axis, for a LayerNorm.

        Raises:
            UnsupportedArchitecture: the norm has no closed form.
        """
        if not self.closed:
            raise UnsupportedArchitecture(
                f"a {type(self.module).__name__} computes neither a LayerNorm nor an RMSNorm, so what one summand of "
                "its input adds to its output is not defined"
            )
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def fold_(self, weight: Tensor) -> Tensor:
        """``centre(gain * weight)`` of weights [..., d_model] that read the norm's output, in their own memory."""
        weight.mul_(self.gain.to(weight.dtype))
        return weight.sub_(weight.mean(-1, keepdim=True)) if self.kind == "layer" else weight

    def standardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``centre(x)`` [..., d_model] and ``1 / sigma`` [..., 1], whose product is ``x_hat``."""
        centred = self.centre(x)
        return centred, torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.eps)

    def normalise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x_hat`` [..., d_model] and ``1 / sigma`` [..., 1] at ``x`` [..., d_model]."""
        centred, inverse = self.standardise(x)
        return centred * inverse, inverse

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of any number of vectors, [..., d_model]."""
        y = self.normalise(x)[0] * self.gain
        return y if self.bias is None else y + self.bias

    def spread(self, part: Tensor, inverse: Tensor) -> Tensor:
        """What one summand of the norm's input adds to its output, at the scale of the whole input.

        Args:
            part: [..., d_model], a summand.
            inverse: [..., 1], ``1 / sigma`` of the whole.
        """
        return self.centre(part) * inverse * self.gain

    def pull_back(self, x: Tensor, gradient: Tensor, *, freeze: bool = False) -> Tensor:
        """The gradient at the norm's input ``x`` for a gradient at its output, both [..., d_model].

        With ``freeze`` sigma counts as a constant.
        """
        if not (self.closed or freeze):
            return self._differentiated(x, gradient)
        x_hat, inverse = self.normalise(x)
        scaled = gradient * self.gain
        if freeze:
            return self.centre(scaled) * inverse
        return (self.centre(scaled) - x_hat * (x_hat * scaled).mean(-1, keepdim=True)) * inverse

    def _differentiated(self, x: Tensor, gradient: Tensor) -> Tensor:
        own = self.gain.dtype
        pull = torch.func.vjp(self.module, x.expand_as(gradient).to(own))[1]
        (found,) = pull(gradient.to(own))
        return found.to(gradient.dtype)  # type: ignore[no-any-return]


def read_norm(module: nn.Module, d_model: int) -> Norm | None:
    """The closed form of a norm, verified on numbers; ``None`` if it is no LayerNorm and no RMSNorm of the stream."""
    named = [float(v) for n in ("variance_epsilon", "eps", "epsilon") if (v := getattr(module, n, None)) is not None]
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    weight = torch.ones(d_model) if weight is None else weight.detach()
    if weight.shape != (d_model,):
        return None
    probe = _probe(d_model, weight)
    try:
        with torch.no_grad():
            expected = module(probe).float()
    except (RuntimeError, TypeError, ValueError):
        return None
    tolerance = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 4e-2
    kinds: tuple[NormKind, ...] = ("layer", "rms")
    for gain, kind, eps in product((weight, 1 + weight), kinds, named or _USUAL_EPS):
        norm = Norm(module, kind, gain, None if bias is None else bias.detach(), eps)
        with torch.no_grad():
            if torch.allclose(norm(probe).float(), expected, rtol=tolerance, atol=tolerance):
                return norm
    return None


def any_norm(module: nn.Module, d_model: int) -> Norm | None:
    """A norm in closed form, or of any other kind that treats each vector by itself; ``None`` if it does not."""
    if norm := read_norm(module, d_model):
        return norm
    like = next(module.parameters(), torch.empty(0))
    probe = _probe(d_model, like)
    try:
        with torch.no_grad():
            together, single = module(probe), torch.stack([module(vector[None])[0] for vector in probe])
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    if not isinstance(together, Tensor) or together.shape != probe.shape or not torch.allclose(together, single):
        return None
    return Norm(module, "other", torch.ones(d_model, dtype=like.dtype, device=like.device), None, 0.0)


def _probe(d_model: int, like: Tensor) -> Tensor:
    """Three vectors off the origin, the last so short that the epsilon shows."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, d_model, generator=generator) + 0.5
    return (vectors * torch.tensor([[1.0], [4.0], [1e-3]])).to(device=like.device, dtype=like.dtype)
