"""What every writer of a pass adds to the residual stream, heads in front of their output projection."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from checkpoints.model.anatomy import Anatomy
from circuits.trace.trace import Trace, head_outputs, widen


@dataclass(frozen=True, slots=True)
class Writers:
    """What every writer adds to the stream in one run, or a difference between two runs.

    Attributes:
        stream: [b, t, d] the input's share.
        heads: per layer [b, t, heads, head_dim], in front of `head_writer`.
        mlps: per layer [b, t, d].
    """

    stream: Tensor
    heads: tuple[Tensor, ...]
    mlps: tuple[Tensor, ...]

    @classmethod
    def of(cls, parts: Anatomy, trace: Trace) -> "Writers":
        """What was written in a run."""
        return cls(
            stream=widen(trace.stream),
            heads=tuple(head_outputs(b, layer) for b, layer in zip(parts.blocks, trace.layers, strict=True)),
            mlps=tuple(widen(layer.mlp_out) for layer in trace.layers),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Writers":
        """The same with every tensor changed."""
        return Writers(change(self.stream), tuple(map(change, self.heads)), tuple(map(change, self.mlps)))

    def __add__(self, other: "Writers") -> "Writers":
        return self._with(other, torch.add)

    def __sub__(self, other: "Writers") -> "Writers":
        return self._with(other, torch.sub)

    def _with(self, other: "Writers", operation: Callable[[Tensor, Tensor], Tensor]) -> "Writers":
        return Writers(
            stream=operation(self.stream, other.stream),
            heads=tuple(map(operation, self.heads, other.heads)),
            mlps=tuple(map(operation, self.mlps, other.mlps)),
        )
