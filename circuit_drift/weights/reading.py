"""The tensors of two checkpoints by the model's names, one after the other: from the files where they hold them so."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints import Checkpoint
from checkpoints.errors import NotACheckpoint, UnsupportedArchitecture
from checkpoints.files.formats import find_weights
from checkpoints.files.headers import safetensors_entries, unwrapped
from checkpoints.files.trust import allows_code, refuse_foreign_code
from checkpoints.loading.build import read_config
from checkpoints.loading.lora import base_of, read_factors
from checkpoints.placement import Placement

Get = Callable[[str], Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Both:
    """Two checkpoints of one shape.

    Attributes:
        shape: the model without its weights; small modules, norms above all, hold numbers that stand for nothing.
        a, b: the tensor of a parameter's name.
    """

    shape: PreTrainedModel
    a: Get
    b: Get


@contextmanager
def both(a: Checkpoint, b: Checkpoint) -> Iterator[Both]:
    """Two checkpoints' tensors: streamed from safetensors that hold the model's own names, else from loaded models.

    Raises:
        UnsupportedArchitecture: one of them is stored quantised.
    """
    _require_weights(a)
    _require_weights(b)
    shape = skeleton(a)
    names = {name: tuple(parameter.shape) for name, parameter in shape.named_parameters()}
    with ExitStack() as stack:
        read = [_streamed(checkpoint, shape, names, stack) for checkpoint in (a, b)]
        if read[0] is None or read[1] is None:
            place = Placement(device="cpu")
            models = [stack.enter_context(checkpoint.open(place)).model for checkpoint in (a, b)]
            yield Both(models[0], models[0].get_parameter, models[1].get_parameter)
        else:
            yield Both(shape, read[0], read[1])


def _require_weights(checkpoint: Checkpoint) -> None:
    """Refuse files whose numbers are no weights; a GGUF file alone has no config here, and is read as plain ones."""
    with suppress(NotACheckpoint):
        if "quantization_config" in checkpoint.config:
            raise UnsupportedArchitecture(
                f"{checkpoint.path} is quantised (quantization_config): what it stores are weights only with their "
                "scales; compare the unquantised checkpoints"
            )


def skeleton(checkpoint: Checkpoint) -> PreTrainedModel:
    """The checkpoint's model without memory for its weights: modules of vectors alone are filled with odd numbers.

    A norm is recognised by what it computes, whatever its gain, so it needs some.
    """
    import transformers

    auto: Any = transformers
    own = allows_code(checkpoint.path, checkpoint.repo)
    refuse_foreign_code(checkpoint.config, checkpoint.path, own=own)
    config = read_config(checkpoint)
    with torch.device("meta"):
        model: PreTrainedModel = auto.AutoModelForCausalLM.from_config(config, trust_remote_code=own)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        vectors = dict(module.named_parameters(recurse=False))
        if not list(module.children()) and all(vector.ndim == 1 for vector in vectors.values()):
            for name, vector in vectors.items():
                setattr(module, name, nn.Parameter(0.5 + torch.rand(vector.shape, generator=generator)))
    model.requires_grad_(requires_grad=False).train(mode=False)
    return model


def _streamed(checkpoint: Checkpoint, shape: PreTrainedModel, names: Shapes, stack: ExitStack) -> Get | None:
    """Reads a tensor when it is asked for; of a plain LoRA adapter the base's, and what its factors add."""
    if checkpoint.base is None:
        return _from_files(checkpoint, names, stack)
    stored, steps = _from_files(base_of(checkpoint), names, stack), read_factors(checkpoint, shape)
    if stored is None or steps is None:
        return None
    return lambda name: stored(name) + steps[name].dense() if name in steps else stored(name)


def _from_files(checkpoint: Checkpoint, names: Shapes, stack: ExitStack) -> Get | None:
    """Reads a tensor from the files when it is asked for; ``None`` where they do not hold every name in its shape."""
    from safetensors import safe_open

    weights = find_weights(checkpoint.fetch())
    if weights.format.entries is not safetensors_entries:
        return None
    where: dict[str, tuple[Any, str]] = {}
    for file in weights.files:
        held = stack.enter_context(safe_open(file, framework="pt"))
        where |= {unwrapped(name): (held, name) for name in held.keys()}  # noqa: SIM118
    for name, shape in names.items():
        if name not in where or tuple(where[name][0].get_slice(where[name][1]).get_shape()) != shape:
            return None

    def get(name: str) -> Tensor:
        held, stored = where[name]
        tensor: Tensor = held.get_tensor(stored)
        return tensor

    return get
