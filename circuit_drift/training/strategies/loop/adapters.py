"""Adapters saved without their base: a folder of a few megabytes that opens like any checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

from checkpoints.files.configs import ADAPTER_CONFIG
from checkpoints.files.formats import ADAPTER_WEIGHTS
from circuit_drift.training.strategies.loop.parameters import rounded


def base_name(base: Path, series: Path) -> str:
    """How the adapters of a series name their base: relative where both are moved together, else by its full path."""
    base, series = base.resolve(), series.resolve()
    return os.path.relpath(base, series) if base.is_relative_to(series.parent) else str(base)


def save_adapter(folder: Path, module: Any, *, base: str, embedding: bool) -> None:
    """Write what is trained, in bfloat16, and peft's config.

    Args:
        folder: where to.
        module: a model with adapters.
        base: what the config calls the model that they are for.
        embedding: whether the whole embedding matrix goes with them.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(module, save_embedding_layers=embedding)
    tensors = {name: rounded(tensor).cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    described = module.peft_config["default"].to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """What JSON has no word for; in an order that does not change from one start to the next."""
    return sorted(value) if isinstance(value, set) else str(getattr(value, "value", value))
