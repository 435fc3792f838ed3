"""Module paths of the release before: importing one gives the module in its place and says so."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FORMER = {
    "checkpoints.compat": "checkpoints.series.compat",
    "heads.needles": "heads.prompts.needles",
    "circuit_drift.report.evolution": "circuit_drift.measures.figures.heads",
    "circuit_drift.lab.cpt": "circuit_drift.training.strategies",
    "circuit_drift.lab.cpt.study": "circuit_drift.replicate.knowledge_study",
    "circuit_drift.lab.knowledge": "circuit_drift.knowledge",
    "circuit_drift.lab.long_context": "circuit_drift.replicate.long_context",
    "circuit_drift.lab.long_context_claims": "circuit_drift.replicate.long_context_findings",
    "circuit_drift.lab.probing": "circuit_drift.training",
    "circuit_drift.lab.readers": "circuits.facts.readers",
    "circuit_drift.lab.sft": "circuit_drift.behaviour.sft",
}


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
