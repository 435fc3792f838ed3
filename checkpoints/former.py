"""Module paths and names of the release before: each gives what took its place, and says so."""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import lazy_loader

FORMER = {
    "checkpoints.compat": "checkpoints.series.compat",
    "heads.needles": "heads.prompts.needles",
    "circuit_drift.report.evolution": "circuit_drift.measures.figures.heads",
    "circuit_drift.lab.cpt": "circuit_drift.training.strategies",
    "circuit_drift.lab.cpt.config": "circuit_drift.training.strategies.settings.config",
    "circuit_drift.lab.cpt.study": "circuit_drift.replicate.knowledge_study",
    "circuit_drift.lab.knowledge": "circuit_drift.knowledge",
    "circuit_drift.lab.long_context": "circuit_drift.replicate.long_context",
    "circuit_drift.lab.long_context_claims": "circuit_drift.replicate.long_context_claims",
    "circuit_drift.lab.probing": "circuit_drift.training",
    "circuit_drift.lab.ledger": "circuit_drift.lab.tables",
    "circuit_drift.lab.readers": "circuits.facts.readers",
    "circuit_drift.lab.sft": "circuit_drift.behaviour.sft",
}

_MOVED = {
    "checkpoints.errors": (
        "BadPrompt CheckpointMismatch CorruptWeights NotACheckpoint StoreError UnsupportedArchitecture"
    ),
    "checkpoints.loading.load": "LoadedModel",
    "checkpoints.model.architectures": "capabilities",
    "checkpoints.model.bridge": "build_bridge",
    "checkpoints.series.compat": "require_same_model",
    "heads.ablation.kinds": "ABLATIONS CONTROLS",
    "heads.ablation.ablation": "Readout",
    "heads.detect.adaptive": "adaptive_scores",
    "heads.detect.detectors": "DETECTORS",
    "heads.detect.dynamic": "Dynamics dynamics",
    "heads.detect.query": "query_scores",
    "heads.detect.repeats": "repeat_scores",
    "heads.detect.wu2024": "defect_table published_scores",
    "heads.niah.grid": "NeedleMap",
    "heads.niah.measure": "corpus_nll interference_map needle_map",
    "heads.prompts.building": "interference_prompts",
    "heads.prompts.needles": "NeedlePrompt NeedleSet load_needles",
    "heads.prompts.pools": "default_haystack default_needles",
    "heads.prompts.probes": "PROBES Probe probe",
    "heads.scores.change": "Change",
    "heads.scores.head_lists": "head_list_table load_head_lists",
    "heads.scores.scores": "HeadScore",
    "heads.tracking.correlation": "Correlation correlate read_downstream",
    "circuits.attribution.backward": "Backward",
    "circuits.attribution.nodes": "attribute_nodes",
    "circuits.attribution.positions": "PositionScores attribute_positions",
    "circuits.comparison.alignment": "Alignment align",
    "circuits.comparison.graph_diff": "GraphDiff",
    "circuits.comparison.similarity": "Similarity",
    "circuits.facts.facts": "FactSet default_facts load_facts",
    "circuits.facts.tasks": "TASKS Task load_task task_facts",
    "circuits.graph.circuit": "Circuit",
    "circuits.graph.exports": (
        "export node_link read_eap_json read_parquet write_eap_json write_graphml write_neuronpedia write_parquet"
    ),
    "circuits.graph.nodes": "NodeCircuit NodeScores",
    "circuits.graph.pruning": "prune random_circuits",
    "circuits.graph.scores": "completeness",
    "circuits.graph.shape": "GraphShape",
    "circuits.intervention.exact": "exact_edges exact_nodes",
    "circuits.intervention.faithfulness": "Faithfulness FaithfulnessCurve",
    "circuits.intervention.faithfulness_measure": "faithfulness_curve minimal_circuit",
    "circuits.intervention.node_forward": "node_faithfulness",
    "circuits.intervention.transfer": "Transfer transfer",
    "circuits.roles.measure": "head_roles",
    "circuits.roles.roles": "HeadRoles RoleChange",
    "circuit_drift.api.pairs": "PairDiff compare",
    "circuit_drift.api.runs": "Run",
    "circuit_drift.prompts": "Prompts prompts_for",
    "circuit_drift.report": "write_report",
    "circuit_drift.store.store": "Store",
}
"""Module -> names that its package's face no longer gives."""

NAMES = {
    "checkpoints.demo_folder": "checkpoints.series.series.shipped_folder",
    "checkpoints.validate": "checkpoints.files.check.check_files",
    "heads.HeadComparison": "heads.comparison.diff.HeadDiff",
    "heads.HeadScores": "heads.scores.DetectorScores",
    "heads.RetrievalScores": "heads.Scores",
    "heads.Monitor": "heads.tracking.head_track.HeadTrack",
    "heads.Validation": "heads.ablation.ablation.Ablation",
    "heads.compare": "heads.diff",
    "heads.monitor": "heads.track",
    "heads.retrieval_scores": "heads.score",
    "heads.scores.HeadScores": "heads.scores.DetectorScores",
    "heads.scores.RetrievalScores": "heads.Scores",
    "heads.validate": "heads.ablate",
    "circuits.Evolution": "circuits.tracking.circuit_track.CircuitTrack",
    "circuits.evolve": "circuits.track",
    "circuit_drift.knowledge.Scores": "circuit_drift.knowledge.UnitScores",
    "circuit_drift.replicate.long_context_claims.claims": "circuit_drift.replicate.long_context_claims.claims_frame",
    "circuit_drift.training.Probe": "circuit_drift.training.ProbeRecord",
    "circuit_drift.training.strategies.Answers": "circuit_drift.training.strategies.AnswerSettings",
    **{
        f"{home.partition('.')[0]}.{name}": f"{home}.{name}" for home, names in _MOVED.items() for name in names.split()
    },
}
"""Former name of a package's face -> the name in its place."""


def attach_face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package needs to give the names of its stub lazily, and the former ones with a warning.

    Args:
        package: its ``__name__``.
        file: its ``__file__``; the stub lies beside it.

    Returns:
        its ``__getattr__``, ``__dir__`` and ``__all__``.
    """
    install()
    named, names, public = lazy_loader.attach_stub(package, file)
    return attach_former(package, named), names, public


def attach_former(module: str, named: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that has former names: each gives what took its place, with a warning.

    Args:
        module: its ``__name__``.
        named: what gives its other names, if it has any that are given so.
    """

    def get(name: str) -> Any:
        new = NAMES.get(f"{module}.{name}")
        if new is not None:
            warnings.warn(
                f"{module}.{name} is now {new}; the old name goes with the next release", DeprecationWarning, 2
            )
            home, _, attribute = new.rpartition(".")
            return getattr(import_module(home), attribute)
        if named is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return named(name)

    return get


def replacement(name: str) -> str:
    """The path that took a former one's place, modules inside a moved package included; empty for any other."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        new = FORMER.get(".".join(parts[:end]))
        if new:
            return ".".join([new, *parts[end:]])
    return ""


class _Former(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if replacement(name) else None

    def exec_module(self, module: ModuleType) -> None:
        new = replacement(module.__name__)
        warnings.warn(f"{module.__name__} is now {new}; the old path goes with the next release", DeprecationWarning, 2)
        sys.modules[module.__name__] = import_module(new)


def install() -> None:
    """Let former paths be imported; asked for by every package, done once."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Former())  # before the finder of files, which would load a moved file twice
