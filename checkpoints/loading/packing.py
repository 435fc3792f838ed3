"""Linear maps held in four or eight bits by bitsandbytes, where a placement asks for that."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import DriftError
from checkpoints.files.formats import WeightFiles
from checkpoints.loading.coverage import check_finite
from checkpoints.loading.spread import require_packages
from checkpoints.model.packed import keep_gradients, packed_modules, unpacked
from checkpoints.placement import Placement

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

LOADER = "checkpoints.loading.build:build_whole"


def require_packable(folder: Path, config: Mapping[str, Any], placement: Placement) -> None:
    """Refuse to pack what is packed already.

    Args:
        folder: of the checkpoint.
        config: its config.
        placement: a packed one.

    Raises:
        DriftError: says so, or names the package that is missing.
    """
    require_packages(f"dtype {placement.dtype} packs weights", "bitsandbytes", "accelerate", extra="packed")
    if "quantization_config" in config:
        raise DriftError(
            f"{folder} is quantised already (quantization_config), and cannot be packed as {placement.dtype}: "
            "load it with dtype bfloat16, which is what it computes in"
        )


def require_whole(weights: WeightFiles, placement: Placement) -> None:
    """Refuse to pack what transformers does not read from whole weights.

    Raises:
        DriftError: an adapter, a GGUF file or a torch distributed checkpoint.
    """
    if placement.packed and weights.format.loader != LOADER:
        raise DriftError(
            f"{weights.found} ({weights.format.name}) is not packed as {placement.dtype}: "
            "use dtype bfloat16, or merge and convert it to whole safetensors weights"
        )


def placing(placement: Placement) -> dict[str, Any]:
    """Arguments of transformers' loading for a device map and for packed weights, which go straight on their device."""
    if not placement.packed:
        return {} if placement.device_map is None else {"device_map": placement.device_map}
    import torch
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    if placement.dtype == "nf4":
        compute = getattr(torch, placement.floats)
        asked = config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    else:
        asked = config(load_in_8bit=True)
    return {"quantization_config": asked, "device_map": placement.device_map or {"": placement.here}}


def require_floats(folder: Path, model: "PreTrainedModel", placement: Placement) -> None:
    """Refuse a stored quantised model in another dtype than was asked for: transformers keeps the stored one.

    Raises:
        DriftError: names both.
    """
    found = str(model.dtype).removeprefix("torch.")
    if getattr(model, "is_quantized", False) and found != placement.floats:
        raise DriftError(
            f"{folder} is quantised (quantization_config) and computes in {found}, not in {placement.floats}: "
            f"load it with dtype {found}, or take the unquantised checkpoint"
        )


def check_packed(folder: Path, model: "nn.Module") -> None:
    """Refuse packed weights that stand for a NaN or infinite value; all are kept such that gradients go through.

    Raises:
        CorruptWeights: names the first.
    """
    keep_gradients(model)
    for name, module in packed_modules(model):
        check_finite(folder, {f"{name}.weight": unpacked(module)})
