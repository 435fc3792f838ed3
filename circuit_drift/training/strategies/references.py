"""The models that a strategy's divergence holds it to, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints import open_checkpoint
from checkpoints.placement import Placement
from circuit_drift.training import Prober, unit_scores
from circuit_drift.training.strategies.loop.epoch import TrainingState
from circuit_drift.training.strategies.loop.parameters import frozen_copy
from circuit_drift.training.strategies.settings.strategy import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True)
class References:
    """Where the references of a strategy come from; each is what the checkpoint of its step holds.

    Attributes:
        strategy: its ``kl`` and ``kl_to``.
        original: the model before training.
        folder: of the strategy's checkpoints.
        placement: of the models.
    """

    strategy: Strategy
    original: "PreTrainedModel"
    folder: Path
    placement: Placement
    _held: "dict[int, PreTrainedModel]" = field(default_factory=dict, init=False, repr=False)

    def at(self, progress: TrainingState, prober: Prober) -> "Sequence[PreTrainedModel]":
        """The references for the epoch that begins; none where nothing is held."""
        if not self.strategy.kl:
            return ()
        if self.strategy.kl_to == "original":
            return (self.original,)
        step = progress.step if self.strategy.kl_to != "best" else best_step(prober)
        self._held = {step: self._held[step] if step in self._held else self._model(step, progress)}
        kept = self._held[step]
        return (self.original, kept) if self.strategy.kl_to == "both" else (kept,)

    def _model(self, step: int, progress: TrainingState) -> "PreTrainedModel":
        if step == progress.step:
            return frozen_copy(progress.module)
        return open_checkpoint(self.folder / f"checkpoint-{step}").load(self.placement).model


def best_step(prober: Prober) -> int:
    """The first step at which most was recalled, on the mean over units."""
    scores = unit_scores(prober.recorder.store, prober.recorder.name)
    return int(scores.steps[int(np.nanmean(scores.mean, axis=0).argmax())])
