"""The training loop of the lab: one recipe in, a model at each checkpoint out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints.errors import DriftError
from circuit_drift.lab.data import RowStream
from circuit_drift.lab.evaluate import token_losses
from circuit_drift.lab.recipe import Recipe, Shape, Stage
from circuit_drift.lab.world import World

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of training at which the loop hands the live model out.

    Attributes:
        step: optimizer steps taken.
        stage: name of the stage they end in.
        tokens: tokens seen.
        loss: mean training loss (nats per weighted token) since the previous moment; NaN at step 0.
        saved: whether the recipe asks for a checkpoint here.
    """

    step: int
    stage: str
    tokens: int
    loss: float
    saved: bool


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised model for the recipe and tokenizer."""
    return build_shape(recipe.shape, tokenizer, seed=recipe.seed)


def build_shape(shape: Shape, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """A freshly initialised model of a shape for a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=shape.init_std,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=shape.embedding_std)
    return model


def train(
    recipe: Recipe, world: World, tokenizer: PreTrainedTokenizerFast, *, every: int | None = None
) -> Iterator[tuple[LlamaForCausalLM, Moment]]:
    """Train from the beginning; see `Training`."""
    return iter(Training(recipe, world, tokenizer, every=every))


class Training:
    """A recipe's training, which can be left at any moment that it yields and gone on with from there.

    Iterating yields the live model (in eval mode) at every checkpoint and, if given, at multiples of ``every``. A stage
    of another name than the one before starts from the weights as saved and with new optimizers. Whoever receives the
    model must leave its weights as they are.

    Raises:
        DriftError: this torch has no Muon optimizer.
    """

    def __init__(
        self, recipe: Recipe, world: World, tokenizer: PreTrainedTokenizerFast, *, every: int | None = None
    ) -> None:
        self.recipe, self.world, self.tokenizer, self.every = recipe, world, tokenizer, every
        self.model = build_model(recipe, tokenizer)
        self._taken, self._first, self._told = 0, 0, -1
        self._enter(0)

    def __iter__(self) -> Iterator[tuple[LlamaForCausalLM, Moment]]:
        import torch

        losses = [] if self._told >= 0 else [float("nan")]
        while True:
            stage = self.recipe.stages[self._stage]
            in_stage = self._taken - self._first
            saved = in_stage in stage.checkpoints
            if self._told < in_stage and (saved or (self.every and self._taken % self.every == 0 and in_stage)):
                self._told = in_stage
                self.model.train(False)
                tokens = self._taken * self.recipe.tokens_per_step
                with torch.no_grad():
                    yield self.model, Moment(self._taken, stage.name, tokens, _mean(losses), saved)
                losses.clear()
            if in_stage < stage.steps:
                losses.append(_step(self.model, self._optimizers, self._stream, self.recipe, self._taken))
                self._taken += 1
            elif self._stage + 1 < len(self.recipe.stages):
                self._enter(self._stage + 1)
            else:
                return

    def state(self) -> dict[str, Any]:
        """All that going on from the moment just yielded needs: tensors and plain values, safe to load."""
        return {
            "stage": self._stage,
            "first": self._first,
            "step": self._taken,
            "told": self._told,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "stream": self._stream.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same recipe: the next moment is the one after it."""
        self._enter(state["stage"])
        self._first, self._taken, self._told = state["first"], state["step"], state["told"]
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self._stream.restore(state["stream"])

    def begin(self, index: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Begin with a stage, from weights as saved: with new optimizers, whatever the stage's name."""
        self.model.load_state_dict(weights)
        self._optimizers = optimizers(self.model, **self.recipe.rates)
        self._taken = sum(stage.steps for stage in self.recipe.stages[:index])
        self._enter(index)
        self._told = 0

    def _enter(self, index: int) -> None:
        stages = self.recipe.stages
        if index == 0 or stages[index].name != stages[index - 1].name:
            _round_to_saved(self.model)
            self._optimizers = optimizers(self.model, **self.recipe.rates)
        self._stage, self._first, self._told = index, self._taken, -1
        self._stream = _stream(self.recipe, stages[index], self.world, self.tokenizer)


def _step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    stream: RowStream,
    recipe: Recipe,
    step: int,
) -> float:
    import torch

    length = recipe.row_length(step)
    rows = stream.rows(recipe.tokens_per_step // length, length, filler=recipe.filler_words(step))
    model.train(True)
    nll = token_losses(model, rows)
    weights = torch.from_numpy(rows.weights)[:, 1:]
    loss = (nll * weights).sum() / weights.sum()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    scale = recipe.lr_scale(step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def _round_to_saved(model: LlamaForCausalLM) -> None:
    """Round the weights to the bf16 values that checkpoints hold: a stage starts from a checkpoint as saved."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())


def optimizers(
    model: LlamaForCausalLM, *, muon_lr: float, muon_weight_decay: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms (Jordan et al. 2024)."""
    import torch

    if not hasattr(torch.optim, "Muon"):
        raise DriftError(f"training needs torch.optim.Muon, which torch {torch.__version__} lacks: install torch>=2.9")
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    taken = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in taken]
    muon = torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=muon_weight_decay)
    adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adam]


def _stream(recipe: Recipe, stage: Stage, world: World, tokenizer: PreTrainedTokenizerFast) -> RowStream:
    facts = world.batch(stage.batch) if stage.batch else world.old
    order = f"-order {recipe.order}" if recipe.order else ""
    rng = random.Random(f"{recipe.seed}-{stage.name}-{stage.batch}{order}")
    return RowStream(tokenizer, stage.mix, facts, rng, novel_weight=recipe.novel_weight)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
