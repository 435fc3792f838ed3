"""Edge scores of one model over a set of facts, stored fact by fact. Numpy only."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.result import Result
from checkpoints.results.stored_array import StoredArray
from checkpoints.results.text import counted
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.graph.pruning import PruneRule, circuit_size, prune, threshold
from circuits.graph.shape import Bools, GraphShape, known_shape, shape_document

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

PIECE = 4_000_000


@dataclass(frozen=True, repr=False)
class AttributionGraph(Result):
    """Edge scores of one model over a set of facts.

    A score estimates how much corrupting that edge alone changes the metric, in the metric's unit (by default
    logit(answer) - logit(wrong), in logits): **positive = corrupting the edge raises the metric**, so the edges that
    carry the fact are negative. Scores do not depend on how the facts were batched. Information flow routes
    (``method="flow"``) are shares in [0, 1], without a sign.

    The scores are kept edge by edge: in memory, or in the file of a stored result (`AttributionGraph.open`), where
    they are read each time they are asked for and not kept, so that a series of graphs costs no more than its facts.

    Attributes:
        scores: [U, F, B] per unit (a fact, or a group of facts), the mean over the unit's facts; 0 where no edge is,
            NaN where one was not measured. Made anew of `edge_scores` each time; [U, E] is taken too.
        shape: the graph's architecture.
        clean_metric, corrupt_metric: [N] the metric of every fact on its clean and its corrupt prompt.
        answer_rank: [N] how many tokens the clean run ranks above the answer; 0 = it is the top token. Of an answer of
            several tokens the one that fares worst counts, so that 0 = all are.
        group: [N] the unit each fact belongs to.
        labels: N mappings, the facts' labels.
        meta: method, ig_steps, rule, metric, backward, ablation, prompt hash, refused facts, dtype; ``circuit_edges``,
            how many edges its circuit is pruned from, where that was asked for.
    """

    artifact, title = "attribution_graph", "Attribution graph"
    on_disk = ("scores",)
    shapes: ClassVar[Mapping[str, str]] = {"clean_metric": "N", "corrupt_metric": "N", "answer_rank": "N", "group": "N"}

    scores: Floats
    shape: GraphShape
    clean_metric: Floats
    corrupt_metric: Floats
    answer_rank: NDArray[np.integer]
    group: NDArray[np.integer]
    labels: tuple[Mapping[str, Any], ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = held(self)
        if len(given.shape) == 3 and not isinstance(given, StoredArray):
            self.__dict__["_held"] = np.ascontiguousarray(given[:, self.mask])
        elif given.shape[1] != (edges := int(self.mask.sum())):
            raise BadPrompt(f"a graph of {edges:,} edges has a score for each of them, not {given.shape[1]:,}")

    def _flaws(self) -> Iterator[str]:
        if len(self.labels) != len(self) or not len(self):
            yield f"{len(self.labels)} facts have labels where {len(self)} were asked"
        if set(self.group.tolist()) != set(range(self.units)):
            yield f"its facts are not in {self.units} units"

    def __len__(self) -> int:
        return len(self.clean_metric)

    @property
    def writers(self) -> tuple[str, ...]:
        """F names of the rows."""
        return self.shape.writers

    @property
    def readers(self) -> tuple[str, ...]:
        """B names of the columns."""
        return self.shape.readers

    @property
    def mask(self) -> Bools:
        """[F, B] which edges exist."""
        return self.shape.mask

    @property
    def unit_sizes(self) -> NDArray[np.integer]:
        """[U] facts in each unit."""
        return np.bincount(self.group, minlength=self.units)

    @property
    def circuit_edges(self) -> int:
        """The edges that its circuit is pruned from: as many as were asked for, by default 5 %, at least 20."""
        return circuit_size(int(self.mask.sum()), self.meta.get("circuit_edges"))

    @property
    def readout(self) -> str:
        """The metric in which its circuit is to be run: what was attributed, else the logit difference."""
        named = str(self.meta.get("metric", "none"))
        return "logit difference" if named == "none" else named

    @property
    def units(self) -> int:
        """U, how many units were scored."""
        return int(held(self).shape[0])

    @property
    def in_memory(self) -> bool:
        """Whether the scores are here, and not in a file."""
        return not isinstance(held(self), StoredArray)

    def read(self) -> "AttributionGraph":
        """The same graph with its scores in memory, for work that looks at them more than once.

        Raises:
            DamagedResult: the file that they were left in is no longer what it was.
        """
        return self if self.in_memory else replace(self, scores=self.edge_scores)

    @property
    def mean(self) -> Floats:
        """[F, B] mean score over the facts."""
        return self._mean if self.in_memory else self._mean_in_parts()

    @cached_property
    def _mean(self) -> Floats:
        return self._mean_in_parts()

    def _mean_in_parts(self) -> Floats:
        weights = self.unit_sizes / self.unit_sizes.sum()
        parts = pieces(self.units, self.n_edges)
        table = np.zeros(self.mask.shape)
        table[self.mask] = np.concatenate([np.tensordot(weights, self.columns(part), 1) for part in parts])
        return table

    @property
    def edge_scores(self) -> Floats:
        """[U, E] scores of the existing edges, one row a unit."""
        return self.columns(slice(None))

    def columns(self, edges: slice) -> Floats:
        """[U, e] scores of some of the edges, by their positions in `edge_names`; no others are read."""
        found = held(self)
        return found.read(edges) if isinstance(found, StoredArray) else found[:, edges]

    def of_writers(self, dtype: type[np.floating] | None = None) -> Floats:
        """[U, F] each writer's out-edges summed, unit by unit, in the scores' dtype unless another is given."""
        return np.stack([_dense(unit[None], self.mask)[0].sum(1, dtype=dtype) for unit in self.edge_scores])

    def of_edge(self, edge: str) -> Floats:
        """[U] scores of an edge by name, as in ``"a0.h1->m2"``; no others are read.

        Raises:
            BadPrompt: it is no edge of this graph.
        """
        writer, reader = self._ends(edge)
        place = int(self.mask[:writer].sum() + self.mask[writer, :reader].sum())
        return self.columns(slice(place, place + 1))[:, 0]

    @cached_property
    def unmeasured(self) -> int:
        """How many edges have no score for some unit."""
        return sum(int(np.isnan(self.columns(part)).any(0).sum()) for part in pieces(self.units, self.n_edges))

    @property
    def n_edges(self) -> int:
        """E, how many edges there are."""
        return int(held(self).shape[1])

    @cached_property
    def edge_names(self) -> tuple[str, ...]:
        """E names, in the order of `edge_scores`."""
        return Circuit(self.shape, self.mask).edges

    @property
    def total(self) -> float:
        """Mean over the facts of metric(corrupt) - metric(clean): what complete scores add up to across any cut."""
        return float(np.mean(self.corrupt_metric - self.clean_metric))

    @property
    def fingerprint(self) -> str:
        """sha256 of the scores."""
        digest = hashlib.sha256()
        for unit in self.edge_scores:
            digest.update(_dense(unit[None], self.mask).tobytes())
        return digest.hexdigest()

    def top(self, k: int) -> tuple[tuple[str, float], ...]:
        """The k edges of largest absolute mean score, with their scores."""
        scores = self.mean[self.mask]
        order = np.argsort(-np.abs(scores), kind="stable")[:k]
        return tuple((self.edge_names[i], float(scores[i])) for i in order)

    def __getitem__(self, edge: str) -> float:
        """Mean score of an edge by name, as in ``graph["a0.h1->m2"]``."""
        return float(self.mean[self._ends(edge)])

    def _ends(self, edge: str) -> tuple[int, int]:
        """Row and column of an edge by name."""
        writer, arrow, reader = edge.partition("->")
        if not arrow or writer not in self.writers or reader not in self.readers:
            raise BadPrompt(f"{edge!r} is no edge of this graph; names look like {self.edge_names[-1]!r}")
        i, j = self.writers.index(writer), self.readers.index(reader)
        if not self.mask[i, j]:
            raise BadPrompt(f"{edge!r} does not exist: {writer} is computed after {reader} is read, or beside it")
        return i, j

    def nodes(self) -> dict[str, float]:
        """Score of every writer: the sum over its out-edges."""
        return dict(zip(self.writers, self.mean.sum(1).tolist(), strict=True))

    def only(self, facts: NDArray[np.integer]) -> "AttributionGraph":
        """The same over some of its facts, by their positions [M]; its scores must be kept fact by fact.

        Raises:
            BadPrompt: scores of groups of facts.
        """
        if self.units < len(self):
            raise BadPrompt(f"{len(self)} facts were scored in {self.units} groups, which cannot be told apart")
        whole = held(self)
        chosen: Any = whole.only(facts) if isinstance(whole, StoredArray) else whole[facts]
        return replace(
            self,
            scores=chosen,
            clean_metric=self.clean_metric[facts],
            corrupt_metric=self.corrupt_metric[facts],
            answer_rank=self.answer_rank[facts],
            group=np.arange(len(facts)),
            labels=tuple(self.labels[fact] for fact in facts),
        )

    def prune(self, n: int | None = None, *, rule: PruneRule = "absolute") -> Circuit:
        """The circuit of n edges, by default `circuit_edges`, without the parts that lead nowhere.

        Rules are those of `circuits.graph.pruning.prune`.
        """
        if rule == "lowers" and self.meta.get("method") == "flow":
            raise BadPrompt("information flow routes have no sign, so rule='lowers' has no meaning for them")
        size = self.circuit_edges if n is None else n
        return prune(self.shape, self.mean, size, rule=rule)

    def threshold(self, least: float) -> Circuit:
        """The circuit of all edges with |score| >= ``least``, without the parts that lead nowhere."""
        return threshold(self.shape, self.mean, least)

    def to_networkx(self, n: int | None = None) -> "nx.DiGraph":
        """The circuit of n edges, or all of them, as a directed graph; see `Circuit.to_networkx`."""
        return self._circuit(n).to_networkx()

    def to_frame(self) -> "pd.DataFrame":
        """One row an edge, strongest first: edge, writer, reader, score, its standard error over the units."""
        import pandas as pd

        scores = self.mean[self.mask]
        units = self.units
        error = self.edge_scores.std(0, ddof=1) / np.sqrt(units) if units > 1 else np.full(len(scores), np.nan)
        rows, columns = np.nonzero(self.mask)
        frame = pd.DataFrame(
            {
                "edge": self.edge_names,
                "writer": np.array(self.writers)[rows],
                "reader": np.array(self.readers)[columns],
                "score": scores,
                "stderr": error,
            }
        )
        return frame.sort_values("score", key=np.abs, ascending=False, ignore_index=True, kind="stable")

    def export(self, path: Path | str, n: int | None = None) -> Path:
        """Write the circuit of n edges, or of all, for another tool, in the format the file's name ends in.

        See `circuits.graph.exports.export`. A parquet table holds the scores of all edges whatever the n.
        """
        return self._circuit(n).export(path)

    def plot(self, n: int = 100) -> "go.Figure":
        """The circuit of the n strongest edges in the fixed layout: head on x, layer on y."""
        metric = None if self.meta.get("method") == "flow" else str(self.meta.get("metric", "metric"))
        return self.prune(n).plot(metric=metric)

    def _circuit(self, n: int | None) -> Circuit:
        return Circuit(self.shape, self.mask, self.mean) if n is None else self.prune(n)

    @property
    def verdict(self) -> str:
        """What was scored, and how much of the metric's change the scores account for."""
        residuals = {name: value for name, value in completeness(self).items() if not np.isnan(value)}
        told = ", ".join(f"{value:+.2g} at the {name}" for name, value in residuals.items()) or "not applicable"
        return (
            f"{self.meta.get('method', '')}, {self.meta.get('metric', '')}: {counted(len(self), 'fact')}, "
            f"{int(self.mask.sum())} edges, metric {self.clean_metric.mean():.3g} clean, "
            f"{self.corrupt_metric.mean():.3g} corrupt; "
            f"completeness residual {told}"
        )

    def _stored(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        names = ("clean_metric", "corrupt_metric", "answer_rank", "group")
        arrays = {"scores": self.edge_scores, **{name: getattr(self, name) for name in names}}
        document = {"shape": shape_document(self.shape), "labels": [dict(label) for label in self.labels]}
        return {**document, "meta": dict(self.meta)}, arrays

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "AttributionGraph":
        shape = known_shape(**document["shape"])
        labels = tuple(document["labels"])
        return cls(**arrays, shape=shape, labels=labels, meta=document["meta"])


class _Scores:
    """The field ``scores``: taken dense, as edges or as a stored table; kept as edges or where it is; given dense."""

    def __get__(self, graph: AttributionGraph, _owner: type[AttributionGraph]) -> Floats:
        return _dense(graph.edge_scores, graph.mask)

    def __set__(self, graph: AttributionGraph, scores: Floats | StoredArray) -> None:
        graph.__dict__["_held"] = scores


AttributionGraph.scores = _Scores()  # type: ignore[assignment]


def held(graph: AttributionGraph) -> Floats | StoredArray:
    """[U, E] what a graph keeps of its scores."""
    found: Floats | StoredArray = graph.__dict__["_held"]
    return found


def pieces(rows: int, columns: int) -> Iterator[slice]:
    """Parts of a table of so many rows that take no more than `PIECE` numbers each."""
    size = max(1, PIECE // max(1, rows))
    return (slice(start, min(start + size, columns)) for start in range(0, columns, size))


def _dense(scores: Floats, mask: Bools) -> Floats:
    """[U, F, B] of [U, E]."""
    table = np.zeros((len(scores), *mask.shape), dtype=scores.dtype)
    table[:, mask] = scores
    return table


def meaning(how: Mapping[str, Any], part: str = "the edge") -> str:
    """What the sign of scores says, by the ``meta`` they come with."""
    if how.get("method") == "flow":
        return "scores are shares of what is read"
    return f"positive = corrupting {part} raises the {how.get('metric') or 'metric'}"


def completeness(graph: AttributionGraph) -> dict[str, float]:
    """Residual of the two outermost cuts, as a share of |metric(corrupt) - metric(clean)|.

    Returns:
        ``input``: (sum over the input's edges - total) / |total|, which path methods drive to 0 with more steps;
        ``logits``: the same for the edges into ``logits``, which only conductance drives to 0. NaN where scores are
        not meant to add up to that: information flow routes, other ablations than ``corrupt``, one segment's scores.
    """
    cuts = {"input": graph.mean[0].sum(), "logits": graph.mean[:, -1].sum()}
    meta, scale = graph.meta, abs(graph.total)
    if meta.get("method") == "flow" or meta.get("ablation", "corrupt") != "corrupt" or "segment" in meta or not scale:
        return dict.fromkeys(cuts, float("nan"))
    return {name: float((cut - graph.total) / scale) for name, cut in cuts.items()}
