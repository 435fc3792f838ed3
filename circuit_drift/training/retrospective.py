"""The gauges of a training run, read from the checkpoints that it left."""

from typing import TYPE_CHECKING

from checkpoints import Series
from checkpoints.errors import BadPrompt
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.training.recorder import units_table

if TYPE_CHECKING:
    from circuit_drift.knowledge import UnitScores


def probe_series(series: Series, gauge: Gauge, *, device: str = "cpu", dtype: str = "float32") -> "UnitScores":
    """What each checkpoint of a series knows, as the ledger takes it.

    Args:
        series: checkpoints with steps.
        gauge: one with units (`Knowledge`).
        device: a torch device.
        dtype: of the forward passes.

    Raises:
        BadPrompt: a checkpoint has no step, or the gauge no units.
    """
    import pandas as pd

    rows = []
    for loaded in series.models(device=device, dtype=dtype):
        checkpoint = loaded.checkpoint
        if checkpoint.step is None:
            raise BadPrompt(f"{checkpoint.name} has no step, so it has no place in a ledger; name it checkpoint-N")
        rows += [{"step": checkpoint.step, **unit} for unit in gauge.read(loaded).units]
    if not rows:
        raise BadPrompt(f"the gauge {gauge.name} scores no single units, so there is no ledger; use Knowledge")
    return units_table(pd.DataFrame(rows))
