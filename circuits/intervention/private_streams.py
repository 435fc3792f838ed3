"""Readers' own streams in the run of a circuit: the live stream, plus what the edges outside carry in place of it."""

import torch
from einops import rearrange
from torch import Tensor

from checkpoints.errors import UnsupportedArchitecture


class PrivateStreams:
    """The differences u(value) - u(live) of the writers met so far, and the streams that readers make of them.

    Writers are met in the order of the graph: what a reader takes are the rows filled before it is run.

    Args:
        outside: [F, B] the edges that carry the value.
        kept: [F] the writers whose differences some reader needs.
        start: the first position at which anything differs.
        room: [kept, tokens, d] memory for the differences, from that position on.
    """

    def __init__(self, outside: Tensor, kept: Tensor, start: int, room: Tensor) -> None:
        self.start, self.room, self.filled = start, room, 0
        self.weights = outside[kept].T.to(room.dtype)
        self._rows = torch.where(kept, kept.cumsum(0) - 1, -1).tolist()

    def keeps(self, writer: int) -> bool:
        """Whether a writer's difference is wanted."""
        return bool(self._rows[writer] >= 0)

    def record(self, writer: int, change: Tensor) -> None:
        """One writer's difference [b, t, d]."""
        self._next(writer, 1).copy_(rearrange(change[:, self.start :], "b t d -> 1 (b t) d"))

    def record_heads(self, writers: list[int], change: Tensor, weight: Tensor) -> None:
        """Differences of kept heads of one layer, [b, t, heads, width], and [heads, width, d] their way on."""
        rows = self._next(writers[0], len(writers))
        heads = rearrange(change[:, self.start :], "b t head width -> head (b t) width")
        if rows.dtype == heads.dtype:
            torch.bmm(heads, weight, out=rows)
        else:
            rows.copy_(torch.bmm(heads, weight))

    def of(self, stream: Tensor, readers: Tensor) -> Tensor:
        """[readers, b, t, d] the streams of some readers in place of the live one, from the first difference on."""
        tokens = self.tokens(stream)
        own = self.of_tokens(tokens, readers, slice(0, len(tokens)))
        return rearrange(own, "reader (b t) d -> reader b t d", b=len(stream))

    def tokens(self, stream: Tensor) -> Tensor:
        """[tokens, d] of a stream [b, t, d], from the first difference on."""
        return rearrange(stream[:, self.start :], "b t d -> (b t) d")

    def of_tokens(self, tokens: Tensor, readers: Tensor, span: slice) -> Tensor:
        """[readers, span, d] the same over a stretch of `tokens`."""
        width = tokens.shape[1]
        changes = self.room[: self.filled].flatten(1)[:, span.start * width : span.stop * width]
        own = self.weights[readers, : self.filled] @ changes
        return rearrange(own, "reader (token d) -> reader token d", d=width).add_(tokens[span])

    def _next(self, writer: int, size: int) -> Tensor:
        """[size, tokens, d] the rows to fill, which must be the next ones."""
        first = self._rows[writer]
        if first != self.filled:
            raise UnsupportedArchitecture(
                "the parts of this model do not write in the order of its layers; its circuits cannot be run alone"
            )
        self.filled = first + size
        return self.room[first : self.filled]
