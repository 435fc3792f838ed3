"""Who made a behaviour, and when: the shares of components in every interval between checkpoints of a series."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from checkpoints import Checkpoint
from checkpoints.errors import BadPrompt
from checkpoints.placement import ANYWHERE, Placement
from checkpoints.series.compat import require_same_model
from circuit_drift.explanation.course import Course
from circuit_drift.explanation.explain import Explainer, asked_of, attributed, is_recalled, opened_line, proved
from circuit_drift.explanation.explanation import DEFAULT_EFFORT, Effort, Explanation
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.record.groups import ways_of
from circuit_drift.store.store import Store

if TYPE_CHECKING:
    from circuit_drift.explanation.behaviours import Behaviour
    from circuit_drift.record.groups import Bools
    from circuits.facts.facts import FactSet

logger = logging.getLogger("circuit_drift.progress")


def explain_series(
    checkpoints: Sequence[Checkpoint],
    behaviour: "str | Behaviour" = "needle",
    *,
    prompts: Prompts | None = None,
    placement: Placement = ANYWHERE,
    effort: Effort = DEFAULT_EFFORT,
    store: Store | None = None,
) -> Course:
    """The shares of components in a behaviour's change, interval by interval.

    The way through all checkpoints is nearer to what training did than one straight line; the shares of an interval
    add up to its change, those of all intervals to the change from first to last. Of the interval with the largest
    change, components are put back for proof. A behaviour without a gradient is explained by exact patching alone,
    component by component; these shares need not add up, and the verdict says so.

    Args:
        checkpoints: two or more of one line of training, in order.
        behaviour: as for `circuit_drift.explain`; facts are kept, lost or learned by recall at the first and the last.
        prompts: what is asked; by default what the folder of the first brings along.
        placement: where the models run; two are in memory at a time.
        effort: prompts, steps, patching; without patching nothing is proved.
        store: where finished intervals are kept, so that an interrupted course goes on; ``None`` = nowhere.

    Raises:
        BadPrompt: fewer than two checkpoints, or what `circuit_drift.explain` raises it for.
        CheckpointMismatch: different shapes, tokenizers or ties.
    """
    if len(checkpoints) < 2:
        raise BadPrompt(f"a course has two checkpoints at least, got {len(checkpoints)}; choose more with --steps")
    for a, b in pairwise(checkpoints):
        require_same_model(a, b)
    way = _Way(tuple(checkpoints), behaviour, prompts or prompts_for(checkpoints[0].path), placement, effort, store)
    found = [way.interval(place) for place in range(len(checkpoints) - 1)]
    first = found[0]
    course = Course(
        checkpoints=tuple(checkpoint.label for checkpoint in checkpoints),
        behaviour=first.behaviour,
        unit=first.unit,
        names=first.names,
        kinds=first.kinds,
        layers=first.layers,
        shares=np.stack([each.shares for each in found]),
        values=np.stack([first.before, *(each.after for each in found)]),
        steps=np.array([each.steps for each in found]),
        needle=first.needle,
        meta=first.meta,
    )
    place = course.leading
    if place is None or not effort.patching:
        return course
    return replace(course, lead=way.proof(place, found[place]))


@dataclass(frozen=True)
class _Way:
    """The way through a series: arguments as for `explain_series`."""

    checkpoints: tuple[Checkpoint, ...]
    behaviour: "str | Behaviour"
    prompts: Prompts
    placement: Placement
    effort: Effort
    store: Store | None

    @cached_property
    def kept(self) -> Explainer:
        """What decides the explanations of intervals, and where they are kept."""
        ends = (self.checkpoints[0], self.checkpoints[-1])
        return Explainer(self.store, self.behaviour, self.prompts, self.placement, ends)

    @cached_property
    def asked(self) -> "Behaviour":
        """The same prompts at every checkpoint."""
        first, last = self.checkpoints[0], self.checkpoints[-1]
        with first.open(self.placement) as loaded:

            def ways(facts: "FactSet") -> "Mapping[str, Bools]":
                with last.open(self.placement) as other:
                    return ways_of(is_recalled(loaded.model, facts), is_recalled(other.model, facts))

            return asked_of(self.behaviour, loaded, self.prompts, self.effort, ways)

    def interval(self, place: int) -> Explanation:
        """The shares of one interval, not proved."""
        a, b = self.checkpoints[place : place + 2]

        def compute() -> Explanation:
            asked = self.asked  # opens models of its own, before the two of the interval
            with opened_line(a, b, self.placement) as (line, _):
                found = attributed(line, asked, (a.label, b.label), self.effort)
            done = f"{place + 1} of {len(self.checkpoints) - 1} intervals"
            logger.info("explaining: %s; %s to %s took %d gradients", done, a.label, b.label, found.steps)
            return found

        return self.kept.explanation(a, b, self.effort, compute, what="shares")

    def proof(self, place: int, found: Explanation) -> Explanation:
        """The explanation of one interval, with components put back."""
        a, b = self.checkpoints[place : place + 2]

        def compute() -> Explanation:
            asked = self.asked
            with opened_line(a, b, self.placement) as (line, _):
                return proved(found, line, asked, self.effort)

        return self.kept.explanation(a, b, self.effort, compute)
