"""A package of somebody else: one module with a measure of its own, found by its entry point."""

from pathlib import Path

MODULE = '''
"""The largest norm of a model's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from checkpoints.results.artifacts import read_artifact, write_artifact
from circuit_drift import Measure
from circuit_drift.measures import Compared, Pairing


@dataclass(frozen=True)
class Norms:
    largest: float
    meta: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder):
        return write_artifact(folder, "norms", {"meta": dict(self.meta)}, {"largest": np.array([self.largest])})

    @classmethod
    def load(cls, folder):
        about, arrays = read_artifact(folder, "norms")
        return cls(float(arrays["largest"][0]), about["meta"])


@dataclass(frozen=True)
class Growth:
    by: float

    @property
    def significant(self):
        return abs(self.by) > 1e9


class NormPairing(Pairing):
    noun = "norm"

    def compare(self, a, b, *, q, earlier):
        return Compared(Growth(b.results["norms"].largest - a.results["norms"].largest))

    def sentences(self, pair):
        yield f"The largest norm changed by {pair.changes['norms'].by:+.4f}."


@dataclass(frozen=True)
class NormMeasure(Measure):
    """The p-norm of the largest parameter."""

    power: float = 2.0

    name = "norms"
    version = 7
    result = Norms
    pairing = NormPairing()

    @classmethod
    def build(cls, asked):
        return cls(*(float(argument) for argument in asked.arguments))

    def params(self):
        return {"power": self.power}

    def compute(self, loaded, earlier):
        sizes = [weights.float().norm(p=self.power) for weights in loaded.model.parameters()]
        return Norms(float(max(sizes)))

    @classmethod
    def reading(cls, result):
        return {"largest_norm": result.largest}


class NoMeasure:
    name = "nothing"
'''
ENTRIES = """[circuit_drift.measures]
norms = norm_package:NormMeasure
nothing = norm_package:NoMeasure
gone = norm_package:Gone
misnamed = norm_package:NormMeasure
"""


def install(folder: Path) -> Path:
    """Lay the package out in a folder as an installer does; the folder belongs on the path."""
    folder.mkdir(parents=True)
    (folder / "norm_package.py").write_text(MODULE)
    about = folder / "norm_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: norm-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    return folder
