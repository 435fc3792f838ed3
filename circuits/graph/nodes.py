"""Scores of nodes, and of the neurons or experts inside MLPs; circuits made of them. Numpy only.

A node's score is the sum of the scores of its out-edges. A neuron's is its own share of its MLP's score: the neurons of
a layer add up to it exactly, since the biases of an MLP write the same in both runs and so drop out of the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.graph.pruning import require_size
from circuits.graph.shape import Bools, GraphShape

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from circuits.graph.scores import AttributionGraph

Level = Literal["nodes", "neurons", "experts"]
NodeRule = Literal["absolute", "lowers"]
REST = "rest"


@dataclass(frozen=True)
class NodeCircuit:
    """A set of nodes, perhaps with only some neurons of its MLPs. What is outside writes what the corrupt run wrote.

    Attributes:
        shape: the graph the nodes are taken from.
        nodes: [F] the writers inside.
        neurons: [L, width] the neurons inside, or ``None`` where MLPs are in or out as a whole.
    """

    shape: GraphShape
    nodes: Bools
    neurons: Bools | None = None

    @property
    def size(self) -> int:
        """How many parts: nodes, with each MLP's neurons in its place where they are told apart."""
        if self.neurons is None:
            return int(self.nodes.sum())
        return int(self.nodes[~_is_mlp(self.shape)].sum() + self.neurons.sum())

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes inside."""
        return tuple(name for name, inside in zip(self.shape.writers, self.nodes, strict=True) if inside)

    def edges(self) -> Circuit:
        """The edges among the nodes, as a circuit; a shared key/value head is in with any of its query heads.

        Its run is that of the nodes, but where a norm spans several heads and so shows one what another reads.

        Raises:
            BadPrompt: neurons are told apart.
        """
        if self.neurons is not None:
            raise BadPrompt("neurons have no edges of their own; use the nodes' circuit, or circuits.node_faithfulness")
        inside = {*self.names, "logits"}
        reads = [any(node in inside for node in self.shape.heads_reading(reader)) for reader in self.shape.readers]
        return Circuit(self.shape, self.shape.mask & self.nodes[:, None] & np.array(reads))

    def __str__(self) -> str:
        what = "nodes" if self.neurons is None else "heads and neurons"
        return f"{self.size} {what}"


@dataclass(frozen=True, repr=False)
class NodeScores(Result):
    """Scores of all writers over a set of facts.

    **Positive = corrupting the node raises the metric**, as for edges.

    Attributes:
        scores: [U, F] per unit (a fact, or a group of facts), the mean over the unit's facts.
        shape: the graph.
        clean_metric, corrupt_metric: [N] of every fact.
        group: [N] the unit each fact belongs to.
        level: ``nodes``, or what ``inside`` holds.
        inside: [U, L, P] shares of each MLP's score: of its P neurons; or of its P - 1 experts and, last, of all else
            in it (shared experts). NaN in layers that have none. ``None`` for ``nodes``.
        routing: [2, L, P - 1] mean routing weight of each expert on clean and on corrupt prompts, 0 where not chosen.
        meta: method, metric, prompt hash.
    """

    artifact, title = "node_scores", "Node scores"

    scores: Floats
    shape: GraphShape
    clean_metric: Floats
    corrupt_metric: Floats
    group: NDArray[np.integer]
    level: Level = "nodes"
    inside: Floats | None = None
    routing: Floats | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: "AttributionGraph") -> "NodeScores":
        """The nodes of an edge graph: each writer's edges summed."""
        return cls(
            scores=graph.of_writers(),
            shape=graph.shape,
            clean_metric=graph.clean_metric,
            corrupt_metric=graph.corrupt_metric,
            group=graph.group,
            meta=graph.meta,
        )

    @cached_property
    def mean(self) -> Floats:
        """[F] mean over the facts."""
        return self._mean(self.scores)

    @cached_property
    def inside_mean(self) -> Floats:
        """[L, P] mean shares over the facts.

        Raises:
            BadPrompt: there are none.
        """
        if self.inside is None:
            raise BadPrompt("these scores stop at nodes; use circuits.attribute_nodes(..., level='neurons')")
        return self._mean(self.inside)

    def __getitem__(self, node: str) -> float:
        """Mean score of a node by name."""
        if node not in self.shape.writers:
            raise BadPrompt(f"{node!r} is no node of this graph; nodes look like {self.shape.writers[1]!r}")
        return float(self.mean[self.shape.writers.index(node)])

    def prune(self, n: int, *, rule: NodeRule = "absolute") -> NodeCircuit:
        """The n nodes of largest |score|, or (``lowers``) those whose corruption lowers the metric most."""
        return NodeCircuit(self.shape, _first(self.mean, n, rule))

    def prune_neurons(self, n: int, *, rule: NodeRule = "absolute") -> NodeCircuit:
        """The n best parts among the input, the heads and the neurons.

        Raises:
            BadPrompt: neurons were not scored.
        """
        if self.level != "neurons":
            raise BadPrompt("neurons were not scored; use circuits.attribute_nodes(..., level='neurons')")
        mlps = _is_mlp(self.shape)
        chosen = _first(np.concatenate([self.mean[~mlps], self.inside_mean.ravel()]), n, rule)
        neurons = chosen[(~mlps).sum() :].reshape(self.inside_mean.shape)
        nodes = np.zeros(len(mlps), dtype=bool)
        nodes[~mlps], nodes[mlps] = chosen[: (~mlps).sum()], neurons.any(1)
        return NodeCircuit(self.shape, nodes, neurons)

    def to_frame(self) -> "pd.DataFrame":
        """One row a node, strongest first: node, score, its standard error over the units."""
        import pandas as pd

        frame = pd.DataFrame({"node": self.shape.writers, "score": self.mean, "stderr": _error(self.scores)})
        return frame.sort_values("score", key=np.abs, ascending=False, ignore_index=True, kind="stable")

    def inside_frame(self) -> "pd.DataFrame":
        """One row a neuron or expert, strongest first: node, neuron or expert, score, stderr; experts' routing, too."""
        import pandas as pd

        scores = self.inside_mean
        assert self.inside is not None
        layers, places = np.nonzero(~np.isnan(scores))
        names: Any = places
        columns = {"score": scores[layers, places], "stderr": _error(self.inside)[layers, places]}
        if self.routing is not None:
            last = scores.shape[1] - 1
            names = [REST if place == last else place for place in places.tolist()]
            weights = np.concatenate([self.routing, np.full((2, len(scores), 1), np.nan)], -1)
            columns["clean_weight"], columns["corrupt_weight"] = weights[:, layers, places]
        frame = pd.DataFrame({"node": [f"m{i}" for i in layers], self.level[:-1]: names, **columns})
        return frame.sort_values("score", key=np.abs, ascending=False, ignore_index=True, kind="stable")

    def plot(self, k: int = 20) -> "go.Figure":
        """The k nodes of largest |score|, with standard errors."""
        from circuits.graph.nodes_view import nodes_figure

        return nodes_figure(self, k)

    def _mean(self, values: Floats) -> Floats:
        sizes = np.bincount(self.group, minlength=len(values))
        return np.asarray(np.tensordot(sizes / sizes.sum(), values, 1), dtype=np.float64)

    @property
    def verdict(self) -> str:
        """What was scored."""
        return f"{counted(len(self.clean_metric), 'fact')}, {len(self.shape.writers)} nodes"


def _is_mlp(shape: GraphShape) -> Bools:
    return np.array([name.startswith("m") for name in shape.writers])


def _first(scores: Floats, n: int, rule: NodeRule) -> Bools:
    """The n first by a rule; ties go to the earlier one."""
    require_choice("rule", rule, get_args(NodeRule))
    require_size(n, len(scores), "parts")
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(scores if rule == "lowers" else -np.abs(scores), kind="stable")[:n]] = True
    return chosen


def _error(scores: Floats) -> Floats:
    units = len(scores)
    if units < 2:
        return np.full(scores.shape[1:], np.nan)
    return np.asarray(scores.std(0, ddof=1) / np.sqrt(units))
