"""The circuits of a run followed over training, on the facts that it ever recalls."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints import BadPrompt
from circuit_drift.recall import FEWEST, only
from circuit_drift.store import Store, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import circuits
    from circuit_drift.sweep import Point, Run


def evolve(run: "Run", stage: str | None = None) -> "tuple[circuits.Evolution, str]":
    """Follow the circuit over a run or one of its stages; see `circuits.evolve`.

    A fact that no checkpoint recalls has a logit difference of arbitrary sign throughout and says nothing about a
    circuit; such facts are left out where at least eight others remain.

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
    graphs = [graph for _, graph in traced]
    every = f"all {len(graphs[0])} facts"
    if any(len(graph.scores) != len(graph) for graph in graphs):
        return _stored(run, chosen, traced), every
    ever = np.flatnonzero(np.any([graph.answer_rank == 0 for graph in graphs], axis=0))
    if len(ever) < FEWEST:
        return _stored(run, chosen, traced), every
    kept = [(step, only(graph, ever)) for step, graph in traced]
    return _stored(run, chosen, kept), f"the {len(ever)} of {len(graphs[0])} facts recalled at some checkpoint"


def _stored(
    run: "Run", points: "Sequence[Point]", traced: "Sequence[tuple[int, circuits.AttributionGraph]]"
) -> "circuits.Evolution":
    """`circuits.evolve`, kept in the run's store: its permutations take longer than all else that needs no model."""
    import circuits

    key = key_of({"version": 1, "circuits": [point.keys.get("circuit") for point in points]})
    store = Store(run.store)
    if store.has("evolution", key):
        return circuits.Evolution.load(store.folder("evolution", key))
    evolution = circuits.evolve(traced)
    evolution.save(store.folder("evolution", key))
    return evolution
