"""The circuit of retrieval: what every edge adds to the copying of a needle's answer, and what it does alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

import circuits
from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.faithfulness import FaithfulnessMeasure
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.pairs.retrieval import RetrievalCircuitPairing
from circuit_drift.page.page import Section
from circuit_drift.prompts import USUAL_SCORING, EdgeScoring, NeedleSource
from circuit_drift.record.record import RunRecord
from circuit_drift.twins import SWAPS
from circuits.facts.facts import FactSet
from heads.prompts.needles import NeedlePrompt, NeedleSet

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

KEPT = {
    "retrieval_faithfulness": "faithfulness",
    "retrieval_cross_fitted": "cross_fitted",
    "retrieval_random": "random_faithfulness",
}
"""Columns, and what they are called in ``meta``."""
CALLED = {
    "retrieved": "needles retrieved, share",
    "retrieval_effect": "effect of the swap",
    "retrieval_faithfulness": "kept by the circuit, share",
    "retrieval_cross_fitted": "kept for needles it was not found on, share",
    "retrieval_random": "kept by random edges, share",
}
"""Columns as the figure names them."""


@dataclass(frozen=True, slots=True)
class TwinSource:
    """Needles beside corrupt twins, before any tokenizer has seen them; every needle once, its depth in turn.

    Attributes:
        needles: whose prompts.
        swap: which part the twin has of another needle, one of `circuit_drift.twins.SWAPS`.
    """

    needles: NeedleSource
    swap: str

    @property
    def origin(self) -> str:
        """That of the needles."""
        return self.needles.origin

    @property
    def hash(self) -> str:
        """Of the needles, and the swap."""
        return f"{self.needles.hash}/{self.swap}"

    def tokenized(self, tokenizer: "PreTrainedTokenizerBase") -> FactSet:
        """The pairs in tokens, the first token of each answer scored.

        Raises:
            BadPrompt: no needle has a twin with this tokenizer.
        """
        return SWAPS[self.swap](_each_once(needle_prompts_of(tokenizer, self.needles)))


def _each_once(needles: NeedleSet) -> NeedleSet:
    """One prompt a needle, of the first depth, the second and so on: prompts of one needle are no independent units."""
    by_needle: dict[int, list[NeedlePrompt]] = {}
    for prompt in needles:
        by_needle.setdefault(prompt.needle, []).append(prompt)
    return replace(needles, prompts=tuple(own[needle % len(own)] for needle, own in by_needle.items()))


@dataclass(frozen=True)
class RetrievalCircuitMeasure(Measure):
    """Edge scores of needle prompts against their twins: ``retrieval-circuit``, ``retrieval-circuit:key``.

    A value swap isolates values and outputs, a key swap keys, a question swap queries. Edges are scored as the run's
    circuits are, and how much of the metric the circuit keeps alone is measured with them.

    Attributes:
        needles: of the run.
        swap: what the twins have of other needles.
        scoring: of the edges.
    """

    needles: NeedleSource
    swap: str = "value"
    scoring: EdgeScoring = USUAL_SCORING

    name = "retrieval-circuit"
    chapter = "Circuit"
    version = 3
    result = circuits.AttributionGraph
    pairing = RetrievalCircuitPairing()

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the run's needles."""
        (swap, *others) = asked.arguments or ("value",)
        if others or swap not in SWAPS:
            raise DriftError(
                f"{cls.name} takes one swap, {', '.join(SWAPS)}, as in {cls.name}:key; got {', '.join(asked.arguments)}"
            )
        return cls(asked.prompts.needles, swap, asked.prompts.scoring)

    @property
    def _circuit(self) -> CircuitMeasure:
        return CircuitMeasure(TwinSource(self.needles, self.swap), self.scoring)

    @property
    def _faithfulness(self) -> FaithfulnessMeasure:
        return FaithfulnessMeasure(self._circuit, self.scoring.metric)

    def params(self) -> dict[str, Any]:
        """The needles and the swap, how edges are scored, and the sizes tried for faithfulness."""
        return self._faithfulness.key_params()

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.AttributionGraph":
        """Attribute the metric to every edge, then run the pruned circuit alone; its faithfulness is in ``meta``."""
        graph = self._circuit.compute(loaded, {})
        curve = self._faithfulness.compute(loaded, {"circuit": graph})
        drawn = curve.drawn
        values = (curve.values, curve.cross_values, curve.random_values)
        kept = {name: float(own[drawn]) for name, own in zip(KEPT.values(), values, strict=True)}
        # where the twins make no difference, faithfulness is a share of nothing
        found = {name: value if curve.has_effect and math.isfinite(value) else None for name, value in kept.items()}
        return replace(graph, meta={**graph.meta, **found, "edges_kept": int(curve.n_edges[drawn]), "swap": self.swap})

    @property
    def origins(self) -> dict[str, str]:
        """Of the needles."""
        return {"needles": self.needles.origin}

    @classmethod
    def reading(cls, result: "circuits.AttributionGraph") -> dict[str, float]:
        """What clean and corrupt prompts differ in, and the share of it that the circuit keeps alone.

        ``retrieval_effect``: mean metric, clean minus corrupt (logits, unless another metric is asked for); positive =
        the swapped part decides for the answer. Of that, shares that circuits keep alone, missing where it is not told
        apart from none: the circuit's, the same for needles that it was found without (cross-fitted), random ones'.
        """
        values = {column: result.meta.get(name) for column, name in KEPT.items()}
        return {
            "retrieval_effect": float((result.clean_metric - result.corrupt_metric).mean()),
            **{column: math.nan if value is None else float(value) for column, value in values.items()},
        }

    @classmethod
    def columns(cls, result: "circuits.AttributionGraph") -> dict[str, Any]:
        """The share of needles whose answer's first token is the model's top one, the same, and the strongest head."""
        heads = {name: abs(score) for name, score in result.nodes().items() if ".h" in name}
        return {
            "retrieved": float(np.mean(result.answer_rank == 0)),
            **cls.reading(result),
            "retrieval_edges": int(result.meta["edges_kept"]),
            "retrieval_head": max(heads, key=heads.__getitem__, default=""),
        }

    @classmethod
    def short(cls, column: str) -> str:
        """Apart from what the knowledge circuit has under these names."""
        return column.replace("retrieval_", "needle ").replace("_", " ")

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """How much the swapped part decides, how faithful its circuit is, and its strongest head, over training."""
        from circuit_drift.measures.figures.lines import lines_figure

        found = [point.results[cls.name] for point in run if cls.name in point.results]
        columns = list(cls.columns(found[-1]))
        drawn = ["retrieved", "retrieval_effect", *KEPT]
        swap, metric = found[-1].meta["swap"], found[-1].meta.get("metric", "metric")
        yield Section(
            cls.name,
            "The circuit of retrieval",
            text=f"Needle prompts beside twins that have the {swap} of another needle: how much that decides for the "
            "answer, and how much of it the circuit, and random edges as many, do alone.",
            figure=lines_figure(run, table, drawn, CALLED),
            caption=f"{swap.capitalize()} swap; {counted(len(found[-1]), 'needle')}, each at one depth; effect: "
            f"{metric} of clean minus corrupt prompts, above; shares: below; needles: {run.origins['needles']}.",
            frame=table[["step", *columns]],
        )
