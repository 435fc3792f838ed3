"""The whole recipe of a lab series as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Source = Literal["biographies", "needles", "keyed_lists", "word_lists", "prose"]
Mix = tuple[tuple[Source, float], ...]

PRETRAIN_MIX: Mix = (
    ("biographies", 0.20),
    ("needles", 0.30),
    ("keyed_lists", 0.15),
    ("word_lists", 0.25),
    ("prose", 0.10),
)
CPT_MIX: Mix = (
    ("biographies", 0.50),
    ("needles", 0.20),
    ("keyed_lists", 0.10),
    ("word_lists", 0.10),
    ("prose", 0.10),
)
PRETRAIN_CHECKPOINTS = (0, 250, 500, 750, 1000, 1500, 2000, 3000, 4500, 5500, 6500, 7500, 9000)
CPT_CHECKPOINTS = (20, 80, 300)


@dataclass(frozen=True, slots=True)
class Shape:
    """The model: a Llama with grouped-query attention and tied embeddings."""

    layers: int = 4
    width: int = 128
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 16
    mlp: int = 256
    positions: int = 1024
    rope_theta: float = 1000.0
    init_std: float = 0.06
    embedding_std: float = 0.1


class Rates:
    """What recipes share: the optimizers' settings by name."""

    __slots__ = ()

    @property
    def rates(self) -> dict[str, float]:
        """Peak learning rates and the decay of the matrices."""
        return {name: getattr(self, name) for name in ("muon_lr", "muon_weight_decay", "adam_lr")}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of training: its facts, length, learning rate and document mix.

    Attributes:
        name: written to the manifest.
        batch: whose facts its biographies state: 0 the old ones, 1 and 2 those of continual pre-training.
        steps: optimizer steps.
        lr_scale: factor on the peak learning rates.
        mix: share of tokens by document source.
        checkpoints: steps, counted from the stage's start, after which a checkpoint is saved.
    """

    name: str
    batch: int
    steps: int
    lr_scale: float
    mix: Mix
    checkpoints: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recipe(Rates):
    """Model, data and optimisation of a series; two builds of one recipe on one machine give the same files.

    Attributes:
        seed: of the world, the initial weights and the documents.
        order: of the documents alone: the same facts, told in other documents and another order.
        shape: the model.
        tokens_per_step: tokens in a batch.
        rows: (first step, row length); a batch has ``tokens_per_step / length`` rows.
        filler: (words at step 0, words per step): the longest filler of a needle document as training goes on.
        novel_weight: loss weight of a code word's first occurrence in its document. It is drawn at random, so
            nothing but noise can be learned from it.
        muon_lr: peak learning rate of the layers' matrices.
        muon_weight_decay: decoupled weight decay of the same.
        adam_lr: peak learning rate of embeddings and norms.
        warmup: steps of linear warm-up.
        plateau: steps of pre-training after which the learning rate falls exponentially.
        half_life: steps in which it then halves.
        clip: largest gradient norm.
        stages: in order.
    """

    seed: int = 0
    order: int = 0
    shape: Shape = field(default_factory=Shape)
    tokens_per_step: int = 1024
    rows: tuple[tuple[int, int], ...] = ((0, 128), (800, 256), (2000, 512))
    filler: tuple[int, float] = (10, 0.12)
    novel_weight: float = 0.05
    muon_lr: float = 0.01
    muon_weight_decay: float = 0.05
    adam_lr: float = 2e-3
    warmup: int = 60
    plateau: int = 4000
    half_life: int = 900
    clip: float = 1.0
    stages: tuple[Stage, ...] = (
        Stage("pretrain", 0, 9000, 1.0, PRETRAIN_MIX, PRETRAIN_CHECKPOINTS),
        Stage("cpt", 1, 300, 0.2, CPT_MIX, CPT_CHECKPOINTS),
        Stage("cpt", 2, 300, 0.2, CPT_MIX, CPT_CHECKPOINTS),
    )

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return sum(stage.steps for stage in self.stages)

    def row_length(self, step: int) -> int:
        """Tokens in a row at a step."""
        return next(length for first, length in reversed(self.rows) if step >= first)

    def filler_words(self, step: int) -> int:
        """The longest filler of a needle document at a step."""
        start, growth = self.filler
        return int(start + growth * step)

    def lr_scale(self, step: int) -> float:
        """Factor on the peak learning rates at a step: warm-up, plateau, decay, then the later stage's own."""
        first, *later = self.stages
        if step >= first.steps:
            return _stage_at(later, step - first.steps).lr_scale
        if step < self.warmup:
            return (step + 1) / self.warmup
        return float(0.5 ** (max(0, step - self.plateau) / self.half_life))


def _stage_at(stages: list[Stage], step: int) -> Stage:
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]
