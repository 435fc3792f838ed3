"""The whole recipe of the series on natural text as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from circuit_drift.lab.recipe import Rates, Shape

Source = Literal["natural", "needles", "keyed_lists", "word_lists"]
Mix = tuple[tuple[Source, float], ...]

FORMING: Mix = (("natural", 0.30), ("needles", 0.20), ("keyed_lists", 0.15), ("word_lists", 0.35))
SETTLING: Mix = (("natural", 0.50), ("needles", 0.28), ("keyed_lists", 0.12), ("word_lists", 0.10))
EXTENDING: Mix = (("natural", 0.60), ("needles", 0.40))


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Loss weight of a token by what it is.

    Attributes:
        told: a needle's value where it is first told, drawn at random: nothing can be learned from it.
        asked: the question.
        answer: the value where it is told again, and the repeats of a list.
    """

    told: float = 0.05
    asked: float = 0.3
    answer: float = 2.0


@dataclass(frozen=True, slots=True)
class TrainingPhase:
    """A part of training with one mix and one row length.

    Attributes:
        stage: written to the manifest.
        steps: optimizer steps.
        length: tokens in a row.
        mix: share of tokens by source.
        rope_theta: base of the rotary embedding.
        lr: factor on the peak learning rates at its start and at its end, linear between.
    """

    stage: str
    steps: int
    length: int
    mix: Mix
    rope_theta: float
    lr: tuple[float, float]


def _phases(extended_theta: float) -> tuple[TrainingPhase, ...]:
    return (
        TrainingPhase("pretrain", 800, 128, FORMING, 1e4, (1.0, 1.0)),
        TrainingPhase("pretrain", 1000, 256, FORMING, 1e4, (1.0, 1.0)),
        TrainingPhase("pretrain", 800, 256, SETTLING, 1e4, (1.0, 1.0)),
        TrainingPhase("pretrain", 800, 512, SETTLING, 1e4, (1.0, 1.0)),
        TrainingPhase("pretrain", 2600, 512, SETTLING, 1e4, (1.0, 0.0)),
        TrainingPhase("extend", 120, 2048, EXTENDING, extended_theta, (0.2, 0.2)),
    )


@dataclass(frozen=True, slots=True)
class Recipe(Rates):
    """Model, data and optimisation.

    Attributes:
        seed: of the initial weights and of all that is drawn.
        shape: the model.
        vocabulary: entries of the tokenizer.
        tokens_per_step: tokens in a batch (at least one row).
        value_words: (words at first, step from which on they grow, words a step, most): how many of the commonest words
            needle values draw from. Few at first: heads that copy form on them, and copy any other word afterwards.
        frames: (last step without, first step with the most, the most) of the share of needles in frames that are never
            the same twice, linear between. With such frames alone from the start the model repeated lists by step 1,500
            and found no needle's value by step 3,400.
        weights: of tokens in the loss.
        muon_lr: peak learning rate of the layers' matrices.
        muon_weight_decay: decoupled weight decay of the same.
        adam_lr: peak learning rate of embeddings and norms.
        warmup: steps of linear warm-up.
        clip: largest gradient norm.
        phases: in order; a phase of another stage than the one before starts with new optimizers.
        checkpoints: steps after which the model is saved.
    """

    seed: int = 0
    shape: Shape = field(default_factory=lambda: Shape(mlp=384, positions=4096, rope_theta=1e4))
    vocabulary: int = 4096
    tokens_per_step: int = 1024
    value_words: tuple[int, int, float, int] = (150, 2200, 0.5, 1000)
    frames: tuple[int, int, float] = (2200, 4200, 0.7)
    weights: LossWeights = field(default_factory=LossWeights)
    muon_lr: float = 0.01
    muon_weight_decay: float = 0.05
    adam_lr: float = 2e-3
    warmup: int = 60
    clip: float = 1.0
    phases: tuple[TrainingPhase, ...] = _phases(extended_theta=1e5)
    checkpoints: tuple[int, ...] = (0, 800, 1200, 1500, 1800, 2600, 3400, 4200, 5000, 6000, 6020, 6040, 6120)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return sum(phase.steps for phase in self.phases)

    def phase(self, step: int) -> int:
        """Index of the phase that the step after ``step`` steps belongs to."""
        for index, phase in enumerate(self.phases):
            if step < phase.steps:
                return index
            step -= phase.steps
        return len(self.phases) - 1

    def stage(self, step: int) -> str:
        """Stage of a checkpoint after ``step`` steps: the one whose last step it took."""
        return self.phases[self.phase(max(0, step - 1))].stage

    def lr_scale(self, step: int) -> float:
        """Factor on the peak learning rates at a step."""
        index = self.phase(step)
        phase, first = self.phases[index], sum(earlier.steps for earlier in self.phases[:index])
        start, end = phase.lr
        return min(1.0, (step + 1) / self.warmup) * (start + (end - start) * (step - first) / phase.steps)

    def words(self, step: int) -> int:
        """How many of the commonest words a needle's value draws from at a step."""
        start, first, growth, most = self.value_words
        return min(most, int(start + growth * max(0, step - first)))

    def variety(self, step: int) -> float:
        """Share of needle documents at a step whose frames are never the same twice."""
        last, first, most = self.frames
        return most * min(1.0, max(0, step - last) / (first - last))


def control() -> Recipe:
    """The same recipe with the rotary base left as it is in the extension."""
    return Recipe(phases=_phases(extended_theta=1e4))
