"""Do the edges do what attribution says? The strongest ones and as many random others, each really patched."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.pairs.beside import BesidePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from circuits.intervention.edge_check import EdgeCheck

if TYPE_CHECKING:
    import pandas as pd

EDGES = 20


@dataclass(frozen=True)
class PatchingMeasure(Measure):
    """Exact patching of the circuit's strongest edges: ``run --measures patching``, or ``patching:50`` of them.

    Attributes:
        circuit: whose edges.
        count: how many of the strongest, beside as many random others.
        seed: of the others.
    """

    circuit: CircuitMeasure
    count: int = EDGES
    seed: int = 0

    name = "patching"
    chapter = "Circuit"
    needs = ("circuit",)
    result = EdgeCheck
    pairing = BesidePairing("patching", "Edges patched")

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Of the circuit of the run's facts."""
        count = asked.arguments[0] if asked.arguments else str(EDGES)
        if len(asked.arguments) > 1 or not count.isdecimal() or int(count) < 1:
            raise DriftError(f"patching takes a number of edges, as in patching:50; got {', '.join(asked.arguments)}")
        return cls(CircuitMeasure.build(replace(asked, arguments=())), int(count))

    def params(self) -> dict[str, Any]:
        """The circuit's parameters, and which edges."""
        return {"circuit": self.circuit.key_params(), "count": self.count, "seed": self.seed}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> EdgeCheck:
        """Patch each edge alone, on all facts."""
        from circuits.intervention.edge_check import check_edges

        facts = self.circuit.facts(tokenizer_of(loaded))
        return check_edges(loaded.model, earlier["circuit"], facts, count=self.count, seed=self.seed)

    @property
    def origins(self) -> dict[str, str]:
        """Of the facts."""
        return self.circuit.origins

    @classmethod
    def reading(cls, result: EdgeCheck) -> dict[str, float]:
        """Correlation of attributed and exact effects; mean |exact effect| of strongest and of random edges."""
        top, other = result.sizes
        return {"patching_r": result.pearson, "patched_top": top, "patched_random": other}

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Exact against attributed effects, a drawing a checkpoint."""
        from circuit_drift.measures.figures.slider import slide

        points = [point for point in run if cls.name in point.results]
        figures = [point.results[cls.name].plot() for point in points]
        yield Section(
            cls.name,
            "Edges patched for real",
            text="What attribution estimates, beside what happens when that edge alone carries the corrupt run's "
            "value; drag the slider through training.",
            figure=slide(figures[-1], run, points, [figure.data for figure in figures]),
            caption=f"{len(points[-1].results[cls.name].edges):,} edges of each checkpoint: its strongest, and as "
            f"many random others; facts: {run.origins['facts']}.",
            frame=table[["step", "patching_r", "patched_top", "patched_random"]],
        )
