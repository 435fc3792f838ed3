"""An explanation as a value: shares of components in the change of a behaviour, and what putting them back did."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from checkpoints.stats.bootstrap import Estimate, percentiles, resampled_means, resampling, stretched
from checkpoints.stats.ttests import skewed_interval
from checkpoints.stats.units import FEWEST

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


Floats = NDArray[np.float64]
EVERYWHERE = "all positions"
ENOUGH = 0.95
"""Share of the change from which on, up to as far beyond all of it, components restore it."""
COMPLETE = 0.01
"""Residual up to which shares are called complete."""
BEHAVIOURS = ("needle", "accuracy", "facts", "log-probability", "text")
GROUPED = ("facts", "log-probability")
NODE = re.compile(r"(a|m)(\d+)(?:\.(h|kv)(\d+))?")
NODE_FORMS = (
    "write a1.h0 for a head, a1.kv0 for those of a group, a1 for attention as a whole, m1 for an MLP, or embedding"
)
_HEAD = re.compile(r"a(\d+)\.h(\d+)$")


def head_named(text: str) -> tuple[int, int] | None:
    """Layer and head of ``a18.h6``; ``None`` for another word."""
    found = _HEAD.fullmatch(text)
    return None if found is None else (int(found[1]), int(found[2]))


def require_behaviour(behaviour: str) -> None:
    """Refuse the name of a behaviour that there is none of, before anything is loaded.

    Raises:
        BadPrompt: says which there are.
    """
    name, _, group = behaviour.partition(":")
    if head_named(name) is None:
        require_choice("behaviour to explain", name, (*BEHAVIOURS, "facts:GROUP", "a head as a18.h6"))
    if group and name not in GROUPED:
        raise BadPrompt(f"only facts have groups: {behaviour!r} cannot be explained; write facts:{group}")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent on an explanation.

    Attributes:
        prompts: at most so many, drawn by a fixed seed.
        steps: gradients of one rule over the whole line, 2 or more; ``None`` = as many as completeness takes.
        tolerance: residual to be reached.
        patching: whether components are put back for proof.
        outputs: whose outputs are put in at each part of the prompts: names (``a18.h6``, ``a18``, ``m3``), or those of
            so many of the first components.

    Raises:
        BadPrompt: what is no name of an output.
    """

    prompts: int = 12
    steps: int | None = None
    tolerance: float = 0.01
    patching: bool = True
    outputs: int | tuple[str, ...] = 0

    def __post_init__(self) -> None:
        for name in () if isinstance(self.outputs, int) else self.outputs:
            if name != "embedding" and NODE.fullmatch(name) is None:
                raise BadPrompt(f"{name!r} is no output to put in: {NODE_FORMS}")


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True, slots=True)
class Patching:
    """The behaviour of mixed models, prompt by prompt.

    Attributes:
        order: places of the components tried, the largest share of the change first.
        sizes: [K] how many of the first are put in together; up to where the change is restored, or to the last size.
        inserted: [K, N] the behaviour of A with the first so many components of B.
        removed: [K, N] the behaviour of B with the first so many components of A.
        random: [D, K, N] of A with as many random components of B, of the same kinds and, where there are, layers.
        single: [T, N] of A with one component of B, of the first T.
        left_out: [T, N] of B with one component of A.
    """

    order: tuple[int, ...]
    sizes: NDArray[np.int64]
    inserted: Floats
    removed: Floats
    random: Floats
    single: Floats
    left_out: Floats


@dataclass(frozen=True, slots=True)
class OutputPatching:
    """The behaviour of one model with what a node of the other writes at some positions of the same prompts.

    Attributes:
        nodes: what writes: heads, attention or MLPs of whole layers, the embedding.
        parts: of the prompts; the first is all positions.
        before: [N] the behaviour at A.
        after: [N] at B.
        inserted: [nodes, parts, N] of A with B's output.
        removed: [nodes, parts, N] of B with A's output.
    """

    nodes: tuple[str, ...]
    parts: tuple[str, ...]
    before: Floats
    after: Floats
    inserted: Floats
    removed: Floats


