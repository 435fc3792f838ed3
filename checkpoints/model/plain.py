"""Which models the toolkit takes: one of transformers, or a TransformerLens bridge over one.

A function that people give a model is marked by `takes_model`; in it, and in all that it calls, the model is the plain
one, so that hooks, attention implementations and gradients are those of transformers, whoever asked.
"""

import copy
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Union, cast
from weakref import WeakKeyDictionary

from checkpoints.errors import DriftError, UnsupportedArchitecture

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel

    Model = Union[PreTrainedModel, TransformerBridge]  # noqa: UP007 - names that exist for the type checker alone

P = ParamSpec("P")
R = TypeVar("R")
PROBE_TOKENS = 8
_PLAIN: "WeakKeyDictionary[nn.Module, PreTrainedModel]" = WeakKeyDictionary()


def takes_model(function: "Callable[Concatenate[PreTrainedModel, P], R]") -> "Callable[Concatenate[Model, P], R]":
    """Mark a function that takes a model first: it takes a bridge too, and is given the plain model under it."""

    @wraps(function)
    def given(model: "Model", *args: P.args, **kwargs: P.kwargs) -> R:
        return function(plain_model(model), *args, **kwargs)

    return cast("Callable[Concatenate[Model, P], R]", given)  # `model=` stays a keyword; the type forgets it


def plain_model(model: "Model") -> "PreTrainedModel":
    """The model of transformers that ``model`` is, or that the bridge ``model`` stands over, with the same parameters.

    The plain model of a bridge shares its parameters, so that weights edited through either are the other's. A bridge's
    own hooks do not fire in it.

    Raises:
        DriftError: a `HookedTransformer`, whose weights are converted copies, or anything else that is no such model.
        UnsupportedArchitecture: a bridge that computes something else than the model under it, by hooks that stay or by
            weights processed in copies.
    """
    if not _is_of("transformer_lens", model):
        if _is_of("transformers", model):
            return cast("PreTrainedModel", model)
        raise DriftError(
            f"{type(model).__name__} is no model of transformers and no TransformerBridge; give the model that "
            "checkpoints.open_checkpoint(FOLDER).load().model returns, or a TransformerBridge"
        )
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(model, TransformerBridge):
        raise DriftError(
            f"a {type(model).__name__} holds converted copies of the weights, which this toolkit does not measure; "
            "give the model of transformers itself, or TransformerBridge.boot_transformers(NAME) over it"
        )
    source = getattr(model, "source", None)
    if source is not None:
        return cast("PreTrainedModel", source)
    if model not in _PLAIN:
        _PLAIN[model] = _unwrapped(model)
    return _PLAIN[model]


def under_bridge(model: "Model") -> "PreTrainedModel":
    """`plain_model` of what comes from TransformerLens; any other module as it is, as a training loop has it.

    Raises:
        DriftError, UnsupportedArchitecture: as `plain_model`.
    """
    return plain_model(model) if _is_of("transformer_lens", model) else cast("PreTrainedModel", model)


def _is_of(package: str, model: object) -> bool:
    return any(kind.__module__.split(".")[0] == package for kind in type(model).__mro__)


def _unwrapped(bridge: "TransformerBridge") -> "PreTrainedModel":
    """The bridge's model with every component that wraps a module of it taken out again; parameters are shared."""
    wrapped: Any = bridge.original_model
    shared = {id(tensor): tensor for tensor in (*wrapped.parameters(), *wrapped.buffers())}
    plain: PreTrainedModel = copy.deepcopy(wrapped, shared)
    _take_out(plain)
    for module in plain.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    _require_same_logits(plain, bridge)
    return plain


def _take_out(module: "nn.Module") -> None:
    for name, child in list(module.named_children()):
        inner: Any = child
        while getattr(type(inner), "__module__", "").startswith("transformer_lens"):
            inner = inner.original_component
        if inner is not child:
            setattr(module, name, inner)
        _take_out(inner)


def logit_gap(model: "PreTrainedModel", other: "Callable[[torch.Tensor], torch.Tensor]") -> tuple[float, float]:
    """How far another's logits lie from a model's on a few tokens, and how far they may: half of the dtype's digits."""
    import torch

    embedding: Any = model.get_input_embeddings()
    weight: torch.Tensor = embedding.weight
    ids = torch.arange(PROBE_TOKENS, device=weight.device)[None] % len(weight)
    with torch.no_grad():
        expected: torch.Tensor = model(ids, use_cache=False).logits.float()
        difference = float((other(ids).float() - expected).abs().max())
    return difference, float(expected.std()) * max(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5


def _require_same_logits(plain: "PreTrainedModel", bridge: "TransformerBridge") -> None:
    """Refuse a bridge whose logits agree with the plain model's to fewer than half of the dtype's digits."""
    difference, bound = logit_gap(plain, bridge)
    if not difference <= bound:
        raise UnsupportedArchitecture(
            f"this bridge's logits differ from those of the {type(plain).__name__} under it by up to {difference:.2g}, "
            f"the bound is {bound:.2g}: a hook or processed weights change what it computes; call reset_hooks(), "
            "boot it without processing, or give the model of transformers"
        )
