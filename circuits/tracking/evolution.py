"""A circuit along a series: when it forms, when it changes, what comes and goes. From stored scores alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.artifacts import read_artifact, write_artifact
from circuits.comparison.contrasts import Contrast, contrasts
from circuits.comparison.profile import PROFILES, profiler
from circuits.comparison.similarity import Similarity, similarities
from circuits.graph.graph import Bools, Floats, GraphShape, shape_document
from circuits.graph.pruning import circuit_size
from circuits.graph.scores import HOW, AttributionGraph, require_alike, same_facts
from circuits.tracking.changepoints import Products, Split, cosines, splits

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "evolution"
REFERENCES = ("previous", "first", "last")


@dataclass(frozen=True, slots=True)
class Phase:
    """Checkpoints between two change points.

    Attributes:
        start, stop: positions of its first checkpoint and of the first one after it.
        first, last: steps of its first and its last checkpoint.
        likeness: mean noise-corrected cosine between its checkpoints; NaN for a single one.
    """

    start: int
    stop: int
    first: int
    last: int
    likeness: float


@dataclass(frozen=True)
class Evolution:
    """The circuits of T checkpoints.

    Attributes:
        steps: T steps, in order.
        shape: the graph.
        n_edges: size that the circuits are pruned from.
        likeness: [T, T] cosine between mean scores, corrected for prompt noise: 1 = the same up to strength; NaN where
            a checkpoint's scores are nothing but noise.
        reliability: [T] share of each mean's squared length that is not prompt noise.
        similarity: [T, 3, 4] Jaccard of the circuits to the previous, first and last checkpoint: between all facts,
            between halves of the facts across the two, between halves within one (the floor) and its 5th percentile.
        edges: [T, E] which edges are in each circuit.
        nodes: [T, F] which writers are.
        node_scores, node_errors: [T, F] mean scores of the writers and their standard errors over the units.
        profile: [T, 4] the numbers of `circuits.comparison.profile.PROFILES`.
        change_points: where the series falls in stretches, each with interval and p.
        metric: [T, 2] mean metric, clean and corrupt.
        contrasts: what each stage did that begins inside the series, asked without looking for it.
        meta: method, metric and the other settings all graphs were made with.
    """

    steps: tuple[int, ...]
    shape: GraphShape
    n_edges: int
    likeness: Floats
    reliability: Floats
    similarity: Floats
    edges: Bools
    nodes: Bools
    node_scores: Floats
    node_errors: Floats
    profile: Floats
    change_points: tuple[Split, ...]
    metric: Floats
    contrasts: tuple[Contrast, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def births(self) -> NDArray[np.integer]:
        """[T] edges in the circuit that were not in the one before; 0 for the first."""
        return np.concatenate([[0], (self.edges[1:] & ~self.edges[:-1]).sum(1)])

    @property
    def deaths(self) -> NDArray[np.integer]:
        """[T] edges of the circuit before that are gone; 0 for the first."""
        return np.concatenate([[0], (~self.edges[1:] & self.edges[:-1]).sum(1)])

    @property
    def node_births(self) -> tuple[tuple[str, ...], ...]:
        """T tuples of writers that entered the circuit."""
        return ((), *(self._names(now & ~before) for before, now in pairwise(self.nodes)))

    @property
    def node_deaths(self) -> tuple[tuple[str, ...], ...]:
        """T tuples of writers that left the circuit."""
        return ((), *(self._names(before & ~now) for before, now in pairwise(self.nodes)))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The stretches between change points."""
        bounds = [0, *(split.index for split in self.change_points), len(self)]
        return tuple(self._phase(start, stop) for start, stop in pairwise(bounds))

    @property
    def landmarks(self) -> tuple[int, ...]:
        """Steps worth looking at: the first, the last, and both sides of every change point."""
        places = {0, len(self) - 1}
        for split in self.change_points:
            places |= {split.index - 1, split.index}
        return tuple(self.steps[i] for i in sorted(places))

    @property
    def verdict(self) -> str:
        """When the circuit changed, and how stable it is at the end."""
        from circuits.comparison.sentences import evolution_verdict

        return evolution_verdict(self)

    def lineage(self, k: int = 20) -> "pd.DataFrame":
        """Scores of the k writers of largest peak, one row a writer, one column a step."""
        return self._leading(self.node_scores, k)

    def lineage_errors(self, k: int = 20) -> "pd.DataFrame":
        """Standard errors of the scores of `lineage`, in the same places."""
        return self._leading(self.node_errors, k)

    def to_frame(self) -> "pd.DataFrame":
        """One row a checkpoint.

        Columns: step, phase, clean_metric, corrupt_metric, reliability; for each of previous, first and last: the
        Jaccard of the circuits, its value between halves across the two and within one, and the 5th percentile of the
        latter; births, deaths, the profile.
        """
        import pandas as pd

        phase = np.zeros(len(self), dtype=int)
        for split in self.change_points:
            phase[split.index :] += 1
        frame: dict[str, Any] = {"step": self.steps, "phase": phase}
        frame |= {"clean_metric": self.metric[:, 0], "corrupt_metric": self.metric[:, 1]}
        frame["reliability"] = self.reliability
        for i, reference in enumerate(REFERENCES):
            for j, suffix in enumerate(("", "_across", "_within", "_within_low")):
                frame[f"jaccard_{reference}{suffix}"] = self.similarity[:, i, j]
        frame |= {"births": self.births, "deaths": self.deaths}
        frame |= {name: self.profile[:, i] for i, name in enumerate(PROFILES)}
        return pd.DataFrame(frame)

    def contrast_frame(self) -> "pd.DataFrame":
        """One row a stage and class of facts, with the fields of `circuits.comparison.contrasts.Contrast`."""
        import pandas as pd

        return pd.DataFrame([asdict(contrast) for contrast in self.contrasts])

    def plot(self) -> "go.Figure":
        """Overlap with the previous and the last circuit over the series, beside the noise floor."""
        from circuits.tracking.figures import evolution_figure

        return evolution_figure(self)

    def plot_likeness(self) -> "go.Figure":
        """Every checkpoint against every other."""
        from circuits.tracking.figures import likeness_figure

        return likeness_figure(self)

    def plot_lineage(self, k: int = 20) -> "go.Figure":
        """Scores of the leading writers over the series."""
        from circuits.tracking.figures import lineage_figure

        return lineage_figure(self, k)

    def save(self, folder: Path | str) -> Path:
        """Write to a result folder."""
        names = (
            "likeness", "reliability", "similarity", "edges", "nodes", "node_scores", "node_errors", "profile", "metric"
        )  # fmt: skip
        document = {
            "steps": list(self.steps),
            "shape": shape_document(self.shape),
            "n_edges": self.n_edges,
            "change_points": [[split.index, split.low, split.high, split.p] for split in self.change_points],
            "contrasts": [asdict(contrast) for contrast in self.contrasts],
            "meta": dict(self.meta),
        }
        return write_artifact(folder, KIND, document, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path | str) -> "Evolution":
        """Read what `save` wrote."""
        document, arrays = read_artifact(folder, KIND)
        return cls(
            steps=tuple(document["steps"]),
            shape=GraphShape(**document["shape"]),
            n_edges=document["n_edges"],
            change_points=tuple(Split(*values) for values in document["change_points"]),
            contrasts=tuple(Contrast(**values) for values in document["contrasts"]),
            meta=document["meta"],
            **arrays,
        )

    def _leading(self, values: Floats, k: int) -> "pd.DataFrame":
        """Values [T, F] of the k writers of largest peak."""
        import pandas as pd

        leading = np.argsort(-np.abs(self.node_scores).max(0), kind="stable")[:k]
        names = [self.shape.writers[i] for i in leading]
        return pd.DataFrame(values[:, leading].T, index=pd.Index(names, name="node"), columns=self.steps)

    def _names(self, chosen: Bools) -> tuple[str, ...]:
        return tuple(self.shape.writers[i] for i in np.flatnonzero(chosen))

    def _phase(self, start: int, stop: int) -> Phase:
        inside = self.likeness[start:stop, start:stop]
        apart = inside[~np.eye(len(inside), dtype=bool)]
        likeness = float(np.nanmean(apart)) if np.isfinite(apart).any() else float("nan")
        return Phase(start, stop, self.steps[start], self.steps[stop - 1], likeness)

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, border=0, float_format=lambda x: f"{x:.3g}")
        return f"<p><b>Evolution</b>: {self.verdict}</p>{table}"


