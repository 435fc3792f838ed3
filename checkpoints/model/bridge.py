"""TransformerLens' hook names on the weights that are already loaded: ``blocks.0.attn.hook_z``, `run_with_cache`.

A bridge takes the modules of the model it wraps apart, and a stock one keeps split copies of fused projections,
which the next checkpoint then leaves behind. Here a second tree of modules over the same parameters is wrapped, so
that the model itself stays as it was, nothing is held twice, and weights put into it are the bridge's weights.
"""

import copy
from typing import TYPE_CHECKING, Any, Literal, get_args

from checkpoints.errors import DriftError, UnsupportedArchitecture, require_choice
from checkpoints.model.plain import logit_gap

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from checkpoints.model.lens import SharedBridge

Attention = Literal["native", "stock"]


def build_bridge(
    model: "PreTrainedModel",
    *,
    attention: Attention = "native",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> "SharedBridge":
    """A TransformerLens `TransformerBridge` with the same parameters as ``model``, which is left as it is.

    Weights that are later put into the model's parameters, by pointer or by copy, are the bridge's weights; weights
    edited through the bridge are the model's, but for the copies of a stock one. Backward hooks fire although no
    parameter requires a gradient. Before it is handed out, the bridge's logits are compared with the model's.

    Args:
        model: a transformers causal language model.
        attention: ``"native"`` runs the model's own attention (fused where the model was loaded so; fires z, the
            residual stream and the MLP's output; q, k and v where the model projects them apart).
            ``"stock"`` is TransformerLens' own computation of it, for ``hook_pattern``, ``hook_attn_scores``,
            ``hook_result`` and split inputs: S x S scores in memory, and a copy of each fused projection.
        tokenizer: for the methods of a bridge that take text, with TransformerLens' own policy for BOS; a copy is
            used. Without it, give token ids.

    Raises:
        DriftError: the model is in training mode, or weights are kept on disk.
        UnsupportedArchitecture: TransformerLens has no adapter for it, or the bridge does not compute what it does.
    """
    require_choice("attention of a bridge", attention, get_args(Attention), error=DriftError)
    if model.training:
        raise DriftError("a bridge of a model in training mode has dropout of its own; call model.eval() first")
    from checkpoints.model import lens

    twin = _twin(model)
    name = type(model).__name__
    try:
        bridge = lens.wrap(twin, name, native=attention == "native", tokenizer=copy.deepcopy(tokenizer))
    except (ValueError, NotImplementedError, AttributeError) as error:
        text = " ".join(str(error).split())[:300]
        raise UnsupportedArchitecture(
            f"TransformerLens cannot wrap {name} with {attention} attention: {text}; the toolkit's own measures do "
            "not need a bridge"
        ) from error
    bridge.follow(model.parameters())
    bridge.__dict__["source"] = model  # not as a submodule, whose parameters would count twice
    _check_logits(model, bridge, attention)
    return bridge


def _twin(model: "PreTrainedModel") -> "PreTrainedModel":
    """A second tree of modules over the same parameters and buffers, without the first one's hooks."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise DriftError(
            "weights that a device map keeps on disk cannot be shared with a bridge; load the checkpoint with a map "
            "that keeps all of it on devices"
        )
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    twin.__dict__.pop("_output_capturing_hooks_installed", None)
    untyped: Any = twin
    untyped.enable_input_require_grads()
    return twin


def _check_logits(model: "PreTrainedModel", bridge: "SharedBridge", attention: str) -> None:
    """Refuse a bridge whose logits agree with the model's to fewer than half of the dtype's digits."""
    difference, bound = logit_gap(model, bridge.probe)
    if not difference <= bound:
        raise UnsupportedArchitecture(
            f"a bridge of {type(model).__name__} with {attention} attention gives other logits than the model: they "
            f"differ by up to {difference:.2g}, the bound is {bound:.2g}; "
            f"try attention={'stock' if attention == 'native' else 'native'!r}"
        )
