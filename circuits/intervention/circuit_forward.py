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
from einops import rearrange
from torch import Tensor, nn

from checkpoints.model.anatomy import Anatomy, Block, Norm, Projection
from circuits.facts.batch import Batch
from circuits.graph.pruning import node_inputs
from circuits.graph.shape import GraphShape
from circuits.intervention.latent_heads import LatentHeads
from circuits.intervention.private_streams import PrivateStreams
from circuits.trace.mla import Watcher, watching
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
    """The hooks of one run.

    Attributes:
        none_in, mixed: [B] readers without an edge inside, and those with some inside and some outside.
        streams: what mixed readers read; it holds the differences of the writers that may differ and that one of them
            takes from elsewhere.
        live: what is met layer by layer.
        latent: the heads of layers with latent attention.
        own_heads: of the layer that is running, once they are known.
    """

    def __init__(self, mixer: Mixer, mask: Tensor) -> None:
        self.mixer = mixer
        exist = torch.as_tensor(mixer.shape.mask, device=mask.device)
        outside = exist & ~mask
        self.none_in = (outside == exist).all(0) & mixer.shortcut
        self.mixed = outside.any(0) & ~self.none_in
        kept = self.differing() & outside[:, self.mixed].any(1)
        rows, length, _ = mixer.corrupt.stream.shape
        start = int(mixer.batch.first.min())
        self.streams = PrivateStreams(outside, kept, start, mixer.room(int(kept.sum()), rows * (length - start)))
        self.live = [LayerTrace() for _ in mixer.parts.blocks]
        self.latent = {
            block.index: LatentHeads(
                block, live, corrupt.latent, self.first_reader(block), self.none_in, self.mixed, self.streams
            )
            for block, live, corrupt in zip(mixer.parts.blocks, self.live, mixer.corrupt.layers, strict=True)
            if corrupt.latent is not None
        }
        self.own_heads: Tensor | None = None

    def first_reader(self, block: Block) -> int:
        """The column of a layer's first query head."""
        return self.mixer.shape.attention_columns(block.index).start  # type: ignore[no-any-return]

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
                keep = self.latent[block.index].keep_call()
                handles.append(block.attention.register_forward_pre_hook(keep, with_kwargs=True))
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
        return {heads.block.attention: heads.watcher() for heads in self.latent.values()}

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
            if self.streams.keeps(row):
                self.streams.record(
                    row, self.mixer.value.mlps[block.index] - output_tensor(output) * block.residual_scale
                )

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
            if block.index == 0 and self.streams.keeps(0):
                self.streams.record(0, self.mixer.value.stream - live.attention_in)

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
                result[:, self.streams.start :, rows[mixed]] = own
            return result

        return hook

    def heads_of(self, block: Block, live: LayerTrace) -> Tensor:
        """[b, t, mixed, head_dim] queries, keys and values of a layer's mixed readers, a chunk of tokens at a time."""
        start = self.mixer.shape.attention_columns(block.index).start
        mixed = self.mixed[self.mixer.shape.attention_columns(block.index)].nonzero().flatten()
        weight = torch.cat([projection.weight for projection in (block.q, block.k, block.v)])[mixed].transpose(1, 2)
        tokens = self.streams.tokens(live.attention_in)
        chunk = (CPU_CHUNK if tokens.device.type == "cpu" else GPU_CHUNK) // (len(mixed) * tokens.shape[1])
        pieces = []
        for first in range(0, len(tokens), max(1, chunk)):
            own = self.streams.of_tokens(tokens, start + mixed, slice(first, min(first + max(1, chunk), len(tokens))))
            hidden = own if block.attention_norm is None else block.attention_norm.module.forward(own)
            pieces.append(torch.bmm(hidden, weight))
        return rearrange(torch.cat(pieces, 1), "head (b t) width -> b t head width", b=len(live.attention_in))

    def kinds(self, readers: slice) -> tuple[Tensor, Tensor]:
        """Which of some readers have no edge inside, and which have some in and some out."""
        return self.none_in[readers].nonzero().flatten(), self.mixed[readers].nonzero().flatten()

    def replaced(self, args: tuple[Any, ...], stream: Tensor, column: int, norm: Norm | None, corrupt: Tensor) -> Any:
        """Arguments of a module whose input is one reader's normalised stream."""
        none_in, mixed = self.kinds(slice(column, column + 1))
        if len(none_in):
            return (corrupt, *args[1:])
        if not len(mixed):
            return None
        own = self.streams.of(stream, torch.tensor([column], device=stream.device))[0]
        value = args[0].clone()
        value[:, self.streams.start :] = own if norm is None else norm.module.forward(own)
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
        kept = [head for head in range(self.mixer.parts.n_heads) if self.streams.keeps(first + head)]
        if kept:
            change = self.mixer.value.heads[block.index] - head_outputs(block, live)
            weight = head_writer(block, change.dtype)[kept]
            self.streams.record_heads([first + head for head in kept], change[..., kept, :], weight)

    def final(self, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        """What the logits read."""
        column = len(self.mixer.shape.readers) - 1
        return self.replaced(args, args[0], column, None, self.mixer.corrupt.final)


def _first_token(_module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Let a module run on one token, where its output is not needed."""
    return (args[0][:, :1], *args[1:])
