"""What the heads write towards the answer they attend to: retrieval scores weighted by direct logit attribution."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import heads
from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.needles import OverNeedles, needle_prompts_of
from circuit_drift.measures.pairs.writing import WRITTEN, WritingPairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class WritingMeasure(OverNeedles):
    """Retrieval scores with their direct writes: ``run --measures writing``.

    A head that attends to the answer and writes nothing of it has a high retrieval score and a write of 0, which the
    score alone does not tell.
    """

    batch_size: int = 8

    name = "writing"
    chapter = "Heads"
    result = heads.Scores
    pairing = WritingPairing()

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "heads.Scores":
        """One pass with the values' writes taken; attention's own detectors are those of the measure heads."""
        prompts = needle_prompts_of(tokenizer_of(loaded), self.source)
        scores = heads.score(loaded.model, prompts, extra=("locos",), batch_size=self.batch_size)
        kept = {name: scores.detectors[name] for name in ("copy", WRITTEN, "locos_frozen")}
        return replace(scores, detectors=kept)

    @classmethod
    def reading(cls, result: "heads.Scores") -> dict[str, float]:
        """Logits that the best writer, and all heads together, write towards the token that they copy."""
        mean = result.mean_of(WRITTEN)
        return {"best_write": float(np.nanmax(mean)), "total_write": float(np.nansum(mean))}

    @classmethod
    def columns(cls, result: "heads.Scores") -> dict[str, Any]:
        """The same, and which head it is."""
        return {"best_writer": result.top(1, by=WRITTEN)[0].name, **cls.reading(result)}

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return {"best_writer": "writer", "best_write": "write", "total_write": "writes"}.get(column, column)

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """What each head writes against how much it copies, a drawing a checkpoint."""
        from circuit_drift.measures.causal import writing_figure as figures

        first = next(point.results[cls.name] for point in run if cls.name in point.results)
        yield Section(
            cls.name,
            "What retrieval heads write",
            text="Attention says where a head looks; this says what it then does to the answer's logit. Drag the "
            "slider through training.",
            figure=figures.writing_figure(run),
            caption=f"Direct logit attribution of the copied tokens, norms frozen; {counted(len(first), 'prompt')} of "
            f"{first.meta['length']} tokens; needles: {run.origins['needles']}.",
            frame=figures.writing_frame(run),
        )
