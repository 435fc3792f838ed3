"""The base model of a series of adapters, read once and lent to one merge after the other."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.files.hashes import stamps
from checkpoints.placement import Placement

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WRAPPED = "base_model.model."
"""What peft puts before the base model's own names."""


class HeldBase:
    """At most one base model, kept as its files gave it for as long as they stay the same."""

    def __init__(self) -> None:
        self._model: PreTrainedModel | None = None
        self._key: object = None

    def lend(
        self, adapted: Iterable[str], files: Sequence[Path], placement: Placement, read: "Callable[[], PreTrainedModel]"
    ) -> "PreTrainedModel":
        """A model to merge an adapter into, with memory of its own for what the adapter may change.

        Args:
            adapted: names of the adapter's tensors.
            files: every file that the base is read from.
            placement: of the base; one that a device map spreads is read anew each time.
            read: reads it.
        """
        if placement.device_map is not None:
            return read()
        key = (stamps(files), placement.dtype, placement.attention)
        if self._model is None or key != self._key:
            self._model = None  # let go of before the next one is read
            self._model, self._key = read(), key
        return _shell(self._model, adapted)


def _shell(base: "PreTrainedModel", adapted: Iterable[str]) -> "PreTrainedModel":
    """A copy that shares the tensors of those modules of which the adapter names none."""
    import torch

    modules = {name for name, _ in base.named_modules()}
    touched = {_innermost(name.removeprefix(WRAPPED), modules) for name in adapted}
    shared = {
        id(parameter): torch.nn.Parameter(parameter.detach(), requires_grad=False)
        for name, parameter in base.named_parameters(remove_duplicate=False)
        if name.rpartition(".")[0] not in touched
    }
    for module in touched & modules:  # a tensor that two modules use is copied where the adapter names either
        for parameter in base.get_submodule(module).parameters(recurse=False):
            shared.pop(id(parameter), None)
    return copy.deepcopy(base, shared)


def _innermost(name: str, modules: set[str]) -> str:
    """The innermost module of the base that a tensor's name lies in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name
