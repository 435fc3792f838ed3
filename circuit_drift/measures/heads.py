"""Retrieval heads: the scores of every head on needle prompts, needle accuracy and the answers' likelihood."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import heads
from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.needles import OverNeedles, needle_prompts_of
from circuit_drift.measures.pairs.heads import HeadPairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.page.thinning import left_out
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

SHORT = {
    "needle_score": "needle",
    "needle_accuracy": "exact",
    "answer_ppl": "ppl",
    "retrieval_heads": "heads",
    "best_head": "best",
    "best_score": "score",
}


@dataclass(frozen=True)
class RetrievalMeasure(OverNeedles):
    """Teacher-forced retrieval scores, needle accuracy and answer NLL over one set of needle prompts."""

    batch_size: int = 8

    name = "heads"
    chapter = "Heads"
    version = 3
    result = heads.Scores
    pairing = HeadPairing()

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "heads.Scores":
        """Score every head on every needle prompt, in batches or, where that pays, behind shared prefixes."""
        tokenizer = tokenizer_of(loaded)
        prompts = needle_prompts_of(tokenizer, self.source)
        scores = heads.score(loaded.model, prompts, batch_size=self.batch_size, prefix="auto")
        if scores.example is None:
            return scores
        tokens = tuple(str(tokenizer.decode([token])) for token in scores.example.ids.tolist())
        return replace(scores, example=replace(scores.example, tokens=tokens))

    @classmethod
    def reading(cls, result: "heads.Scores") -> dict[str, float]:
        """Needle accuracy, perplexity of the answers, heads that retrieve."""
        return {
            "needle_accuracy": result.needle_accuracy,
            "answer_ppl": result.answer_ppl,
            "retrieval_heads": result.count(),
        }

    @classmethod
    def columns(cls, result: "heads.Scores") -> dict[str, Any]:
        """Readouts, the number of heads that retrieve, the best head and its score."""
        best = result.top(1)
        return {
            "needle_score": result.needle_score,
            "needle_accuracy": result.needle_accuracy,
            "answer_ppl": result.answer_ppl,
            "retrieval_heads": result.count(),
            "best_head": best[0].name if best else None,
            "best_score": best[0].score.value if best else None,
        }

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return SHORT.get(column, column)

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Behaviour, the map of all heads, and the leading heads, over training."""
        from circuit_drift.measures.figures import heads as figures

        scored = next(point.heads for point in run if point.heads is not None)
        probe = (
            f"{counted(len(scored), 'prompt')} of {scored.meta['length']} tokens; needles: {run.origins['needles']}."
        )
        yield Section(
            "needle",
            "Needle score against answer perplexity",
            chapter="Behaviour",
            figure=figures.behaviour_figure(run),
            caption=probe,
            frame=table[["step", "needle_score", "needle_accuracy", "answer_ppl"]],
        )
        yield Section(
            "heads",
            "Retrieval heads over training",
            text="Which heads retrieve, layer by layer; drag the slider through training.",
            figure=figures.head_map_figure(run),
            caption=f"Teacher-forced retrieval score (arXiv 2604.02650, 3.3), mean over {probe}"
            + left_out(sum(point.heads is not None for point in run), "The slider"),
            frame=figures.head_frame(run),
        )
        yield Section(
            "leading-heads",
            "The leading heads",
            figure=figures.head_lines_figure(run),
            caption=f"95 % intervals are in the table; {probe}",
            frame=table[["step", "retrieval_heads", "best_head", "best_score"]],
        )
