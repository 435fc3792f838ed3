"""One forward pass of an unmodified model, with what attribution needs kept on the way.

Nothing is run per head: hooks keep each layer's z (the input of the output projection), what the MLP adds to the
stream, and the stream in front of each norm. Under gradients they also keep the tensors whose gradients are wanted.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from transformers import PreTrainedModel

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import Anatomy, Block, Norm
from checkpoints.model.finite import finite
from checkpoints.model.forward import kept_logits
from circuits.facts.batch import Batch
from circuits.trace.mla import LatentTrace, check_latent, watching


@dataclass(slots=True)
class LayerTrace:
    """What one layer left behind, all [b, t, ...].

    Attributes:
        attention_in: the stream that attention reads.
        mlp_in: the stream that the MLP reads.
        z: input of the output projection, [b, t, heads * head_dim].
        attention_raw: output of the output projection, where a post-norm follows it.
        mlp_out: what the MLP adds to the stream.
        q, k, v: outputs of the projections (of the fused one three times).
        mlp_read: the MLP's own input, after its norm; not under gradients.
        mlp_edge: where its gradient arrives, under gradients, so that its values need not stay.
        latent: what multi-head latent attention shows beside, where there is any.
    """

    attention_in: Tensor = field(init=False)
    mlp_in: Tensor = field(init=False)
    z: Tensor = field(init=False)
    attention_raw: Tensor | None = None
    mlp_out: Tensor = field(init=False)
    q: Tensor = field(init=False)
    k: Tensor = field(init=False)
    v: Tensor = field(init=False)
    mlp_read: Tensor = field(init=False)
    mlp_edge: GradientEdge = field(init=False)
    latent: LatentTrace | None = None


@dataclass(slots=True)
class Trace:
    """One forward pass.

    Attributes:
        stream: [b, t, d] the residual stream before layer 0.
        layers: one for each layer.
        final: [b, t, d] the stream before the final norm.
        logits: [n, vocab] where each answer token is produced.
    """

    stream: Tensor = field(init=False)
    layers: list[LayerTrace] = field(default_factory=list)
    final: Tensor = field(init=False)
    logits: Tensor = field(init=False)


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without parameter gradients; restored on leaving."""
    training = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train(False)
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def hooks(handles: Sequence[Any]) -> Iterator[None]:
    """Remove hooks on leaving."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(
    anatomy: Anatomy,
    batch: Batch,
    ids: Tensor,
    *,
    stream: Tensor | None = None,
    readers: bool = True,
    writers: bool = True,
) -> Trace:
    """One forward pass with what is written kept, and what is read.

    Args:
        anatomy: the model's parts.
        batch: lengths and mask.
        ids: [b, t] token ids, clean or corrupt.
        stream: [b, t, d] what to put in place of the residual stream before layer 0.
        readers: whether to keep what is read.
        writers: whether to keep what is written.
    """
    trace = Trace(layers=[LayerTrace() for _ in anatomy.blocks])
    handles: list[Any] = []
    with hooks(handles), _watched(anatomy, trace, readers=readers):
        handles.append(stream_hook(anatomy, trace, stream))
        for block, layer in zip(anatomy.blocks, trace.layers, strict=True):
            handles += _writer_hooks(block, layer) if writers else []
            handles += _reader_hooks(block, layer) if readers else []
        handles.append(anatomy.final_norm.module.register_forward_pre_hook(_keeper(trace, "final", alias=True)))
        trace.logits = forward(anatomy.model, batch, ids)
    return trace


def forward(model: PreTrainedModel, batch: Batch, ids: Tensor) -> Tensor:
    """[n, vocab] logits where each answer token is produced; only those are computed where the model allows it.

    Raises:
        CorruptWeights: some of them are NaN or infinite.
    """
    positions, place = torch.unique(batch.place, return_inverse=True)
    return finite(kept_logits(model, ids, positions, attention_mask=batch.attention_mask)[batch.row, place])


def stream_hook(anatomy: Anatomy, trace: Trace, stream: Tensor | None) -> Any:
    """Keep, or replace, the residual stream in front of layer 0; under gradients the graph starts there."""

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = args[0] if args else kwargs["hidden_states"]
        trace.stream = given if stream is None else stream
        if torch.is_grad_enabled():
            trace.stream = trace.stream.detach().requires_grad_()
        if args:
            return (trace.stream, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": trace.stream}

    return anatomy.blocks[0].module.register_forward_pre_hook(enter, with_kwargs=True)


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor a module was called on."""
    tensor: Tensor = args[0] if args else kwargs["hidden_states"]
    return tensor


def output_tensor(output: Any) -> Tensor:
    """The tensor among a module's outputs that goes on."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def _keeper(owner: Any, name: str, *, alias: bool = False) -> Callable[..., Any]:
    """A pre-hook that keeps a module's input; under an alias its gradient is that of this use alone."""

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        value = args[0].view_as(args[0]) if alias else args[0]
        setattr(owner, name, value)
        return (value, *args[1:]) if alias else None

    return keep


