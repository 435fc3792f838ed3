"""Rotary positions of a model changed, its weights left as they are: the first step towards a longer context."""

import copy
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from checkpoints.model.rope import forget_lengths
from circuit_drift.training.strategies.settings.strategy import Rope

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

REMEMBERS = ("yarn", "llama3")
"""Scalings that are told the context before them; transformers warns of it at the others."""


def with_rope(model: "PreTrainedModel", rope: Rope) -> "PreTrainedModel":
    """The model with other rotary positions; its weights are copied.

    Raises:
        DriftError: its positions are not rotary, or transformers refuses the parameters.
    """
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    config = roped(model.config, rope)
    weight = next(model.parameters())
    changed: PreTrainedModel = auto.from_config(
        config, dtype=weight.dtype, attn_implementation=config._attn_implementation
    )
    changed.load_state_dict(model.state_dict())
    changed.name_or_path = model.name_or_path
    changed.to(weight.device)  # type: ignore[arg-type]
    changed.train(mode=False)
    forget_lengths(changed)
    return changed


def roped(config: "PreTrainedConfig", rope: Rope) -> "PreTrainedConfig":
    """The config of a model with other rotary positions.

    Raises:
        DriftError: the model's positions are not rotary, or vary by layer.
    """
    before = getattr(config, "rope_parameters", None)
    if not isinstance(before, dict) or "rope_type" not in before:
        raise DriftError(
            f"rope: a {config.model_type} has no rotary positions of one kind for all layers; leave rope out for it"
        )
    changed = copy.deepcopy(config)
    told = {
        "rope_type": rope.type,
        "rope_theta": rope.theta,
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": config.max_position_embeddings if rope.type in REMEMBERS else None,
    }
    kept = {name: before[name] for name in ("rope_theta", "partial_rotary_factor") if name in before}
    changed.rope_parameters = kept | {name: value for name, value in told.items() if value is not None}
    if rope.positions is not None:
        changed.max_position_embeddings = rope.positions
    return changed
