"""Continual pre-training under several strategies, each a small declarative value, probed at every epoch.

    circuit-drift train CONFIG.toml --out DIR

Each strategy leaves a series of checkpoints that the rest of the toolkit reads, and a run in a store beside it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit_drift.lab.cpt.comparison import comparison_frame, strategy_ledgers
    from circuit_drift.lab.cpt.config import Config, Strategy, load_config
    from circuit_drift.lab.cpt.documents import Document, lab_documents, load_documents, write_documents
    from circuit_drift.lab.cpt.runner import Diverged, run_all, run_strategy

_HOMES = {
    "Config": "config",
    "Diverged": "runner",
    "Document": "documents",
    "Strategy": "config",
    "comparison_frame": "comparison",
    "lab_documents": "documents",
    "load_config": "config",
    "load_documents": "documents",
    "run_all": "runner",
    "run_strategy": "runner",
    "strategy_ledgers": "comparison",
    "write_documents": "documents",
}

__all__ = [
    "Config",
    "Diverged",
    "Document",
    "Strategy",
    "comparison_frame",
    "lab_documents",
    "load_config",
    "load_documents",
    "run_all",
    "run_strategy",
    "strategy_ledgers",
    "write_documents",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"circuit_drift.lab.cpt.{_HOMES[name]}"), name)
