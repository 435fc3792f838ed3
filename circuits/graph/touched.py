"""The nodes that some edges touch, drawn by layer: nothing else, each with its name, edges as bows that do not overlap.

Layers without such a node are left out. In a layer the attention heads stand side by side, the MLP at the right; a
key/value head that several query heads share stands among them under its own name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from circuits.graph.layout import WIDTHS, Style
from circuits.graph.shape import GraphShape

if TYPE_CHECKING:
    import plotly.graph_objects as go

Kind = Literal["head", "shared key/value head", "MLP", "input or logits"]
LOOKS: Mapping[Kind, tuple[str, str]] = {
    "head": ("circle", "#1B1B1B"),
    "shared key/value head": ("diamond", "#1B1B1B"),
    "MLP": ("square", "#6B4C9A"),
    "input or logits": ("hexagon", "#777777"),
}
BOW, POINTS = 0.16, 16
ROW_PIXELS, LEAST_PIXELS, MOST_PIXELS = 64, 420, 1400


@dataclass(frozen=True, slots=True)
class Bows:
    """Edges of one class.

    Attributes:
        name: of the class, for the legend.
        style: of the class.
        edges: (writer, reader) pairs.
        texts: one for each edge.
        sizes: one for each edge, as a share of the largest in the figure; the wider the line.
    """

    name: str
    style: Style
    edges: Sequence[tuple[str, str]]
    texts: Sequence[str]
    sizes: NDArray[np.floating]


@dataclass(frozen=True)
class Touched:
    """Where the touched nodes stand.

    Attributes:
        shape: the graph.
        edges: (writer, reader) pairs that touch them.
    """

    shape: GraphShape
    edges: Sequence[tuple[str, str]]

    @cached_property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The nodes of each row, from the input up."""
        names = list(dict.fromkeys(name for writer, reader in self.edges for name in (writer, node_of(reader))))
        layers = sorted({layer_of(self.shape, name) for name in names})
        members = ([name for name in names if layer_of(self.shape, name) == each] for each in layers)
        return tuple(tuple(sorted(each, key=self._order)) for each in members)

    def _order(self, name: str) -> tuple[bool, tuple[float, str]]:
        return kind_of(name) == "MLP", _place(self.shape, name)

    @cached_property
    def at(self) -> dict[str, tuple[float, float]]:
        """Node -> (x, y); x runs from 0 to 1, the MLP stands at 1.15."""
        found: dict[str, tuple[float, float]] = {}
        for y, row in enumerate(self.rows):
            attention = [name for name in row if kind_of(name) != "MLP"]
            for place, name in enumerate(attention):
                found[name] = ((place + 0.5) / len(attention), float(y))
            found |= {name: (1.15, y + 0.25) for name in row if kind_of(name) == "MLP"}
        return found

    @property
    def labels(self) -> list[str]:
        """What each row is called."""
        return [_row_label(self.shape, row[0]) for row in self.rows]


def node_of(reader: str) -> str:
    """The node that a reader belongs to: a4.h2 of a4.h2<q."""
    return reader.split("<")[0]


def kind_of(name: str) -> Kind:
    """What kind of node it is."""
    if name in ("input", "logits"):
        return "input or logits"
    if name.startswith("m"):
        return "MLP"
    return "shared key/value head" if ".kv" in name else "head"


def touched_figure(shape: GraphShape, classes: Sequence[Bows]) -> "go.Figure":
    """The nodes that the edges touch, with their names, and the edges by class."""
    import plotly.graph_objects as go

    layout = Touched(shape, [edge for each in classes for edge in each.edges])
    figure = go.Figure()
    for each in classes:
        _add_bows(figure, layout, each)
    _add_nodes(figure, layout)
    rows = layout.rows
    figure.update_xaxes(visible=False, range=[-0.12, 1.42])
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=layout.labels,
        range=[-0.6, len(rows) - 0.2],
        showgrid=False,
        zeroline=False,
    )
    return figure.update_layout(height=min(MOST_PIXELS, max(LEAST_PIXELS, 200 + ROW_PIXELS * len(rows))))


def _add_nodes(figure: "go.Figure", layout: Touched) -> None:
    for kind, (symbol, colour) in LOOKS.items():
        names = [name for row in layout.rows for name in row if kind_of(name) == kind]
        if not names:
            continue
        points = np.array([layout.at[name] for name in names])
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            text=names,
            mode="markers+text",
            textposition="top center",
            textfont={"size": 11},
            marker={"color": colour, "size": 12, "symbol": symbol, "line": {"color": "#FFFFFF", "width": 1}},
            hovertemplate=f"%{{text}}: {kind}<extra></extra>",
            name=kind,
            legendgroup="nodes",
        )


def _add_bows(figure: "go.Figure", layout: Touched, each: Bows) -> None:
    if not each.edges:
        return
    shown: bool | str = "legendonly" if each.style.folded else True
    bows = [_bow(layout.at[writer], layout.at[node_of(reader)]) for writer, reader in each.edges]
    steps = np.digitize(each.sizes, [step for step, _ in WIDTHS[1:]])
    for place, step in enumerate(np.unique(steps)):
        chosen = [bow for bow, own in zip(bows, steps, strict=True) if own == step]
        figure.add_scatter(
            x=[x for bow in chosen for x in (*bow[:, 0], None)],
            y=[y for bow in chosen for y in (*bow[:, 1], None)],
            mode="lines",
            line={"color": each.style.colour, "dash": each.style.dash, "width": WIDTHS[step][1]},
            opacity=0.75,
            hoverinfo="skip",
            name=f"{each.name} ({len(each.edges)})",
            legendgroup=each.name,
            showlegend=place == 0,
            visible=shown,
        )
    middles = np.array([bow[POINTS // 2] for bow in bows])
    figure.add_scatter(
        x=middles[:, 0],
        y=middles[:, 1],
        mode="markers",
        marker={"color": each.style.colour, "symbol": each.style.symbol, "size": 6},
        text=list(each.texts),
        hovertemplate="%{text}<extra></extra>",
        legendgroup=each.name,
        visible=shown,
        showlegend=False,
    )


def _bow(start: tuple[float, float], end: tuple[float, float]) -> NDArray[np.floating]:
    """[POINTS + 1, 2] of a quadratic Bezier curve that bows to the right the more, the more rows it crosses."""
    rise = abs(end[1] - start[1])
    bend = ((start[0] + end[0]) / 2 + BOW * np.log1p(rise), (start[1] + end[1]) / 2)
    t = np.linspace(0, 1, POINTS + 1)[:, None]
    return np.asarray((1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(bend) + t**2 * np.array(end))


def layer_of(shape: GraphShape, name: str) -> int:
    """The layer of a node: -1 for the input, the number of layers for the logits."""
    if name == "input":
        return -1
    return shape.n_layers if name == "logits" else int(name.split(".")[0][1:])


def _row_label(shape: GraphShape, name: str) -> str:
    return name if kind_of(name) == "input or logits" else f"layer {layer_of(shape, name)}"


def _place(shape: GraphShape, name: str) -> tuple[float, str]:
    """Heads by number, a shared key/value head behind the middle one of the query heads that it serves."""
    part = name.partition(".")[2]
    if kind_of(name) == "shared key/value head":
        group = shape.n_heads // shape.n_kv_heads
        return int(part[2:]) * group + (group - 1) / 2, part
    return float(part[1:] or 0), part
