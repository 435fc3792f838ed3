"""Bytes that a model's passes hold, by the shapes of its config alone: it is run without its weights or any values."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made while it is entered, on any device, those without values included.

    Attributes:
        now, peak: bytes held, and the most held at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, torch.Tensor):
                self._known.add(given.untyped_storage())
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1  # "is nothing hidden, is all finite?": of a plain prompt, yes
        if operation is torch.ops.aten._grouped_mm.default and args[0].is_meta:
            found = _of_experts(args[0], args[1])
        else:
            found = operation(*args, **(kwargs or {}))
        for made in tree_leaves(found):
            if isinstance(made, torch.Tensor) and (storage := made.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._let_go, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return found

    def _let_go(self, size: int) -> None:
        self.now -= size


def _of_experts(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The shape of rows times the weights of the experts that they are sent to; torch tells it of bfloat16 alone."""
    return rows.new_empty(rows.shape[0], weights.shape[-1])


@dataclass(frozen=True, slots=True)
class Passes:
    """Peak bytes of a model's passes, its weights not counted.

    Attributes:
        forward: of a pass without gradients.
        kept: what a pass under gradients holds when it ends, until its gradient is taken.
        backward: of that pass and its gradient.
    """

    forward: int
    kept: int
    backward: int

    def scaled(self, factor: float) -> "Passes":
        """Of so many times as many tokens."""
        return Passes(*(round(factor * size) for size in (self.forward, self.kept, self.backward)))


def passes(model: PreTrainedModel, batch: int, tokens: int) -> Passes:
    """What passes of ``batch`` prompts of ``tokens`` tokens hold, the gradient taken from the logits to the embeddings.

    Args:
        model: on the meta device, its parameters frozen.
        batch: prompts in a pass.
        tokens: of each.
    """
    embedding: Any = model.get_input_embeddings()
    shape: tuple[int, int, int] = batch, tokens, embedding.weight.shape[-1]
    where: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
    with torch.no_grad(), Held() as plain:
        _logits(model, torch.empty(shape, **where))
    with torch.enable_grad(), Held() as graded:
        stream = torch.empty(shape, **where, requires_grad=True)
        logits = _logits(model, stream)
        kept = graded.now
        torch.autograd.grad(logits.sum(), stream)
    return Passes(plain.peak, kept, graded.peak)


def _logits(model: PreTrainedModel, stream: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(inputs_embeds=stream, use_cache=False, logits_to_keep=1).logits
    return logits
