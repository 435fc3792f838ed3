"""One gradient of a behaviour, divided among the components whose weights differ, by hooks on their modules.

A hook keeps what a module was given until the gradient at its output comes back; the product with the module's change
is its share. Behind the last layer's attention few positions have a gradient, and the others cost nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.loading.lora import LowRank
from circuit_drift.explanation.behaviours import Batch, Behaviour, run
from circuit_drift.explanation.components import Site
from circuit_drift.explanation.line import Line, Step, contribution, pulled_back, vector

Positions = Literal["all", "kept", "none"]
"""Where in a prompt rows of sums stand: at all positions, at those whose logits are kept, at none in particular."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """How the features of a site are summed into its components.

    Attributes:
        places: [C] of the components.
        one_hot: [features, C] whose each feature is; ``None`` where all belong to one.
    """

    places: Tensor
    one_hot: Tensor | None

    def __call__(self, products: Tensor) -> Tensor:
        """[..., features] to [..., C]."""
        return products.sum(-1, keepdim=True) if self.one_hot is None else products @ self.one_hot


def _sums(line: Line, site: Site) -> _Sums:
    places, index = torch.unique(site.labels, return_inverse=True)
    step = next(line.change[name] for name in (site.weight, site.bias or "") if name in line.change)
    like = step.left if isinstance(step, LowRank) else step
    return _Sums(places, nn.functional.one_hot(index, len(places)).to(like) if len(places) > 1 else None)


class Taps:
    """Takes the shares of one place on the line after the other out of backward passes.

    Args:
        line: its model stands at that place, batch after batch, until `begin`.
        behaviour: what is explained.
        shape: prompts, parts of prompts, components.

    Attributes:
        found: [N, parts, components] the shares of the place where the model stands.
        values: [N] the behaviour.
        differentiable: whether any value had a gradient.
    """

    def __init__(self, line: Line, behaviour: Behaviour, shape: tuple[int, int, int]) -> None:
        self.line, self.behaviour, self.shape = line, behaviour, shape
        self.sums = {site: _sums(line, site) for site in line.sites}
        self.batch: Batch | None = None
        self.rows: dict[Positions, list[tuple[Tensor, Tensor]]] = {}
        self.everywhere = False
        self.begin()

    def begin(self) -> None:
        """Forget what was found at another place."""
        self.found = torch.zeros(self.shape, dtype=torch.float64)
        self.values = np.zeros(self.shape[0])
        self.differentiable = False

    @property
    def size(self) -> int:
        """Prompts in the batch."""
        return 0 if self.batch is None else len(self.batch.indices)

    def take(self, batch: Batch) -> None:
        """The shares of a batch."""
        self.batch, self.rows, self.everywhere = batch, {}, False
        gates = {gate.weight: gate for gate in self.line.gates}
        factors = {
            name: torch.zeros(len(gate.labels), device=self.line.gated(name).device,
                              dtype=self.line.gated(name).dtype, requires_grad=True)
            for name, gate in gates.items()
        }  # fmt: skip
        with self.tapped(), torch.enable_grad():
            given = {name: _switched(self.line, name, factor) for name, factor in factors.items()}
            values = run(self.line.model, self.behaviour, batch, given)
            self.differentiable |= values.requires_grad
            if values.requires_grad:
                values.sum().backward()  # type: ignore[no-untyped-call]
        self.values[list(batch.indices)] = values.detach().double().cpu().numpy()
        self.sum_rows(batch)
        for name, factor in factors.items():
            if factor.grad is not None:
                self.keep_unplaced(gates[name].labels, factor.grad)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Hooks on every site whose weights differ."""
        handles = []
        try:
            for site in self.sums:
                handles.append(site.module.register_forward_hook(self.hook(site)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def hook(self, site: Site) -> Any:
        """What a site's forward pass goes through."""

        def tap(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
            x = inputs[0]
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            if len(x) == 1 < self.size:  # positions, which all prompts share
                output, x = output.expand(self.size, *output.shape[1:]), x.expand(self.size, *x.shape[1:])
            return _Tap.apply(output, x, lambda x, gradient: self.keep(site, x, gradient))  # type: ignore[no-untyped-call]

        return tap

    def keep(self, site: Site, x: Tensor, gradient: Tensor) -> None:
        """The share of a site: its gradient times what its change adds, component by component."""
        shape, sums = gradient.shape[:-1], self.sums[site]
        moving = None if site.form == "lookup" or self.everywhere else _moving(gradient)
        self.everywhere |= moving is None  # further back gradients only spread
        if moving is not None:
            x, gradient = (each.reshape(-1, each.shape[-1])[moving] for each in (x, gradient))
        bias = vector(self.line.change, site.bias)
        if site.form == "inputs" and bias is not None:
            own = torch.tensor([site.bias_component])
            self.keep_placed(own, _whole((gradient @ bias)[..., None], moving, shape))
        if site.form != "inputs" or site.weight in self.line.change:
            self.keep_placed(sums.places, _whole(_summed(site, x, gradient, self.line.change, sums), moving, shape))

    def keep_placed(self, places: Tensor, summed: Tensor) -> None:
        """Products [..., C] of components at positions of prompts, which `sum_rows` sums at the end of the batch."""
        positions, rows = self.aligned(summed)
        self.rows.setdefault(positions, []).append((places, rows))

    def sum_rows(self, batch: Batch) -> None:
        """Rows of all sites, summed into parts of prompts in one product."""
        own = torch.zeros((self.size, *self.found.shape[1:]), dtype=torch.float64)
        for positions, found in self.rows.items():
            rows = torch.cat([each for _, each in found], -1).cpu().double()
            own.index_add_(2, torch.cat([places for places, _ in found]), self.parts_at(batch, positions) @ rows)
        self.found[list(batch.indices)] += own

    def aligned(self, summed: Tensor) -> tuple[Positions, Tensor]:
        """At which positions of the prompts sums stand, and the sums as [b, positions, C]."""
        assert self.batch is not None
        size, width = self.batch.ids.shape
        shape = summed.shape[:-1]
        if shape.numel() == size * width:
            return "all", summed.reshape(size, width, -1)
        if shape[0] == size and len(shape) == 3 and shape[1] != shape[2] and width in shape[1:]:
            return "all", summed.sum(1 if shape[2] == width else 2)
        if len(shape) == 2 and shape == (size, len(self.batch.kept)):
            return "kept", summed
        if size == 1 or shape[0] == size:
            return "none", summed.reshape(size, -1, summed.shape[-1]).sum(1, keepdim=True)
        raise AssertionError(f"outputs of {tuple(shape)} for prompts {size} x {width} cannot be told apart")

    def parts_at(self, batch: Batch, positions: Positions) -> Tensor:
        """[b, parts, positions] which part of its prompt each position is in."""
        parts = self.found.shape[1]
        if positions == "none":
            labels = torch.full((self.size, 1), parts - 1)
        else:
            labels = torch.stack([self.behaviour.part_of(prompt, batch.ids.shape[1]) for prompt in batch.indices])
            labels = labels if positions == "all" else labels[:, batch.kept.cpu()]
        return nn.functional.one_hot(labels, parts).transpose(1, 2).double()

    def keep_unplaced(self, labels: Tensor, values: Tensor) -> None:
        """Shares of gates, which are known for the prompt as a whole."""
        assert self.batch is not None
        (prompt,) = self.batch.indices
        self.found[prompt, -1].index_add_(0, labels, values.double().cpu())


def _summed(site: Site, x: Tensor, gradient: Tensor, change: Mapping[str, Step], sums: _Sums) -> Tensor:
    """[..., C] the gradient times what the change adds; of a site divided by inputs without its bias."""
    weight, bias = change.get(site.weight), vector(change, site.bias)
    if site.form == "inputs":
        assert weight is not None
        return sums(pulled_back(site, gradient, weight).mul_(x))
    if site.form == "norm" and isinstance(weight, Tensor) and bias is None:
        assert site.norm is not None
        centred, inverse = site.norm.standardise(x)
        return ((gradient * centred) @ weight[:, None]).mul_(inverse)
    if site.form == "outputs" and weight is not None and sums.one_hot is None and x.shape[-1] < gradient.shape[-1]:
        own = sums(pulled_back(site, gradient, weight).mul_(x))  # the same products, on the narrower side
        return own if bias is None else own + (gradient @ bias)[..., None]
    return sums(contribution(site, x, change, None, with_bias=True).mul_(gradient))


def _moving(gradient: Tensor) -> Tensor | None:
    """Rows that have a gradient, where the first has none: behind the last attention only few positions count."""
    flat = gradient.reshape(-1, gradient.shape[-1])
    return None if bool(flat[0].any()) else flat.any(1).nonzero()[:, 0]


def _whole(summed: Tensor, moving: Tensor | None, shape: torch.Size) -> Tensor:
    """Sums of some rows in the places of all."""
    if moving is None:
        return summed
    found = summed.new_zeros((shape.numel(), summed.shape[-1]))
    found[moving] = summed
    return found.reshape(*shape, -1)


class _Tap(torch.autograd.Function):
    """Passes an output on, and shows its gradient with the input on the way back."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, take: Any) -> Tensor:
        """The output itself."""
        ctx.save_for_backward(x)
        ctx.take = take
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradient itself."""
        (gradient,) = gradients
        with torch.no_grad():
            ctx.take(*ctx.saved_tensors, gradient)
        return gradient, None, None


def _switched(line: Line, name: str, factor: Tensor) -> Tensor:
    own, change = line.model.get_parameter(name), line.gated(name)
    return own + change * (factor.reshape(-1, *[1] * (change.ndim - 1)) if change.ndim else factor[0])
