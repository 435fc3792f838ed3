"""The share of each component in the change of a behaviour, along the line from A to B.

Integrated gradients in the space of weights: a component's share is the integral over t of <dm/dtheta_c, B_c - A_c> at
theta(t). No gradient of a parameter is taken for that: with y = x W^T, <dm/dW, dW> = <dm/dy, x dW^T>, one product more
a layer, which comes prompt by prompt and position by position. The shares add up to m(B) - m(A).

The integral is taken by Gauss and Legendre's rule on pieces of [0, 1]; the piece with the largest gap between its
shares and its own change of m is halved until the whole is complete.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.attention import attention_implementation
from circuit_drift.explanation.behaviours import Behaviour, batches, run
from circuit_drift.explanation.line import Line
from circuit_drift.explanation.taps import Taps

Floats = NDArray[np.float64]
NODES = 4
"""Nodes of a piece: exact for polynomials of degree 7."""
TOLERANCE = 0.01
MOST_STEPS = 96
BATCH = 8
NOTHING: Mapping[str, Tensor] = {}


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


def measure(
    model: PreTrainedModel, behaviour: Behaviour, size: int = BATCH, given: Mapping[str, Tensor] = NOTHING
) -> Floats:
    """[N] the behaviour of a model, so many prompts at a time, with some parameters given in place of its own."""
    found = np.zeros(len(behaviour))
    with torch.no_grad(), readable(model, behaviour):
        for batch in batches(behaviour, model, size):
            found[list(batch.indices)] = run(model, behaviour, batch, given).double().cpu().numpy()
    return found


def patched_values(line: Line, behaviour: Behaviour, places: Any, by: float, size: int = BATCH) -> Floats:
    """[N] the behaviour with some components moved along the line by themselves; see `Line.patched`."""
    with line.patched(places, by) as given:
        return measure(line.model, behaviour, size, given)


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
    after = measure(line.model, behaviour, batch_size)
    line.move(0.0)
    before = measure(line.model, behaviour, batch_size)
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
    taps: Taps = field(init=False)

    def __post_init__(self) -> None:
        self.taps = Taps(self.line, self.behaviour, self.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prompts, parts of prompts, components."""
        return len(self.behaviour), len(self.behaviour.parts), len(self.line.components.all)

    def value(self, t: float) -> Floats:
        """[N] the behaviour at a place, taken once."""
        if t not in self.seen:
            self.line.move(t)
            self.seen[t] = measure(self.line.model, self.behaviour, self.size)
        return self.seen[t]

    def add(self, start: float, stop: float, nodes: int) -> None:
        """Shares of a piece of the line."""
        places, weights = np.polynomial.legendre.leggauss(nodes)
        total = np.zeros(self.shape)
        self.value(start)
        for place, weight in zip(places, weights, strict=True):
            at = start + (stop - start) * (1 + float(place)) / 2
            self.line.move(at)
            gradient, self.seen[at] = self.gradient()
            total += gradient * float(weight) * (stop - start) / 2
            self.steps += 1
        self.value(stop)
        self.pieces[start, stop] = total

    def gradient(self) -> tuple[Floats, Floats]:
        """[N, parts, components] <dm/dtheta_c, B_c - A_c> where the model stands, and [N] the behaviour there."""
        taps = self.taps
        taps.begin()
        with readable(self.line.model, self.behaviour):
            for batch in batches(self.behaviour, self.line.model, self.size):
                taps.take(batch)
        self.differentiable |= taps.differentiable
        return taps.found.numpy(), taps.values

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


def readable(model: PreTrainedModel, behaviour: Behaviour) -> Any:
    """The model under eager attention, where attention is read."""
    return attention_implementation(model, "eager") if behaviour.needs_attention else nullcontext()


def _has_experts(line: Line) -> bool:
    return any("experts" in name for name, _ in line.model.named_modules())


def _residual(gap: Floats, change: Floats) -> float:
    size, most = float(np.abs(change).mean()), float(np.abs(gap).mean())
    return 0.0 if most == 0 else most / size if size else float("inf")
