"""Which head of B plays the part of which head of A, for models whose heads need not keep their names.

Within a run heads keep their places, so nothing is aligned unless asked for. Between seeds, or after heads were
permuted, the permutation of each layer's heads that makes the two score tables most alike is sought: the inner product
of the tables, layer after layer, each step an exact assignment (scipy) with the other layers held, from several
starts. Query heads move together with the key/value head they share. Layers are never exchanged.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.result import Result
from checkpoints.stats.units import Floats
from circuits.graph.alike import require_alike
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape, require_same_shape

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.integer]
SWEEPS, NULLS = 50, 8


@dataclass(frozen=True, repr=False)
class Alignment(Result):
    """A matching of B's heads to A's.

    Attributes:
        shape: the common graph.
        order: [L, H] ``order[l, h]`` is the head of B's layer l that stands where A has head h.
        before, after: cosine of the two mean score tables under B's own order of heads, and under this one.
        null, null_high: mean and largest cosine that aligning reaches when B's scores are shuffled among the edges
            between the same two layers, eight times, with as many starts: what the freedom to choose is worth.
    """

    artifact, title = "alignment", "Alignment of heads"

    shape: GraphShape
    order: Ints
    before: float
    after: float
    null: float
    null_high: float

    @property
    def moved(self) -> int:
        """Heads that do not keep their place."""
        return int((self.order != np.arange(self.shape.n_heads)).sum())

    @property
    def verdict(self) -> str:
        """What the alignment did, in a sentence."""
        sense = "more" if self.after > self.null_high else "no more"
        return (
            f"{self.moved} of {self.order.size} heads change places; cosine of the scores {self.before:.2f} → "
            f"{self.after:.2f}, {sense} than the freedom to choose gives (shuffled scores reach {self.null:.2f}, at "
            f"most {self.null_high:.2f})."
        )

    def apply(self, graph: AttributionGraph) -> AttributionGraph:
        """B with its heads in A's order, ready for `circuits.diff`.

        Raises:
            CheckpointMismatch: a graph of another shape.
        """
        require_same_shape(self.shape, graph.shape)
        rows, columns = _places(self.shape, self.order)
        return replace(graph, scores=graph.scores[:, rows][:, :, columns])

    def to_frame(self) -> "pd.DataFrame":
        """One row a head: layer, a (its name at A), b (the name at B of the head that plays its part)."""
        import pandas as pd

        layers, heads = np.indices(self.order.shape)
        names = [f"a{layer}.h{head}" for layer, head in zip(layers.flat, heads.flat, strict=True)]
        matched = [f"a{layer}.h{head}" for layer, head in zip(layers.flat, self.order.flat, strict=True)]
        return pd.DataFrame({"layer": layers.ravel(), "a": names, "b": matched})


def align(a: AttributionGraph, b: AttributionGraph, *, starts: int = 8, seed: int = 0) -> Alignment:
    """Match B's heads to A's, layer by layer.

    Args:
        a: scores at A.
        b: scores at B, measured alike; the facts may be others.
        starts: random orders to climb from, beside B's own and the one found from edges that name no other head.
        seed: of the starts and of the null.

    Raises:
        CheckpointMismatch: graphs of different shapes, or not measured alike.
    """
    require_alike(a, b)
    draw = np.random.default_rng(seed)
    order = _best(a.shape, a.mean, b.mean, starts, draw)
    nulls = []
    for _ in range(NULLS):
        shuffled = _shuffled(a.shape, b.mean, draw)
        nulls.append(_cosine(a.mean, _reordered(a.shape, shuffled, _best(a.shape, a.mean, shuffled, starts, draw))))
    after = _cosine(a.mean, _reordered(a.shape, b.mean, order))
    return Alignment(
        a.shape,
        order,
        before=_cosine(a.mean, b.mean),
        after=after,
        null=float(np.mean(nulls)),
        null_high=max(nulls),
    )


def _best(shape: GraphShape, a: Floats, b: Floats, starts: int, draw: np.random.Generator) -> Ints:
    """The best order that climbing from several starts finds; B's own order wins a tie."""
    own = np.tile(np.arange(shape.n_heads), (shape.n_layers, 1))
    summed = _sum_over_heads(shape, a), _sum_over_heads(shape, b)
    first = np.stack([_assign(shape, layer, *summed) for layer in range(shape.n_layers)])
    candidates = [own, first, *(_random_order(shape, draw) for _ in range(starts))]
    climbed = [own, *(_climb(shape, a, b, order) for order in candidates)]
    values = [float((a * _reordered(shape, b, order)).sum()) for order in climbed]
    return climbed[int(np.argmax(np.round(values, 12)))]


