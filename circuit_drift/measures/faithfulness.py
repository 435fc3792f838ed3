"""Faithfulness: how much of the behaviour the circuit keeps; the report shows it beside the circuits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from circuits.intervention.faithfulness import FaithfulnessCurve


@dataclass(frozen=True)
class FaithfulnessMeasure(Measure):
    """How much of the logit difference the circuit keeps, at several sizes, beside random circuits of that size."""

    circuit: CircuitMeasure
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)

    name = "faithfulness"
    version = 3
    needs = ("circuit",)
    result = FaithfulnessCurve

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Of the circuit of the run's facts."""
        cls.refuse_arguments(asked)
        return cls(CircuitMeasure.build(asked))

    def params(self) -> dict[str, Any]:
        """The circuit's parameters and the sizes tried."""
        return {"circuit": self.circuit.parameters(), "shares": self.shares}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "FaithfulnessCurve":
        """Run the pruned circuit of each size in the model it was found in."""
        from circuits.intervention.faithfulness_measure import faithfulness_curve

        facts = self.circuit.source.tokenized(tokenizer_of(loaded))
        return faithfulness_curve(loaded.model, earlier["circuit"], facts, shares=self.shares)

    @property
    def origins(self) -> dict[str, str]:
        """Of the circuit's facts."""
        return self.circuit.origins

    @classmethod
    def reading(cls, result: "FaithfulnessCurve") -> dict[str, float]:
        """Of the circuit that is drawn and compared."""
        return {"faithfulness": float(result.values[result.drawn])}

    @classmethod
    def columns(cls, result: "FaithfulnessCurve") -> dict[str, Any]:
        """The same, and how many edges that circuit has."""
        return {"faithfulness": result.values[result.drawn], "circuit_edges": int(result.n_edges[result.drawn])}

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return {"faithfulness": "faithful", "circuit_edges": "edges"}.get(column, column)

    @classmethod
    def sections(cls, run: RunRecord, table: Any) -> tuple[Section, ...]:
        """None of its own: the circuits' section shows it below their overlap."""
        return ()
