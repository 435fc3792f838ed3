"""Functional transfer between measured checkpoints: does the circuit of one still do the work in the other?

Kept in the store beside the measures, under the circuits it was made from, so that a diff or a report finds it again
without a model.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from checkpoints import Checkpoint, DriftError, Series
from checkpoints.errors import BadPrompt
from checkpoints.placement import ANYWHERE, Placement
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import Prompts
from circuit_drift.record.recall import recalled, recalled_facts
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.stages.stages import stage_ends
from circuit_drift.store.kept import Place
from circuit_drift.store.store import Store, key_of
from circuit_drift.trackers.steady import each_told

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit
    from circuits.graph.scores import AttributionGraph
    from circuits.intervention.transfer import Transfer

logger = logging.getLogger(__name__)

TRANSFER = "transfer"
USUAL = "logit difference"
VERSION = 1


def stored_transfer(points: Sequence[Point], store: Store) -> "Transfer | None":
    """The transfer between these points, if it was measured."""
    return None if any(point.circuit is None for point in points) else _place(points, store).find()


def measure_transfer(
    checkpoints: Sequence[Checkpoint],
    points: Sequence[Point],
    store: Store,
    prompts: Prompts,
    *,
    placement: Placement = ANYWHERE,
    keep_downloads: int | None = None,
) -> "Transfer":
    """Run every checkpoint's circuit in every checkpoint's model, on the facts that a diff of them is about.

    Both are read in the metric that the circuits were scored by.

    Args:
        checkpoints: where the weights are; one model is alive at a time.
        points: their results, in the same order, each with a circuit.
        store: where the transfer is kept and looked up first.
        prompts: what the circuits were measured on.
        placement: device, dtype, attention implementation and device map (`checkpoints.Placement`).
        keep_downloads: how many hub revisions that this fetched to keep on disk; None keeps all.

    Raises:
        BadPrompt: a point without a circuit, or facts other than those the circuits were measured on.
    """
    from checkpoints.loading.stream import stream
    from checkpoints.series.downloads import Downloads
    from circuits.facts.tokenizing import readable
    from circuits.intervention.transfer import transfer

    lacking = [point.name for point in points if point.circuit is None]
    if lacking:
        raise BadPrompt(f"a transfer needs a circuit of every checkpoint; {', '.join(lacking)} has none")
    found = stored_transfer(points, store)
    if found is not None:
        return found
    graphs = [point.circuit for point in points if point.circuit is not None]
    alone = bare_circuits(graphs)
    with Downloads(keep_downloads, checkpoints) as downloads:
        models = stream(checkpoints, placement, reuse=True, downloads=downloads)
        first = next(models)
        facts = readable(prompts.facts.tokenized(tokenizer_of(first)), graphs[0].readout)
        if facts.hash != graphs[0].meta["prompts"]:
            raise BadPrompt("the circuits were measured on other facts than these prompts hold; measure them again")
        kept = recalled_facts(graphs)
        told = each_told("transferring", chain([first], models), len(checkpoints), unit="model")
        result = transfer(
            (loaded.model for loaded in told),
            alone,
            facts if kept is None else facts.subset(kept.tolist()),
            names=_names(points),
            metric=graphs[0].readout,
        )
    place = _place(points, store)
    made_of = {"key": place.key, "circuits": [point.keys["circuit"] for point in points]}
    return place.put(replace(result, meta={**result.meta, "provenance": made_of}))


def bare_circuits(graphs: "Sequence[AttributionGraph]") -> "list[Circuit]":
    """The circuit of each graph over the facts of a diff of them, as edges alone: scores would be 8 bytes an edge each.

    Args:
        graphs: measured on one set of facts.
    """
    from circuits.graph.circuit import Circuit

    chosen, _ = recalled(graphs, "")
    return [Circuit(graph.shape, graph.prune().mask) for graph in chosen]


def transfer_over_stages(
    run: RunRecord, series: Series, prompts: Prompts, placement: Placement, keep_downloads: int | None
) -> None:
    """Measure the transfer across each stage of a run, which its report then shows; a stage that cannot is passed over.

    Args:
        run: a measured run.
        series: where its checkpoints are.
        prompts: what it was measured on.
        placement: as for `measure_transfer`.
        keep_downloads: as for `measure_transfer`.
    """
    checkpoints = {checkpoint.label: checkpoint for checkpoint in series}
    for ends in stage_ends(run):
        if any(end.circuit is None for end in ends):
            continue
        try:
            measure_transfer(
                [checkpoints[end.place] for end in ends],
                ends,
                Store(run.store),
                prompts,
                placement=placement,
                keep_downloads=keep_downloads,
            )
        except DriftError as error:
            logger.warning("transfer %s to %s: %s", ends[0].name, ends[1].name, error)


def _names(points: Sequence[Point]) -> list[str]:
    """Steps where they tell the points apart, else places."""
    steps = [point.name if point.step is None else str(point.step) for point in points]
    return steps if len(set(steps)) == len(steps) else [point.place for point in points]


def _place(points: Sequence[Point], store: Store) -> "Place[Transfer]":
    from circuits.intervention.transfer import Transfer

    readouts = {point.circuit.readout for point in points if point.circuit is not None} - {USUAL}
    other = {"metric": sorted(readouts)} if readouts else {}
    key = key_of({"version": VERSION, "circuits": [point.keys["circuit"] for point in points], **other})
    return Place.of_result(store, TRANSFER, key, Transfer)
