"""The share of each component in the change of a behaviour, along the line from A to B.

Integrated gradients in the space of weights: a component's share is the integral over t of <dm/dtheta_c, B_c - A_c> at
theta(t). No gradient of a parameter is taken for that: with y = x W^T, <dm/dW, dW> = <dm/dy, x dW^T>, one product more
a layer, which comes prompt by prompt and position by position. The shares add up to m(B) - m(A).

The integral is taken by Gauss and Lobatto's rule on pieces of [0, 1]; the piece with the largest gap between its
shares and its own change of m is halved until the whole is complete. Among the rule's nodes are
both ends, where m is wanted anyway, and the middle, so that a half takes three gradients of its own and not five.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.attention import attention_implementation
from circuit_drift.explanation.behaviours import Behaviour, batches, run
from circuit_drift.explanation.explanation import Floats
from circuit_drift.explanation.line import Line
from circuit_drift.explanation.taps import Taps
from circuit_drift.trackers.steady import Tally, each_told, steadily

NODES = 5
"""Nodes of a piece, an odd number: exact for polynomials of degree 7."""
LEAST = 2
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
    with torch.no_grad(), attention_shown(model, behaviour):
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
        steps: so many nodes of one rule over the whole line, its ends among them, whatever the residual; by default as
            many as it takes.
        tolerance: residual to be reached (`PathShares.residual`).
        most: gradients to stop at, complete or not.
        batch_size: prompts at a time; one where experts or the like differ.

    Raises:
        BadPrompt: steps below 2.
        NoGradient: a value that changes without a gradient.
    """
    if steps is not None and steps < LEAST:
        raise BadPrompt(f"the number of steps is {LEAST} or more, the two checkpoints among them, got {steps}")
    size = 1 if any(True for _ in line.gates) or _has_experts(line) else batch_size
    with steadily("explaining", unit="gradient") as tally:
        path = _Path(line, behaviour, size, tally)
        path.add(steps or NODES, (0.0, 1.0))
        while (
            path.differentiable and steps is None and path.residual > tolerance and path.steps + 2 * (NODES - 2) <= most
        ):
            start, stop = path.worst
            del path.pieces[start, stop]
            middle = (start + stop) / 2
            path.add(NODES, (start, middle), (middle, stop))
    line.move(1.0)
    if not path.differentiable and bool(np.any(path.seen[1.0] != path.seen[0.0])):
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
    for place in each_told("explaining", line.changed, len(line.changed), unit="component"):
        effects[:, -1, place] = patched_values(line, behaviour, [place], 1.0, batch_size) - before
    return PathShares(effects, np.array([0.0, 1.0]), np.stack([before, after]), 0)


@dataclass(slots=True)
class _Path:
    line: Line
    behaviour: Behaviour
    size: int
    tally: Tally
    seen: dict[float, Floats] = field(default_factory=dict)
    slopes: dict[float, Floats] = field(default_factory=dict)
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

    def add(self, nodes: int, *pieces: tuple[float, float]) -> None:
        """Shares of some pieces of the line; gradients are kept where a half of any piece will ask for them."""
        for start, stop in pieces:
            total = np.zeros(self.shape)
            for place, weight in zip(*lobatto(nodes), strict=True):
                total += self.slope(start + (stop - start) * float(place)) * float(weight) * (stop - start)
            self.pieces[start, stop] = total
        shared = {place for piece in self.pieces for place in (*piece, sum(piece) / 2)}
        self.slopes = {at: slope for at, slope in self.slopes.items() if at in shared}

    def slope(self, at: float) -> Floats:
        """[N, parts, components] the gradient at a place, taken once where pieces share it."""
        if at not in self.slopes:
            self.line.move(at)
            self.slopes[at], self.seen[at] = self.gradient()
            self.steps += 1
            self.tally.done = self.steps
        return self.slopes[at]

    def gradient(self) -> tuple[Floats, Floats]:
        """[N, parts, components] <dm/dtheta_c, B_c - A_c> where the model stands, and [N] the behaviour there."""
        taps = self.taps
        taps.begin()
        with attention_shown(self.line.model, self.behaviour):
            for batch in batches(self.behaviour, self.line.model, self.size):
                taps.take(batch)
        self.differentiable |= taps.differentiable
        return taps.found.numpy(), taps.values

    def gap(self, piece: tuple[float, float]) -> Floats:
        """[N] what the shares of a piece lack."""
        start, stop = piece
        return np.asarray(self.pieces[piece].sum((1, 2)) - (self.seen[stop] - self.seen[start]))

    @property
    def residual(self) -> float:
        """Of all pieces together."""
        return _residual(np.sum([self.gap(piece) for piece in self.pieces], axis=0), self.seen[1.0] - self.seen[0.0])

    @property
    def worst(self) -> tuple[float, float]:
        """The piece whose shares lack most."""
        return max(self.pieces, key=lambda piece: float(np.abs(self.gap(piece)).mean()))


def lobatto(nodes: int) -> tuple[Floats, Floats]:
    """Places on [0, 1], both ends among them, and weights of Gauss and Lobatto's rule: exact to degree 2 nodes - 3.

    Between the ends lie the roots of the derivative of Legendre's polynomial P of degree nodes - 1; the weight of a
    place x of [-1, 1] is 2 / (nodes (nodes - 1) P(x)^2) there (Abramowitz and Stegun, 25.4.32).
    """
    legendre = np.polynomial.Legendre.basis(nodes - 1)
    inner = np.sort(legendre.deriv().roots().real)
    places = np.array([-1.0, *(inner - inner[::-1]) / 2, 1.0])
    return (1 + places) / 2, 1 / (nodes * (nodes - 1) * legendre(places) ** 2)


def attention_shown(model: PreTrainedModel, behaviour: Behaviour) -> Any:
    """The model under eager attention, where attention is read."""
    return attention_implementation(model, "eager") if behaviour.needs_attention else nullcontext()


def _has_experts(line: Line) -> bool:
    return any("experts" in name for name, _ in line.model.named_modules())


def _residual(gap: Floats, change: Floats) -> float:
    size, most = float(np.abs(change).mean()), float(np.abs(gap).mean())
    return 0.0 if most == 0 else most / size if size else float("inf")
