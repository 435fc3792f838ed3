"""The figure of what rewired between two checkpoints that the reader chooses, with everything it needs on the page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.text import counted
from checkpoints.stats.units import ENOUGH
from circuit_drift.explore.atlas import Atlas, atlas_of
from circuit_drift.explore.stored_atlas import kept_atlas
from circuit_drift.page.page import Section, Widget
from circuit_drift.page.thinning import thinned
from circuit_drift.record.groups import FactGroup, class_names, fact_groups
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.recall import recalled_facts
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.stages.stages import stage_ends

if TYPE_CHECKING:
    import circuits

CHAPTER = "What changed and why"
MOST_POINTS, MOST_GROUPS = 24, 5
WORK = 10_000_000
"""Edges times pairs that are tested at most."""


def run_rewired(run: RunRecord) -> Iterator[Section]:
    """Any two checkpoints of a run; none where fewer than two have a circuit."""
    points = _drawn(run)
    graphs = [point.circuit for point in points if point.circuit is not None]
    if len(graphs) < 2:
        return
    names = [point.name for point in points]
    ends = [(a.name, b.name) for a, b in stage_ends(run) if {a.name, b.name} <= set(names)]
    start = [names.index(name) for name in ends[-1]] if ends else [0, len(points) - 1]
    measured = sum(point.circuit is not None for point in run)
    left = "" if measured == len(points) else f" {len(points)} of {measured} checkpoints can be chosen here."
    title = "What rewired between any two checkpoints"
    yield _section("any-two", title, points, _by_class(graphs), start, left, store=run.store)


def pair_rewired(pair: PairRecord, *, anchor: str) -> Iterator[Section]:
    """The two checkpoints of a pair, group by group of facts; none where no circuits were compared."""
    points = [pair.a, pair.b]
    graphs = [point.circuit for point in points if point.circuit is not None]
    if len(graphs) < 2 or pair.groups is None:
        return
    lead = set(pair.groups.facts.tolist())
    enough = [group for group in fact_groups(*graphs) if len(group) >= ENOUGH]
    enough.sort(key=lambda group: set(group.facts.tolist()) != lead)
    groups = [replace(group, name=f"{group.name} ({counted(len(group), 'fact')})") for group in enough]
    groups = groups or [_everything(graphs)]
    yield _section(f"any-two-{anchor}", f"What rewired {pair.span}", points, groups[:MOST_GROUPS], [0, 1], "")


def _section(
    slug: str,
    title: str,
    points: Sequence[Point],
    groups: Sequence[FactGroup],
    start: Sequence[int],
    left: str,
    store: Path | None = None,
) -> Section:
    graphs = [point.circuit for point in points if point.circuit is not None]
    make = partial(atlas_of, graphs, [point.label for point in points], groups)
    try:
        atlas = make() if store is None else kept_atlas(store, points, groups, make)
    except (CheckpointMismatch, BadPrompt) as reason:
        return Section(slug, title, text=f"Not applicable: {reason}.", chapter=CHAPTER)
    return Section(
        slug,
        title,
        text="Choose two checkpoints, the facts, the level and the size of the circuits; click a node for its edges.",
        caption=caption(atlas) + left,
        widget=Widget("rewired", {**atlas.to_json(), "start": list(start)}),
        chapter=CHAPTER,
    )


def caption(atlas: Atlas) -> str:
    """What the figure shows, and what it rests on."""
    kept = max(len(group.edges) for group in atlas.groups)
    shared = ""
    if atlas.shape.n_kv_heads < atlas.shape.n_heads:
        size = atlas.shape.n_heads // atlas.shape.n_kv_heads
        shared = f" A diamond is a key/value head that {size} query heads share."
    return (
        f"Scores: positive = corrupting the edge raises the {atlas.metric}. Changes: sign flips of facts, "
        f"Benjamini-Hochberg over all {counted(atlas.total, 'edge')}, named only where the graph changed as a whole "
        f"(p ≤ 0.05). Circuits: the strongest edges of each checkpoint, without dead ends; {kept:,} edges are on this "
        f"page.{shared}"
    )


def _drawn(run: RunRecord) -> list[Point]:
    """Checkpoints with a circuit, so many that their pairs can be tested, evenly spaced and with the stages' ends."""
    points = [point for point in run if point.circuit is not None]
    if len(points) < 2:
        return points
    first = points[0].circuit
    assert first is not None
    most = MOST_POINTS
    while most > 2 and most * (most - 1) // 2 * first.n_edges > WORK:
        most -= 1
    chosen = {points[place].name for place in thinned(len(points), most)}
    chosen |= {point.name for pair in stage_ends(run) for point in pair}
    return [point for point in points if point.name in chosen]


def _by_class(graphs: "Sequence[circuits.AttributionGraph]") -> list[FactGroup]:
    """The facts that some checkpoint recalls, then each class of them that is large enough."""
    kept = recalled_facts(graphs)
    first = graphs[0]
    if kept is None:
        return [_everything(graphs)]
    name = (
        f"all {len(first)} facts" if len(kept) == len(first) else f"the {len(kept)} facts recalled at some checkpoint"
    )
    found = [FactGroup(name, kept)]
    names = class_names(first)[kept]
    for each in dict.fromkeys(names.tolist()):
        facts = kept[names == each]
        if ENOUGH <= len(facts) < len(kept):
            found.append(FactGroup(f"{each} ({counted(len(facts), 'fact')})", facts))
    return found[:MOST_GROUPS]


def _everything(graphs: "Sequence[circuits.AttributionGraph]") -> FactGroup:
    return FactGroup(f"all {len(graphs[0])} facts", np.arange(len(graphs[0])))
