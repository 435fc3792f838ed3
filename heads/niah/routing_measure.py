"""The experts that a model chooses, read off the calls of its mixtures while needle prompts run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from checkpoints.model.forward import row_logits
from checkpoints.model.plain import takes_model
from checkpoints.model.rope import of_one_regime
from heads.detect.retrieval import about, check_fits, pad
from heads.niah.routing import KINDS, ExpertRouting
from heads.prompts.needles import NeedlePrompt, NeedleSet


@torch.no_grad()
@takes_model
def expert_routing(model: PreTrainedModel, needle_set: NeedleSet, *, batch_size: int = 8) -> ExpertRouting:
    """Where the tokens of needle prompts go, answers teacher-forced; a shared expert takes every token and is left out.

    Args:
        model: a mixture-of-experts decoder whose blocks call their experts with hidden states, the chosen experts and
            their weights, as those of Mixtral, Qwen-MoE, HunYuan and OLMoE do.
        needle_set: what `needle_prompts` built.
        batch_size: prompts in a forward pass; changes no number beyond rounding.

    Raises:
        UnsupportedArchitecture: no layer has experts, or layers have different numbers of them.
    """
    mixtures = _mixtures(model)
    check_fits(model, needle_set)
    numbers = {int(module.num_experts) for module in mixtures.values()}  # type: ignore[arg-type]
    if len(numbers) != 1:
        seen = f"mixtures of {sorted(numbers)} experts" if numbers else "no mixture of experts"
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has {seen}; routing is followed where all have one number"
        )
    experts, layers = numbers.pop(), len(anatomy(model).blocks)
    prompts = needle_set.prompts
    shares = np.full((len(prompts), len(KINDS), layers, experts), np.nan, dtype=np.float32)
    width = 0
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for places in of_one_regime(model, [len(prompts[i].ids) for i in batch]):
            together = [batch[place] for place in places]
            ids, rows = (part.to(model.device) for part in pad([prompts[i] for i in together]))
            with _watching(mixtures) as chosen:
                row_logits(model, ids, rows)
            for layer, index in chosen.items():
                slots = index.reshape(*ids.shape, -1).cpu().numpy()
                width = slots.shape[-1]
                for row, i in enumerate(together):
                    shares[i, :, layer] = _shares(prompts[i], slots[row], experts)
    return ExpertRouting(
        shares=shares,
        needle=np.array([prompt.needle for prompt in prompts]),
        meta={**about(model), "prompts": needle_set.hash, "length": needle_set.length, "experts_a_token": width},
    )


def _mixtures(model: PreTrainedModel) -> dict[int, nn.Module]:
    """Layer -> its experts, of the layers that have any."""
    found = {block.index: getattr(block.mlp, "experts", None) for block in anatomy(model).blocks}
    return {
        index: experts
        for index, experts in found.items()
        if isinstance(experts, nn.Module) and hasattr(experts, "num_experts")
    }


@contextmanager
def _watching(mixtures: dict[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Layer -> the experts chosen for each token, as the model runs."""
    chosen: dict[int, Tensor] = {}

    def noting(layer: int) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = [*args, *kwargs.values()]
            if len(inputs) != 3 or inputs[1].is_floating_point():
                raise UnsupportedArchitecture(
                    f"the experts of layer {layer} ({type(module).__name__}) are not called with hidden states, the "
                    "chosen experts and their weights, so that their choice is not known"
                )
            chosen[layer] = inputs[1].detach()

        return note

    handles = [
        experts.register_forward_pre_hook(noting(layer), with_kwargs=True) for layer, experts in mixtures.items()
    ]
    try:
        yield chosen
    finally:
        for handle in handles:
            handle.remove()


def _shares(prompt: NeedlePrompt, slots: np.ndarray, experts: int) -> np.ndarray:
    """[kinds, E] of one prompt from the experts chosen, [S, k]."""
    needle = _inside(prompt.needle_spans)
    answer = set(range(prompt.answer_start - 1, len(prompt.ids) - 1))
    text = set(range(prompt.answer_start - 1)) - needle
    counts = np.stack([np.bincount(slots[sorted(part)].ravel(), minlength=experts)[:experts]
                       for part in (text, needle, answer)]).astype(np.float64)  # fmt: skip
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _inside(spans: Sequence[tuple[int, int]]) -> set[int]:
    return {position for start, stop in spans for position in range(start, stop)}
