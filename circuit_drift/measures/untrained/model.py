"""A model of the same config with random weights."""

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from checkpoints.loading.load import LoadedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def untrained(loaded: LoadedModel, seed: int = 0) -> LoadedModel:
    """The twin of a loaded model: its class and config, weights as its class draws them before training.

    The weights are drawn on the CPU, so that they are the same on every device; the state of the random numbers of the
    process is left as it was. It stands in memory beside the model.

    Args:
        loaded: the model, of which no weight is used.
        seed: of the weights.
    """
    import torch

    model = loaded.model
    first = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        twin: PreTrainedModel = type(model)(deepcopy(model.config))
    twin = twin.to(device=first.device, dtype=first.dtype)  # type: ignore[call-arg]
    twin.requires_grad_(requires_grad=False).train(mode=False)
    return replace(loaded, _held=[(twin, loaded.tokenizer)], _bridges={}, device_map=None)
