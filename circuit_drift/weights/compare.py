"""From two checkpoints to the change of their weights, a layer in memory at a time."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from checkpoints import Checkpoint
from checkpoints.model.anatomy import Block
from checkpoints.model.norms import Norm
from checkpoints.model.projections import Projection
from circuit_drift.explanation.components import Components, Site, components_of
from circuit_drift.weights.change import WeightChange
from circuit_drift.weights.maps import Factors, compared, folded
from circuit_drift.weights.reading import Both, Get, both

ROWS_OF = 1 << 21
"""Numbers of a tensor that are compared at a time."""
LATENT = "queries and keys come through normalised latents, so no head has a QK or OV map of its own"
QK_NORM = "queries and keys are normalised head by head after their projections; QK maps are those in front of that"


def weight_change(a: Checkpoint, b: Checkpoint) -> WeightChange:
    """How much every head's QK and OV map changed, and every other component, from A to B.

    Args:
        a: a checkpoint.
        b: the other one, of the same shape.

    Raises:
        UnsupportedArchitecture: the model's parts are not recognised, or one is stored quantised.
        CheckpointMismatch: a file lacks what the other has.
    """
    with both(a, b) as held:
        components = components_of(held.shape)
        names = {id(parameter): name for name, parameter in held.shape.named_parameters()}
        sizes = _component_sizes(components, held)
        qk, ov, notes = _head_maps(components, held, names)
    rows = [component for component, size in zip(components.all, sizes, strict=True) if size is not None]
    found = np.array([size for size in sizes if size is not None])
    return WeightChange(
        a=a.label,
        b=b.label,
        names=tuple(component.name for component in rows),
        kinds=tuple(component.kind for component in rows),
        layers=tuple(-1 if component.layer is None else component.layer for component in rows),
        relative=found[:, 0],
        cosine=found[:, 1],
        qk=qk[0],
        qk_cosine=qk[1],
        ov=ov[0],
        ov_cosine=ov[1],
        notes=tuple(notes),
    )


def _component_sizes(components: Components, held: Both) -> list[tuple[float, float] | None]:
    """Relative change and cosine of each component's own weights."""
    count = len(components.all)
    sums = torch.zeros(4, count, dtype=torch.float64)  # |A|^2, |B|^2, <A, B>, |B - A|^2
    for site in components.sites:  # a tied matrix counts in each of its two places
        axis = _axis(site)
        for name, labels in ((site.weight, site.labels), (site.bias, _bias_labels(site))):
            if name is not None:
                own = axis if name == site.weight else 0
                sums += _sums(held.a(name), held.b(name), labels, own, count)
    for gate in components.gates:
        sums += _sums(held.a(gate.weight), held.b(gate.weight), gate.labels, 0, count)
    sizes = [tuple(column.tolist()) for column in sums.T]
    return [_size(*each) for each in sizes]


def _axis(site: Site) -> int:
    """The axis of the stored weight along which its features lie."""
    if site.form == "norm":
        return 0
    if site.form == "lookup":
        return 1
    transposed = isinstance(site.module, Conv1D)
    return int(transposed) if site.form == "outputs" else 1 - int(transposed)


def _bias_labels(site: Site) -> Tensor:
    if site.form != "inputs":
        return site.labels
    outputs = getattr(site.module, "bias", None)
    size = 0 if outputs is None else outputs.numel()
    return torch.full((size,), site.bias_component)


def _sums(a: Tensor, b: Tensor, labels: Tensor, axis: int, count: int) -> Tensor:
    """[4, count] |A|^2, |B|^2, <A, B> and |B - A|^2 by component, some rows at a time: an embedding is large."""
    whole = [x.detach().reshape(1) if x.ndim == 0 else x.detach() for x in (a, b)]
    rows = max(1, ROWS_OF // max(1, whole[0][0].numel()))
    found = torch.zeros(4, count, dtype=torch.float64)
    for start in range(0, len(whole[0]), rows):
        one, two = (x[start : start + rows].double() for x in whole)
        own = labels[start : start + rows] if axis == 0 else labels
        other = [i for i in range(one.ndim) if i != axis]
        for row, (left, right) in enumerate(((one, one), (two, two), (one, two))):
            product = left * right
            found[row].index_add_(0, own, product.sum(other) if other else product)
        product = two.sub_(one).square_()
        found[3].index_add_(0, own, product.sum(other) if other else product)
    return found


def _size(own: float, other: float, product: float, step: float) -> tuple[float, float] | None:
    if own == 0 == other:
        return None
    relative = (step / own) ** 0.5 if own else float("inf")
    cosine = product / (own * other) ** 0.5 if own and other else float("nan")
    return relative, min(max(cosine, -1.0), 1.0)


Maps = tuple[np.ndarray, np.ndarray]


def _head_maps(components: Components, held: Both, names: dict[int, str]) -> tuple[Maps, Maps, list[str]]:
    """[layers, heads] relative change and cosine of the QK and of the OV maps."""
    parts = components.parts
    shape = (parts.n_layers, parts.n_heads)
    qk, ov = ((np.full(shape, np.nan), np.full(shape, np.nan)) for _ in range(2))
    notes = [] if parts.blocks[0].latent is None else [LATENT]
    if notes:
        return qk, ov, notes
    for block in parts.blocks:
        factors = [_factors(block, get, held, names) for get in (held.a, held.b)]
        for into, (one, two) in zip((qk, ov), zip(*factors, strict=True), strict=True):
            relative, cosine = compared(one, two)
            into[0][block.index], into[1][block.index] = relative.numpy(), cosine.numpy()
    if any("norm" in name for name, _ in parts.blocks[0].attention.named_children()):
        notes.append(QK_NORM)
    return qk, ov, notes


def _factors(block: Block, get: Get, held: Both, names: dict[int, str]) -> tuple[Factors, Factors]:
    """A layer's QK and OV maps, query head by query head, at distance 0 under rotary embedding."""
    gain, shift, centred = _norm(block.attention_norm, get, names)
    groups = block.q.heads // block.k.heads
    q, k, v = (
        folded(*_projected(projection, get, names), gain, shift, centred=centred)
        for projection in (block.q, block.k, block.v)
    )
    k, v = (x.repeat_interleave(groups, 0) for x in (k, v))
    out = get(names[id(block.o.weight)])
    out = (out if isinstance(block.o, Conv1D) else out.T).double()
    written = out.reshape(block.q.heads, -1, out.shape[-1])
    return Factors(q, k), Factors(v, written)


def _projected(projection: Projection, get: Get, names: dict[int, str]) -> tuple[Tensor, Tensor | None]:
    """[heads, head_dim, inputs] and [heads, head_dim]."""
    module = projection.module
    weight = get(names[id(module.weight)])
    whole = weight.T if isinstance(module, Conv1D) else weight
    bias = getattr(module, "bias", None)
    return whole[projection.rows], None if bias is None else get(names[id(bias)])[projection.rows]


def _norm(norm: Norm | None, get: Get, names: dict[int, str]) -> tuple[Tensor | None, Tensor | None, bool]:
    """Gain and bias of a norm as a checkpoint holds them, and whether it takes the mean away."""
    if norm is None or not norm.closed:
        return None, None, False
    module: nn.Module = norm.module
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    gain = None if weight is None else get(names[id(weight)]).double()
    if gain is not None and weight is not None and not torch.equal(norm.gain, weight.detach()):
        gain = gain + 1  # Gemma's, which multiplies by 1 + weight
    return gain, None if bias is None else get(names[id(bias)]), norm.kind == "layer"
