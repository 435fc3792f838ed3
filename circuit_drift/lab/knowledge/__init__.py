"""Knowledge over training: what is known at each checkpoint, what was acquired, kept and lost.

    from circuit_drift.lab import knowledge
    book = knowledge.ledger(knowledge.read_scores("recall.csv", unit="entity", step="epoch", score="rouge1_recall"))
    book.to_frame()

Reads tables only: no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit_drift.lab.knowledge.bookkeeping import Ledger, ledger
    from circuit_drift.lab.knowledge.diverging import Divergence, divergence
    from circuit_drift.lab.knowledge.history import Spell, Survival, spells, survival
    from circuit_drift.lab.knowledge.resampling import Resampled, resample
    from circuit_drift.lab.knowledge.rouge import rouge1_recall
    from circuit_drift.lab.knowledge.scores import Scores, read_scores, scores_from_frame
    from circuit_drift.lab.knowledge.sources import graph_scores, rank_scores, series_scores

_HOMES = {
    "Divergence": "diverging",
    "Ledger": "bookkeeping",
    "Resampled": "resampling",
    "Scores": "scores",
    "Spell": "history",
    "Survival": "history",
    "divergence": "diverging",
    "graph_scores": "sources",
    "ledger": "bookkeeping",
    "rank_scores": "sources",
    "read_scores": "scores",
    "resample": "resampling",
    "rouge1_recall": "rouge",
    "scores_from_frame": "scores",
    "series_scores": "sources",
    "spells": "history",
    "survival": "history",
}

__all__ = [
    "Divergence",
    "Ledger",
    "Resampled",
    "Scores",
    "Spell",
    "Survival",
    "divergence",
    "graph_scores",
    "ledger",
    "rank_scores",
    "read_scores",
    "resample",
    "rouge1_recall",
    "scores_from_frame",
    "series_scores",
    "spells",
    "survival",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"circuit_drift.lab.knowledge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
