"""Knowledge circuits: attribution graphs, faithfulness, diffs.

Reading and comparing stored results imports neither torch nor transformers; scoring a model does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.alignment import Alignment, align
    from circuits.attribution import attribute
    from circuits.backward import Backward
    from circuits.comparison import GraphDiff, diff
    from circuits.curves import Faithfulness, FaithfulnessCurve
    from circuits.evaluation import faithfulness, faithfulness_curve, minimal_circuit
    from circuits.evolution import Evolution, evolve
    from circuits.exact import exact_edges, exact_nodes
    from circuits.exports import (
        export,
        node_link,
        read_eap_json,
        read_parquet,
        write_eap_json,
        write_graphml,
        write_neuronpedia,
        write_parquet,
    )
    from circuits.facts import Fact, FactSet, default_facts, load_facts, tokenize_facts
    from circuits.graph import Circuit, GraphShape
    from circuits.node_attribution import attribute_nodes
    from circuits.node_patching import node_faithfulness
    from circuits.nodes import NodeCircuit, NodeScores
    from circuits.positions import PositionScores, attribute_positions
    from circuits.pruning import prune, random_circuits
    from circuits.roles import HeadRoles, RoleChange
    from circuits.scores import AttributionGraph, completeness
    from circuits.similarity import Similarity
    from circuits.sources import head_roles
    from circuits.tasks import TASKS, Task, load_task, task_facts
    from circuits.transfers import Transfer, transfer

_HOMES = {
    "TASKS": "tasks",
    "Alignment": "alignment",
    "AttributionGraph": "scores",
    "Backward": "backward",
    "Circuit": "graph",
    "Evolution": "evolution",
    "Fact": "facts",
    "FactSet": "facts",
    "Faithfulness": "curves",
    "FaithfulnessCurve": "curves",
    "GraphDiff": "comparison",
    "GraphShape": "graph",
    "HeadRoles": "roles",
    "RoleChange": "roles",
    "NodeCircuit": "nodes",
    "NodeScores": "nodes",
    "PositionScores": "positions",
    "Similarity": "similarity",
    "Task": "tasks",
    "Transfer": "transfers",
    "align": "alignment",
    "attribute": "attribution",
    "attribute_nodes": "node_attribution",
    "attribute_positions": "positions",
    "completeness": "scores",
    "default_facts": "facts",
    "diff": "comparison",
    "evolve": "evolution",
    "exact_edges": "exact",
    "exact_nodes": "exact",
    "export": "exports",
    "faithfulness": "evaluation",
    "faithfulness_curve": "evaluation",
    "head_roles": "sources",
    "load_facts": "facts",
    "load_task": "tasks",
    "minimal_circuit": "evaluation",
    "node_faithfulness": "node_patching",
    "node_link": "exports",
    "prune": "pruning",
    "random_circuits": "pruning",
    "read_eap_json": "exports",
    "read_parquet": "exports",
    "task_facts": "tasks",
    "tokenize_facts": "facts",
    "transfer": "transfers",
    "write_eap_json": "exports",
    "write_graphml": "exports",
    "write_neuronpedia": "exports",
    "write_parquet": "exports",
}

__all__ = [
    "TASKS",
    "Alignment",
    "AttributionGraph",
    "Backward",
    "Circuit",
    "Evolution",
    "Fact",
    "FactSet",
    "Faithfulness",
    "FaithfulnessCurve",
    "GraphDiff",
    "GraphShape",
    "HeadRoles",
    "NodeCircuit",
    "NodeScores",
    "PositionScores",
    "RoleChange",
    "Similarity",
    "Task",
    "Transfer",
    "align",
    "attribute",
    "attribute_nodes",
    "attribute_positions",
    "completeness",
    "default_facts",
    "diff",
    "evolve",
    "exact_edges",
    "exact_nodes",
    "export",
    "faithfulness",
    "faithfulness_curve",
    "head_roles",
    "load_facts",
    "load_task",
    "minimal_circuit",
    "node_faithfulness",
    "node_link",
    "prune",
    "random_circuits",
    "read_eap_json",
    "read_parquet",
    "task_facts",
    "tokenize_facts",
    "transfer",
    "write_eap_json",
    "write_graphml",
    "write_neuronpedia",
    "write_parquet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}")
    return getattr(import_module(f"circuits.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
