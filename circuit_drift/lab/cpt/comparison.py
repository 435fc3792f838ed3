"""Strategies side by side, from what their runs recorded; no torch."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import StoreError
from circuit_drift.lab.knowledge import Ledger, ledger
from circuit_drift.lab.probing import unit_scores
from circuit_drift.store import Store

if TYPE_CHECKING:
    import pandas as pd


def strategy_ledgers(out: Path | str, *, threshold: float = 0.6) -> dict[str, Ledger]:
    """The ledger of each strategy trained into a folder, in the order they were finished.

    Raises:
        StoreError: nothing was trained there.
    """
    store = Path(out) / "store"
    runs = sorted((store / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise StoreError(f"{out} holds no trained strategies; train them with python -m circuit_drift.lab.cpt")
    return {path.stem: ledger(unit_scores(store, path.stem), threshold=threshold) for path in runs}


def comparison_frame(out: Path | str, *, threshold: float = 0.6) -> "pd.DataFrame":
    """One row for each strategy and checkpoint: what its log says, and the ledger's counts.

    Args:
        out: where `run_all` wrote.
        threshold: a fact is known iff its score is at least this.

    Raises:
        StoreError: nothing was trained there.
    """
    import pandas as pd

    parts = []
    for name, book in strategy_ledgers(out, threshold=threshold).items():
        log = Store.open(Path(out) / "store").read_run(name)["log"]
        logged = pd.DataFrame(list(csv.DictReader(io.StringIO(log)))).apply(pd.to_numeric, errors="coerce")
        counts = book.to_frame()[["step", "known", "acquired", "retained", "forgotten", "relearned"]]
        merged = logged.drop(columns=["stage", "tokens"]).merge(counts, on="step")
        parts.append(merged.assign(strategy=name, epoch=range(len(merged))))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["strategy", "epoch", *(c for c in frame.columns if c not in ("strategy", "epoch"))]]