def _climb(shape: GraphShape, a: Floats, b: Floats, order: Ints) -> Ints:
    """Assign each layer anew, the others held, until nothing moves."""
    order = order.copy()
    for _ in range(SWEEPS):
        before = order.copy()
        for layer in range(shape.n_layers):
            order[layer] = np.arange(shape.n_heads)
            order[layer] = _assign(shape, layer, a, _reordered(shape, b, order))
        if (order == before).all():
            break
    return order


def _assign(shape: GraphShape, layer: int, a: Floats, b: Floats) -> Ints:
    """[H] the exact best order of one layer's heads of B: groups of query heads, and heads within each group."""
    from scipy.optimize import linear_sum_assignment

    heads, groups = shape.n_heads, shape.n_kv_heads
    size = heads // groups
    rows = slice(shape.first_writer(layer), shape.first_writer(layer) + heads)
    start = shape.attention_columns(layer).start
    queries = slice(start, start + heads)
    gain = a[rows] @ b[rows].T + a[:, queries].T @ b[:, queries]
    shared = np.zeros((groups, groups))
    for kind in range(2):
        columns = slice(start + heads + kind * groups, start + heads + (kind + 1) * groups)
        shared += a[:, columns].T @ b[:, columns]
    inside: dict[tuple[int, int], Ints] = {}
    for i in range(groups):
        for j in range(groups):
            part = gain[i * size : (i + 1) * size, j * size : (j + 1) * size]
            _, inside[i, j] = linear_sum_assignment(part, maximize=True)
            shared[i, j] += part[np.arange(size), inside[i, j]].sum()
    _, matched = linear_sum_assignment(shared, maximize=True)
    return np.concatenate([j * size + inside[i, j] for i, j in enumerate(matched)])


def _places(shape: GraphShape, order: Ints) -> tuple[Ints, Ints]:
    """Rows and columns of B's table in the order of A's."""
    rows, columns = np.arange(len(shape.writers)), np.arange(len(shape.readers))
    heads, groups = shape.n_heads, shape.n_kv_heads
    for layer, chosen in enumerate(order):
        first, start = shape.first_writer(layer), shape.attention_columns(layer).start
        rows[first : first + heads] = first + chosen
        columns[start : start + heads] = start + chosen
        shared = chosen[:: heads // groups] // (heads // groups)
        for kind in range(2):
            begin = start + heads + kind * groups
            columns[begin : begin + groups] = begin + shared
    return rows, columns


def _reordered(shape: GraphShape, scores: Floats, order: Ints) -> Floats:
    rows, columns = _places(shape, order)
    return scores[rows][:, columns]


def _sum_over_heads(shape: GraphShape, scores: Floats) -> Floats:
    """The table with every other layer's heads replaced by their mean: what no order of those heads changes."""
    summed = scores.copy()
    heads, groups = shape.n_heads, shape.n_kv_heads
    by_rows, by_columns = summed.copy(), summed.copy()
    for layer in range(shape.n_layers):
        first, start = shape.first_writer(layer), shape.attention_columns(layer).start
        for begin, count in ((start, heads), (start + heads, groups), (start + heads + groups, groups)):
            columns = slice(begin, begin + count)
            by_rows[:, columns] = by_rows[:, columns].mean(1, keepdims=True)
        by_columns[first : first + heads] = by_columns[first : first + heads].mean(0)
    return np.asarray((by_rows + by_columns) / 2)


def _random_order(shape: GraphShape, draw: np.random.Generator) -> Ints:
    size = shape.n_heads // shape.n_kv_heads

    def layer() -> Ints:
        groups = draw.permutation(shape.n_kv_heads)
        return np.concatenate([group * size + draw.permutation(size) for group in groups])

    return np.stack([layer() for _ in range(shape.n_layers)])


def _shuffled(shape: GraphShape, scores: Floats, draw: np.random.Generator) -> Floats:
    """Scores exchanged among the edges that join the same two layers' parts of the same kind."""
    writer, reader = (_blocks(names) for names in (shape.writers, shape.readers))
    block = np.where(shape.mask, writer[:, None] * (reader.max() + 1) + reader[None], -1)
    shuffled = scores.copy()
    for number in np.unique(block[shape.mask]):
        inside = block == number
        shuffled[inside] = draw.permutation(scores[inside])
    return shuffled


def _blocks(names: tuple[str, ...]) -> Ints:
    """A number for each name, the same for all heads of one layer and one kind (q, k, v)."""
    kinds = [name.partition(".")[0] + name.partition("<")[2] for name in names]
    return np.unique(kinds, return_inverse=True)[1]


def _cosine(a: Floats, b: Floats) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norms if norms else 0.0
