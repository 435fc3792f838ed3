"""Heads of latent attention in the run of a circuit: their states are replaced, or made anew of their own streams."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from checkpoints.model.anatomy import Block
from circuits.intervention.private_streams import PrivateStreams
from circuits.trace.mla import LatentTrace, States, Watcher, states_of
from circuits.trace.trace import LayerTrace


@dataclass(slots=True)
class LatentHeads:
    """One layer's query, key and value heads, all of one number.

    Attributes:
        block: a layer of latent attention.
        live: what is met in this run.
        corrupt: the states of the corrupt run.
        first: the column of its first reader.
        none_in, mixed: [B] readers that read nothing live, and those that read some.
        streams: what the mixed ones read.
    """

    block: Block
    live: LayerTrace
    corrupt: LatentTrace
    first: int
    none_in: Tensor
    mixed: Tensor
    streams: PrivateStreams
    _call: dict[str, Any] = field(default_factory=dict, init=False)

    def keep_call(self) -> Callable[..., None]:
        """A pre-hook that keeps what the attention is called with beside its input."""

        def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._call = {name: value for name, value in kwargs.items() if name != "hidden_states"}

        return hook

    def watcher(self) -> Watcher:
        """Queries, keys and values with those of other heads than the live ones replaced."""

        def watch(*states: Tensor) -> States:
            corrupt = (self.corrupt.query, self.corrupt.key, self.corrupt.value)
            query, key, value = (
                self._replaced(kind, *pair) for kind, pair in enumerate(zip(states, corrupt, strict=True))
            )
            return query, key, value

        return watch

    def _replaced(self, kind: int, live: Tensor, corrupt: Tensor) -> Tensor:
        """[b, heads, t, ...] the states of one kind: 0 queries, 1 keys, 2 values."""
        start = self.first + kind * self.block.q.heads
        readers = slice(start, start + self.block.q.heads)
        none_in, mixed = self.none_in[readers].nonzero().flatten(), self.mixed[readers].nonzero().flatten()
        state = live.clone()
        state[:, none_in] = corrupt[:, none_in]
        if len(mixed):
            state[:, mixed] = self._own(kind, start, mixed)
        return state

    def _own(self, kind: int, start: int, mixed: Tensor) -> Tensor:
        """[b, mixed, t, ...] what the mixed heads make of their own streams."""
        whole = self.live.attention_in
        streams = whole.expand(len(mixed), *whole.shape).clone()
        streams[:, :, self.streams.start :] = self.streams.of(whole, start + mixed)
        norm = self.block.attention_norm
        hidden = rearrange(streams if norm is None else norm.module.forward(streams), "head b t d -> (head b) t d")
        call = {name: _repeated(value, len(mixed)) for name, value in self._call.items()}
        state = states_of(self.block.attention, hidden, {**call, "attention_mask": None})[kind]
        each = rearrange(state, "(stream b) head ... -> stream b head ...", stream=len(mixed))
        return each[torch.arange(len(mixed)), :, mixed].transpose(0, 1)


def _repeated(value: Any, times: int) -> Any:
    """An argument of an attention module for a batch so many times as large."""
    if isinstance(value, tuple):
        return tuple(_repeated(part, times) for part in value)
    if isinstance(value, Tensor) and value.ndim and value.shape[0] > 1:
        return value.repeat(times, *([1] * (value.ndim - 1)))
    return value
