"""Which graphs may be compared: those that were measured alike."""

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import require_same_shape

HOW = {"method": None, "ig_steps": None, "rule": None, "metric": None, "backward": "plain", "ablation": "corrupt"}
"""What decides the numbers beside model and facts, and what it is where a graph does not say."""


def require_alike(a: AttributionGraph, b: AttributionGraph) -> None:
    """Refuse to compare what was not measured alike.

    Raises:
        CheckpointMismatch: other architectures, or another method, metric or segment of the prompts.
        BadPrompt: edges that were not measured.
    """
    require_same_shape(a.shape, b.shape)
    for graph in (a, b):
        if graph.unmeasured:
            raise BadPrompt(
                f"{graph.unmeasured:,} of {graph.n_edges:,} edges were not measured; score all of them to compare"
            )
    for name, usual in {**HOW, "segment": None, "circuit_edges": None}.items():
        one, other = (graph.meta.get(name, usual) for graph in (a, b))
        if one != other:
            raise CheckpointMismatch(
                f"the graphs were made with different {name}: {one!r} and {other!r}; run both with the same settings"
            )


def same_facts(a: AttributionGraph, b: AttributionGraph) -> bool:
    """Whether both hold scores of the same facts in the same units."""
    return a.meta.get("prompts") == b.meta.get("prompts") and np.array_equal(a.group, b.group)
