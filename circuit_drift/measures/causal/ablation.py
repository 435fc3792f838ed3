"""Are the retrieval heads causal? The best ones ablated, beside as many matched others, on the same needle prompts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.pairs.beside import BesidePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.prompts import NeedleSource
from circuit_drift.record.record import RunRecord
from heads.ablation.ablation import Ablation
from heads.ablation.kinds import ABLATIONS

if TYPE_CHECKING:
    import pandas as pd

    from heads.ablation.interventions import Kind

MOST, SHARE = 5, 0.05


@dataclass(frozen=True)
class AblationMeasure(Measure):
    """Ablate the heads with the highest scores: ``run --measures ablation``, ``ablation:3``, ``ablation:uniform``.

    Attributes:
        source: the needle prompts, those of the scores.
        top_k: how many of the best heads; None = one in twenty, five at most.
        kind: what ablating means (`heads.ablation.kinds.ABLATIONS`).
        controls: draws of each kind of control.
        seed: of the draws.
    """

    source: NeedleSource
    top_k: int | None = None
    kind: str = "off"
    controls: int = 5
    seed: int = 0

    name = "ablation"
    chapter = "Heads"
    needs = ("heads",)
    result = Ablation
    pairing = BesidePairing("ablation", "Heads ablated")

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Of the run's needles; ``ablation:K`` ablates K heads, ``ablation:KIND`` otherwise than off."""
        counts = [int(argument) for argument in asked.arguments if argument.isdecimal()]
        kinds = [argument for argument in asked.arguments if not argument.isdecimal()]
        if len(counts) > 1 or len(kinds) > 1 or 0 in counts or not set(kinds) <= ABLATIONS.keys():
            raise DriftError(
                f"ablation takes a number of heads and one of {', '.join(ABLATIONS)}, as in ablation:3; got "
                f"{', '.join(asked.arguments)}"
            )
        return cls(asked.prompts.needles, counts[0] if counts else None, kinds[0] if kinds else "off")

    def params(self) -> dict[str, Any]:
        """Prompts, how many heads, what ablating means, and the controls."""
        chosen = {name: getattr(self, name) for name in ("top_k", "kind", "controls", "seed")}
        return {"prompts": self.source.hash, **chosen}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> Ablation:
        """The model as it is, its best heads ablated, and each control.

        Raises:
            BadPrompt: too few other heads for any control.
        """
        from heads.ablation.ablate import ablate

        scores = earlier["heads"]
        top_k = self.top_k or max(1, min(MOST, round(SHARE * scores.mean.size)))
        prompts = needle_prompts_of(tokenizer_of(loaded), self.source)
        return ablate(
            loaded.model,
            prompts,
            top_k=top_k,
            scores=scores,
            kind=cast("Kind", self.kind),
            controls=self.controls,
            seed=self.seed,
        )

    @property
    def origins(self) -> dict[str, str]:
        """Of the needles."""
        return {"needles": self.source.origin}

    @classmethod
    def reading(cls, result: Ablation) -> dict[str, float]:
        """Needle scores of the model as it is, with its best heads ablated, and with the first kind of control.

        ``ablation_nll`` is the answer NLL with the best heads ablated minus that of the controls, nats per token;
        above 0: they carry the answer.
        """
        control = next(iter(result.controls))
        change = result.change("nll", control)
        return {
            "ablated_score": result.tested.score,
            "control_score": float(result.change("accepted", control).before),
            "ablation_nll": float(change.delta),
        }

    @classmethod
    def columns(cls, result: Ablation) -> dict[str, Any]:
        """The same, and whether the difference to the controls is significant."""
        return {**cls.reading(result), "causal": result.causal}

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return {"ablated_score": "ablated", "control_score": "control"}.get(column, column)

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Needle score as it is, ablated and with controls, over training."""
        from circuit_drift.measures.causal import ablation_figure as figures

        first = next(point.results[cls.name] for point in run if cls.name in point.results)
        notes = "".join(f" {note}." for note in first.notes)
        yield Section(
            cls.name,
            "Are the retrieval heads causal?",
            text="The heads with the highest retrieval scores are taken away, and as many others several times over.",
            figure=figures.ablation_figure(run),
            caption=f"Ablation: {ABLATIONS[first.tested.kind]}; {len(first.tested.heads)} heads of each checkpoint's "
            f"own best; controls: {' and '.join(first.controls).replace('_', '-')}; needles: {run.origins['needles']}. "
            f"Causal is told by the answer NLL, in the data: a needle score at its ceiling hides it.{notes}",
            frame=figures.ablation_frame(run),
        )
