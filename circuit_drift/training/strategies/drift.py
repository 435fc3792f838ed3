"""The circuit of each epoch against the one that training began with, beside the noise floor of the measurement."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.stats.bootstrap import percentiles, resampling
from checkpoints.stats.units import Floats
from circuit_drift.record.recall import recalled
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from circuits.graph.scores import AttributionGraph
    from circuits.intervention.transfer import Transfer


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


def function_frame(transfer: "Transfer") -> "pd.DataFrame":
    """Whether the circuit that training began with still does the work: it is run, exactly, in every later model.

    Structure aside, `drift_frame` beside it. One row for each model: ``step``; ``first`` and ``own``: faithfulness,
    there, of the first checkpoint's circuit and of its own, over the ``facts`` facts; ``kept``: the share of what the
    first circuit does in its own model that it does here, with the 95 % interval ``kept_low`` to ``kept_high`` over
    facts, drawn for both models at once, NaN where one has no effect; ``edges`` of the first circuit.

    Args:
        transfer: every checkpoint's circuit in every checkpoint's model, steps for names, as ``circuit-drift transfer``
            and `circuit_drift.comparison.transfer.measure_transfer` make it.
    """
    import pandas as pd

    values = transfer.values
    weights = resampling(transfer.metric.shape[2])
    drawn = _faithful(
        weights @ transfer.metric[0].T, weights @ transfer.clean_metric.T, weights @ transfer.corrupt_metric.T
    )
    kept = values[0] / values[0, 0]
    low, high = (np.where(np.isnan(kept), np.nan, end) for end in percentiles(drawn / drawn[:, :1]))
    return pd.DataFrame(
        {
            "step": [int(name) for name in transfer.models],
            "first": values[0],
            "own": values.diagonal(),
            "kept": kept,
            "kept_low": low,
            "kept_high": high,
            "facts": transfer.metric.shape[2],
            "edges": int(transfer.n_edges[0]),
        }
    )


def _faithful(circuit: Floats, clean: Floats, corrupt: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((circuit - corrupt) / (clean - corrupt))
