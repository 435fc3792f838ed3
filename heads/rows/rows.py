"""Chosen attention rows at the price of the fused forward.

A model's fused attention is computed by a handler of its attention calls. For the rows
asked for, and no others, the attention weights are computed again in float32, streamed over blocks of keys with
an online softmax, and reduced at once to what detectors need. Nothing of size S x S exists at any time: the cost
is O(rows x S) per head and the memory O(rows x block) for one layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from checkpoints.model.attention import handled, handler, handler_in_force
from heads.rows.fused import Call, fused_output, rows_output
from heads.rows.masks import LazyMask, lazy_mask
from heads.rows.reduce import KeyGroups, Logits, RowStats, Sights, reduce_rows


@dataclass(frozen=True, slots=True)
class RowRequest:
    """Which rows to reduce, and over which groups of keys.

    Attributes:
        positions: [batch, rows] absolute positions of the scored queries.
        groups: says which keys belong to which named group (needle, distractor, first token, ...).
        top: how many of the largest weights to keep for each row.
        key_block: keys treated at a time; changes memory, not results.
        directions: layer -> [variants, batch, heads, rows, d of values], along which to sum attended values.
        narrow: a layer behind which the model is read at these rows only, so that it attends for no others: the last
            one, where nothing but attention carries from token to token (`last_layer`).
    """

    positions: Tensor
    groups: KeyGroups
    top: int = 0
    key_block: int = 2048
    directions: Callable[[int], Tensor] | None = None
    narrow: int | None = None


@dataclass(frozen=True, slots=True)
class _Capture:
    request: RowRequest
    sink: Callable[[int, RowStats], None]
    seen: set[int] = field(default_factory=set)
    sights: Sights = field(default_factory=Sights)

    def take(self, layer: int, stats: RowStats) -> None:
        """Pass one layer's rows on, once."""
        if layer in self.seen:
            raise UnsupportedArchitecture(
                f"two attention calls of one pass say that they are layer {layer}: their rows cannot be told apart"
            )
        self.seen.add(layer)
        self.sink(layer, stats)


class Edit(Protocol):
    """A change to what heads do: to their queries before the call, to their outputs after it."""

    def query(self, call: Call) -> Tensor:
        """[batch, heads, queries, d] to use instead."""

    def output(self, call: Call, output: Tensor) -> Tensor:
        """[batch, heads, queries, d of values] to use instead."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Computes attention fused, edits it, and passes the requested rows on."""

    capture: _Capture | None = None
    edit: Edit | None = None

    def mask(self, *args: Any, **options: Any) -> LazyMask | None:
        return lazy_mask(*args, **options)

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        position_bias: Tensor | None = None,
        is_causal: bool | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Fused output, rows on the side; refused where the rows would not be those of the model."""
        layer = getattr(module, "layer_idx", None)
        own_mask = not isinstance(attention_mask, LazyMask) or position_bias is not None or is_causal is False
        if own_mask or layer is None or layer < 0:
            raise UnsupportedArchitecture(
                f"{type(module).__name__} builds its own mask, adds a position bias or has no layer index: "
                "its attention rows cannot be computed again correctly"
            )
        if dropout:
            raise UnsupportedArchitecture(f"{type(module).__name__} applies dropout: call model.eval() first")
        logits = Logits(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
        output = self._output(Call(layer, query, key, value, attention_mask, logits))
        return output.transpose(1, 2).contiguous(), None

    def _output(self, call: Call) -> Tensor:
        """[batch, heads, queries, d of values] of one call."""
        if self.edit is not None:
            call = replace(call, query=self.edit.query(call))
        positions = None if self.capture is None else _rows_here(self.capture.request, call)
        if self.capture is None or positions is None:
            output = fused_output(call)
        else:
            self.capture.take(call.layer, _reduce(self.capture, positions, call))
            narrow = self.capture.request.narrow == call.layer and self.edit is None
            output = rows_output(call, positions) if narrow else fused_output(call)
        return output if self.edit is None else self.edit.output(call, output)


def _rows_in_force() -> _Rows:
    rows = handler_in_force()
    return rows if isinstance(rows, _Rows) else _Rows()


@contextmanager
def capture_rows(model: PreTrainedModel, request: RowRequest, sink: Callable[[int, RowStats], None]) -> Iterator[None]:
    """Send the requested rows of every attention layer to ``sink(layer, stats)`` while the block runs.

    The model's attention implementation is put back afterwards, whatever happens inside.

    Raises:
        UnsupportedArchitecture: the model does not use transformers' attention interface.
    """
    capture = _Capture(request, sink)
    with attention_of(model), handler(replace(_rows_in_force(), capture=capture)):
        yield


@contextmanager
def editing(edit: Edit) -> Iterator[None]:
    """Apply an edit to every attention call of models inside `attention_of`."""
    with handler(replace(_rows_in_force(), edit=edit)):
        yield


@contextmanager
def attention_of(model: PreTrainedModel) -> Iterator[None]:
    """Compute the model's attention here while the block runs, then put its implementation back.

    Raises:
        UnsupportedArchitecture: the model does not use transformers' attention interface, or works on its mask.
    """
    try:
        with handled(model, _rows_in_force()):
            yield
    except (AttributeError, TypeError) as error:
        if LazyMask.__name__ not in str(error):
            raise
        raise UnsupportedArchitecture(
            f"{type(model).__name__} works on its attention mask as on a tensor ({error}): its rows cannot be read"
        ) from error


def _reduce(capture: _Capture, positions: Tensor, call: Call) -> RowStats:
    request = capture.request
    index = (positions - call.mask.query_start)[:, None, :, None]
    return reduce_rows(
        call.query.gather(2, index.expand(-1, call.query.shape[1], -1, call.query.shape[-1])),
        call.key,
        call.mask,
        positions,
        call.logits,
        request.groups,
        top=request.top,
        block=request.key_block,
        value=call.value,
        directions=None if request.directions is None else request.directions(call.layer),
        sights=capture.sights,
    )


def _rows_here(request: RowRequest, call: Call) -> Tensor | None:
    """The request's positions if this call holds them, None if it holds none of them."""
    start, (batch, _, queries, _) = call.mask.query_start, call.query.shape
    positions = request.positions.to(call.query.device).expand(batch, -1)
    inside = (positions >= start) & (positions < start + queries)
    if bool(inside.all()):
        return positions
    if bool(inside.any()):
        raise BadPrompt("scored rows fall into two pieces of a chunked forward: keep them all in the last one")
    return None
