"""Two checkpoints compared: behaviour, heads, circuit, and one verdict.

Positive differences always mean that B has more than A. Everything asked of a pair (does recall turn over, did a head,
a readout of the needles, the circuit of a group of facts change) is held to one level for the pair, and answered with
different, equivalent within a stated margin, or undecided (`circuit_drift.comparison.decision`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints import Checkpoint, DriftError, open_checkpoint
from checkpoints.errors import CheckpointMismatch
from checkpoints.placement import ANYWHERE, Placement
from checkpoints.series.compat import require_same_model
from circuit_drift.comparison.decision import answered
from circuit_drift.comparison.floor import converged_before, floor_of, same_weights
from circuit_drift.comparison.pair_tables import comparable
from circuit_drift.comparison.transfer import TRANSFER, measure_transfer, stored_transfer
from circuit_drift.measures.base import Measure
from circuit_drift.measures.pairs.circuit import CircuitPairing
from circuit_drift.measures.registry import MEASURES, build_measures
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, PairQuestion
from circuit_drift.record.recall import recalled_facts
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.store.store import Store
from circuit_drift.sweep.sweep import measure_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from circuits.intervention.transfer import Transfer
    from heads.scores.change import Change

PAIR_MEASURES = (*(name for name in MEASURES if name != "faithfulness"), TRANSFER)
"""What a comparison shows; how faithful each circuit is alone it does not, unless that is asked for."""


def measure_pair(
    a: Path | str,
    b: Path | str,
    *,
    store: Store | Path | str | None = None,
    prompts: Prompts | None = None,
    measures: Sequence[str | Measure] = PAIR_MEASURES,
    placement: Placement = ANYWHERE,
    q: float = 0.05,
    progress: bool = True,
    delta: Mapping[str, float] | Deltas | None = None,
    floor: Sequence[Path | str] = (),
    cluster: Sequence[str] = (),
) -> PairRecord:
    """Measure two checkpoints where that is not stored yet, and compare them; arguments and errors as for `diff`."""
    first, second = open_checkpoint(a), open_checkpoint(b)
    siblings = [open_checkpoint(path) for path in floor]
    for other in (second, *siblings):
        require_same_model(first, other)
    prompts = prompts or prompts_for(first.path)
    wanted = build_measures(prompts, _without_transfer(measures), first)
    store = store if isinstance(store, Store) else Store.open(store)
    points = list(
        measure_each(
            [first, second, *siblings], store, prompts, measures=wanted, placement=placement, progress=progress
        )
    )
    points = _told_apart(points, [first, second, *siblings])
    points, beside = points[:2], points[2:]
    transfer, reason = None, {}
    if TRANSFER in measures and all(point.circuit is not None for point in points):
        try:
            transfer = measure_transfer([first, second], points, store, prompts, placement=placement)
        except DriftError as error:
            reason = {TRANSFER: str(error)}
    pair = compare_points(*points, q=q, transfer=transfer, delta=delta, floor=beside, cluster=cluster, store=store)
    return replace(pair, missing={**pair.missing, **reason})


def _told_apart(points: Sequence[Point], checkpoints: Sequence[Checkpoint]) -> list[Point]:
    """The points, those of one label in several places under the folder or repository in which these differ."""
    places = [tuple(each.repo.split("/")) if each.repo else each.path.parts for each in checkpoints]
    called = []
    for point, own in zip(points, places, strict=True):
        alike = [
            place for other, place in zip(points, places, strict=True) if other.label == point.label and place != own
        ]
        name = next((part for part in own[::-1] if all(part not in place for place in alike)), own[0])
        called.append(replace(point, branch=name) if alike else point)
    return called


def _without_transfer(measures: Sequence[str | Measure]) -> list[str | Measure]:
    """What is measured of each checkpoint: a transfer, which is of both, needs their circuits."""
    wanted = [measure for measure in measures if measure != TRANSFER]
    named = {measure if isinstance(measure, str) else measure.name for measure in wanted}
    return [*wanted, "circuit"] if len(wanted) < len(measures) and "circuit" not in named else wanted


def stored_pair(
    run: RunRecord,
    a: int | str,
    b: int | str,
    *,
    q: float = 0.05,
    delta: Mapping[str, float] | Deltas | None = None,
    floor: Sequence[int | str] | None = None,
    cluster: Sequence[str] = (),
) -> PairRecord:
    """Two checkpoints of a run compared, with the transfer between them where it was measured.

    The floor is that of the siblings named, or else of the neighbours before A where its stage has converged.
    """
    pair = (run.at(a), run.at(b))
    named = None if floor is None else [run.at(each) for each in floor]
    before = [each for each in converged_before(run, pair[0]) if not any(same_weights(each, end) for end in pair)]
    siblings = before if named is None else named
    transfer = stored_transfer(pair, Store(run.store))
    store = Store(run.store)
    return compare_points(*pair, q=q, transfer=transfer, delta=delta, floor=siblings, cluster=cluster, store=store)


def compare_points(
    a: Point,
    b: Point,
    *,
    q: float = 0.05,
    transfer: "Transfer | None" = None,
    delta: Mapping[str, float] | Deltas | None = None,
    floor: Sequence[Point] = (),
    cluster: Sequence[str] = (),
    store: Store | None = None,
) -> PairRecord:
    """Compare two measured checkpoints from their results alone; no model, no torch.

    Args:
        a: results at A.
        b: results at B.
        q: the level of the pair: the chance that any difference named is none, and the false discovery rate of heads
            and edges where their family differs.
        transfer: what each circuit does in the other model, where that was measured.
        delta: margins that count as no change, by name, beside the defaults of `Deltas`.
        floor: siblings of A, whose changes among one another are what training does anyway.
        cluster: labels of facts, as ``relation``: those that agree in them are one unit of recall and circuits.
        store: where it is kept how alike circuits are, so that it is worked out once.

    Raises:
        CheckpointMismatch: they share no measure, or were measured on different prompts.
        BadPrompt: a delta that there is none of.
    """
    margins = Deltas.of(delta)
    changes: dict[str, Any] = {}
    asked: dict[str, list[PairQuestion]] = {}
    readouts: list[Change] = []
    missing: dict[str, str] = {}
    facts = ""
    told = comparable((a, b))
    if cluster or store is not None:
        told |= {"circuit": CircuitPairing(tuple(cluster), None if store is None else store.path)}
    for name, pairing in sorted(told.items(), key=lambda item: len(item[1].needs)):
        lacking = [point for point in (a, b) if name not in point.results]
        if lacking and not pairing.needs:
            missing[name] = "; ".join(f"{point.name}: {point.failures.get(name, 'not measured')}" for point in lacking)
        if lacking or not set(pairing.needs) <= changes.keys():
            continue
        compared = pairing.compare(a, b, q=q, earlier=changes)
        if isinstance(compared, str):
            missing[name] = compared
        elif compared is not None:
            changes[name] = compared.change
            asked[name] = list(pairing.questions(a, b, compared.change, deltas=margins))
            readouts += compared.readouts
            facts = facts or compared.facts
    if not changes:
        reasons = ". ".join(f"{measure}: {why}" for measure, why in missing.items())
        raise CheckpointMismatch(f"nothing to compare. {reasons}")
    if transfer is not None and "circuit" in changes:
        changes["circuit"] = changes["circuit"].with_transfer(transfer, _transferred(a, b))
    questions = answered([question for own in asked.values() for question in own], level=q)
    places = np.cumsum([0, *map(len, asked.values())])
    for name, start, stop in zip(asked, places, places[1:], strict=False):
        changes[name] = told[name].held(changes[name], questions[start:stop])
    pair = PairRecord(a, b, q, tuple(readouts), changes, facts, missing, questions, margins)
    return replace(pair, floor=floor_of(pair, floor)) if floor else pair


def _transferred(a: Point, b: Point) -> "NDArray[np.integer]":
    """Positions of the facts that a transfer between two points is measured on."""
    graphs = [point.circuit for point in (a, b) if point.circuit is not None]
    kept = recalled_facts(graphs)
    return np.arange(len(graphs[0])) if kept is None else kept
