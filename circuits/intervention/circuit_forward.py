"""The exact run of a circuit: edges inside carry what is computed live, edges outside what the corrupt run wrote.

(Or nothing, or a mean: `circuits.attribution.ablation`.)

Every reader v sees its own stream, x + sum over edges u -> v outside the circuit of (u(corrupt) - u(live)), where
"live" is recomputed inside this very run. The model's own modules do the work; hooks change what they read. A reader
with all its edges inside is left alone, one with none takes the corrupt run's value, so that the full circuit is the
clean run and the empty one the corrupt run, bit for bit.

Nothing is computed that no edge needs: a part that reads nothing live writes what it wrote in the corrupt run, so small
circuits cost little more than the attention and the output projections of a plain run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.model.anatomy import Anatomy, Block, Norm, Projection
from circuits.facts.batch import Batch
from circuits.graph.pruning import node_inputs
from circuits.graph.shape import GraphShape
from circuits.trace.mla import LatentTrace, States, Watcher, states_of, watching
from circuits.trace.trace import (
    LayerTrace,
    Trace,
    first_input,
    forward,
    head_outputs,
    head_writer,
    hooks,
    output_tensor,
)
from circuits.trace.writers import Writers

CPU_CHUNK, GPU_CHUNK = 3 << 20, 1 << 28
ROOM = 1 << 28


@dataclass(slots=True)
class Mixer:
    """What the runs of many circuits over one batch share, the room for their differences included.

    Attributes:
        parts: the model.
        shape: its graph.
        batch: the facts.
        corrupt: the corrupt run.
        value: what writers outside write, for every position of the batch.
        shortcut: whether that is the corrupt run, so that a reader with no edge inside reads what it read there.
    """

    parts: Anatomy
    shape: GraphShape
    batch: Batch
    corrupt: Trace
    value: Writers
    shortcut: bool = True
    _room: Tensor | None = field(default=None, init=False, repr=False)

    def room(self, writers: int, tokens: int) -> Tensor:
        """[writers, tokens, d] to write differences into; taken again for every circuit, since fresh memory is dear."""
        if self._room is None or len(self._room) < writers:
            width = self.corrupt.stream.shape[2]
            affordable = min(len(self.shape.writers), ROOM // (tokens * width))
            self._room = self.corrupt.stream.new_empty(max(writers, affordable), tokens, width)
        return self._room[:writers]

    def logits(self, mask: Tensor) -> Tensor:
        """[n, vocab] where each answer token is produced, with the edges of ``mask`` [F, B] inside."""
        state = _MixedRun(self, mask)
        with torch.no_grad(), hooks(state.handles()), watching(self.parts.model, state.watchers()):
            return forward(self.parts.model, self.batch, self.batch.clean)


class _MixedRun:
    """The hooks of one run, and the differences u(value) - u(live) of the writers met so far.

    Differences are kept of the writers that may differ and that a mixed reader takes in part from elsewhere; ``slots``
    [F] says where, -1 for the others.
    """

    def __init__(self, mixer: Mixer, mask: Tensor) -> None:
        self.mixer = mixer
        self.outside = torch.as_tensor(mixer.shape.mask, device=mask.device) & ~mask
        stream = mixer.corrupt.stream
        self.start = int(mixer.batch.first.min())
        tokens = stream.shape[0] * (stream.shape[1] - self.start)
        exist = torch.as_tensor(mixer.shape.mask, device=mask.device)
        self.none_in = (self.outside == exist).all(0) & mixer.shortcut
        self.mixed = self.outside.any(0) & ~self.none_in
        kept = self.differing() & self.outside[:, self.mixed].any(1)
        self.slots = torch.where(kept, kept.cumsum(0) - 1, -1).tolist()
        self.weights = self.outside[kept].T.to(stream.dtype)
        self.differences = mixer.room(len(self.weights.T), tokens)
        self.filled = 0
        self.live = [LayerTrace() for _ in mixer.parts.blocks]
        self.own_heads: Tensor | None = None
        self.calls: dict[int, dict[str, Any]] = {}

    def differing(self) -> Tensor:
        """[F] the writers that may write other than in the corrupt run: those that read something live.

        A post-norm divides every head's output by the size of all, so that one live head moves the whole layer's.
        """
        feeds = torch.as_tensor(node_inputs(self.mixer.shape), device=self.none_in.device)
        differ = (feeds & ~self.none_in).any(1)
        differ[0] = True
        for block in self.mixer.parts.blocks:
            if block.attention_post_norm is not None:
                first = self.mixer.shape.first_writer(block.index)
                heads = slice(first, first + self.mixer.parts.n_heads)
                differ[heads] = differ[heads].any()
        return differ

    def handles(self) -> list[Any]:
        """Register everything."""
        handles: list[Any] = []
        columns = self.mixer.shape
        for block, live, corrupt in zip(self.mixer.parts.blocks, self.live, self.mixer.corrupt.layers, strict=True):
            handles.append(block.module.register_forward_pre_hook(self.enter(block, live), with_kwargs=True))
            if block.latent is not None:
                handles.append(block.attention.register_forward_pre_hook(self.keep_call(block), with_kwargs=True))
            start = columns.attention_columns(block.index).start
            projections = ((block.q, corrupt.q), (block.k, corrupt.k), (block.v, corrupt.v))
            if block.latent is None:
                handles += self.idle_projections(block)
            for projection, seen in projections if block.latent is None else ():
                readers = slice(start, start + projection.heads)
                handles.append(
                    projection.module.register_forward_hook(self.project(block, live, projection, readers, seen))
                )
                start = readers.stop
            handles.append(block.o.register_forward_pre_hook(self.heads(block, live)))
            if block.attention_post_norm is not None:
                handles.append(
                    block.attention_post_norm.module.register_forward_pre_hook(self.scaled_heads(block, live))
                )
            handles += self.mlp_handles(block, live, corrupt)
        handles.append(self.mixer.parts.final_norm.module.register_forward_pre_hook(self.final))
        return handles

    def watchers(self) -> dict[nn.Module, Watcher]:
        """Where the heads of latent attention are replaced."""
        layers = zip(self.mixer.parts.blocks, self.live, self.mixer.corrupt.layers, strict=True)
        return {
            block.attention: self.replaced_states(block, live, corrupt.latent)
            for block, live, corrupt in layers
            if corrupt.latent is not None
        }

    def keep_call(self, block: Block) -> Callable[..., None]:
        """Keep what an attention module is called with beside its input."""

        def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls[block.index] = {name: value for name, value in kwargs.items() if name != "hidden_states"}

        return hook

    def replaced_states(self, block: Block, live: LayerTrace, corrupt: LatentTrace) -> Watcher:
        """Queries, keys and values with those heads recomputed whose own stream is mixed."""

        def watch(*states: Tensor) -> States:
            start = self.mixer.shape.attention_columns(block.index).start
            seen = (corrupt.query, corrupt.key, corrupt.value)
            found = []
            for place, (live_state, corrupt_state) in enumerate(zip(states, seen, strict=True)):
                readers = slice(start + place * block.q.heads, start + (place + 1) * block.q.heads)
                none_in, mixed = self.kinds(readers)
                state = live_state.clone()
                state[:, none_in] = corrupt_state[:, none_in]
                if len(mixed):
                    state[:, mixed] = self.own_states(block, live, readers, mixed)[place]
                found.append(state)
            query, key, value = found
            return query, key, value

        return watch

    def own_states(self, block: Block, live: LayerTrace, readers: slice, mixed: Tensor) -> list[Tensor]:
        """[b, mixed, t, ...] queries, keys and values that the mixed heads make of their own streams."""
        tails = self.own_streams(
            live.attention_in, torch.arange(readers.start, readers.stop, device=mixed.device)[mixed]
        )
        streams = live.attention_in.expand(len(mixed), *live.attention_in.shape).clone()
        streams[:, :, self.start :] = tails
        hidden = streams if block.attention_norm is None else block.attention_norm.module.forward(streams)
        options = {name: _repeated(value, len(mixed)) for name, value in self.calls[block.index].items()}
        states = states_of(block.attention, hidden.flatten(0, 1), {**options, "attention_mask": None})
        own = (state.view(*hidden.shape[:2], *state.shape[1:]) for state in states)
        return [state[torch.arange(len(mixed)), :, mixed].transpose(0, 1) for state in own]

    def idle_projections(self, block: Block) -> list[Any]:
        """Keep modules from projecting the live stream where no head reads it as it is."""
        start = self.mixer.shape.attention_columns(block.index).start
        busy: dict[nn.Module, bool] = {}
        for projection in (block.q, block.k, block.v):
            replaced = (self.none_in | self.mixed)[start : start + projection.heads]
            busy[projection.module] = busy.get(projection.module, False) or not bool(replaced.all())
            start += projection.heads
        return [module.register_forward_pre_hook(_first_token) for module, wanted in busy.items() if not wanted]

    def mlp_handles(self, block: Block, live: LayerTrace, corrupt: LayerTrace) -> list[Any]:
        """What the MLP reads and writes."""
        handles: list[Any] = []

        def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
            live.mlp_in = args[0]

        def read(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            column = self.mixer.shape.mlp_column(block.index)
            stream = live.attention_in if block.parallel else live.mlp_in
            return self.replaced(args, stream, column, block.mlp_norm, corrupt.mlp_read)

        def write(_module: nn.Module, _args: Any, output: Any) -> None:
            row = self.mixer.shape.first_writer(block.index) + self.mixer.parts.n_heads
            if self.slots[row] >= 0:
                self.record(row, self.mixer.value.mlps[block.index] - output_tensor(output) * block.residual_scale)

        def written(_module: nn.Module, _args: Any, output: Any) -> Any:
            return (corrupt.mlp_out, *output[1:]) if isinstance(output, tuple) else corrupt.mlp_out

        if not block.parallel:
            source = block.mlp if block.mlp_norm is None else block.mlp_norm.module
            handles.append(source.register_forward_pre_hook(keep))
        plain = block.mlp_post_norm is None and block.residual_scale == 1.0
        if plain and bool(self.none_in[self.mixer.shape.mlp_column(block.index)]):
            return [
                *handles,
                block.mlp.register_forward_pre_hook(_first_token),
                block.mlp.register_forward_hook(written),
            ]
        handles.append(block.mlp.register_forward_pre_hook(read))
        end = block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module
        handles.append(end.register_forward_hook(write))
        return handles

    def enter(self, block: Block, live: LayerTrace) -> Callable[..., None]:
        """Keep the stream in front of a layer; the first also tells what the input changes."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            live.attention_in = first_input(args, kwargs)
            self.own_heads = None
            if block.index == 0 and self.slots[0] >= 0:
                self.record(0, self.mixer.value.stream - live.attention_in)

        return hook

    def project(
        self, block: Block, live: LayerTrace, projection: Projection, readers: slice, corrupt: Tensor
    ) -> Callable[..., Tensor]:
        """Recompute the heads whose own stream is mixed."""

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            none_in, mixed = self.kinds(readers)
            if not (len(none_in) or len(mixed)):
                return output
            idle = output.shape != corrupt.shape
            if idle and not len(mixed):
                return corrupt
            rows = projection.places.to(output.device)
            result = corrupt.clone() if idle else output.clone()
            if not idle:
                result[..., rows[none_in]] = corrupt[..., rows[none_in]]
            if len(mixed):
                if self.own_heads is None:
                    self.own_heads = self.heads_of(block, live)
                first = int(self.mixed[self.mixer.shape.attention_columns(block.index).start : readers.start].sum())
                own = self.own_heads[..., first : first + len(mixed), :]
                own = own if projection.bias is None else own + projection.bias[mixed]
                result[:, self.start :, rows[mixed]] = own
            return result

        return hook

    def heads_of(self, block: Block, live: LayerTrace) -> Tensor:
        """[b, t, mixed, head_dim] queries, keys and values of a layer's mixed readers, a chunk of tokens at a time."""
        start = self.mixer.shape.attention_columns(block.index).start
        mixed = self.mixed[self.mixer.shape.attention_columns(block.index)].nonzero().flatten()
        weight = torch.cat([projection.weight for projection in (block.q, block.k, block.v)])[mixed].transpose(1, 2)
        stream = live.attention_in[:, self.start :]
        tokens = stream.flatten(0, 1)
        chunk = (CPU_CHUNK if tokens.device.type == "cpu" else GPU_CHUNK) // (len(mixed) * tokens.shape[1])
        pieces = []
        for first in range(0, len(tokens), max(1, chunk)):
            own = self.own_tokens(tokens, start + mixed, slice(first, min(first + max(1, chunk), len(tokens))))
            hidden = own if block.attention_norm is None else block.attention_norm.module.forward(own)
            pieces.append(torch.bmm(hidden, weight))
        return torch.cat(pieces, 1).transpose(0, 1).reshape(*stream.shape[:2], len(mixed), -1)

    def kinds(self, readers: slice) -> tuple[Tensor, Tensor]:
        """Which of some readers have no edge inside, and which have some in and some out."""
        return self.none_in[readers].nonzero().flatten(), self.mixed[readers].nonzero().flatten()

    def own_streams(self, stream: Tensor, columns: Tensor) -> Tensor:
        """[readers, b, t, d] the private streams of some readers, from the first difference on."""
        tail = stream[:, self.start :]
        tokens = tail.flatten(0, 1)
        return self.own_tokens(tokens, columns, slice(0, len(tokens))).view(len(columns), *tail.shape)

    def own_tokens(self, tokens: Tensor, columns: Tensor, span: slice) -> Tensor:
        """[readers, span, d] the same over a stretch of the tokens [n, d]."""
        width = tokens.shape[1]
        changes = self.differences[: self.filled].flatten(1)[:, span.start * width : span.stop * width]
        return (self.weights[columns, : self.filled] @ changes).view(len(columns), -1, width).add_(tokens[span])

    def replaced(self, args: tuple[Any, ...], stream: Tensor, column: int, norm: Norm | None, corrupt: Tensor) -> Any:
        """Arguments of a module whose input is one reader's normalised stream."""
        none_in, mixed = self.kinds(slice(column, column + 1))
        if len(none_in):
            return (corrupt, *args[1:])
        if not len(mixed):
            return None
        own = self.own_streams(stream, torch.tensor([column], device=stream.device))[0]
        value = args[0].clone()
        value[:, self.start :] = own if norm is None else norm.module.forward(own)
        return (value, *args[1:])

    def heads(self, block: Block, live: LayerTrace) -> Callable[..., None]:
        """Record what a layer's heads change, once their z is known."""

        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            live.z = args[0]
            if block.attention_post_norm is None:
                self.record_heads(block, live)

        return hook

    def scaled_heads(self, block: Block, live: LayerTrace) -> Callable[..., None]:
        """The same where a post-norm must be known first."""

        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            live.attention_raw = args[0]
            self.record_heads(block, live)

        return hook

    def record_heads(self, block: Block, live: LayerTrace) -> None:
        """Rows of a layer's heads."""
        first = self.mixer.shape.first_writer(block.index)
        kept = [head for head in range(self.mixer.parts.n_heads) if self.slots[first + head] >= 0]
        if not kept:
            return
        change = (self.mixer.value.heads[block.index] - head_outputs(block, live))[:, self.start :]
        flat = change[..., kept, :].flatten(0, 1).transpose(0, 1)
        place = self.slots[first + kept[0]]
        self.filled = place + len(kept)
        rows, writer = self.differences[place : self.filled], head_writer(block, change.dtype)[kept]
        if rows.dtype == change.dtype:
            torch.bmm(flat, writer, out=rows)
        else:
            rows.copy_(torch.bmm(flat, writer))

    def record(self, row: int, change: Tensor) -> None:
        """One writer's row."""
        self.differences[self.slots[row]] = change[:, self.start :].flatten(0, 1)
        self.filled = self.slots[row] + 1

    def final(self, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        """What the logits read."""
        column = len(self.mixer.shape.readers) - 1
        return self.replaced(args, args[0], column, None, self.mixer.corrupt.final)


def _first_token(_module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Let a module run on one token, where its output is not needed."""
    return (args[0][:, :1], *args[1:])


def _repeated(value: Any, times: int) -> Any:
    """An argument of an attention module for a batch so many times as large."""
    if isinstance(value, tuple):
        return tuple(_repeated(part, times) for part in value)
    if isinstance(value, Tensor) and value.ndim and value.shape[0] > 1:
        return value.repeat(times, *([1] * (value.ndim - 1)))
    return value
