"""A model in training, lent to a measurement and handed back exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from checkpoints.model.rope import put_back, rotary_states
from circuit_drift.behaviour.randomness import random_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TrainingDisturbed(DriftError):
    """A probe wrote to the weights of the model it measured: the run is no longer what it would have been."""


@contextmanager
def undisturbed(model: "PreTrainedModel") -> Iterator[None]:
    """Lend a live model for the length of a ``with`` block: in eval mode, frozen, gradients allowed, no autocast.

    Restored afterwards, whatever happens inside: the random states of Python, numpy, torch and every CUDA device,
    the grad mode, each module's train or eval mode, each parameter's ``requires_grad``, the attention implementation
    of each submodel, and rotary angles that follow the longest text so far. The wrapper that mixed-precision training
    puts around ``forward`` is set aside, so that a probe computes in the dtype of the weights. Inside, every generator
    starts from one seed, so that a probe does not depend on when it is taken. Gradients already accumulated and the
    optimizer's state are out of reach.

    Raises:
        TrainingDisturbed: something inside wrote to a parameter or buffer.
    """
    import torch

    before = _versions(model)
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    attention, angles = _attention(model), rotary_states(model)
    device = next(model.parameters()).device.type
    wrapper = vars(model).get("forward") if hasattr(model, "_original_forward") else None
    with random_states(), torch.set_grad_enabled(mode=True), torch.autocast(device, enabled=False):
        try:
            if wrapper is not None:
                del model.forward
            model.train(mode=False)
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            if wrapper is not None:
                model.forward = wrapper
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for config, name in attention:
                config._attn_implementation = name
            put_back(angles)
    if _versions(model) != before:
        raise TrainingDisturbed(
            f"a probe wrote to the weights of {type(model).__name__}: training cannot go on from them; take the "
            "last checkpoint, and leave that probe out"
        )


def _versions(model: "PreTrainedModel") -> list[int]:
    """How often each weight was written in place."""
    return [tensor._version for tensor in (*model.parameters(), *model.buffers())]


def _attention(model: "PreTrainedModel") -> list[tuple[Any, str]]:
    from transformers import PreTrainedModel

    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    configs = {id(part.config): part.config for part in parts}
    return [(config, config._attn_implementation) for config in configs.values()]
