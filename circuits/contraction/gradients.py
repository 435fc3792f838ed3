"""Gradients of the metric at every reader, summed over the steps of a path before anything of width D is made.

Per reader behind a norm with gain G and at step k, with d_k the gradient at the projection's output, the gradient in
front of the norm is centre(G W^T d_k) / s_k - x_hat_k c_k, with c_k = (W(G x_hat_k) . d_k) / (s_k D). Summed over steps
the first term needs only the sum of d_k / s_k, kept per head in head_dim; the second is kept as the x_hat_k, which a
layer's readers share, each with the readers' c_k.

Shapes, as suffixes of names: b facts, t tokens, d the stream's width D, w a head's width, r one layer's attention
readers: its query heads, its key heads, its value heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from checkpoints.model.anatomy import Anatomy, Block
from circuits.contraction.mla import Along, HeadGradients, latent_gradients, normed_part
from circuits.trace.trace import LayerTrace, Trace, widen

Metric = Callable[[Tensor], Tensor]
Place = tuple[int, str]
FINAL: Place = (-1, "final")


@dataclass(slots=True)
class LayerGradients:
    """Sums over steps for one layer.

    Attributes:
        heads_btrw: sum of weight * d_k / s_k.
        along: what is still to be subtracted, one for each step, and for each latent of it.
        mlp_btd: the MLP's gradient in front of its norm.
        apart: per step the stream [b, t, d] and its own share of ``heads_btrw``, where the norm in front has no closed
            form.
    """

    heads_btrw: Tensor | None = None
    along: list[Along] = field(default_factory=list)
    mlp_btd: Tensor | None = None
    apart: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, step: HeadGradients) -> None:
        """Add one step, whose memory may be taken over."""
        self.heads_btrw = _sum(self.heads_btrw, step.heads_btrw)
        self.along += step.along


class Gradients:
    """Gradients of the metric at every reader, accumulated over the steps of a path.

    Args:
        parts: the model.
        freeze_norms: whether the scale of the norm in front of a reader counts as a constant.
    """

    def __init__(self, parts: Anatomy, *, freeze_norms: bool = False) -> None:
        self.parts, self.freeze_norms = parts, freeze_norms
        self.layers = [LayerGradients() for _ in parts.blocks]
        self.logits_btd: Tensor | None = None

    def add(self, trace: Trace, metric: Metric, weight: float) -> None:
        """Run the backward pass of a trace, from the metric [b] of its logits, and add its gradients."""
        found = _backward(trace, metric)
        self.logits_btd = _sum(self.logits_btd, widen(found.pop(FINAL)) * weight)
        for block, seen, total in zip(self.parts.blocks, trace.layers, self.layers, strict=True):
            self._add_attention(total, block, seen, found, weight)
            self._add_mlp(total, block, seen, widen(found.pop((block.index, "mlp"))), weight)

    def forget_bare_stream(self) -> None:
        """Take back what reached the readers in front of which nothing has been written yet: those of layer 0."""
        total = self.layers[0]
        if total.heads_btrw is not None:
            total.heads_btrw.zero_()
        total.along.clear()
        total.apart = [(stream, torch.zeros_like(heads)) for stream, heads in total.apart]
        if self.parts.blocks[0].parallel and total.mlp_btd is not None:
            total.mlp_btd.zero_()

    def _add_attention(
        self, total: LayerGradients, block: Block, seen: LayerTrace, found: dict[Place, Tensor], weight: float
    ) -> None:
        """Add one layer's query, key and value heads, taking its gradients out of those found."""
        own = {name: found.pop((block.index, name)) for name in _projections(seen)}
        q = widen(own["q"])
        k, v = (widen(own[name]) if name in own else q for name in "kv")
        if seen.latent is not None:
            total.add(latent_gradients(block, seen, (q, k, own["latent key"]), weight, freeze=self.freeze_norms))
        elif block.attention_norm is not None and not block.attention_norm.closed:
            total.apart.append((widen(seen.attention_in), _per_head(block, (q, k, v)).mul_(weight)))
        else:
            total.add(_plain_gradients(block, seen, (q, k, v), weight, freeze=self.freeze_norms))

    def _add_mlp(self, total: LayerGradients, block: Block, seen: LayerTrace, behind: Tensor, weight: float) -> None:
        """Add one layer's MLP, from the gradient behind its norm."""
        before = behind
        if block.mlp_norm is not None:
            before = block.mlp_norm.pull_back(widen(seen.mlp_in), behind, freeze=self.freeze_norms)
        total.mlp_btd = weight * before if total.mlp_btd is None else total.mlp_btd.add_(before, alpha=weight)


def _projections(seen: LayerTrace) -> dict[str, Tensor]:
    """The tensors of a layer's attention whose gradients are wanted; a fused projection's one for all three."""
    found = {"q": seen.q} if seen.q is seen.k else {"q": seen.q, "k": seen.k, "v": seen.v}
    return found if seen.latent is None else {**found, "latent key": seen.latent.key}


def _backward(trace: Trace, metric: Metric) -> dict[Place, Tensor]:
    """The gradient at every tensor that a reader reads; to be taken out one by one, so that each is freed once used."""
    wanted: dict[Place, Any] = {FINAL: trace.final}
    shaped_like: dict[Place, Tensor] = {FINAL: trace.final}
    for index, layer in enumerate(trace.layers):
        outputs = {(index, name): output for name, output in _projections(layer).items()}
        wanted |= {(index, "mlp"): layer.mlp_edge, **outputs}
        shaped_like |= {(index, "mlp"): layer.mlp_in, **outputs}
    value, again = metric(trace.logits).sum(), any(layer.latent is not None for layer in trace.layers)
    found = torch.autograd.grad(value, list(wanted.values()), retain_graph=again, allow_unused=True)
    pairs = zip(shaped_like.items(), found, strict=True)
    return {place: torch.zeros_like(like) if gradient is None else gradient for (place, like), gradient in pairs}


def _per_head(block: Block, gradients: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """[b, t, r, w] gradients at the outputs of a layer's projections, head by head."""
    pairs = zip((block.q, block.k, block.v), gradients, strict=True)
    return torch.cat([projection.select(gradient) for projection, gradient in pairs], -2)


def _plain_gradients(
    block: Block, seen: LayerTrace, gradients: tuple[Tensor, Tensor, Tensor], weight: float, *, freeze: bool
) -> HeadGradients:
    """One step's share of a layer behind no norm or one in closed form."""
    heads_btrw, norm = _per_head(block, gradients), block.attention_norm
    if norm is None:
        return HeadGradients(heads_btrw.mul_(weight), ())
    x_hat_btd, inverse_bt1 = norm.normalise(widen(seen.attention_in))
    heads_btrw *= (inverse_bt1 * weight).unsqueeze(-1)
    if freeze:
        return HeadGradients(heads_btrw, ())
    outputs = zip((block.q, block.k, block.v), (seen.q, seen.k, seen.v), strict=True)
    normed_btrw = torch.cat([normed_part(projection, norm, widen(output)) for projection, output in outputs], -2)
    share_btr = normed_btrw.mul_(heads_btrw).sum(-1).div_(x_hat_btd.shape[-1])
    return HeadGradients(heads_btrw, (Along(x_hat_btd, share_btr),))


def _sum(total: Tensor | None, term: Tensor) -> Tensor:
    """A sum so far, in its own memory, or its first term."""
    return term if total is None else total.add_(term)
