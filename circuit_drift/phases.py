"""The circuits of a run followed over training, on the facts that it ever recalls."""

from typing import TYPE_CHECKING

from checkpoints import BadPrompt
from circuit_drift.recall import recalled
from circuit_drift.store import Store, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import circuits
    from circuit_drift.sweep import Run


def evolve(run: "Run", stage: str | None = None) -> "tuple[circuits.Evolution, str]":
    """Follow the circuit over a run or one of its stages; see `circuits.evolve`.

    Facts that no checkpoint recalls are left out, as in a diff; see `circuit_drift.recall.recalled`.

    Returns:
        the evolution, and the choice of facts in words.

    Raises:
        BadPrompt: fewer than two checkpoints with a step and a circuit.
    """
    chosen = [point for point in run if stage is None or point.stage == stage]
    traced = [(p.step, p.circuit) for p in chosen if p.step is not None and p.circuit is not None]
    if len(traced) < 2:
        where = f"stage {stage} of {run.name}" if stage else run.name
        raise BadPrompt(f"{where} has {len(traced)} checkpoints with a circuit and a step; an evolution needs two")
    graphs, facts = recalled([graph for _, graph in traced], "at some checkpoint")
    steps = [step for step, _ in traced]
    keys = [point.keys["circuit"] for point in chosen if point.step is not None and point.circuit is not None]
    return _stored(Store(run.store), key_of({"version": 1, "steps": steps, "circuits": keys}), steps, graphs), facts


def _stored(
    store: Store, key: str, steps: "Sequence[int]", graphs: "Sequence[circuits.AttributionGraph]"
) -> "circuits.Evolution":
    """`circuits.evolve`, kept in the store: its permutations take longer than all else that needs no model."""
    import circuits

    folder = store.folder("evolution", key)
    if store.has("evolution", key):
        return circuits.Evolution.load(folder)
    evolution = circuits.evolve(zip(steps, graphs, strict=True))
    evolution.save(folder)
    return evolution
