"""Faithfulness: how much of the behaviour the circuit keeps; the report shows it beside the circuits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from circuit_drift.record.untrained import effective
from circuits.intervention.faithfulness import FaithfulnessCurve


@dataclass(frozen=True)
class FaithfulnessMeasure(Measure):
    """How much of a metric the circuit keeps, at several sizes, beside random circuits of that size.

    The metric is the run's own, or the one named: ``run --measures faithfulness:hit@10`` reads the circuit's Hit@10
    (arXiv 2601.03858) beside the whole model's.
    """

    circuit: CircuitMeasure
    metric: str = "logit difference"
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)

    name = "faithfulness"
    chapter = "Circuit"
    version = 4
    needs = ("circuit",)
    result = FaithfulnessCurve

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Of the circuit of the run's facts, in the metric named, ``faithfulness:METRIC``, or the circuit's own."""
        if len(asked.arguments) > 1:
            raise DriftError(f"faithfulness is read in one metric; got {', '.join(asked.arguments)}")
        circuit = CircuitMeasure.build(replace(asked, arguments=()))
        (metric,) = asked.arguments or (asked.prompts.scoring.metric,)
        if asked.arguments:
            from circuits.facts.metrics import require_metric

            require_metric(metric)
        return cls(circuit, metric)

    def params(self) -> dict[str, Any]:
        """The circuit's parameters and the sizes tried."""
        other = {} if self.metric == "logit difference" else {"metric": self.metric}
        return {"circuit": self.circuit.key_params(), "shares": self.shares, **other}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "FaithfulnessCurve":
        """Run the pruned circuit of each size in the model it was found in."""
        from circuits.intervention.faithfulness_measure import faithfulness_curve

        facts = self.circuit.facts(tokenizer_of(loaded))
        graph, shares = earlier["circuit"], set(self.shares)
        if self.circuit.scoring.edges is not None:
            edges = int(graph.mask.sum())
            shares.add(min(1.0, (graph.circuit_edges + 0.5) / edges))
        return faithfulness_curve(loaded.model, graph, facts, shares=sorted(shares), metric=self.metric)

    @property
    def origins(self) -> dict[str, str]:
        """Of the circuit's facts."""
        return self.circuit.origins

    @classmethod
    def reading(cls, result: "FaithfulnessCurve") -> dict[str, float]:
        """Of the circuit that is drawn and compared; NaN where clean and corrupt prompts do not differ."""
        return {"faithfulness": effective(result)}

    @classmethod
    def columns(cls, result: "FaithfulnessCurve") -> dict[str, Any]:
        """The same, and cross-fitted where it is; how many edges that circuit has; where asked for, its Hit@k or rank.

        Beside Hit@k and rank of the circuit stand those of the model. Faithfulness is NaN where clean and corrupt
        prompts do not differ beyond the noise: a share of nothing.
        """
        drawn = result.drawn
        found: dict[str, Any] = {"faithfulness": effective(result)}
        if result.cross_metric is not None:
            found["cross_fitted"] = result.cross_values[drawn] if result.has_effect else float("nan")
        found |= {"circuit_edges": int(result.n_edges[drawn])}
        metric = str(result.meta.get("metric", ""))
        if metric == "rank" or metric.startswith("hit@"):
            found |= {
                metric: float(result.clean_metric.mean()),
                f"circuit_{metric}": float(result.metric[drawn].mean()),
            }
        return found

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return {"faithfulness": "faithful", "cross_fitted": "other half", "circuit_edges": "edges"}.get(column, column)

    @classmethod
    def sections(cls, run: RunRecord, table: Any) -> tuple[Section, ...]:
        """None of its own: the circuits' section shows it below their overlap."""
        return ()
