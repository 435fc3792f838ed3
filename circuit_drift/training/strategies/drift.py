"""The circuit of each epoch against the one that training began with, beside the noise floor of the measurement."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints import open_checkpoint, open_series
from checkpoints.errors import BadPrompt
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.record.recall import recalled
from circuit_drift.record.record import RunRecord
from circuit_drift.sweep.sweep import load_record
from circuit_drift.training.strategies.checkpointing import STORE
from circuit_drift.training.strategies.gauges import prompts_of
from circuit_drift.training.strategies.settings.config import Config

if TYPE_CHECKING:
    import pandas as pd

    from circuits.graph.scores import AttributionGraph


COLUMNS = ("step", "overlap", "floor", "floor_low", "chance", "beyond_noise", "facts", "edges", "nodes")


def drift_frame(run: RunRecord) -> "pd.DataFrame":
    """One row for each later checkpoint with a circuit: how much of the first circuit it still is.

    Columns: ``overlap``: edge Jaccard between half of the facts at the first checkpoint and the other half here,
    1 = the same edges; ``floor``, ``floor_low``: the same between two halves at one checkpoint (mean, 5th percentile);
    ``chance``: random edges; ``beyond_noise``: whether the overlap is below ``floor_low``; ``facts``: which were used;
    ``edges``, ``nodes``: Jaccard of the two pruned circuits over all those facts, as arXiv 2601.03858 gives it, without
    a floor: a node is in where an edge of it is.
    """
    import pandas as pd

    from circuits.comparison.overlap import overlap

    traced = [(point.step, point.circuit) for point in run if point.circuit is not None]
    rows = []
    for step, graph in traced[1:]:
        pair, facts = recalled([traced[0][1], graph], "at either")
        alike = overlap(*pair)
        floor = (alike.within, alike.within_low, alike.random, alike.beyond_noise)
        rows.append((step, alike.across, *floor, facts, *_jaccards(*pair)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _jaccards(first: "AttributionGraph", later: "AttributionGraph") -> tuple[float, float]:
    """Of the edges and of the nodes of two circuits."""
    circuits = [graph.prune(graph.circuit_edges) for graph in (first, later)]
    nodes = [set(circuit.nodes) for circuit in circuits]
    edges = circuits[0].mask & circuits[1].mask, circuits[0].mask | circuits[1].mask
    both, either = nodes[0] & nodes[1], nodes[0] | nodes[1]
    return float(edges[0].sum() / max(1, edges[1].sum())), len(both) / max(1, len(either))


def function_frame(config: Config, out: Path | str, strategy: str, *, share: float = 0.1) -> "pd.DataFrame":
    """Whether the circuit that training began with still does the work: it is run, exactly, in every epoch's model.

    One row for each checkpoint: ``first`` and ``own``: faithfulness, there, of the first checkpoint's circuit and of
    its own, over the ``facts`` facts that it recalls.

    Args:
        config: what was compared.
        out: where `run_all` wrote.
        strategy: which one to look at.
        share: edges of a circuit, as a share of all.

    Raises:
        BadPrompt: a checkpoint recalls none of the facts.
    """
    import pandas as pd

    from circuits.intervention.faithfulness import ratio
    from circuits.intervention.faithfulness_measure import circuit_metrics

    run = load_record(Path(out) / STORE, strategy)
    traced = {point.step: point.circuit for point in run if point.circuit is not None}
    facts = prompts_of(config, open_checkpoint(config.model)).facts
    rows, first = [], None
    for loaded in open_series(Path(out) / strategy).models():
        step = loaded.checkpoint.step
        graph = traced[step]
        known = np.flatnonzero(graph.answer_rank == 0)
        if not len(known):
            raise BadPrompt(f"step {step} of {run.name} recalls none of the facts whose circuit was traced")
        own = graph.only(known).prune(round(share * graph.edge_scores.shape[1]))
        first = own if first is None else first
        asked = facts.tokenized(tokenizer_of(loaded)).subset(list(known))
        metric, clean, corrupt = circuit_metrics(loaded.model, [first, own], asked, metric=graph.readout)
        rows.append((step, *(ratio(values, clean, corrupt) for values in metric), len(known)))
    return pd.DataFrame(rows, columns=["step", "first", "own", "facts"])
