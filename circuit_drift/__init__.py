"""Retrieval heads and knowledge circuits over training checkpoints.

    import circuit_drift
    run = circuit_drift.run("demo")
    run.diff(1000, 9000)

`run` measures every checkpoint of a series into a store, `Run.diff` and `diff` compare two of them, `Run.report`
writes one self-contained HTML page. Importing this package, and comparing stored results, imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit_drift.pair import PairDiff, compare, diff
    from circuit_drift.prompts import Prompts, prompts_for
    from circuit_drift.report import write_report
    from circuit_drift.store import Store
    from circuit_drift.sweep import Run, load_run, run

__version__ = "0.1.0"

_HOMES = {
    "PairDiff": "circuit_drift.pair",
    "compare": "circuit_drift.pair",
    "diff": "circuit_drift.pair",
    "Prompts": "circuit_drift.prompts",
    "prompts_for": "circuit_drift.prompts",
    "write_report": "circuit_drift.report",
    "Run": "circuit_drift.sweep",
    "load_run": "circuit_drift.sweep",
    "run": "circuit_drift.sweep",
    "Store": "circuit_drift.store",
}

__all__ = [
    "PairDiff",
    "Prompts",
    "Run",
    "Store",
    "__version__",
    "compare",
    "diff",
    "load_run",
    "prompts_for",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