def evolve(
    series: Iterable[tuple[int, AttributionGraph]],
    *,
    stages: Mapping[str, int] | None = None,
    n_edges: int | None = None,
    q: float = 0.05,
    splits_per_pair: int = 8,
    draws: int = 199,
    seed: int = 0,
) -> Evolution:
    """Follow a circuit over stored graphs of one series, measured on the same facts.

    Args:
        series: (step, graph) in the order of training.
        stages: first step of each stage of training, in order. What a stage did is asked without looking for it: the
            last checkpoint before it against the last one in it, over all facts and over each of their classes.
        n_edges: size that the circuits are pruned from; by default 5 % of the edges, at least 20.
        q: level of each change point's permutation test.
        splits_per_pair: random halves for each overlap's floor.
        draws: permutations for each change point.
        seed: of halves, permutations and bootstrap.

    Raises:
        BadPrompt: fewer than two checkpoints or units, steps that do not rise, or an argument out of range.
        CheckpointMismatch: graphs of different shapes, methods or facts.
    """
    series = list(series)
    steps, graphs = [step for step, _ in series], [graph for _, graph in series]
    _require_series(steps, graphs)
    shape, edges = graphs[0].shape, int(graphs[0].mask.sum())
    n = circuit_size(edges, n_edges)
    scores = [graph.edge_scores for graph in graphs]
    circuits = np.stack([graph.prune(n).mask for graph in graphs])
    products = Products(scores)
    profile = profiler(shape)
    return Evolution(
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
                found = _jaccard(other, graph, n, splits=splits, seed=seed)
                result[i, j] = found.value, found.across, found.within, found.within_low
    return result


def _jaccard(a: AttributionGraph, b: AttributionGraph, n: int, *, splits: int, seed: int) -> Similarity:
    weights = (a.unit_sizes.astype(float), b.unit_sizes.astype(float))
    return similarities(a.edge_scores, b.edge_scores, weights=weights, sizes=[n], splits=splits, seed=seed)[0]


def _require_series(steps: Sequence[int], graphs: Sequence[AttributionGraph]) -> None:
    if len(graphs) < 2:
        raise BadPrompt(f"an evolution needs at least 2 checkpoints, got {len(graphs)}")
    if any(after <= before for before, after in pairwise(steps)):
        raise BadPrompt(f"the steps of a series must rise, got {', '.join(map(str, steps))}; follow one line at a time")
    if len(graphs[0].scores) < 2:
        raise BadPrompt("an evolution needs scores of at least 2 facts or groups to know its noise, got 1")
    for step, graph in zip(steps[1:], graphs[1:], strict=True):
        require_alike(graphs[0], graph)
        if not same_facts(graphs[0], graph):
            raise CheckpointMismatch(
                f"the graphs of a series must be of the same facts in the same groups, but those of steps {steps[0]} "
                f"and {step} are not ({len(graphs[0])} and {len(graph)} facts)"
            )
