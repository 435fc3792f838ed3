"""A diff in words and as a figure: every number computed; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, dress
from checkpoints.results.text import counted
from checkpoints.stats.permutation import smallest_sign_flip_p
from circuits.graph.layout import Style, add_edges, canvas
from circuits.graph.scores import meaning
from circuits.graph.shape import GraphShape
from circuits.roles.roles import changes_sentence

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.comparison.graph_diff import GraphDiff
    from circuits.comparison.similarity import Similarity


STYLES = {
    "gained": Style(BLUE, "solid", "diamond"),
    "lost": Style(VERMILLION, "dot", "x"),
    "strengthened": Style(GREEN, "solid", "triangle-up"),
    "weakened": Style(ORANGE, "dash", "triangle-down"),
    "flipped": Style(PURPLE, "dashdot", "star"),
    "kept": Style(GREY, "solid", "circle"),
    "uncertain": Style(GREY, "longdash", "circle-open", folded=True),
}


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
    counts = ", ".join(f"{number} {name}" for name, number in diff.counts.items() if name != "outside" and number)
    paired = "the same" if diff.pairing == "paired" else "different"
    return (
        f"Edges of either circuit by what became of them: {counts or 'none'}; {meaning(diff.meta)}. {diff.n} units of "
        f"{paired} facts; changes at q <= {diff.level:g}."
    )


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
            f"can be named at q <= {diff.level:g}."
        )
    counts = diff.counts
    told = [f"{counts[n]:,} {n}" for n in ("gained", "lost", "strengthened", "weakened", "flipped") if counts[n]]
    inside = f": within the circuits {', '.join(told)}" if told else ", none of them in a circuit"
    return (
        f"{diff.n_significant:,} of {total:,} edges changed for real (q <= {diff.level:g}, "
        f"global p = {diff.global_p:.2g}){inside}."
    )


def _overlap_sentence(diff: "GraphDiff") -> str:
    overlap = _main_overlap(diff)
    sense = "less alike than prompt noise makes them" if overlap.beyond_noise else "within the prompt noise"
    return (
        f"{overlap.measure}: {overlap.value:.2f}; between halves of the facts {overlap.across:.2f} across the two, "
        f"{overlap.within:.2f} [{overlap.within_low:.2f}, {overlap.within_high:.2f}] within one checkpoint and "
        f"{overlap.random:.2f} by chance: {sense}."
    )


def _main_overlap(diff: "GraphDiff") -> "Similarity":
    overlaps = [s for s in diff.similarity if s.measure.startswith("Jaccard")]
    return overlaps[len(overlaps) // 2]


def diff_figure(diff: "GraphDiff", n: int = 100) -> "go.Figure":
    """The n edges of largest change, of those in either circuit or changed for real."""
    status = diff.status
    shown = np.flatnonzero(status != "outside")
    shown = shown[np.argsort(-np.abs(diff.delta[shown]), kind="stable")][:n]
    names = _edge_names(diff.shape)
    texts = {
        i: f"{w} → {r}<br>{status[i]}: {diff.a[i]:+.3g} → {diff.b[i]:+.3g}<br>Δ {diff.delta[i]:+.3g} "
        f"[{diff.tests.low[i]:+.3g}, {diff.tests.high[i]:+.3g}], q = {diff.tests.q[i]:.2g}"
        for i, (w, r) in ((i, names[i]) for i in shown)
    }
    figure = canvas(diff.shape, [names[i] for i in shown])
    largest = float(np.abs(diff.delta[shown]).max(initial=0)) or 1.0
    for kind, style in STYLES.items():
        chosen = [i for i in shown if status[i] == kind]
        sizes = np.abs(diff.delta[chosen]) / largest
        add_edges(figure, diff.shape, kind, style, [names[i] for i in chosen], [texts[i] for i in chosen], sizes)
    counts = diff.counts
    gained, lost = counts["gained"], counts["lost"]
    dress(
        figure,
        title=f"{counted(diff.n_significant, 'edge')} changed for real; {gained} gained, {lost} lost",
        subtitle=f"the {len(shown)} strongest changes of the two circuits; {meaning(diff.meta)}; click a class to show "
        "or hide it",
        height=640,
    )
    return figure


def _edge_names(shape: GraphShape) -> list[tuple[str, str]]:
    return [(shape.writers[i], shape.readers[j]) for i, j in np.argwhere(shape.mask)]
