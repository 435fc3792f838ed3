"""What a checkpoint asks for in memory and time, held against its files before anything of that size is made."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoints.errors import CorruptWeights
from checkpoints.files.configs import ADAPTER_CONFIG, CONFIG_FILE, read_json
from checkpoints.files.folder import view
from checkpoints.files.formats import WeightFiles
from checkpoints.files.limits import require_bounded_pattern
from checkpoints.loading.quiet import quiet_transformers

SPARE = 10_000_000
"""Parameters that files may lack before their number alone refuses them; fewer are told by name after loading."""
PIECES, MORE_PIECES = 8, 1000
"""How many tensors of a file may make one of the model (parts, scales), and how many more there may be."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "expert_count")


def require_fitting_size(folder: Path, weights: WeightFiles, **how: Any) -> None:
    """Refuse a config whose model has more parameters than the weight files hold, or far fewer tensors.

    Nothing is allocated. A config that no model can be made of is left to loading, which says why.

    Args:
        folder: the checkpoint.
        weights: its files.
        how: what transformers needs to be told to read its config.

    Raises:
        CorruptWeights: names both numbers.
    """
    asked, tensors, experts = _asked(folder, weights, how)
    held, count = weights.values(), weights.count() or 0
    describes = folder / (weights.format.config or weights.found.name)
    if asked > 2 * held + SPARE:
        raise CorruptWeights(
            f"{describes} asks for a model of {asked:,} parameters, but the weight files hold {held:,} values at most: "
            f"{_MISFIT}"
        )
    if tensors and weights.format.entries is not None and count > PIECES * tensors * max(1, experts) + MORE_PIECES:
        raise CorruptWeights(
            f"the weight files of {folder} hold {count:,} tensors, but the model that {CONFIG_FILE} asks for has "
            f"{tensors:,}: {_MISFIT}"
        )


_MISFIT = "config.json and weights belong to different models"


def _asked(folder: Path, weights: WeightFiles, how: Mapping[str, Any]) -> tuple[int, int, int]:
    """Parameters, tensors and experts of the model that a config asks for; zeros where none can be made of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    beside = [folder / CONFIG_FILE] if weights.format.config else list(weights.files)
    with suppress(Exception), quiet_transformers(), view(folder, beside) as shown, torch.device("meta"):
        config = AutoConfig.from_pretrained(shown, local_files_only=True, trust_remote_code=False, **how)
        model = auto.from_config(config)
        experts = max((getattr(config, name, 0) or 0 for name in _EXPERTS), default=0)
        return sum(parameter.numel() for parameter in model.parameters()), len(model.state_dict()), int(experts)
    return 0, 0, 0


_COUNTS = ("r", "lora_r", "num_virtual_tokens", "encoder_hidden_size", "oft_block_size")
_PATTERNS = ("target_modules", "exclude_modules", "target_parameters", "layers_pattern", "modules_to_save")
_PATTERN_KEYS = ("rank_pattern", "alpha_pattern")


def require_possible_adapter(folder: Path, weights: WeightFiles) -> None:
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