def _mlp_input_keeper(layer: LayerTrace) -> Callable[..., Any]:
    def keep(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        value = args[0].view_as(args[0])
        if value.requires_grad:
            layer.mlp_edge = get_gradient_edge(value)
        else:
            layer.mlp_read = value
        return value, *args[1:]

    return keep


def _writer_hooks(block: Block, layer: LayerTrace) -> list[Any]:
    def keep_mlp_out(_module: nn.Module, _args: Any, output: Any) -> None:
        written = output_tensor(output)
        layer.mlp_out = written if block.residual_scale == 1.0 else written * block.residual_scale

    handles = [block.o.register_forward_pre_hook(_keeper(layer, "z"))]
    if block.attention_post_norm is not None:
        handles.append(block.attention_post_norm.module.register_forward_pre_hook(_keeper(layer, "attention_raw")))
    end = block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module
    return [*handles, end.register_forward_hook(keep_mlp_out)]


def _reader_hooks(block: Block, layer: LayerTrace) -> list[Any]:
    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer.attention_in = first_input(args, kwargs)
        if block.parallel:
            layer.mlp_in = layer.attention_in

    handles = [block.module.register_forward_pre_hook(enter, with_kwargs=True)]
    handles.append(block.mlp.register_forward_pre_hook(_mlp_input_keeper(layer)))
    if not block.parallel:
        source = block.mlp if block.mlp_norm is None else block.mlp_norm.module
        handles.append(source.register_forward_pre_hook(_keeper(layer, "mlp_in")))
    for letter, projection in (("q", block.q), ("k", block.k), ("v", block.v)):
        handles.append(projection.module.register_forward_hook(_output_keeper(layer, letter)))
    if block.latent is not None:
        for name, module in (("q_down", block.latent.q_down), ("kv_down", block.latent.kv_down)):
            if module is not None:
                handles.append(module.register_forward_hook(_output_keeper(layer.latent, name)))
    return handles


def _watched(anatomy: Anatomy, trace: Trace, *, readers: bool) -> Any:
    """Keep what latent attention hands to its attention function."""
    watchers = {}
    for block, layer in zip(anatomy.blocks, trace.layers, strict=True):
        if readers and block.latent is not None:
            layer.latent = LatentTrace()
            watchers[block.attention] = layer.latent.watch
    return watching(anatomy.model, watchers)


def _output_keeper(owner: Any, name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
        setattr(owner, name, output)

    return keep


def head_outputs(block: Block, layer: LayerTrace) -> Tensor:
    """[b, t, heads, head_dim] z of each head, scaled so that a fixed linear map takes it to the stream.

    A post-norm divides by the size of the whole attention output; that factor goes into z.
    """
    z = rearrange(widen(layer.z), "b t (head width) -> b t head width", head=block.q.heads)
    if block.attention_post_norm is None:
        return z
    assert layer.attention_raw is not None
    return z * block.attention_post_norm.normalise(widen(layer.attention_raw))[1].unsqueeze(-1)


def head_writer(block: Block, dtype: torch.dtype) -> Tensor:
    """[heads, head_dim, d] the map from `head_outputs` to what each head adds to the stream."""
    weight = block.output_weight.detach().to(dtype)
    if block.residual_scale != 1.0:
        weight = weight * block.residual_scale
    if block.attention_post_norm is None:
        return weight
    norm: Norm = block.attention_post_norm
    return norm.spread(weight, torch.ones((), dtype=dtype, device=weight.device))


def widen(tensor: Tensor) -> Tensor:
    """At least float32, cut from the graph."""
    tensor = tensor.detach()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_stream(anatomy: Anatomy, trace: Trace) -> None:
    """Refuse a model whose residual stream is not the sum of what its parts were seen to write.

    Raises:
        UnsupportedArchitecture: the parts do not add up in some layer.
    """
    ends = [layer.attention_in for layer in trace.layers[1:]] + [trace.final]
    tolerance = 1e-3 if trace.final.dtype in (torch.float32, torch.float64) else 5e-2
    for block, layer, end in zip(anatomy.blocks, trace.layers, ends, strict=True):
        if layer.latent is not None:
            check_latent(anatomy.model, block, layer.latent, layer.q, layer.k)
        z, start, mlp = head_outputs(block, layer)[:1], widen(layer.attention_in)[:1], widen(layer.mlp_out)[:1]
        heads = einsum(z, head_writer(block, z.dtype), "b t head width, head width d -> b t d")
        bias = getattr(block.o, "bias", None)
        if bias is not None:
            heads = heads + bias.detach() * block.residual_scale
        middle = start if block.parallel else start + heads
        for seen, parts, what in (
            (layer.mlp_in, middle, "MLP's input"),
            (end, start + heads + mlp, "output"),
        ):
            error = (widen(seen)[:1] - parts).norm() / parts.norm()
            if not error < tolerance:
                raise UnsupportedArchitecture(
                    f"{type(anatomy.model).__name__}: the {what} of layer {block.index} is not the sum of the parts "
                    f"found (relative error {float(error):.2g} > {tolerance}); its edges cannot be scored exactly"
                )
