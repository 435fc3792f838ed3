"""Who made a behaviour, and when: the shares of components in every interval between checkpoints of a series."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from checkpoints import Checkpoint
from checkpoints.errors import BadPrompt
from checkpoints.placement import ANYWHERE, Placement
from circuit_drift.explanation.course import Course
from circuit_drift.explanation.explain import asked_of, explained_by, opened_line, path_of
from circuit_drift.explanation.explanation import DEFAULT_EFFORT, Effort
from circuit_drift.explanation.shares import PathShares
from circuit_drift.prompts import Prompts, prompts_for

if TYPE_CHECKING:
    from circuit_drift.explanation.behaviours import Behaviour
    from circuit_drift.explanation.components import Component

logger = logging.getLogger(__name__)


def explain_series(
    checkpoints: Sequence[Checkpoint],
    behaviour: "str | Behaviour" = "needle",
    *,
    prompts: Prompts | None = None,
    placement: Placement = ANYWHERE,
    effort: Effort = DEFAULT_EFFORT,
) -> Course:
    """The shares of components in a behaviour's change, interval by interval.

    The way through all checkpoints is nearer to what training did than one straight line; the shares of an interval
    add up to its change, those of all intervals to the change from first to last. Of the interval with the largest
    change, components are put back for proof. A behaviour without a gradient is explained by exact patching alone,
    component by component; these shares need not add up, and the verdict says so.

    Args:
        checkpoints: two or more of one line of training, in order.
        behaviour: as for `circuit_drift.explain`.
        prompts: what is asked; by default what the folder of the first brings along.
        placement: where the models run; two are in memory at a time.
        effort: prompts, steps, patching; without patching nothing is proved.

    Raises:
        BadPrompt: fewer than two checkpoints, or what `circuit_drift.explain` raises it for.
    """
    if len(checkpoints) < 2:
        raise BadPrompt(f"a course has two checkpoints at least, got {len(checkpoints)}; choose more with --steps")
    prompts = prompts or prompts_for(checkpoints[0].path)
    found: list[PathShares] = []
    components: tuple[Component, ...] = ()
    for a, b in pairwise(checkpoints):
        with opened_line(a, b, placement) as (line, loaded):
            asked = asked_of(behaviour, loaded, prompts, effort)
            found.append(path_of(line, asked, effort))
            components = line.components.all
        logger.info("%s to %s: %d gradients", a.label, b.label, found[-1].steps)
    course = Course(
        checkpoints=tuple(checkpoint.label for checkpoint in checkpoints),
        behaviour=asked.name,
        unit=asked.unit,
        names=tuple(component.name for component in components),
        kinds=tuple(component.kind for component in components),
        layers=tuple(-1 if component.layer is None else component.layer for component in components),
        shares=np.stack([path.shares.sum(1) for path in found]),
        values=np.stack([found[0].along[0], *(path.along[-1] for path in found)]),
        steps=np.array([path.steps for path in found]),
        meta={"tolerance": effort.tolerance, "n_prompts": len(asked)},
    )
    place = course.leading
    if place is None or not effort.patching:
        return course
    a, b = checkpoints[place : place + 2]
    with opened_line(a, b, placement) as (line, _):
        lead = explained_by(found[place], line, asked, (a.label, b.label), effort)
    return replace(course, lead=lead)
