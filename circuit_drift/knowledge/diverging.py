"""Does a falling loss mean learning? Loss and recall from one checkpoint to the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.stats.ttests import false_discovery, paired_test
from circuit_drift.knowledge.scores import UnitScores


@dataclass(frozen=True, slots=True)
class Divergence:
    """Loss against recall over the intervals between checkpoints at which both are there.

    Attributes:
        steps: the checkpoints.
        loss_fell: [K - 1] whether the loss fell.
        recall_fell: [K - 1] whether the mean score fell.
        certain: [K - 1] whether it fell beyond chance: paired over units, Benjamini-Hochberg q <= 0.05.
        unit: what an interval is called.
    """

    steps: tuple[int, ...]
    loss_fell: tuple[bool, ...]
    recall_fell: tuple[bool, ...]
    certain: tuple[bool, ...]
    unit: str

    @property
    def diverged(self) -> tuple[int, ...]:
        """Steps at which the loss had fallen and recall too."""
        both = zip(self.steps[1:], self.loss_fell, self.recall_fell, strict=True)
        return tuple(step for step, loss, recall in both if loss and recall)

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        n, falls, sure = len(self.loss_fell), sum(self.recall_fell), sum(self.certain)
        said = f"loss fell in {sum(self.loss_fell)} of {n} {self.unit}, recall fell in {falls}"
        beyond = f" ({sure} of them beyond chance over units)" if falls else ""
        at = ", ".join(map(str, self.diverged))
        return said + beyond + (f"; loss fell while recall was lost at {at}" if at else "")


def divergence(scores: UnitScores, loss: Mapping[int, float], *, unit: str = "intervals") -> Divergence:
    """Compare the course of the loss with that of the mean score.

    Args:
        scores: the units' scores.
        loss: step -> loss; steps that the scores lack are ignored.
        unit: what to call an interval ("epochs").

    Raises:
        BadPrompt: fewer than two steps in common.
    """
    at = [index for index, step in enumerate(scores.steps) if step in loss and np.isfinite(loss[step])]
    steps = tuple(scores.steps[index] for index in at)
    if len(steps) < 2:
        raise BadPrompt(f"loss and recall share {len(steps)} checkpoints ({list(steps)}); two are needed")
    mean = scores.mean[:, at]
    tests = [paired_test(mean[:, i], mean[:, i + 1]) for i in range(len(at) - 1)]
    fell = tuple(bool(test.delta < 0) for test in tests)
    q = false_discovery(np.array([float(test.p) for test in tests]))
    return Divergence(
        steps,
        tuple(bool(loss[b] < loss[a]) for a, b in pairwise(steps)),
        fell,
        tuple(bool(down and value <= 0.05) for down, value in zip(fell, q, strict=True)),
        unit,
    )
