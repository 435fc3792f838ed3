"""Logit lens: the rank of every fact's answer after every layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.pairs.beside import BesidePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.prompts import FactSource
from circuit_drift.record.record import RunRecord
from circuits.trace.lens import TOP, LogitLens

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LensMeasure(Measure):
    """The answer's rank by layer, fact by fact: ``run --measures lens``."""

    source: FactSource

    name = "lens"
    chapter = "Circuit"
    result = LogitLens
    pairing = BesidePairing("lens", "Logit lens")

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the run's facts."""
        cls.refuse_arguments(asked)
        return cls(asked.prompts.facts)

    def params(self) -> dict[str, Any]:
        """The facts."""
        return {"prompts": self.source.hash}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> LogitLens:
        """Read the stream after every layer of one pass over each fact's clean prompt."""
        from circuits.trace.lens import logit_lens

        return logit_lens(loaded.model, self.source.tokenized(tokenizer_of(loaded)))

    @property
    def origins(self) -> dict[str, str]:
        """Of the facts."""
        return {"facts": self.source.origin}

    @classmethod
    def reading(cls, result: LogitLens) -> dict[str, float]:
        """Hit@1, Hit@10 and median rank at the end; mean layer from which on answers stay among the ten top."""
        found = {f"lens_hit@{k}": float(result.hit(k)[-1]) for k in (1, TOP)}
        return found | {"lens_rank": float(result.median[-1]), "lens_layer": result.mean_settled}

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return column.removeprefix("lens_")

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Median rank by layer over all of training, then fact by fact with a slider."""
        from circuit_drift.measures.figures import lens as figures

        lenses = figures.lenses_of(run)
        facts = f"{counted(len(lenses[0]), 'fact')}; facts: {run.origins['facts']}."
        how = "Rank over the whole vocabulary after final norm and unembedding, 1 = the top token"
        yield Section(
            cls.name,
            "Logit lens: where answers come to the top",
            text="The stream after each layer read as if it were the last one.",
            figure=figures.lens_figure(run),
            caption=f"{how}; median over {facts}",
            frame=figures.lens_frame(run),
        )
        yield Section(
            "lens-facts",
            "Logit lens, fact by fact",
            text="Drag the slider through training.",
            figure=figures.facts_figure(run),
            caption=f"{how}. {facts}",
            frame=lenses[-1].to_frame(),
        )