def share(values: Floats, before: Floats, after: Floats) -> float:
    """Share of the mean change from A to B that some values make, 0 = as A, 1 = as B."""
    change = float(np.mean(after - before))
    return float(np.mean(values - before)) / change if change else float("nan")


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """Why a behaviour differs between checkpoint A and checkpoint B.

    A share is in the behaviour's unit, positive where the component's change raises it; the shares of a prompt add up
    to its change within `residual`. Of a behaviour without a gradient, a share is what the component does when it
    alone is put into A (`is_attributed` is False), and shares need not add up.

    Attributes:
        a, b: what the checkpoints are called.
        behaviour: what is explained, and its unit.
        names, kinds, layers: of the C components; layer -1 stands for none.
        changed: places of the components whose weights differ.
        shares: [N, C] by prompt.
        parts: names of the S parts of the prompts.
        by_part: [S, C] mean over prompts.
        groups: N groups of prompts.
        needle: N numbers of the needle that each prompt asks for: prompts of one needle are one unit of intervals;
            empty = every prompt is a unit.
        at: [P] places on the straight line from A's weights to B's, 0 to 1.
        along: [P, N] the behaviour there.
        steps: gradients taken; 0 = the behaviour has none.
        patching: exact patching between the checkpoints; ``None`` where it was not asked for.
        outputs: what outputs do at single parts of the prompts; ``None`` where that was not asked for.
        meta: prompts and settings.
    """

    artifact: ClassVar[str] = "explanation"
    title: ClassVar[str] = "Why they differ"

    a: str
    b: str
    behaviour: str
    unit: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    changed: tuple[int, ...]
    shares: Floats
    parts: tuple[str, ...]
    by_part: Floats
    groups: tuple[str, ...]
    at: Floats
    along: Floats
    steps: int
    patching: Patching | None = None
    outputs: OutputPatching | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    needle: tuple[int, ...] = ()

    @property
    def before(self) -> Floats:
        """[N] the behaviour at A."""
        return np.asarray(self.along[0])

    @property
    def after(self) -> Floats:
        """[N] the behaviour at B."""
        return np.asarray(self.along[-1])

    @cached_property
    def change(self) -> Estimate:
        """Mean change over prompts, with its interval over `cluster`; none below three units."""
        change = self.after - self.before
        low, high = skewed_interval(change, self.cluster)
        return Estimate(float(change.mean()), float(low), float(high), len(np.unique(self.cluster)))

    @property
    def cluster(self) -> NDArray[np.int64]:
        """[N] which unit a prompt belongs to: its needle, else itself."""
        return clusters(self.needle, len(self.before))

    @property
    def asked(self) -> str:
        """How many prompts it is over, and of how many needles."""
        return prompts_counted(self.needle, len(self.before))

    @property
    def is_certain(self) -> bool:
        """Whether the change is told apart from none over the prompts; otherwise nothing is claimed."""
        low, high = self.change.low, self.change.high
        return bool(self.change.value) and (low > 0 or high < 0)

    @property
    def is_attributed(self) -> bool:
        """Whether shares are integrals of gradients, complete within `residual`; otherwise single patches."""
        return self.steps > 0

    @property
    def residual(self) -> float:
        """Mean gap between a prompt's shares and its change, over the mean size of the changes; 0 = complete."""
        size = float(np.abs(self.after - self.before).mean())
        gap = float(np.abs(self.shares.sum(1) - (self.after - self.before)).mean())
        return gap / size if size else (0.0 if gap == 0 else float("inf"))

    @property
    def order(self) -> tuple[int, ...]:
        """Places of components that differ, the largest share in the direction of the change first."""
        towards = self.shares.mean(0) * (1.0 if self.change.value >= 0 else -1.0)
        return tuple(sorted(self.changed, key=lambda place: -float(towards[place])))

    def part(self, places: tuple[int, ...]) -> Estimate:
        """What some components make of the mean change, 1 = all of it; the interval is over `cluster`."""
        own, change = self.shares[:, list(places)].sum(1), self.after - self.before
        value, units = float(own.mean() / change.mean()) if change.mean() else float("nan"), self.change.n
        drawn = resampled_means(np.stack([own, change], axis=1), self.cluster, resampling(units))
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = drawn[:, 0] / drawn[:, 1]
        low, high = percentiles(stretched(np.asarray(value), drawn, units=units))
        return Estimate(value, float(low), float(high), units)

    def restored(self, values: Floats) -> float:
        """Share of the mean change that a mixed model's behaviour [N] makes, 0 = as A, 1 = as B."""
        return share(values, self.before, self.after)

    @property
    def verdict(self) -> str:
        """What made the change, proved or not."""
        from circuit_drift.explanation.explanation_view import sentences

        return " ".join(sentences(self))

    def to_frame(self) -> "pd.DataFrame":
        """One row a component that differs, the largest share in the direction of the change first.

        ``share`` with its interval in the behaviour's unit, ``percent`` of the mean change; one column for each group
        and each part of the prompts where there are several; ``restored`` and ``taken_back``, in percent, where it was
        put into A, or A's into B, alone.
        """
        from circuit_drift.explanation.explanation_view import frame_of

        return frame_of(self)

    def plot(self) -> "go.Figure":
        """From A to B, component by component."""
        from circuit_drift.explanation.explanation_view import waterfall

        return waterfall(self)

    def plot_patching(self) -> "go.Figure":
        """What the first components restore, beside random ones.

        Raises:
            BadPrompt: nothing was patched.
        """
        from circuit_drift.explanation.explanation_view import restored_figure

        return restored_figure(self)

    def plot_path(self) -> "go.Figure":
        """The behaviour on the straight line between the weights of A and of B."""
        from circuit_drift.explanation.explanation_view import path_figure

        return path_figure(self)

    def to_json(self) -> dict[str, Any]:
        """One JSON object: verdict, change, shares, patching."""
        from circuit_drift.explanation.explanation_view import json_of

        return json_of(self)


def clusters(needle: tuple[int, ...], prompts: int) -> NDArray[np.int64]:
    """[N] which unit a prompt belongs to: its needle, else itself."""
    return np.asarray(needle, dtype=np.int64) if needle else np.arange(prompts)


def few_told(needle: tuple[int, ...], prompts: int) -> str:
    """That so few units tell no spread, as ``2 prompts tell no spread``; empty where they are enough."""
    units = len(set(needle)) or prompts
    if units >= FEWEST:
        return ""
    return f"{counted(units, 'needle' if needle else 'prompt')} {'tells' if units == 1 else 'tell'} no spread"


def prompts_counted(needle: tuple[int, ...], prompts: int) -> str:
    """How many prompts something is over, and of how many needles."""
    told = counted(prompts, "prompt")
    return f"{told} of {counted(len(set(needle)), 'needle')}" if needle else told
