"""What attended values write towards the answer's logit (LOCOS, arXiv 2607.01002), raw and with frozen norms."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints.model.anatomy import Norm, anatomy, linear_weight
from heads.rows.reduce import RowStats


class Writing:
    """Directions of the value space that write towards each row's target token.

    Raw: ``phi_j = a_j u_y^T W_O^h v_j`` (the published code), which ignores the final norm and any norm on the
    attention output. Frozen: each norm on the way applied at the scale it has in this very pass, so that the terms
    of all heads and keys add up to the layer's direct contribution to the target's logit (before any scaling or
    capping of the logits). Biases belong to no head and are left out.

    Args:
        model: any decoder that `checkpoints.model.anatomy.anatomy` can map.
        rows: [batch, R] scored positions.
        targets: [batch, R] token ids to write towards.

    Raises:
        UnsupportedArchitecture: the parts cannot be found (linear attention, say).
    """

    def __init__(self, model: PreTrainedModel, rows: Tensor, targets: Tensor) -> None:
        self._parts = anatomy(model)
        self._rows = rows
        self._raw = linear_weight(self._parts.unembedding).detach()[targets].float()
        norm = self._parts.final_norm
        self._final = norm.centre(self._raw * norm.gain.float())
        self._scales: dict[int | str, Tensor] = {}

    def directions(self, layer: int) -> Tensor:
        """[2, batch, heads, R, head_dim]: raw and frozen; the frozen one still lacks the scales (`finish`)."""
        block = self._parts.blocks[layer]
        frozen = self._final * block.residual_scale
        if (post := block.attention_post_norm) is not None:
            frozen = post.centre(frozen * post.gain.float())
        towards = torch.stack([self._raw, frozen])
        weight = block.output_weight.detach().float()
        return einsum(towards, weight, "variant b row d, head width d -> variant b head row width")

    def finish(self, layer: int, stats: RowStats) -> RowStats:
        """Multiply the frozen variant by the norms' scales at the scored rows, known once the forward has run."""
        if stats.written is None:
            return stats
        scale = self._scales["final"] * self._scales.get(layer, 1.0)
        factors = torch.stack([torch.ones_like(scale), scale])
        return replace(stats, written=stats.written * rearrange(factors, "variant b row -> variant b 1 row 1"))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the scales of the norms while the model runs."""
        norms: list[tuple[int | str, Norm]] = [("final", self._parts.final_norm)]
        norms += [(b.index, b.attention_post_norm) for b in self._parts.blocks if b.attention_post_norm is not None]
        handles = [norm.module.register_forward_pre_hook(self._noting(key, norm)) for key, norm in norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, key: int | str, norm: Norm) -> Callable[..., None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            rows = x.gather(1, self._rows.to(x.device)[..., None].expand(-1, -1, x.shape[-1]))
            self._scales[key] = norm.normalise(rows.float())[1][..., 0]

        return note
