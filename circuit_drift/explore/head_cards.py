"""A card for each head: its score over training, what it reads on a needle, its roles, what taking it away did."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.stats.units import Floats
from circuit_drift.explore.on_facts import read_by_heads
from circuit_drift.explore.readings import Readings
from circuit_drift.page.page import Section, Widget
from circuit_drift.page.tables import true_minus
from circuit_drift.page.thinning import left_out, thinned
from circuit_drift.record.record import Point, RunRecord
from heads.scores.names import head_names
from heads.scores.scores import THRESHOLD, retrieves

if TYPE_CHECKING:
    import heads

WORDS = {
    "copy": "retrieval score",
    "needle_mass": "attention on the needle",
    "query": "query detector's score",
}
NUMBERS = 40_000
"""Numbers that the cards of a page hold at most: heads times checkpoints."""
FEWEST_HEADS = 32
BESIDE = "needle_mass"
WRITTEN = "copy_written"


def head_cards(run: RunRecord) -> Iterator[Section]:
    """The section with a card for every head, strongest first; none for a run without retrieval scores."""
    scored = [point for point in run if point.heads is not None]
    if not scored:
        return
    points = [scored[place] for place in thinned(len(scored))]
    every = [point.heads for point in points if point.heads is not None]
    leading, names = every[-1].leading, head_names(every[-1].shape)
    means = np.stack([scores.mean_of(leading).ravel() for scores in every])
    kept = _kept(means)
    lines = [_lines(scores, leading, kept) for scores in every]
    beside = [_beside(scores, kept) for scores in every]
    roles, effects, readings = _roles(run), _effects(run), Readings.of(scored, kept)
    on_facts = read_by_heads(run)
    heads = [
        {
            "name": names[head],
            "told": told([point.label for point in points], means[:, head]),
            "score": [[_short(value) for value in line[:, place].tolist()] for line in lines],
            "beside": [_short(values[place]) for values in beside],
            "roles": roles.get(names[head], []),
            "on_facts": on_facts.get(names[head], []),
            "effects": effects.get(names[head], []),
            "reads": readings.head(head) if readings else [],
        }
        for place, head in enumerate(kept)
    ]
    rest = len(names) - len(kept)
    yield Section(
        "head-cards",
        "Any head by itself",
        text="Choose a head for its score over training, what it reads, its roles and what taking it away did.",
        caption=f"Score: {WORDS.get(leading, leading)}, mean over {len(every[-1])} prompts with its 95 % interval over "
        f"needles; dashed: attention on the needle while answering. A head retrieves above {THRESHOLD}."
        + (f" The {len(kept)} strongest of {len(names)} heads are on this page." if rest else "")
        + left_out(len(scored), "A card"),
        widget=Widget(
            "heads",
            {
                "labels": [point.label for point in points],
                "score": WORDS.get(leading, leading),
                "beside": WORDS[BESIDE],
                "threshold": THRESHOLD,
                "heads": heads,
                "example": readings.to_json() if readings else None,
            },
        ),
        chapter="Heads",
    )


def told(labels: Sequence[str], means: Floats) -> str:
    """One sentence: the score at the start, at its best and at the end, and from which step on the head retrieves.

    Args:
        labels: C of the checkpoints.
        means: [C] its score; NaN where it does not apply.
    """
    there = np.flatnonzero(~np.isnan(means))
    if not len(there):
        return "No score: it does not apply to this layer."
    first, last, best = there[0], there[-1], there[int(np.argmax(means[there]))]
    path = f"{means[first]:.2f} at step {labels[first]}"
    if best not in (first, last):
        path += f", {means[best]:.2f} at its best (step {labels[best]})"
    if last != first:
        path += f", {means[last]:.2f} at step {labels[last]}"
    hits = retrieves(means[there])
    if not hits.any():
        return f"{path}; never above {THRESHOLD}."
    if not hits[-1]:
        return f"{path}; retrieves at {int(hits.sum())} of {len(there)} checkpoints, not the last."
    misses = np.flatnonzero(~hits)
    return f"{path}; retrieves from step {labels[there[misses[-1] + 1 if len(misses) else 0]]} on."


def _kept(means: Floats) -> list[int]:
    """Heads by their best score, strongest first, so many that the page can hold them."""
    most = max(FEWEST_HEADS, NUMBERS // len(means))
    best = np.nan_to_num(means, nan=-np.inf).max(0)
    return [int(head) for head in np.argsort(-best, kind="stable")[:most]]


def _lines(scores: "heads.Scores", leading: str, kept: Sequence[int]) -> Floats:
    """[3, kept] mean, low and high."""
    found = scores.mean_of(leading), *scores.interval_of(leading)
    return np.stack([values.ravel()[list(kept)].astype(float) for values in found])


def _beside(scores: "heads.Scores", kept: Sequence[int]) -> Floats:
    if BESIDE not in scores.detectors:
        return np.full(len(kept), np.nan)
    return scores.mean_of(BESIDE).ravel()[list(kept)]


def _roles(run: RunRecord) -> dict[str, list[str]]:
    """Head -> sentences: each role with the steps at which a circuit's head certainly has it."""
    from circuit_drift.measures.figures.roles import roles_frame

    if not any(point.roles is not None and point.circuit is not None for point in run):
        return {}
    frame, found = roles_frame(run), dict[str, list[str]]()
    for (head, role), rows in frame.groupby(["head", "role"], sort=False):
        steps = rows["step"].tolist()
        span = f"at step {steps[0]}" if len(steps) == 1 else f"at {len(steps)} steps, {steps[0]} to {steps[-1]}"
        found.setdefault(str(head), []).append(f"{role} {span}")
    return found


def _effects(run: RunRecord) -> dict[str, list[str]]:
    """Head -> sentences: what ablating it, patching its edges, and its own write did, where that was measured."""
    found: dict[str, list[str]] = {}
    for point in run:
        for head, sentence in (*_ablated(point), *_patched(point), *_written(point)):
            found.setdefault(head, []).append(sentence)
    return found


def _ablated(point: Point) -> Iterator[tuple[str, str]]:
    result = point.results.get("ablation")
    if result is None or not result.controls:
        return
    control = next(iter(result.controls))
    change, heads = result.change("nll", control), result.tested.heads
    for head in heads:
        others = ", ".join(other for other in heads if other != head)
        yield (
            head,
            true_minus(
                f"step {point.label}: ablated{f' with {others}' if others else ''}, answer NLL {change.delta:+.2f} "
                f"[{change.low:+.2f}, {change.high:+.2f}] nats per token against as many other heads"
            ),
        )


def _patched(point: Point) -> Iterator[tuple[str, str]]:
    result = point.results.get("patching")
    if result is None:
        return
    metric = result.meta.get("metric", "metric")
    for edge, exact, attributed in zip(result.edges, result.mean, result.attributed, strict=True):
        writer, _, reader = edge.partition("->")
        for head in {writer, reader.split("<")[0]}:
            numbers = true_minus(f"{exact:+.2f} (attributed {attributed:+.2f})")
            yield head, f"step {point.label}: {edge} patched, {metric} {numbers}"


def _written(point: Point) -> Iterator[tuple[str, str]]:
    result = point.results.get("writing")
    if result is None or WRITTEN not in result.detectors:
        return
    for name, value in zip(head_names(result.shape), result.mean_of(WRITTEN).ravel(), strict=True):
        if not np.isnan(value):
            yield (
                name,
                f"step {point.label}: writes {true_minus(f'{value:+.2f}')} logits towards the answer that it copies",
            )


def _short(value: Any) -> float | None:
    return None if value != value else float(f"{value:.4g}")
