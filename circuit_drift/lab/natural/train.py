"""The training loop of the series on natural text, which can be left after any step and gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from circuit_drift.lab.evaluate import token_losses
from circuit_drift.lab.natural.recipe import Recipe
from circuit_drift.lab.train import build_shape, optimizers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from circuit_drift.lab.natural.rows import RowStream


class Training:
    """A recipe's training: `advance` takes one step; `state` and `restore` leave and go on.

    Attributes:
        model: the live model, in eval mode between steps.
        step: steps taken.
    """

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, stream: RowStream) -> None:
        self.recipe, self._tokenizer, self._stream = recipe, tokenizer, stream
        self.step, self._phase = 0, 0
        self.model = self._built(0)
        self._optimizers = optimizers(self.model, **recipe.rates)

    def advance(self) -> float:
        """Take a step; its loss in nats per weighted token."""
        import torch

        self._enter(self.recipe.phase(self.step))
        rows = self._stream.rows(self.step)
        self.model.train(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            nll = token_losses(self.model, rows)
        weights = torch.from_numpy(rows.weights)[:, 1:]
        loss = (nll.float() * weights).sum() / weights.sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        scale = self.recipe.lr_scale(self.step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale
            optimizer.step()
            optimizer.zero_grad()
        self.model.train(False)
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that going on needs: tensors and plain values, safe to load."""
        return {
            "step": self.step,
            "phase": self._phase,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "stream": self._stream.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same recipe."""
        self.step = state["step"]
        self._enter(state["phase"])
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self._stream.restore(state["stream"])

    def take_up(self, step: int, weights: Mapping[str, Any]) -> None:
        """Go on after a step with the weights of a checkpoint: the rows before it are drawn and left.

        From the last step of a stage on it is what training straight on does, but for the rounding of the weights: a
        stage begins with new optimizers.
        """
        for before in range(step):
            self._stream.rows(before)
        self._enter(self.recipe.phase(step - 1))
        self.model.load_state_dict(weights)
        self.step = step

    def _enter(self, phase: int) -> None:
        """Where the next phase has another rotary base or stage: the same weights in a model with that base."""
        before, after = self.recipe.phases[self._phase], self.recipe.phases[phase]
        self._phase = phase
        if (before.stage, before.rope_theta) == (after.stage, after.rope_theta):
            return
        weights = self.model.state_dict()
        self.model = self._built(phase)
        self.model.load_state_dict(weights)
        self._optimizers = optimizers(self.model, **self.recipe.rates)

    def _built(self, phase: int) -> LlamaForCausalLM:
        shape = replace(self.recipe.shape, rope_theta=self.recipe.phases[phase].rope_theta)
        return build_shape(shape, self._tokenizer, seed=self.recipe.seed)
