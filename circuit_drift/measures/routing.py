"""Expert routing: which experts a mixture-of-experts model uses, how that drifts, and which its needle answers use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.needles import OverNeedles, needle_prompts_of
from circuit_drift.measures.pairs.beside import BesidePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from heads.niah.routing import ExpertRouting

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RoutingMeasure(OverNeedles):
    """Expert shares by layer on the run's needle prompts: ``run --measures routing``."""

    name = "routing"
    result = ExpertRouting
    pairing = BesidePairing("routing", "Expert routing")

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> ExpertRouting:
        """One pass over the prompts.

        Raises:
            UnsupportedArchitecture: the model has no experts.
        """
        from heads.niah.routing_measure import expert_routing

        return expert_routing(loaded.model, needle_prompts_of(tokenizer_of(loaded), self.source))

    @classmethod
    def reading(cls, result: ExpertRouting) -> dict[str, float]:
        """Evenness of the routing of text and of answers, and the share of slots in which they differ, over layers.

        ``answer_experts`` counts the experts that answers use significantly more than text does.
        """
        return {
            "routing_evenness": float(np.nanmean(result.entropy("text"))),
            "answer_evenness": float(np.nanmean(result.entropy("answer"))),
            "answer_shift": float(np.nanmean(result.answer_shift)),
            "answer_experts": float(len(result.answer_experts)),
        }

    @classmethod
    def along(cls, run: RunRecord) -> dict[str, list[float]]:
        """Share of the text's slots that went to other experts at the measured checkpoint before, mean over layers."""
        drift, before = [], None
        for point in run:
            now: ExpertRouting | None = point.results.get(cls.name)
            drift.append(float("nan") if now is None or before is None else float(np.nanmean(now.drift(before))))
            before = now or before
        return {"routing_drift": drift}

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return {"routing_evenness": "even", "answer_evenness": "even on answers", "routing_drift": "drift"}.get(
            column, column
        )

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Shares by layer and expert with a slider; evenness and drift over training."""
        from circuit_drift.measures.figures import routing as figures

        last = [point.results[cls.name] for point in run if cls.name in point.results][-1]
        probe = (
            f"{counted(len(last.needle), 'prompt')} of {last.meta['length']} tokens, {last.meta['experts_a_token']} "
            f"experts a token; needles: {run.origins['needles']}."
        )
        yield Section(
            cls.name,
            "Which experts tokens go to",
            text="Left: text. Right: the tokens that predict the needle's answer, minus text. Drag the slider through "
            "training.",
            figure=figures.shares_figure(run),
            caption=f"Share of each layer's routing slots; shared experts take every token and are left out. {probe} "
            "The table is of the last checkpoint.",
            frame=last.to_frame(),
        )
        found = [point.results.get(cls.name) for point in run]
        read = [None if each is None else cls.reading(each) for each in found]
        columns = ["routing_evenness", "answer_evenness", "answer_shift", "answer_experts", "routing_drift"]
        yield Section(
            "routing-lines",
            "Routing over training",
            figure=figures.routing_figure(run, read, cls.along(run)["routing_drift"]),
            caption=f"Means over the layers; drift is the total variation to the checkpoint before. {probe}",
            frame=table[["step", *columns]],
        )
