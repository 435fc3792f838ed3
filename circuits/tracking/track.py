"""A circuit followed along a series: when it forms, when it changes, what comes and goes. From stored scores alone."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.stats.permutation import drawn_p
from circuits.comparison.profile import profiler
from circuits.comparison.similarity import overlap
from circuits.graph.pruning import circuit_size
from circuits.graph.scores import HOW, AttributionGraph, require_alike, same_facts
from circuits.graph.shape import Floats
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
    scores = [graph.edge_scores for graph in graphs]
    circuits = np.stack([graph.prune(n).mask for graph in graphs])
    products = Products(scores)
    profile = profiler(shape)
    return CircuitTrack(
        steps=tuple(int(step) for step in steps),
        shape=shape,
        n_edges=n,
        likeness=cosines(products.kernel()),
        reliability=products.reliability(),
        similarity=_overlaps(graphs, n, splits=splits_per_pair, seed=seed),
        edges=circuits[:, shape.mask],
        nodes=np.asarray(circuits.any(2)),
        node_scores=np.stack([graph.mean.sum(1) for graph in graphs]),
        node_errors=np.stack([graph.scores.sum(2).std(0, ddof=1) / np.sqrt(len(graph.scores)) for graph in graphs]),
        profile=np.stack([profile(s.mean(0, dtype=np.float64)) for s in scores]),
        change_points=splits(products, level=q, draws=draws, seed=seed),
        metric=np.array([[graph.clean_metric.mean(), graph.corrupt_metric.mean()] for graph in graphs]),
        contrasts=_stage_contrasts(steps, graphs, stages or {}, seed),
        meta={name: graphs[0].meta.get(name, usual) for name, usual in HOW.items()},
    )


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


def _overlaps(graphs: Sequence[AttributionGraph], n: int, *, splits: int, seed: int) -> Floats:
    """[T, 3, 4] Jaccard with previous, first and last: value, across, within and its 5th percentile."""
    result = np.full((len(graphs), 3, 4), np.nan)
    for i, graph in enumerate(graphs):
        others = (graphs[i - 1] if i else None, graphs[0] if i else None, graphs[-1] if i < len(graphs) - 1 else None)
        for j, other in enumerate(others):
            if other is not None:
                found = overlap(other, graph, n_edges=n, splits=splits, seed=seed)
                result[i, j] = found.value, found.across, found.within, found.within_low
    return result


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
    if len(graphs[0].scores) < 2:
        raise BadPrompt("tracking a circuit needs scores of at least 2 facts or groups to know its noise, got 1")
    for step, graph in zip(steps[1:], graphs[1:], strict=True):
        require_alike(graphs[0], graph)
        if not same_facts(graphs[0], graph):
            raise CheckpointMismatch(
                f"the graphs of a series must be of the same facts in the same groups, but those of steps {steps[0]} "
                f"and {step} are not ({len(graphs[0])} and {len(graph)} facts)"
            )
