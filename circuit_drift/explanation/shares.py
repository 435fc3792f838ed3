"""The share of each component in the change of a behaviour, along the line from A to B.

Integrated gradients in the space of weights: a component's share is the integral over t of <dm/dtheta_c, B_c - A_c> at
theta(t). No gradient of a parameter is taken for that: with y = x W^T, <dm/dW, dW> = <dm/dy, x dW^T>, one product more
a layer, which comes prompt by prompt and position by position. The shares add up to m(B) - m(A).

The integral is taken by Gauss and Legendre's rule on pieces of [0, 1]; the piece with the largest gap between its
shares and its own change of m is halved until the whole is complete.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from checkpoints.errors import BadPrompt
from checkpoints.model.attention import attention_implementation
from circuit_drift.explanation.behaviours import Batch, Behaviour, batches, run
from circuit_drift.explanation.components import Site
from circuit_drift.explanation.line import Line, contribution, pulled_back

Floats = NDArray[np.float64]
NODES = 4
"""Nodes of a piece: exact for polynomials of degree 7."""
TOLERANCE = 0.01
MOST_STEPS = 96
BATCH = 8


class NoGradient(BadPrompt):
    """A behaviour changes without a gradient, so that no share of it is defined."""


@dataclass(frozen=True, slots=True)
class PathShares:
    """Shares along a line.

    Attributes:
        shares: [N, parts, components] share of each component, by part of the prompt; positive raises the behaviour.
        at: [P] places on the line where the behaviour was taken, from 0 to 1.
        along: [P, N] the behaviour there.
        steps: gradients taken, those of pieces that were halved included.
    """

    shares: Floats
    at: Floats
    along: Floats
    steps: int

    @property
    def change(self) -> Floats:
        """[N] of the behaviour, m(B) - m(A)."""
        return np.asarray(self.along[-1] - self.along[0])

    @property
    def residual(self) -> float:
        """Mean gap between a prompt's shares and its change, over the mean size of the changes; 0 = complete."""
        return _residual(self.shares.sum((1, 2)) - self.change, self.change)


def measure(line: Line, behaviour: Behaviour, given_batch: int = BATCH) -> Floats:
    """[N] the behaviour where the line's model stands."""
    return patched_values(line, behaviour, (), 0.0, given_batch)


def patched_values(line: Line, behaviour: Behaviour, places: Any, by: float, size: int = BATCH) -> Floats:
    """[N] the behaviour with some components moved along the line by themselves; see `Line.patched`."""
    found = np.zeros(len(behaviour))
    with torch.no_grad(), readable(line, behaviour), line.patched(places, by) as given:
        for batch in batches(behaviour, line.model, size):
            found[list(batch.indices)] = run(line.model, behaviour, batch, given).double().cpu().numpy()
    return found


def integrate(
    line: Line,
    behaviour: Behaviour,
    *,
    steps: int | None = None,
    tolerance: float = TOLERANCE,
    most: int = MOST_STEPS,
    batch_size: int = BATCH,
) -> PathShares:
    """Shares of every component, complete within a tolerance.

    Args:
        line: from A to B; afterwards its model stands at B.
        behaviour: what is explained.
        steps: so many nodes of one rule over the whole line, whatever the residual; by default as many as it takes.
        tolerance: residual to be reached (`PathShares.residual`).
        most: gradients to stop at, complete or not.
        batch_size: prompts at a time; one where experts or the like differ.

    Raises:
        BadPrompt: steps below 1.
        NoGradient: a value that changes without a gradient.
    """
    if steps is not None and steps < 1:
        raise BadPrompt(f"the number of steps is 1 or more, got {steps}")
    size = 1 if any(True for _ in line.gates) or _has_experts(line) else batch_size
    path = _Path(line, behaviour, size)
    path.add(0.0, 1.0, steps or NODES)
    while path.differentiable and steps is None and path.residual > tolerance and path.steps + 2 * NODES <= most:
        start, stop = path.worst
        del path.pieces[start, stop]
        middle = (start + stop) / 2
        path.add(start, middle, NODES)
        path.add(middle, stop, NODES)
    line.move(1.0)
    if not path.differentiable and bool(np.any(path.value(1.0) != path.value(0.0))):
        raise NoGradient(f"{behaviour.name} changes without a gradient, so shares are not defined; patching alone is")
    at = sorted(path.seen)
    shares = sum((piece for piece in path.pieces.values()), start=np.zeros(path.shape))
    return PathShares(np.asarray(shares), np.array(at), np.stack([path.seen[t] for t in at]), path.steps)


