"""What a comparison was computed from, as its strategies recorded when they began."""

from pathlib import Path

import circuit_drift
from circuit_drift.training.strategies.checkpointing import read_record
from circuit_drift.training.strategies.comparison import strategy_names

SHOWN = 16


def provenance(out: Path, threshold: float) -> list[tuple[str, str]]:
    """(name, value) rows: settings shared by all strategies, then each strategy's own."""
    rows = [("code version", circuit_drift.__version__), ("threshold", f"{threshold:g}")]
    for name in strategy_names(out):
        record = read_record(out / name)
        own = record.pop("strategy")
        shared = [(key.replace("_", " "), _shown(value)) for key, value in record.items()]
        rows += [row for row in shared if row not in rows]
        rows.append((f"strategy {name}", ", ".join(f"{key} {_shown(value)}" for key, value in own.items() if value)))
    return rows


def _shown(value: object) -> str:
    """A hash is shown by its beginning."""
    text = str(value)
    return text[:SHOWN] if len(text) == 64 and isinstance(value, str) else text
