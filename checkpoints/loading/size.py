"""What a checkpoint asks for in memory and time, held against its files before anything of that size is made."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoints.errors import CorruptWeights
from checkpoints.files.configs import ADAPTER_CONFIG, CONFIG_FILE, read_json
from checkpoints.files.formats import Weights
from checkpoints.files.limits import require_bounded_pattern

SPARE = 10_000_000
"""Parameters that files may lack before their number alone refuses them; fewer are told by name after loading."""


def require_fitting_size(folder: Path, weights: Weights) -> None:
    """Refuse a config whose model has more parameters than the weight files can hold; none of them is allocated.

    A config that no model can be made of is left to loading, which says why.

    Raises:
        CorruptWeights: names both numbers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    asked = 0
    with suppress(Exception), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        asked = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    held = weights.values()
    if asked > 2 * held + SPARE:
        raise CorruptWeights(
            f"{folder / CONFIG_FILE} asks for a model of {asked:,} parameters, but the weight files hold {held:,} "
            "values at most: config.json and weights belong to different models"
        )


_COUNTS = ("r", "lora_r", "num_virtual_tokens", "encoder_hidden_size", "oft_block_size")
_PATTERNS = ("target_modules", "exclude_modules", "target_parameters", "layers_pattern", "modules_to_save")
_PATTERN_KEYS = ("rank_pattern", "alpha_pattern")


def require_possible_adapter(folder: Path, weights: Weights) -> None:
    """Refuse an adapter whose config asks for ranks, copies of layers or searches that its file does not warrant.

    Raises:
        CorruptWeights: names the field, its value and the bound.
    """
    path = folder / ADAPTER_CONFIG
    config = read_json(path)
    size, tensors = weights.size, len(weights.entries())
    counts = {name: config.get(name) for name in _COUNTS} | _entries(config.get("rank_pattern"))
    for name, value in counts.items():
        if isinstance(value, int | float) and value > size:
            raise CorruptWeights(f"{path} asks for {name} {value:,}, but its weight file has {size:,} bytes")
    copies = sum(_length(stretch) for stretch in _list(config.get("layer_replication")))
    if copies > tensors:
        raise CorruptWeights(f"{path} asks for {copies:,} layers (layer_replication), but holds {tensors:,} tensors")
    patterns = [config.get(name) for name in _PATTERNS]
    patterns += [key for name in _PATTERN_KEYS for key in _entries(config.get(name))]
    for pattern in patterns:
        for text in [pattern] if isinstance(pattern, str) else _list(pattern):
            require_bounded_pattern(str(text), path)


def _entries(field: Any) -> dict[str, Any]:
    return dict(field) if isinstance(field, Mapping) else {}


def _list(field: Any) -> list[Any]:
    return field if isinstance(field, list) else []


def _length(stretch: Any) -> int:
    """Layers of a stretch ``[first, end]``; what is none is left to peft, which refuses it."""
    match stretch:
        case [int(first), int(end)]:
            return max(0, end - first)
    return 0
