"""A diff in words and as a figure: every number computed; figures are returned, never shown."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, UNSIGNED, VERMILLION, dress
from checkpoints.results.text import counted
from checkpoints.stats.permutation import smallest_sign_flip_p
from circuits.graph.layout import Style
from circuits.graph.scores import meaning
from circuits.graph.shape import GraphShape
from circuits.graph.touched import Bows, layer_of, node_of, touched_figure
from circuits.roles.roles import changes_sentence

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from numpy.typing import NDArray

    from circuits.comparison.graph_diff import GraphDiff
    from circuits.comparison.similarity import Similarity


STYLES = {
    "gained": Style(BLUE, "solid", "diamond"),
    "lost": Style(VERMILLION, "dot", "x"),
    "strengthened": Style(GREEN, "longdash", "triangle-up"),
    "weakened": Style(ORANGE, "dash", "triangle-down"),
    "flipped": Style(PURPLE, "dashdot", "star"),
    "kept": Style(GREY, "solid", "circle"),
    "uncertain": Style(GREY, "longdash", "circle-open"),
}


RESTING = ("kept", "uncertain")
EXAMPLES = 5


def diff_verdict(diff: "GraphDiff") -> str:
    """Whether edges changed, and whether the circuits are less alike than prompts alone would make them."""
    sentences = [_edges_sentence(diff), _overlap_sentence(diff)]
    if diff.transfer is not None:
        sentences.append(diff.transfer.verdict)
    if diff.roles is not None:
        sentences.append(changes_sentence(diff.roles))
    return " ".join(sentences)


def diff_caption(diff: "GraphDiff") -> str:
    """What the union graph shows, and on what it rests."""
    counts = ", ".join(f"{number:,} {name}" for name, number in diff.counts.items() if name != "outside" and number)
    shared = diff.meta.get("cluster")
    asked = counted(diff.n, "fact") if shared is None else f"{counted(diff.n, 'group')} of facts"
    paired = "the same at A and B" if diff.pairing == "paired" else "others at A than at B"
    return (
        f"Edges of either circuit by what became of them: {counts or 'none'}; {meaning(diff.meta)}. Tested over "
        f"{asked}, {paired}{_scope(diff)}; changed: q ≤ {diff.level:g}."
    )


def _scope(diff: "GraphDiff") -> str:
    """What facts of one unit share, where that was asked for, and so what the tests speak of."""
    shared = diff.meta.get("cluster")
    if shared is None:
        return ""
    return f", where those of one {shared} are one group: changes hold for another {shared}, not only for other facts"


def _edges_sentence(diff: "GraphDiff") -> str:
    total = len(diff.a)
    if diff.pairing == "paired" and smallest_sign_flip_p(diff.n) > diff.level:
        return (
            f"{diff.n} units of facts cannot show a change at the level {diff.level:g} (their smallest possible p is "
            f"{smallest_sign_flip_p(diff.n):.2g}): measure more facts."
        )
    if not diff.significant:
        return f"No edge of {total:,} changed beyond the noise of the prompts (global p = {diff.global_p:.2g})."
    if not diff.n_significant:
        return (
            f"The graph changed as a whole (global p = {diff.global_p:.2g}), but no single one of its {total:,} edges "
            f"can be named at q ≤ {diff.level:g}."
        )
    counts = diff.counts
    told = [f"{counts[n]:,} {n}" for n in ("gained", "lost", "strengthened", "weakened", "flipped") if counts[n]]
    inside = f": within the circuits {', '.join(told)}" if told else ", none of them in a circuit"
    return (
        f"{diff.n_significant:,} of {total:,} edges changed for real (q ≤ {diff.level:g}, "
        f"global p = {diff.global_p:.2g}){inside}."
    )


def _overlap_sentence(diff: "GraphDiff") -> str:
    overlap = _main_overlap(diff)
    sense = "less alike than prompt noise makes them" if overlap.beyond_noise else "within the prompt noise"
    return (
        f"{overlap.measure}: {overlap.value:.2f}; between halves of the facts {overlap.across:.2f} across the two, "
        f"{overlap.within:.2f} [{overlap.within_low:.2f}, {overlap.within_high:.2f}] within one checkpoint and "
        f"{overlap.random:.2f} by chance: {sense}.{_reliable(diff)}"
    )


def _reliable(diff: "GraphDiff") -> str:
    """A warning where the circuits hold ranks that other facts would give otherwise."""
    size = max(diff.circuit_a.n_edges, diff.circuit_b.n_edges)
    if not diff.reliability or size <= diff.reliable_edges:
        return ""
    return (
        f" Ranks beyond {diff.reliable_edges:,} are not reliable on these facts, so circuits of {size:,} edges can "
        "neither show nor rule out rewiring there: measure more facts, or compare fewer edges."
    )


def _main_overlap(diff: "GraphDiff") -> "Similarity":
    overlaps = [s for s in diff.similarity if s.measure.startswith("Jaccard")]
    return overlaps[len(overlaps) // 2]


def diff_figure(diff: "GraphDiff", n: int = 100) -> "go.Figure":
    """The edges of either circuit that changed for real, strongest change first, n at most; the rest folded.

    Only the nodes that they touch are drawn, each with its name. Edges that were kept, or whose change is uncertain,
    wait in the legend, as far as they join two of these nodes; where nothing changed they are what is drawn.
    """
    changed = _strongest(diff, _drawn_first(diff), n)
    names = _edge_names(diff.shape)
    others = _strongest(diff, np.flatnonzero(np.isin(diff.status, RESTING)), len(names))
    if len(changed):
        touched = {node for i in changed for node in (names[i][0], node_of(names[i][1]))}
        others = np.array([i for i in others if {names[i][0], node_of(names[i][1])} <= touched], dtype=int)
    shown = np.concatenate([changed, others[: n - len(changed)]]).astype(int)
    figure = touched_figure(diff.shape, list(_classes(diff, shown, folded=bool(len(changed)))))
    gained, lost = diff.counts["gained"], diff.counts["lost"]
    rest = f"the {len(changed)} strongest real changes of the two circuits; "
    if not len(changed):
        rest = "nothing changed for real: what both circuits keep; "
    dress(
        figure,
        title=f"{counted(diff.n_significant, 'edge')} changed for real; {gained} gained, {lost} lost",
        subtitle=f"{rest}{meaning(diff.meta)}; click a class to show or hide it",
        height=figure.layout.height,
    )
    return figure


def layers_figure(diff: "GraphDiff") -> "go.Figure":
    """How many edges changed for real from each layer (across) to each layer (up): for deep models."""
    import plotly.graph_objects as go

    counts, examples = _by_layers(diff)
    ticks = ["input", *(f"layer {i}" for i in range(diff.shape.n_layers)), "logits"]
    used = [i for i in range(len(ticks)) if counts[i].any() or counts[:, i].any()]
    rows, columns = [i for i in used if i > 0], [i for i in used if i < len(ticks) - 1]
    hover = [[examples.get((row, column), "no edge changed") for column in columns] for row in rows]
    figure = go.Figure(
        go.Heatmap(
            z=counts[np.ix_(rows, columns)],
            x=[ticks[i] for i in columns],
            y=[ticks[i] for i in rows],
            text=hover,
            hovertemplate="%{x} → %{y}: %{z} changed<br>%{text}<extra></extra>",
            colorscale=UNSIGNED,
            colorbar={"title": {"text": "edges"}},
        )
    )
    figure.update_xaxes(title_text="layer that writes")
    figure.update_yaxes(title_text="layer that reads")
    written, total = counts.sum(0), int(counts.sum())
    most = f"; {ticks[int(written.argmax())]} writes {int(written.max())} of them" if total else ""
    return dress(
        figure,
        title=f"{counted(total, 'edge')} changed for real{most}",
        subtitle="every edge of the graph that changed for real, by the layers that it joins; layers without one are "
        "left out",
        height=min(1400, 260 + 22 * len(rows)),
    )


def _drawn_first(diff: "GraphDiff") -> "NDArray[np.integer]":
    return np.flatnonzero(~np.isin(diff.status, (*RESTING, "outside")))


def _strongest(diff: "GraphDiff", edges: "NDArray[np.integer]", n: int) -> "NDArray[np.integer]":
    return edges[np.argsort(-np.abs(diff.delta[edges]), kind="stable")][:n]


def _classes(diff: "GraphDiff", shown: "NDArray[np.integer]", *, folded: bool) -> Iterator[Bows]:
    """The edges shown, by what became of them."""
    names = _edge_names(diff.shape)
    largest = float(np.abs(diff.delta[shown]).max(initial=0)) or 1.0
    for kind, style in STYLES.items():
        chosen = [i for i in shown if diff.status[i] == kind]
        looks = replace(style, folded=folded and kind in RESTING)
        texts = [_told(diff, i, *names[i]) for i in chosen]
        yield Bows(kind, looks, [names[i] for i in chosen], texts, np.abs(diff.delta[chosen]) / largest)


def _told(diff: "GraphDiff", i: int, writer: str, reader: str) -> str:
    return (
        f"{writer} → {reader}<br>{diff.status[i]}: {diff.a[i]:+.3g} → {diff.b[i]:+.3g}<br>Δ {diff.delta[i]:+.3g} "
        f"[{diff.tests.low[i]:+.3g}, {diff.tests.high[i]:+.3g}], q = {diff.tests.q[i]:.2g}"
    )


def _by_layers(diff: "GraphDiff") -> tuple["NDArray[np.integer]", dict[tuple[int, int], str]]:
    """[layers + 2, layers + 2] changed edges by reader's and writer's layer, input first; the strongest of each."""
    size = diff.shape.n_layers + 2
    counts, examples = np.zeros((size, size), dtype=int), dict[tuple[int, int], list[str]]()
    shape = diff.shape
    ends = np.argwhere(shape.mask)
    written = np.array([layer_of(shape, writer) + 1 for writer in shape.writers])
    read = np.array([layer_of(shape, node_of(reader)) + 1 for reader in shape.readers])
    changed = _strongest(diff, np.flatnonzero(diff.changed), len(ends))
    places = read[ends[changed, 1]] * size + written[ends[changed, 0]]
    np.add.at(counts.reshape(-1), places, 1)
    for i, place in ((changed[k], places[k]) for k in _first(places, EXAMPLES)):
        writer, reader = shape.writers[ends[i, 0]], shape.readers[ends[i, 1]]
        told = f"{writer} → {reader} {diff.delta[i]:+.3g}"
        examples.setdefault((int(place) // size, int(place) % size), []).append(told)
    return counts, {place: "<br>".join(told) for place, told in examples.items()}


def _first(kinds: "NDArray[np.integer]", n: int) -> list[int]:
    """Where the first ``n`` of each kind stand, in order."""
    order = np.argsort(kinds, kind="stable")
    _, starts, counts = np.unique(kinds[order], return_index=True, return_counts=True)
    rank = np.arange(len(kinds)) - np.repeat(starts, counts)
    return sorted(order[rank < n].tolist())


def _edge_names(shape: GraphShape) -> list[tuple[str, str]]:
    writers, readers = shape.writers, shape.readers
    return [(writers[i], readers[j]) for i, j in np.argwhere(shape.mask).tolist()]
