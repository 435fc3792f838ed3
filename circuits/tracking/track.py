"""A circuit followed along a series: when it forms, when it changes, what comes and goes. From stored scores alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.stats.permutation import drawn_p
from checkpoints.stats.units import Floats
from circuits.comparison.overlap import Halved, halve, overlap_of
from circuits.comparison.profile import profiler
from circuits.graph.alike import HOW, require_alike, same_facts
from circuits.graph.pruning import circuit_size
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import Bools
from circuits.tracking.changepoints import Products, cosines, splits
from circuits.tracking.circuit_track import CircuitTrack
from circuits.tracking.contrasts import Contrast, contrasts


def track(
    series: Iterable[tuple[int, AttributionGraph]],
    *,
    stages: Mapping[str, int] | None = None,
    n_edges: int | None = None,
    q: float = 0.05,
    splits_per_pair: int = 8,
    draws: int = 199,
    seed: int = 0,
) -> CircuitTrack:
    """Follow a circuit over stored graphs of one series, measured on the same facts.

    Graphs that were left in their files (`AttributionGraph.open`) are read one at a time, edges in parts where all
    checkpoints meet, so that a long series takes little more memory than one graph.

    Args:
        series: (step, graph) in the order of training.
        stages: first step of each stage of training, in order. What a stage did is asked without looking for it: the
            last checkpoint before it against the last one in it, over all facts and over each of their classes.
        n_edges: size that the circuits are pruned from; by default `AttributionGraph.circuit_edges`.
        q: level of each change point's permutation test.
        splits_per_pair: random halves for each overlap's floor.
        draws: permutations for each change point.
        seed: of halves, permutations and bootstrap.

    Raises:
        BadPrompt: fewer than two checkpoints or units, steps that do not rise, or an argument out of range.
        CheckpointMismatch: graphs of different shapes, methods or facts.
    """
    _require_draws(draws, q)
    series = list(series)
    steps, graphs = [step for step, _ in series], [graph for _, graph in series]
    _require_series(steps, graphs)
    shape, edges = graphs[0].shape, int(graphs[0].mask.sum())
    n = graphs[0].circuit_edges if n_edges is None else circuit_size(edges, n_edges)
    products = Products.of(graphs)
    seen = _each(graphs, n, splits=splits_per_pair, seed=seed)
    return CircuitTrack(
        steps=tuple(int(step) for step in steps),
        shape=shape,
        n_edges=n,
        likeness=cosines(products.kernel()),
        reliability=products.reliability(),
        similarity=np.stack([one.similarity for one in seen]),
        edges=np.unpackbits(np.stack([one.edges for one in seen]), axis=1, count=edges).view(bool),
        nodes=np.stack([one.nodes for one in seen]),
        node_scores=np.stack([one.node_scores for one in seen]),
        node_errors=np.stack([one.node_errors for one in seen]),
        profile=np.stack([one.profile for one in seen]),
        change_points=splits(products, level=q, draws=draws, seed=seed),
        metric=np.array([[graph.clean_metric.mean(), graph.corrupt_metric.mean()] for graph in graphs]),
        contrasts=_stage_contrasts(steps, graphs, stages or {}, seed),
        meta={name: graphs[0].meta.get(name, usual) for name, usual in HOW.items()},
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of one checkpoint.

    Attributes:
        similarity: [3, 4] to previous, first and last.
        edges: as bits.
        nodes, node_scores, node_errors, profile: a row each of those of `CircuitTrack`.
    """

    similarity: Floats
    edges: NDArray[np.uint8]
    nodes: Bools
    node_scores: Floats
    node_errors: Floats
    profile: Floats


def _each(graphs: Sequence[AttributionGraph], n: int, *, splits: int, seed: int) -> list[_Seen]:
    """Every checkpoint by itself and beside its neighbours, the scores of one at a time in memory."""
    how: dict[str, Any] = {"n_edges": n, "splits": splits, "seed": seed}
    profile = profiler(graphs[0].shape)
    last = halve(graphs[-1], **how)
    first = previous = None
    seen = []
    for i, stored in enumerate(graphs):
        graph = stored.read()
        now = last if i == len(graphs) - 1 else halve(graph, **how)
        circuit = graph.prune(n).mask
        seen.append(
            _Seen(
                similarity=np.stack([_overlap(previous, now), _overlap(first, now), _overlap(last, now)]),
                edges=np.packbits(circuit[graph.mask]),
                nodes=np.asarray(circuit.any(1)),
                node_scores=graph.mean.sum(1),
                node_errors=graph.of_writers().std(0, ddof=1) / np.sqrt(graph.units),
                profile=profile(graph.edge_scores.mean(0, dtype=np.float64)),
            )
        )
        first, previous = first or now, now
    return seen


def _overlap(reference: Halved | None, now: Halved) -> Floats:
    """[4] Jaccard: value, across, within and its 5th percentile; NaN without a reference, and with itself."""
    if reference is None or reference is now:
        return np.full(4, np.nan)
    found = overlap_of(reference, now, chances=0)
    return np.array([found.value, found.across, found.within, found.within_low])


def _stage_contrasts(
    steps: Sequence[int], graphs: Sequence[AttributionGraph], stages: Mapping[str, int], seed: int
) -> tuple[Contrast, ...]:
    """The contrasts of every stage that begins after the first checkpoint."""
    unknown = [step for step in stages.values() if step not in steps]
    if unknown:
        raise BadPrompt(f"a stage begins at one of the steps measured, {', '.join(map(str, steps))}; got {unknown[0]}")
    starts = [steps.index(step) for step in stages.values()]
    bounds = [*starts, len(steps)]
    return tuple(
        found
        for name, (start, end) in zip(stages, pairwise(bounds), strict=True)
        if start
        for found in contrasts(
            graphs[start - 1], graphs[end - 1], name=name, steps=(steps[start - 1], steps[end - 1]), seed=seed
        )
    )


def _require_draws(draws: int, q: float) -> None:
    if (least := drawn_p(0, draws)) > q:
        raise BadPrompt(
            f"{draws} permutations cannot show a change point at q = {q:g}, as the smallest p they leave possible is "
            f"{least:.2g}: draw more (3 / q or more)"
        )


def _require_series(steps: Sequence[int], graphs: Sequence[AttributionGraph]) -> None:
    if len(graphs) < 2:
        raise BadPrompt(f"tracking a circuit needs at least 2 checkpoints, got {len(graphs)}")
    if any(after <= before for before, after in pairwise(steps)):
        raise BadPrompt(f"the steps of a series must rise, got {', '.join(map(str, steps))}; follow one line at a time")
    if graphs[0].units < 2:
        raise BadPrompt("tracking a circuit needs scores of at least 2 facts or groups to know its noise, got 1")
    for step, graph in zip(steps[1:], graphs[1:], strict=True):
        require_alike(graphs[0], graph)
        if not same_facts(graphs[0], graph):
            raise CheckpointMismatch(
                f"the graphs of a series must be of the same facts in the same groups, but those of steps {steps[0]} "
                f"and {step} are not ({len(graphs[0])} and {len(graph)} facts)"
            )
