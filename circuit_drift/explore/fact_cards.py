"""A card for each fact: its prompt, and its recall, rank and logit difference over training; its rank by layer."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from circuit_drift.explore.on_facts import read_on_facts
from circuit_drift.page.page import Section, Widget
from circuit_drift.page.thinning import left_out, thinned
from circuit_drift.record.groups import class_names
from circuit_drift.record.record import Point, RunRecord

if TYPE_CHECKING:
    import circuits

NUMBERS = 60_000
"""Numbers that the cards of a page hold at most: facts times checkpoints."""
FEWEST_FACTS = 50
ASKED = "asked"
"""Of a graph's ``meta``: N rows of clean prompt, answer, wrong answer."""
HIDDEN = ("class", "batch")


def fact_cards(run: RunRecord) -> Iterator[Section]:
    """The section with a card for every fact; none for a run without a circuit, or over facts that differ."""
    measured = [point for point in run if point.circuit is not None]
    points = [measured[place] for place in thinned(len(measured))]
    graphs = [point.circuit for point in points if point.circuit is not None]
    if not graphs or len({(len(graph), graph.meta.get("prompts")) for graph in graphs}) > 1:
        return
    labels, rank = [point.label for point in points], np.stack([graph.answer_rank for graph in graphs])
    metric = np.stack([graph.clean_metric for graph in graphs])
    kept = range(min(len(graphs[0]), max(FEWEST_FACTS, NUMBERS // len(points))))
    heads = read_on_facts(points)
    names, classes, lens = _names(graphs), class_names(graphs[0]), _lens(points, len(graphs[0]))
    facts = [
        {
            "name": names[fact],
            "group": "" if classes[fact] == "all" else str(classes[fact]),
            "told": told(labels, rank[:, fact]),
            "rank": (rank[:, fact] + 1).tolist(),
            "metric": [float(f"{value:.4g}") for value in metric[:, fact]],
            "heads": heads[fact] if heads else [],
            "lens": [[label, ranks[fact].tolist()] for label, ranks in lens],
        }
        for fact in kept
    ]
    rest = len(graphs[0]) - len(kept)
    unit = str(graphs[0].meta.get("metric") or "metric")
    yield Section(
        "fact-cards",
        "Any fact by itself",
        text="Choose a fact for its recall over training: where it was learned and lost.",
        caption=f"Rank of the answer among all tokens, 1 = recalled; {unit} on the clean prompt, dashed. Facts: "
        f"{run.origins.get('facts', 'of the run')}."
        + (f" The first {len(kept)} of {len(graphs[0])} facts are on this page." if rest else "")
        + left_out(len(measured), "A card"),
        widget=Widget("facts", {"labels": labels, "metric": unit, "facts": facts}),
        chapter="Behaviour",
    )


def told(labels: Sequence[str], rank: NDArray[np.integer]) -> str:
    """One sentence: at how many checkpoints a fact is recalled, where it is learned and where lost.

    Args:
        labels: C of the checkpoints.
        rank: [C] tokens that the model ranks above the answer; 0 = recalled.
    """
    known = rank == 0
    if not known.any():
        return f"Never recalled; rank {int(rank.min()) + 1} at best (step {labels[int(rank.argmin())]})."
    if known.all():
        return f"Recalled at all {len(labels)} checkpoints."
    turns = [
        f"{'learned' if known[place] else 'lost'} at step {labels[place]}"
        for place in range(1, len(known))
        if known[place] != known[place - 1]
    ]
    start = f"known at step {labels[0]}, " if known[0] else ""
    return f"Recalled at {int(known.sum())} of {len(labels)} checkpoints: {start}{', '.join(turns)}."


def _names(graphs: "Sequence[circuits.AttributionGraph]") -> list[str]:
    """What each fact asks and its answer, where the results keep it; else its labels."""
    asked = next((graph.meta[ASKED] for graph in graphs if ASKED in graph.meta), None)
    if asked is not None:
        return [f"{clean.strip()} … {answer.strip()}" for clean, answer, _ in asked]
    found = []
    for place, own in enumerate(graphs[0].labels):
        words = ", ".join(f"{name} {value}" for name, value in own.items() if name not in HIDDEN)
        found.append(words or f"fact {place}")
    return found


def _lens(points: Sequence[Point], facts: int) -> list[tuple[str, NDArray[Any]]]:
    """Label and [N, L + 1] ranks by layer of the first and the last checkpoint with a logit lens over these facts."""
    there = [(point.label, point.results["lens"].rank) for point in points if "lens" in point.results]
    there = [(label, rank) for label, rank in there if len(rank) == facts]
    return there if len(there) < 2 else [there[0], there[-1]]
