"""Knowledge circuits: what every edge contributes to each fact's answer."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import circuits
from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.pairs.circuit import CircuitPairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.prompts import USUAL_SCORING, EdgeScoring
from circuit_drift.record.recall import recall_by_class
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    from circuits.facts.facts import FactSet


class PairSource(Protocol):
    """Clean/corrupt pairs before any tokenizer has seen them: what `FactSource` is."""

    @property
    def hash(self) -> str:
        """Of everything that decides the pairs."""

    @property
    def origin(self) -> str:
        """Where they came from, for people to read."""

    def tokenized(self, tokenizer: "PreTrainedTokenizerBase") -> "FactSet":
        """The pairs in tokens."""


@dataclass(frozen=True)
class CircuitMeasure(Measure):
    """Edge scores per fact: EAP-IG with five midpoints, unless the run's `EdgeScoring` says otherwise."""

    source: PairSource
    scoring: EdgeScoring = USUAL_SCORING

    name = "circuit"
    chapter = "Circuit"
    version = 3
    result = circuits.AttributionGraph
    pairing = CircuitPairing()

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the run's facts."""
        cls.refuse_arguments(asked)
        return cls(asked.prompts.facts, asked.prompts.scoring)

    def params(self) -> dict[str, Any]:
        """The prompts and how edges are scored; usual choices are not spelled out, so that keys stay as they were."""
        how = {"ig_steps": self.scoring.ig_steps, "rule": self.scoring.rule}
        return {"prompts": self.source.hash, **how, **self.scoring.changed("method", "metric", "backward", "edges")}

    def facts(self, tokenizer: "PreTrainedTokenizerBase") -> "FactSet":
        """The pairs in tokens, those that the metric cannot be read on refused by name."""
        from circuits.facts.tokenizing import readable

        return readable(self.source.tokenized(tokenizer), self.scoring.metric)

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.AttributionGraph":
        """Attribute the metric of every usable fact to every edge."""
        facts = self.facts(tokenizer_of(loaded))
        how = {name: value for name, value in asdict(self.scoring).items() if name != "edges"}
        graph = circuits.attribute(loaded.model, facts, **how)
        size = self.scoring.changed("edges")
        asked = [[fact.clean, fact.answer, fact.wrong] for fact in facts.facts]
        how_large = {f"circuit_{name}": value for name, value in size.items()}
        return replace(graph, meta={**graph.meta, "asked": asked, **how_large})

    @property
    def origins(self) -> dict[str, str]:
        """Of the facts."""
        return {"facts": self.source.origin}

    @classmethod
    def reading(cls, result: "circuits.AttributionGraph") -> dict[str, float]:
        """Mean metric of the facts; the logit difference is in logits, positive = the answer is preferred."""
        metric = str(result.meta.get("metric", "logit difference")).replace(" ", "_")
        return {metric: float(result.clean_metric.mean())} if metric != "none" else {}

    @classmethod
    def columns(cls, result: "circuits.AttributionGraph") -> dict[str, Any]:
        """Recall (top token), over all facts and by class where there are several."""
        shares = recall_by_class(result)
        overall = {"recall": float((result.answer_rank == 0).mean())}
        return overall | ({f"recall_{name}": share for name, (share, _) in shares.items()} if len(shares) > 1 else {})

    @classmethod
    def short(cls, column: str) -> str:
        """A class by its name alone."""
        return column.removeprefix("recall_")

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Recall of the facts, and how alike the circuits are, over training."""
        from circuit_drift.measures.figures.recall import recall_figure
        from circuit_drift.measures.figures.rewiring import rewiring_figure, rewiring_frame

        traced = next(point.circuit for point in run if point.circuit is not None)
        recall = [column for column in table.columns if column.startswith("recall")]
        facts = f"{counted(len(traced.answer_rank), 'fact')}; facts: {run.origins['facts']}."
        yield Section(
            "recall",
            "Facts known",
            chapter="Behaviour",
            figure=recall_figure(run),
            caption=facts,
            frame=table[["step", *recall]],
        )
        rewired = rewiring_frame(run)
        yield Section(
            "circuits",
            "Circuits over training",
            text="How alike each circuit is to its neighbour and to the last, beside what resampling prompts does.",
            figure=rewiring_figure(run, rewired),
            caption=f"{_told(traced)} edge scores; overlap and floor are both between disjoint halves of the facts. "
            f"{_judged(run)}{facts}",
            frame=rewired,
        )


def _judged(run: RunRecord) -> str:
    """On which facts circuits are judged, where that was done in two ways."""
    curves = [point.faithfulness for point in run if point.faithfulness is not None]
    if all(curve.cross_metric is None for curve in curves):
        return ""
    return (
        "Faithfulness is missing where clean and corrupt prompts do not differ beyond the noise. It is judged on the "
        "facts that a circuit was found on, which flatters it; dashed: on the half of the facts that it was not found "
        "on, both ways. "
    )


def _told(graph: "circuits.AttributionGraph") -> str:
    """How a graph's edges were scored, in words: ``EAP-IG (5 steps, midpoint)``."""
    steps = f" ({graph.meta['ig_steps']} steps, {graph.meta['rule']})" if graph.meta.get("ig_steps", 0) > 1 else ""
    return f"{str(graph.meta.get('method', 'eap-ig')).upper()}{steps}"
