"""Changes asked about beforehand: what a stage of training did to the circuit, all facts together and class by class.

A change point is looked for; a contrast is planned, so it can tell smaller changes, and it takes wiring and strength
apart. Classes matter: a stage that moves the same circuit from old facts to new ones leaves the mean over both as it
was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.stats.bootstrap import percentiles, resampling
from checkpoints.stats.changes import change_p
from checkpoints.stats.units import ENOUGH, Floats
from circuits.tracking.changepoints import LEAST, Products, apart

if TYPE_CHECKING:
    from circuits.graph.scores import AttributionGraph

ALL = "all facts"
NO_CLASS = "facts without a class"
RESAMPLES = 200
STANDS_OUT = 0.5


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two checkpoints over the same facts.

    Attributes:
        name: of what lies between them, as a stage of training.
        facts: the class of facts, ``all facts`` or ``facts without a class``.
        n: units of facts.
        before, after: steps.
        reliability_before, reliability_after: share of each mean's squared length that is not prompt noise.
        apart: 1 - cosine of the mean scores, corrected for prompt noise: 0 = the same wiring up to strength (or nearer
            than noise can tell), 2 = every edge turned over; NaN where one side is nothing but noise.
        low, high: its 95 % bootstrap interval over the facts.
        p_wiring: p of no change but of strength, by permutation, each side at unit length.
        strength: length of the mean after as a multiple of that before; NaN where one is nothing but noise.
        p: p of no change at all.
        strength_low, strength_high: 95 % bootstrap interval of the strength.
    """

    name: str
    facts: str
    n: int
    before: int
    after: int
    reliability_before: float
    reliability_after: float
    apart: float
    low: float
    high: float
    p_wiring: float
    strength: float
    p: float
    strength_low: float = float("nan")
    strength_high: float = float("nan")

    def outcome(self, level: float) -> str:
        """In words."""
        known = self.reliability_before > STANDS_OUT, self.reliability_after > STANDS_OUT
        if known == (False, False):
            return "no circuit before or after"
        if known == (False, True):
            return f"a circuit where none stood out of the noise (p = {self.p:.2g})"
        if known == (True, False):
            return f"a circuit that no longer stands out of the noise (p = {self.p:.2g})"
        moved = f"1 − cosine {self.apart:.2f} [{self.low:.2f}, {self.high:.2f}], p = {self.p_wiring:.2g}"
        if self.p > level:
            return f"no change beyond the noise (p = {self.p:.2g})"
        wiring = "other wiring" if self.p_wiring <= level and self.apart >= LEAST else "the same wiring"
        grown = f"{self.strength:.2g} [{self.strength_low:.2g}, {self.strength_high:.2g}] times as strong"
        return f"{wiring} ({moved}), {grown}"


def contrast(
    first: Floats, second: Floats, *, name: str, steps: tuple[int, int], facts: str = ALL, seed: int = 0
) -> Contrast:
    """Compare two checkpoints.

    Args:
        first: [U, E] scores of the units before.
        second: of the same units after.
        name: of what lies between the two.
        steps: theirs.
        facts: which facts the units are.
        seed: of permutations and bootstrap.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    products = Products([first, second])
    kernel, reliability = products.kernel(), np.nan_to_num(products.reliability())
    lengths = np.sqrt(np.where(np.diag(kernel) > 0, np.diag(kernel), np.nan))
    raw = np.array([float(np.linalg.norm(x.mean(0))) or 1.0 for x in (first, second)])
    scale = np.where(np.isfinite(lengths), lengths, raw)
    drawn = [products.kernel(w) for w in resampling(products.units, draws=RESAMPLES, seed=seed)]
    low, high = percentiles(np.clip([apart(k, 1) for k in drawn], 0, 2))
    strength = _strength(kernel)
    grown = np.array([_strength(k) for k in drawn]) if np.isfinite(strength) else np.full(1, np.nan)
    strength_low, strength_high = percentiles(grown)
    return Contrast(
        name=name,
        facts=facts,
        n=len(first),
        before=steps[0],
        after=steps[1],
        reliability_before=float(reliability[0]),
        reliability_after=float(reliability[1]),
        apart=float(np.clip(apart(kernel, 1), 0, 2)),
        low=float(low),
        high=float(high),
        p_wiring=change_p(second / scale[1] - first / scale[0], seed=seed),
        strength=strength,
        p=change_p(second - first, seed=seed),
        strength_low=float(strength_low),
        strength_high=float(strength_high),
    )


def _strength(kernel: Floats) -> float:
    """Length of the second mean as a multiple of the first; NaN where one is nothing but noise."""
    before, after = np.diag(kernel)
    return float(np.sqrt(after / before)) if min(before, after) > 0 else float("nan")


def contrasts(
    before: "AttributionGraph", after: "AttributionGraph", *, name: str, steps: tuple[int, int], seed: int = 0
) -> tuple[Contrast, ...]:
    """The contrast over all facts, then over each ``class`` of at least eight, where facts are of several."""
    first, second = before.edge_scores, after.edge_scores
    found = [contrast(first, second, name=name, steps=steps, seed=seed)]
    classes = np.array([str(labels.get("class", NO_CLASS)) for labels in before.labels])
    if len(first) < len(before) or len(set(classes.tolist())) == 1:
        return tuple(found)
    for kind in dict.fromkeys(classes.tolist()):
        chosen = classes == kind
        if chosen.sum() >= ENOUGH:
            found.append(contrast(first[chosen], second[chosen], name=name, steps=steps, facts=kind, seed=seed))
    return tuple(found)


def sentences(found: Sequence[Contrast], *, level: float = 0.05) -> str:
    """What each stage did to the circuit, class by class; the level is shared between the questions of a stage."""
    told = []
    for name in dict.fromkeys(contrast.name for contrast in found):
        asked = [contrast for contrast in found if contrast.name == name]
        each = "; ".join(f"{c.facts} (n = {c.n}): {c.outcome(level / len(asked))}" for c in asked)
        held = f" (each at the level {level / len(asked):.2g})" if len(asked) > 1 else ""
        told.append(f"Stage {name}, step {asked[0].before:,} against {asked[0].after:,}: {each}{held}.")
    return " ".join(told)
