"""Two checkpoints that stand on one base model, from one copy of it: what plain LoRA changes, as thin factors.

Anything else that an adapter may be (DoRA, whole modules beside it, biases, adapted embeddings) changes weights in
another way than by a product of two factors; it is merged as always (`checkpoints.loading.adapters`).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from checkpoints.files.check import checked_weights
from checkpoints.files.configs import ADAPTER_CONFIG, read_json
from checkpoints.files.hashes import stamps
from checkpoints.loading.adapters import wrapped_base
from checkpoints.loading.bases import WRAPPED
from checkpoints.loading.coverage import check_finite
from checkpoints.loading.load import LoadedModel, load, load_tokenizer
from checkpoints.placement import Placement
from checkpoints.series.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LowRank:
    """A matrix as the product of two thin ones, ``left @ right``.

    Attributes:
        left: [rows, r].
        right: [r, columns].
    """

    left: Tensor
    right: Tensor

    @property
    def T(self) -> "LowRank":
        """The transpose."""
        return LowRank(self.right.T, self.left.T)

    def dense(self) -> Tensor:
        """[rows, columns]."""
        return self.left @ self.right

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """[..., rows] to [..., columns]: ``x @ self``, thin product after thin product."""
        return x @ self.left @ self.right

    def minus(self, other: "LowRank") -> "LowRank":
        """The difference of two, of the sum of their ranks."""
        return LowRank(torch.cat([self.left, -other.left], 1), torch.cat([self.right, other.right]))


def load_on_one_base(
    a: Checkpoint, b: Checkpoint, placement: Placement
) -> tuple[LoadedModel, dict[str, LowRank]] | None:
    """The model of A, and what B's weights are beyond it by parameter, where plain LoRA is all that is between them.

    In memory there is one copy of the base and the adapters' factors. The handle says A.

    Args:
        a: an adapter, or the base of B.
        b: an adapter, or the base of A.
        placement: where the model is put; one that a device map spreads is not taken.

    Returns:
        ``None`` where the two have no base in common, or an adapter is more than plain LoRA.
    """
    base = base_of(a)
    adapters = [one for one in (a, b) if one.base is not None]
    apart = base_of(b).path.resolve() != base.path.resolve()
    if apart or not adapters or placement.device_map is not None or not all(map(_is_plain, adapters)):
        return None
    seen = stamps([*a.files, *b.files])
    loaded = load(base, placement)
    own, other = ({} if one.base is None else _factors(one, loaded.model) for one in (a, b))
    adapted = own.keys() | other.keys()
    if _shared(loaded.model) & adapted or not all(loaded.model.get_parameter(n).is_floating_point() for n in adapted):
        loaded.release()
        return None  # a merge sets apart what two modules use
    with torch.no_grad():
        for name, step in own.items():
            loaded.model.get_parameter(name).addmm_(step.left, step.right)
    loaded = replace(loaded, checkpoint=a, files=seen, _held=[(loaded.model, load_tokenizer(a))])
    loaded.require_unchanged()
    return loaded, {name: _step(own.get(name), other.get(name)) for name in sorted(adapted)}


def read_factors(checkpoint: Checkpoint, shape: "PreTrainedModel") -> dict[str, LowRank] | None:
    """What a plain LoRA adapter adds to each parameter of its base, from the adapter's files alone.

    Args:
        checkpoint: an adapter.
        shape: its base; weights without values (on the meta device) become one zero, seen at every place.

    Returns:
        ``None`` for an adapter that is more than plain LoRA, or that changes what two modules use.
    """
    if not _is_plain(checkpoint):
        return None
    _off_meta(shape)
    found = _factors(checkpoint, shape)
    return None if _shared(shape) & found.keys() else found


def _off_meta(shape: "PreTrainedModel") -> None:
    """Put weights somewhere without giving them memory: peft moves factors to where the weights beside them are."""
    zeros: dict[int, torch.nn.Parameter] = {}
    for module in shape.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                own = torch.promote_types(weight.dtype, torch.float32)
                zero = torch.nn.Parameter(torch.zeros((), dtype=own).expand(weight.shape), requires_grad=False)
                setattr(module, name, zeros.setdefault(id(weight), zero))  # tied ones stay tied


def _step(own: LowRank | None, other: LowRank | None) -> LowRank:
    """B's change of the base minus A's."""
    if own is None or other is None:
        only = own or other
        assert only is not None
        return LowRank(-only.left, only.right) if other is None else only
    return other.minus(own)


def base_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of the model that an adapter stands on; a whole model itself."""
    if checkpoint.base is None:
        return checkpoint
    return replace(checkpoint, path=checkpoint.base, hub=checkpoint.hub and checkpoint.hub.base)


# fmt: off
_OF_PLAIN_LORA = frozenset({
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version",
    "inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "use_rslora",
    "init_lora_weights", "bias", "megatron_core", "qalora_group_size",
})
# fmt: on
"""Fields that may be set; what another one asks for is not known to be a product of two factors."""
_INITS = (True, False, None, "gaussian")
"""Ways to begin that leave the base as it is; others move a part of its weights into the adapter."""


def _is_plain(checkpoint: Checkpoint) -> bool:
    config = read_json(checkpoint.fetch() / ADAPTER_CONFIG)
    own = {name for name, value in config.items() if value} <= _OF_PLAIN_LORA
    kind = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    names = checked_weights(checkpoint.path).entries()
    factors = bool(names) and all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
    return own and kind and config.get("init_lora_weights", True) in _INITS and factors


def _factors(checkpoint: Checkpoint, base: "PreTrainedModel") -> dict[str, LowRank]:
    """The factors of an adapter by the base's parameter, scaled; the base is as it was afterwards."""
    wrapped = wrapped_base(checkpoint.path, checked_weights(checkpoint.path), base)
    names = {id(parameter): name for name, parameter in _plain_names(wrapped)}
    found = {}
    for module in wrapped.modules():
        if not (hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")):
            continue
        for adapter in module.lora_A:
            down, up = (factors[adapter].weight.detach().to(base.dtype) for factors in (module.lora_A, module.lora_B))
            step = LowRank(up * module.scaling[adapter], down)
            found[names[id(module.base_layer.weight)]] = step.T if module.fan_in_fan_out else step
    check_finite(checkpoint.path, {name: side for name, step in found.items() for side in (step.left, step.right)})
    wrapped.unload()
    base.requires_grad_(requires_grad=False).train(mode=False)
    return found


def _plain_names(wrapped: Any) -> list[tuple[str, Tensor]]:
    """Parameters by the name that the base model itself has for them."""
    return [
        (name.removeprefix(WRAPPED).replace(".base_layer.", "."), parameter)
        for name, parameter in wrapped.named_parameters()
    ]


def _shared(model: "PreTrainedModel") -> set[str]:
    """Names of parameters that two modules use."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}
