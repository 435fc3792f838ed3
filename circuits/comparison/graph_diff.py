"""What changed from one attribution graph to another, as a value: numpy only, saved and loaded without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.artifacts import read_artifact, write_artifact
from checkpoints.results.fields import Arrays, pack, unpack
from checkpoints.results.result import ROWS, Result
from checkpoints.stats.ttests import TTest, selected_interval
from checkpoints.stats.units import Floats, Pairing
from circuits.comparison.profile import ProfileChange
from circuits.comparison.reliability import RankBand, recommended_size
from circuits.comparison.similarity import Similarity
from circuits.graph.circuit import Circuit
from circuits.graph.shape import Bools, GraphShape
from circuits.intervention.transfer import Transfer
from circuits.roles.roles import RoleChange, role_changes

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

    from circuits.roles.roles import HeadRoles

Status = Literal["gained", "lost", "strengthened", "weakened", "flipped", "kept", "uncertain", "outside"]
STATUSES: tuple[Status, ...] = (
    "gained", "lost", "strengthened", "weakened", "flipped", "kept", "uncertain", "outside"
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class GraphDiff(Result):
    """What changed from A to B, over the E edges of the graph.

    Statuses: **gained** / **lost**: in one circuit only, and changed for real; **strengthened** / **weakened** /
    **flipped**: changed for real in size or in sign (in both circuits, or against its membership), flipped only where
    the score differs from 0 at both ends (else it is gained or lost); **kept**: in both, no real change;
    **uncertain**: in one circuit only, but its change is within the noise; **outside**: in neither.

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
        both_ends: [E] whether an edge is shown to differ from 0 at A and at B alike, at 5 % false discoveries of all
            edges at each end; None in older results.
        reliability: of mean scores by rank, the lower of A's and B's; none where there are fewer than six facts.
    """

    artifact, title = "graph_diff", "Circuit diff"

    shape: GraphShape
    a: Floats
    b: Floats
    tests: TTest
    nodes_a: Floats
    nodes_b: Floats
    node_tests: TTest
    profile: tuple[ProfileChange, ...]
    circuit_a: Circuit
    circuit_b: Circuit
    global_p: float
    similarity: tuple[Similarity, ...]
    totals: tuple[float, float]
    pairing: Pairing
    n: int
    level: float
    transfer: Transfer | None = None
    roles: tuple[RoleChange, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    both_ends: Bools | None = None
    reliability: tuple[RankBand, ...] = ()

    @property
    def delta(self) -> Floats:
        """[E] mean score at B minus mean score at A."""
        return self.tests.delta

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """[E] edges that changed for real: q at most the level, and the whole graph changed at that level."""
        if not self.significant:
            return np.zeros(len(self.a), dtype=bool)
        return np.asarray(self.tests.q <= self.level)

    @property
    def nodes_changed(self) -> tuple[str, ...]:
        """Writers whose score changed for real, strongest change first."""
        if not self.significant:
            return ()
        order = np.argsort(-np.abs(self.node_tests.delta), kind="stable")
        return tuple(self.shape.writers[i] for i in order if self.node_tests.q[i] <= self.level)

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
        turned = self.a * self.b < 0
        both = turned if self.both_ends is None else turned & self.both_ends
        only_b, only_a = ~in_a | (turned & ~both), ~in_b | (turned & ~both)
        conditions = [
            ~in_a & ~in_b,
            changed & in_b & only_b & grew,
            changed & in_a & only_a & shrank,
            changed & both,
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

    def with_transfer(self, transfer: Transfer) -> "GraphDiff":
        """The same diff with what the circuits do in each other's model (`Transfer` over A and B).

        Raises:
            BadPrompt: the transfer is not between two checkpoints.
        """
        if transfer.metric.shape[:2] != (2, 2):
            raise BadPrompt(f"a diff takes the transfer between 2 checkpoints, got {transfer.metric.shape[:2]}")
        return replace(self, transfer=transfer)

    def with_roles(self, before: "HeadRoles", after: "HeadRoles") -> "GraphDiff":
        """The same diff with the roles that heads of its circuits gained and lost, by `HeadRoles` at A and B.

        Raises:
            BadPrompt: roles of other heads than the graph's.
        """
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
        from circuits.comparison.graph_diff_view import diff_verdict

        return diff_verdict(self)

    @property
    def caption(self) -> str:
        """What the plot shows, in words."""
        from circuits.comparison.graph_diff_view import diff_caption

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

    def named_frame(self) -> "pd.DataFrame":
        """Edges that changed for real, strongest first, with intervals that hold for what was named.

        Columns: edge, a, b, delta, low, high (by the false coverage rate), q, status. ``to_frame`` has plain
        95 % intervals, which leave the truth out too often where an edge was named for being large.
        """
        import pandas as pd

        low, high = selected_interval(self.tests, self.changed, self.n, rate=self.level)
        named = np.flatnonzero(self.changed)
        named = named[np.argsort(-np.abs(self.delta[named]), kind="stable")]
        names = Circuit(self.shape, self.shape.mask).edges
        columns = {"a": self.a, "b": self.b, "delta": self.delta, "low": low, "high": high, "q": self.tests.q}
        frame = {"edge": [names[i] for i in named], **{name: values[named] for name, values in columns.items()}}
        return pd.DataFrame({**frame, "status": self.status[named]})

    def named_node_frame(self) -> "pd.DataFrame":
        """The same of writers that changed for real: node, a, b, delta, low, high, q, in_a, in_b."""
        changed = set(self.nodes_changed)
        chosen = np.array([name in changed for name in self.shape.writers])
        low, high = selected_interval(self.node_tests, chosen, self.n, rate=self.level)
        ends = dict(zip(self.shape.writers, zip(low, high, strict=True), strict=True))
        frame = self.node_frame().query("changed").reset_index(drop=True)
        frame["low"], frame["high"] = ([ends[node][side] for node in frame["node"]] for side in (0, 1))
        return frame.drop(columns=["p", "changed"])

    @property
    def reliable_edges(self) -> int:
        """How large a circuit may be so that all of its ranks are reliable at A and B; 0 where that is not known."""
        return recommended_size(self.reliability)

    def reliability_frame(self) -> "pd.DataFrame":
        """One row a band of ranks by |mean score|: first, last, reliability (the lower of A's and B's)."""
        import pandas as pd

        columns = ["first", "last", "reliability"]
        return pd.DataFrame(
            [{name: getattr(band, name) for name in columns} for band in self.reliability], columns=columns
        )

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
        """One row a measure: value, within (the noise floor) and across with their ranges, random, p, beyond_noise."""
        import pandas as pd

        names = ("measure", "value", "within", "within_low", "within_high", "across", "across_low", "across_high")
        rows = [{n: getattr(s, n) for n in (*names, "random", "excess", "p", "beyond_noise")} for s in self.similarity]
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

    def plot(self, n: int = 100) -> "go.Figure":
        """The n strongest real changes of the two circuits by what became of them, over the nodes that they touch."""
        from circuits.comparison.graph_diff_view import diff_figure

        return diff_figure(self, n)

    def plot_layers(self) -> "go.Figure":
        """How many edges changed for real between each two layers: for models too deep to draw edge by edge."""
        from circuits.comparison.graph_diff_view import layers_figure

        return layers_figure(self)

    def _nodes(self, status: Status, inside: Circuit, outside: Circuit) -> tuple[str, ...]:
        chosen = np.zeros(self.shape.mask.shape, dtype=bool)
        chosen[self.shape.mask] = self.status == status
        touched = set(Circuit(self.shape, chosen).nodes) - set(outside.nodes)
        return tuple(node for node in inside.nodes if node in touched)

    def save(self, folder: Path | str) -> Path:
        """Write to a result folder: the two circuits, and the transfer where there is one, in folders inside it."""
        own: Arrays = {}
        document = pack({name: getattr(self, name) for name in _FIELDS}, "", own)
        folder = write_artifact(folder, self.artifact, document, own)
        for name in _CIRCUITS:
            getattr(self, name).save(folder / name)
        if self.transfer is not None:
            self.transfer.save(folder / "transfer")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "GraphDiff":
        """Read what `save` wrote; needs no torch."""
        folder = Path(folder)
        document, arrays = read_artifact(folder, cls.artifact)
        hints, transfer = get_type_hints(cls), folder / "transfer"
        values = {name: unpack(hints[name], document.get(name), name, arrays) for name in _FIELDS}
        values |= {name: Circuit.load(folder / name) for name in _CIRCUITS}
        return cls(**values, transfer=Transfer.load(transfer) if transfer.is_dir() else None)

    def _table(self) -> str:
        tables = [self.to_frame().head(ROWS), self.similarity_frame()]
        return "".join(table.to_html(index=False, border=0, float_format=lambda x: f"{x:.3g}") for table in tables)


_CIRCUITS = ("circuit_a", "circuit_b")
_FIELDS = tuple(field.name for field in fields(GraphDiff) if field.name not in (*_CIRCUITS, "transfer"))
