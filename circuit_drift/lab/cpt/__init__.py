"""Continual pre-training under several strategies, each a small declarative value, probed at every epoch.

    circuit-drift train CONFIG.toml --out DIR --html DIR/report.html

Each strategy leaves a series of checkpoints that the rest of the toolkit reads, and a run in a store beside it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit_drift.lab.cpt.claims import claims_frame
    from circuit_drift.lab.cpt.comparison import (
        Trained,
        comparison_frame,
        outcome_frame,
        retrieval_frame,
        strategies,
        strategy_ledgers,
    )
    from circuit_drift.lab.cpt.config import Config, Lora, Strategy, load_config
    from circuit_drift.lab.cpt.documents import (
        Document,
        lab_documents,
        lab_old_documents,
        load_documents,
        write_documents,
    )
    from circuit_drift.lab.cpt.drift import drift_frame, function_frame
    from circuit_drift.lab.cpt.page import write_comparison
    from circuit_drift.lab.cpt.runner import Diverged, run_all, run_strategy

_HOMES = {
    "Config": "config",
    "Diverged": "runner",
    "Document": "documents",
    "Lora": "config",
    "Strategy": "config",
    "Trained": "comparison",
    "claims_frame": "claims",
    "comparison_frame": "comparison",
    "drift_frame": "drift",
    "function_frame": "drift",
    "lab_documents": "documents",
    "lab_old_documents": "documents",
    "load_config": "config",
    "load_documents": "documents",
    "outcome_frame": "comparison",
    "retrieval_frame": "comparison",
    "run_all": "runner",
    "run_strategy": "runner",
    "strategies": "comparison",
    "strategy_ledgers": "comparison",
    "write_comparison": "page",
    "write_documents": "documents",
}

__all__ = [
    "Config",
    "Diverged",
    "Document",
    "Lora",
    "Strategy",
    "Trained",
    "claims_frame",
    "comparison_frame",
    "drift_frame",
    "function_frame",
    "lab_documents",
    "lab_old_documents",
    "load_config",
    "load_documents",
    "outcome_frame",
    "retrieval_frame",
    "run_all",
    "run_strategy",
    "strategies",
    "strategy_ledgers",
    "write_comparison",
    "write_documents",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"circuit_drift.lab.cpt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
