"""Retrieval heads: probes, scores, comparisons.

Reading and comparing stored results imports neither torch nor transformers; scoring a model does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heads.ablation import ablate, validate
    from heads.adaptive import adaptive_scores
    from heads.building import interference_prompts, needle_prompts
    from heads.catalogue import ABLATIONS, CONTROLS, DETECTORS
    from heads.comparison import Change, HeadComparison, compare
    from heads.correlation import Correlation, correlate, read_downstream
    from heads.dynamic import Dynamics, dynamics
    from heads.head_lists import head_list_table, load_head_lists
    from heads.mapping import corpus_nll, interference_map, needle_map
    from heads.maps import NeedleMap
    from heads.monitoring import Monitor, monitor
    from heads.needles import Needle, NeedlePrompt, NeedleSet, load_needles
    from heads.pools import default_haystack, default_needles
    from heads.probes import PROBES, Probe, probe
    from heads.published import defect_table, published_scores
    from heads.query import query_scores
    from heads.repeats import repeat_scores
    from heads.retrieval import retrieval_scores
    from heads.scores import HeadScore, HeadScores, RetrievalScores
    from heads.validation import Readout, Validation

_HOMES = {
    "ABLATIONS": "catalogue",
    "CONTROLS": "catalogue",
    "Change": "comparison",
    "Correlation": "correlation",
    "DETECTORS": "catalogue",
    "Dynamics": "dynamic",
    "HeadComparison": "comparison",
    "HeadScore": "scores",
    "HeadScores": "scores",
    "Monitor": "monitoring",
    "Needle": "needles",
    "NeedleMap": "maps",
    "NeedlePrompt": "needles",
    "NeedleSet": "needles",
    "PROBES": "probes",
    "Probe": "probes",
    "Readout": "validation",
    "RetrievalScores": "scores",
    "Validation": "validation",
    "ablate": "ablation",
    "adaptive_scores": "adaptive",
    "compare": "comparison",
    "corpus_nll": "mapping",
    "correlate": "correlation",
    "default_haystack": "pools",
    "default_needles": "pools",
    "defect_table": "published",
    "dynamics": "dynamic",
    "head_list_table": "head_lists",
    "interference_map": "mapping",
    "interference_prompts": "building",
    "load_head_lists": "head_lists",
    "load_needles": "needles",
    "monitor": "monitoring",
    "needle_map": "mapping",
    "needle_prompts": "building",
    "probe": "probes",
    "published_scores": "published",
    "query_scores": "query",
    "read_downstream": "correlation",
    "repeat_scores": "repeats",
    "retrieval_scores": "retrieval",
    "validate": "ablation",
}

__all__ = [
    "ABLATIONS",
    "CONTROLS",
    "DETECTORS",
    "PROBES",
    "Change",
    "Correlation",
    "Dynamics",
    "HeadComparison",
    "HeadScore",
    "HeadScores",
    "Monitor",
    "Needle",
    "NeedleMap",
    "NeedlePrompt",
    "NeedleSet",
    "Probe",
    "Readout",
    "RetrievalScores",
    "Validation",
    "ablate",
    "adaptive_scores",
    "compare",
    "corpus_nll",
    "correlate",
    "default_haystack",
    "default_needles",
    "defect_table",
    "dynamics",
    "head_list_table",
    "interference_map",
    "interference_prompts",
    "load_head_lists",
    "load_needles",
    "monitor",
    "needle_map",
    "needle_prompts",
    "probe",
    "published_scores",
    "query_scores",
    "read_downstream",
    "repeat_scores",
    "retrieval_scores",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(import_module(f"heads.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
