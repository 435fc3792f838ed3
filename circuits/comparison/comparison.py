"""Two attribution graphs compared: which edges changed for real, and how alike the circuits are against the noise.

From stored scores alone: numpy and scipy, no model. Positive differences mean that B has the larger score. A diff of a
graph with itself is empty, and diff(a, b) is the negative of diff(b, a).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, CheckpointMismatch
from circuits.comparison.noise import EdgeTests, paired_global_p, paired_tests, unpaired_global_p, welch_tests
from circuits.comparison.profile import LARGE, ProfileChange, profile_changes
from circuits.comparison.similarity import Similarity, similarities
from circuits.graph.graph import Circuit, Floats, GraphShape
from circuits.graph.pruning import circuit_size
from circuits.graph.scores import HOW, AttributionGraph, require_alike, same_facts

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

    from circuits.intervention.transfer import Transfer
    from circuits.roles.roles import HeadRoles, RoleChange

Pairing = Literal["paired", "unpaired"]
Status = Literal["gained", "lost", "strengthened", "weakened", "flipped", "kept", "uncertain", "outside"]
STATUSES: tuple[Status, ...] = (
    "gained", "lost", "strengthened", "weakened", "flipped", "kept", "uncertain", "outside"
)  # fmt: skip


@dataclass(frozen=True)
class GraphDiff:
    """What changed from A to B, over the E edges of the graph.

    Statuses: **gained** / **lost**: in one circuit only, and changed for real; **strengthened** / **weakened** /
    **flipped**: changed for real in size or in sign (in both circuits, or against its membership); **kept**: in both,
    no real change; **uncertain**: in one circuit only, but its change is within the noise; **outside**: in neither.

    Attributes:
        shape: the graph.
        a, b: [E] mean scores over the units.
        tests: difference B - A with interval, p and q, edge by edge.
        nodes_a, nodes_b: [F] mean scores of the writers over the units, each the sum over its out-edges.
        node_tests: the same tests, writer by writer.
        profile: depth, spread and size of the whole graph, with intervals.
        circuit_a, circuit_b: the pruned circuits.
        global_p: p that nothing changed at all, by permutation.
        similarity: the measures, each beside its noise floor and its random null.
        totals: mean metric(corrupt) - metric(clean) at A and at B.
        pairing: over identical facts, or not.
        n: units the tests rest on (of the smaller side when unpaired).
        level: the false discovery rate that changes are held to.
        transfer: A's circuit run in B and B's in A, where that was done.
        roles: roles that heads of the circuits gained and lost, where roles were given.
        meta: method, metric and the other settings both graphs were made with.
    """

    shape: GraphShape
    a: Floats
    b: Floats
    tests: EdgeTests
    nodes_a: Floats
    nodes_b: Floats
    node_tests: EdgeTests
    profile: tuple[ProfileChange, ...]
    circuit_a: Circuit
    circuit_b: Circuit
    global_p: float
    similarity: tuple[Similarity, ...]
    totals: tuple[float, float]
    pairing: Pairing
    n: int
    level: float
    transfer: "Transfer | None" = None
    roles: "tuple[RoleChange, ...] | None" = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def delta(self) -> Floats:
        """[E] mean score at B minus mean score at A."""
        return self.tests.delta

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """[E] edges that changed for real: q below the level, and the whole graph changed at that level."""
        if not self.significant:
            return np.zeros(len(self.a), dtype=bool)
        return np.asarray(self.tests.q < self.level)

    @property
    def nodes_changed(self) -> tuple[str, ...]:
        """Writers whose score changed for real, strongest change first."""
        if not self.significant:
            return ()
        order = np.argsort(-np.abs(self.node_tests.delta), kind="stable")
        return tuple(self.shape.writers[i] for i in order if self.node_tests.q[i] < self.level)

    @property
    def n_significant(self) -> int:
        """How many edges changed for real."""
        return int(self.changed.sum())

    @property
    def significant(self) -> bool:
        """Whether the graph changed as a whole, by the global test; which edges did is a finer question."""
        return self.global_p <= self.level

    @cached_property
    def status(self) -> NDArray[np.str_]:
        """[E] what became of each edge."""
        in_a, in_b = self.circuit_a.mask[self.shape.mask], self.circuit_b.mask[self.shape.mask]
        changed, grew = self.changed, np.abs(self.b) > np.abs(self.a)
        shrank = np.abs(self.b) < np.abs(self.a)
        conditions = [
            ~in_a & ~in_b,
            changed & in_b & ~in_a & grew,
            changed & in_a & ~in_b & shrank,
            changed & (self.a * self.b < 0),
            changed & grew,
            changed & shrank,
            in_a & in_b,
        ]
        names = ["outside", "gained", "lost", "flipped", "strengthened", "weakened", "kept"]
        return np.select(conditions, names, default="uncertain")

    @property
    def counts(self) -> dict[str, int]:
        """Edges of each status."""
        status = self.status
        return {name: int((status == name).sum()) for name in STATUSES}

    def with_transfer(self, transfer: "Transfer") -> "GraphDiff":
        """The same diff with what the circuits do in each other's model (`circuits.transfer` over A and B).

        Raises:
            BadPrompt: the transfer is not between two checkpoints.
        """
        if transfer.metric.shape[:2] != (2, 2):
            raise BadPrompt(f"a diff takes the transfer between 2 checkpoints, got {transfer.metric.shape[:2]}")
        return replace(self, transfer=transfer)

    def with_roles(self, before: "HeadRoles", after: "HeadRoles") -> "GraphDiff":
        """The same diff with the roles that heads of its circuits gained and lost, by `circuits.head_roles` at A and B.

        Raises:
            BadPrompt: roles of other heads than the graph's.
        """
        from circuits.roles.roles import role_changes

        size = self.shape.n_layers, self.shape.n_heads
        for roles in (before, after):
            if (found := roles.subject.shape[1:]) != size:
                raise BadPrompt(f"these roles are of {found} (layers, heads), the graphs of {size}")
        return replace(self, roles=role_changes(before, after, circuits=(self.circuit_a, self.circuit_b)))

    @property
    def nodes_gained(self) -> tuple[str, ...]:
        """Nodes of B's circuit that are not in A's, with a gained edge."""
        return self._nodes("gained", self.circuit_b, self.circuit_a)

    @property
    def nodes_lost(self) -> tuple[str, ...]:
        """Nodes of A's circuit that are not in B's, with a lost edge."""
        return self._nodes("lost", self.circuit_a, self.circuit_b)

    @property
    def verdict(self) -> str:
        """One or two sentences, every number computed."""
        from circuits.comparison.sentences import diff_verdict

        return diff_verdict(self)

    @property
    def caption(self) -> str:
        """What the plot shows, in words."""
        from circuits.comparison.sentences import diff_caption

        return diff_caption(self)

    def to_frame(self) -> "pd.DataFrame":
        """Edges in either circuit or changed for real, strongest change first.

        Columns: edge, writer, reader, a, b, delta, low, high, p, q, status, changed.
        """
        import pandas as pd

        rows, columns = np.nonzero(self.shape.mask)
        writers, readers = np.array(self.shape.writers)[rows], np.array(self.shape.readers)[columns]
        status, changed = self.status, self.changed
        shown = np.flatnonzero((status != "outside") | changed)
        shown = shown[np.argsort(-np.abs(self.delta[shown]), kind="stable")]
        frame = {
            "edge": [f"{w}->{r}" for w, r in zip(writers[shown], readers[shown], strict=True)],
            "writer": writers[shown],
            "reader": readers[shown],
            "a": self.a[shown],
            "b": self.b[shown],
            **{name: getattr(self.tests, name)[shown] for name in ("delta", "low", "high", "p", "q")},
            "status": status[shown],
            "changed": changed[shown],
        }
        return pd.DataFrame(frame)

    def node_frame(self) -> "pd.DataFrame":
        """Writers, strongest change first: node, a, b, delta, low, high, p, q, in_a, in_b, changed."""
        import pandas as pd

        frame: dict[str, Any] = {"node": self.shape.writers, "a": self.nodes_a, "b": self.nodes_b}
        frame |= {name: getattr(self.node_tests, name) for name in ("delta", "low", "high", "p", "q")}
        frame |= {"in_a": self.circuit_a.mask.any(1), "in_b": self.circuit_b.mask.any(1)}
        frame["changed"] = [name in set(self.nodes_changed) for name in self.shape.writers]
        return pd.DataFrame(frame).sort_values("delta", key=np.abs, ascending=False, ignore_index=True, kind="stable")

    def profile_frame(self) -> "pd.DataFrame":
        """How deep the work lies and how far it spreads: measure, a, b, delta, low, high."""
        import pandas as pd

        names = ("name", "a", "b", "delta", "low", "high")
        return pd.DataFrame([{n: getattr(p, n) for n in names} for p in self.profile])

    def similarity_frame(self) -> "pd.DataFrame":
        """One row a measure: value, within (the noise floor) and across with their ranges, random, beyond_noise."""
        import pandas as pd

        names = ("measure", "value", "within", "within_low", "within_high", "across", "across_low", "across_high")
        rows = [{n: getattr(s, n) for n in (*names, "random", "excess", "beyond_noise")} for s in self.similarity]
        return pd.DataFrame(rows)

    def to_networkx(self) -> "nx.MultiDiGraph":
        """The edges of `to_frame`, each with its columns, between the nodes they join; the key is the reader.

        An edge into a shared key/value head stands at each query head of its group, with the scores of the whole.
        """
        import networkx as nx

        graph = nx.MultiDiGraph()
        for row in self.to_frame().to_dict("records"):
            for node in self.shape.heads_reading(row["reader"]):
                graph.add_edge(row["writer"], node, key=row["reader"], **row)
        return graph

    def save(self, folder: Path | str) -> Path:
        """Write the diff to a result folder."""
        from circuits.comparison.diff_files import save_diff

        return save_diff(self, folder)

    @classmethod
    def load(cls, folder: Path | str) -> "GraphDiff":
        """Read what `save` wrote; needs no torch."""
        from circuits.comparison.diff_files import load_diff

        return load_diff(folder)

    def plot(self, n: int = 100) -> "go.Figure":
        """Union of both circuits in the fixed layout: the n edges of largest change, by what became of them."""
        from circuits.figures.plots import diff_figure

        return diff_figure(self, n)

    def _nodes(self, status: Status, inside: Circuit, outside: Circuit) -> tuple[str, ...]:
        chosen = np.zeros(self.shape.mask.shape, dtype=bool)
        chosen[self.shape.mask] = self.status == status
        touched = set(Circuit(self.shape, chosen).nodes) - set(outside.nodes)
        return tuple(node for node in inside.nodes if node in touched)

    def _repr_html_(self) -> str:
        tables = [self.to_frame().head(20), self.similarity_frame()]
        shown = "".join(table.to_html(index=False, border=0, float_format=lambda x: f"{x:.3g}") for table in tables)
        return f"<p><b>Circuit diff</b>: {escape(self.verdict)}</p>{shown}"


def diff(
    a: AttributionGraph,
    b: AttributionGraph,
    *,
    q: float = 0.05,
    n_edges: int | None = None,
    pairing: Pairing = "paired",
    splits: int | None = None,
    seed: int = 0,
) -> GraphDiff:
    """Compare two stored graphs.

    Args:
        a: scores at A.
        b: scores at B.
        q: the false discovery rate that edges are held to, and the level of the global test.
        n_edges: size that the circuits are pruned from; by default 5 % of the edges, at least 20.
        pairing: ``paired`` compares fact by fact and needs identical facts; ``unpaired`` takes any.
        splits: random halves for the noise floor; by default 24, and 4 for graphs of more than 200,000 edges.
        seed: of splits and permutations.

    Raises:
        CheckpointMismatch: other architectures or methods, or other facts where pairing was asked for.
        BadPrompt: fewer than two units on a side, so that noise cannot be told, or an argument out of range.
    """
    _require_comparable(a, b, pairing, q)
    if b.fingerprint < a.fingerprint:
        return _negative(diff(b, a, q=q, n_edges=n_edges, pairing=pairing, splits=splits, seed=seed))
    scores_a, scores_b = a.edge_scores, b.edge_scores
    edges = scores_a.shape[1]
    n = circuit_size(edges, n_edges)
    paired = pairing == "paired"
    splits = splits or (24 if edges <= LARGE else 4)
    writers_a, writers_b = a.scores.sum(2, dtype=np.float64), b.scores.sum(2, dtype=np.float64)
    if paired:
        difference = scores_b - scores_a
        tests, global_p = paired_tests(difference), paired_global_p(difference, seed=seed)
        node_tests = paired_tests(writers_b - writers_a)
    else:
        tests, global_p = welch_tests(scores_a, scores_b), unpaired_global_p(scores_a, scores_b, seed=seed)
        node_tests = welch_tests(writers_a, writers_b)
    return GraphDiff(
        shape=a.shape,
        a=scores_a.mean(0, dtype=np.float64),
        b=scores_b.mean(0, dtype=np.float64),
        tests=tests,
        nodes_a=writers_a.mean(0),
        nodes_b=writers_b.mean(0),
        node_tests=node_tests,
        profile=profile_changes(a.shape, scores_a, scores_b, paired=paired, seed=seed),
        circuit_a=a.prune(n),
        circuit_b=b.prune(n),
        global_p=global_p,
        similarity=similarities(
            scores_a,
            scores_b,
            weights=(a.unit_sizes.astype(float), b.unit_sizes.astype(float)),
            sizes=_sizes(n, edges),
            splits=splits,
            paired=paired,
            seed=seed,
        ),
        totals=(a.total, b.total),
        pairing=pairing,
        n=min(len(scores_a), len(scores_b)),
        level=q,
        meta={name: a.meta.get(name, usual) for name, usual in HOW.items()},
    )


def _sizes(n: int, edges: int) -> Sequence[int]:
    """Up to three sizes around n for the overlaps, none beyond half of the edges but n itself."""
    return sorted({max(1, n // 4), n, max(n, min(edges // 2, 4 * n))})


def _negative(forward: GraphDiff) -> GraphDiff:
    """The same diff read from B to A."""
    return replace(
        forward,
        a=forward.b,
        b=forward.a,
        tests=_turned(forward.tests),
        nodes_a=forward.nodes_b,
        nodes_b=forward.nodes_a,
        node_tests=_turned(forward.node_tests),
        profile=tuple(
            ProfileChange(p.name, a=p.b, b=p.a, delta=-p.delta, low=-p.high, high=-p.low) for p in forward.profile
        ),
        circuit_a=forward.circuit_b,
        circuit_b=forward.circuit_a,
        totals=forward.totals[::-1],
    )


def _turned(tests: EdgeTests) -> EdgeTests:
    return replace(tests, delta=-tests.delta, low=-tests.high, high=-tests.low)


def _require_comparable(a: AttributionGraph, b: AttributionGraph, pairing: str, q: float) -> None:
    if pairing not in get_args(Pairing):
        raise BadPrompt(f"unknown pairing {pairing!r}; choose from {', '.join(get_args(Pairing))}")
    if not 0 < q < 1:
        raise BadPrompt(f"q is a share of false discoveries between 0 and 1, got {q}")
    require_alike(a, b)
    units = min(len(a.scores), len(b.scores))
    if units < 2:
        raise BadPrompt(
            f"a diff needs scores of at least 2 facts or groups on each side to know its noise, got {units}"
        )
    if pairing == "paired" and not same_facts(a, b):
        raise CheckpointMismatch(
            f"the graphs were measured on different facts ({len(a)} and {len(b)}) or groups of them; measure both on "
            "the same, or pass pairing='unpaired'"
        )