def one_by_one(line: Line, behaviour: Behaviour, batch_size: int = BATCH) -> PathShares:
    """In the place of shares, what each component of B changes when it alone is put into A: exact, without a gradient.

    These do not add up where components act together.

    Args:
        line: from A to B; afterwards its model stands at A.
        behaviour: what is explained; nothing is told of the parts of prompts.
        batch_size: prompts at a time.
    """
    line.move(1.0)
    after = measure(line, behaviour, batch_size)
    line.move(0.0)
    before = measure(line, behaviour, batch_size)
    effects = np.zeros((len(behaviour), len(behaviour.parts), len(line.components.all)))
    for place in line.changed:
        effects[:, -1, place] = patched_values(line, behaviour, [place], 1.0, batch_size) - before
    return PathShares(effects, np.array([0.0, 1.0]), np.stack([before, after]), 0)


@dataclass(slots=True)
class _Path:
    line: Line
    behaviour: Behaviour
    size: int
    seen: dict[float, Floats] = field(default_factory=dict)
    pieces: dict[tuple[float, float], Floats] = field(default_factory=dict)
    steps: int = 0
    differentiable: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prompts, parts of prompts, components."""
        return len(self.behaviour), len(self.behaviour.parts), len(self.line.components.all)

    def value(self, t: float) -> Floats:
        """[N] the behaviour at a place, taken once."""
        if t not in self.seen:
            self.line.move(t)
            self.seen[t] = measure(self.line, self.behaviour, self.size)
        return self.seen[t]

    def add(self, start: float, stop: float, nodes: int) -> None:
        """Shares of a piece of the line."""
        places, weights = np.polynomial.legendre.leggauss(nodes)
        total = np.zeros(self.shape)
        self.value(start)
        for place, weight in zip(places, weights, strict=True):
            self.line.move(start + (stop - start) * (1 + float(place)) / 2)
            total += self.gradient() * float(weight) * (stop - start) / 2
            self.steps += 1
        self.value(stop)
        self.pieces[start, stop] = total

    def gradient(self) -> Floats:
        """[N, parts, components] <dm/dtheta_c, B_c - A_c> where the model stands."""
        shares = _Shares(self.line, self.behaviour, self.shape)
        with readable(self.line, self.behaviour):
            for batch in batches(self.behaviour, self.line.model, self.size):
                shares.take(batch)
        self.differentiable |= shares.differentiable
        return shares.found.numpy()

    def gap(self, piece: tuple[float, float]) -> Floats:
        """[N] what the shares of a piece lack."""
        start, stop = piece
        return np.asarray(self.pieces[piece].sum((1, 2)) - (self.value(stop) - self.value(start)))

    @property
    def residual(self) -> float:
        """Of all pieces together."""
        return _residual(np.sum([self.gap(piece) for piece in self.pieces], axis=0), self.value(1.0) - self.value(0.0))

    @property
    def worst(self) -> tuple[float, float]:
        """The piece whose shares lack most."""
        return max(self.pieces, key=lambda piece: float(np.abs(self.gap(piece)).mean()))


class _Shares:
    """Takes the shares of one place on the line out of a backward pass."""

    def __init__(self, line: Line, behaviour: Behaviour, shape: tuple[int, int, int]) -> None:
        self.line, self.behaviour = line, behaviour
        self.found = torch.zeros(shape, dtype=torch.float64)
        self.batch: Batch | None = None
        self.differentiable = False

    @property
    def size(self) -> int:
        """Prompts in the batch."""
        return 0 if self.batch is None else len(self.batch.indices)

    def take(self, batch: Batch) -> None:
        """The shares of a batch."""
        self.batch = batch
        gates = {gate.weight: gate for gate in self.line.gates}
        factors = {
            name: torch.zeros(len(gate.labels), device=self.line.change[name].device,
                              dtype=self.line.change[name].dtype, requires_grad=True)
            for name, gate in gates.items()
        }  # fmt: skip
        with self.tapped(), torch.enable_grad():
            given = {name: _switched(self.line, name, factor) for name, factor in factors.items()}
            values = run(self.line.model, self.behaviour, batch, given)
            self.differentiable |= values.requires_grad
            if values.requires_grad:
                values.sum().backward()  # type: ignore[no-untyped-call]
        for name, factor in factors.items():
            if factor.grad is not None:
                self.keep_unplaced(gates[name].labels, factor.grad)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Hooks on every site whose weights differ."""
        handles = []
        try:
            for site in self.line.sites:
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
        change = self.line.change
        weight, bias = change.get(site.weight), change.get(site.bias or "")
        if site.form == "inputs":
            if weight is not None:
                self.keep_placed(site.labels, pulled_back(site, gradient, weight) * x)
            if bias is not None:
                self.keep_placed(torch.full(bias.shape, site.bias_component), gradient * bias)
            return
        added = contribution(site, x, change, None, with_bias=True)
        self.keep_placed(site.labels, gradient * added)

    def keep_placed(self, labels: Tensor, products: Tensor) -> None:
        """Products [..., features], summed into components, prompts and parts of prompts."""
        assert self.batch is not None
        places, index = torch.unique(labels, return_inverse=True)
        if len(places) == 1:
            summed = products.sum(-1, keepdim=True)
        else:
            summed = products @ nn.functional.one_hot(index, len(places)).to(products)
        rows, positions = self.aligned(summed)
        for prompt, row in zip(self.batch.indices, rows.double().cpu(), strict=True):
            part = nn.functional.one_hot(self.parts_at(prompt, positions), self.found.shape[1])
            self.found[prompt][:, places] += part.T.double() @ row

    def aligned(self, summed: Tensor) -> tuple[Tensor, int]:
        """[b, positions, components] and which positions: all, those whose logits are kept, or unknown (0)."""
        assert self.batch is not None
        size, width = self.batch.ids.shape
        shape = summed.shape[:-1]
        count = shape.numel()
        if count == size * width:
            return summed.reshape(size, width, -1), width
        if shape[0] == size and len(shape) == 3 and shape[1] != shape[2] and width in shape[1:]:
            return summed.sum(1 if shape[2] == width else 2), width
        if len(shape) == 2 and shape == (size, len(self.batch.kept)):
            return summed, -1
        if size == 1 or shape[0] == size:
            return summed.reshape(size, -1, summed.shape[-1]).sum(1, keepdim=True), 0
        raise AssertionError(f"outputs of {tuple(shape)} for prompts {size} x {width} cannot be told apart")

    def parts_at(self, prompt: int, positions: int) -> Tensor:
        """The parts of a prompt that a row of sums stands at."""
        assert self.batch is not None
        width = self.batch.ids.shape[1]
        if positions == 0:
            return torch.tensor([self.found.shape[1] - 1])
        whole = self.behaviour.part_of(prompt, width)
        return whole if positions > 0 else whole[self.batch.kept.cpu()]

    def keep_unplaced(self, labels: Tensor, values: Tensor) -> None:
        """Shares of gates, which are known for the prompt as a whole."""
        assert self.batch is not None
        (prompt,) = self.batch.indices
        self.found[prompt, -1].index_add_(0, labels, values.double().cpu())


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
    own, change = line.model.get_parameter(name), line.change[name]
    return own + change * (factor.reshape(-1, *[1] * (change.ndim - 1)) if change.ndim else factor[0])


def readable(line: Line, behaviour: Behaviour) -> Any:
    """The model under eager attention, where attention is read."""
    return attention_implementation(line.model, "eager") if behaviour.needs_attention else nullcontext()


def _has_experts(line: Line) -> bool:
    return any("experts" in name for name, _ in line.model.named_modules())


def _residual(gap: Floats, change: Floats) -> float:
    size, most = float(np.abs(change).mean()), float(np.abs(gap).mean())
    return 0.0 if most == 0 else most / size if size else float("inf")
