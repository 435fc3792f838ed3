"""Adapters, merged into their base model."""

import importlib
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files.configs import ADAPTER_CONFIG, read_json
from checkpoints.files.folder import loading_files, view
from checkpoints.files.formats import WeightFiles
from checkpoints.loading.size import require_possible_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge_adapter(folder: Path, weights: WeightFiles, base: "PreTrainedModel") -> "PreTrainedModel":
    """Merge the PEFT adapter in a folder into its base model, which is used up.

    Raises:
        DriftError, CorruptWeights: see `wrapped_base`.
    """
    wrapped = wrapped_base(folder, weights, base)
    _set_apart(wrapped)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied weights, which were set apart
            merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise CorruptWeights(f"the adapter {folder} cannot be merged into its base model: {_line(error)}") from error
    return merged


def wrapped_base(folder: Path, weights: WeightFiles, base: "PreTrainedModel") -> Any:
    """A base model with the PEFT adapter in a folder around it, every tensor of which is in its place.

    Raises:
        DriftError: peft is not installed, or the adapter's config names a module to import.
        CorruptWeights: the adapter does not fit the base, or does not cover what its config promises.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise DriftError(
            f"{folder} is an adapter, which needs the package peft: pip install 'circuit-drift[lora]'"
        ) from error
    if read_json(folder / ADAPTER_CONFIG).get("megatron_config"):
        raise DriftError(
            f"{folder / ADAPTER_CONFIG} has peft import a module that it names (megatron_config): refused; merge the "
            "adapter where you trust it"
        )
    require_possible_adapter(folder, weights)
    if read_json(folder / ADAPTER_CONFIG).get("layer_replication"):
        raise CorruptWeights(
            f"{folder} repeats layers of its base (layer_replication), which share weights that a merge would change "
            "more than once: merge it where you can check the result"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other packages' deprecations; what matters is checked below
            with view(folder, loading_files(folder, code=False)) as shown:
                wrapped = peft.PeftModel.from_pretrained(base, str(shown), local_files_only=True)
    except Exception as error:
        raise CorruptWeights(f"the adapter {folder} does not fit its base model: {_line(error)}") from error
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
        raise CorruptWeights(
            f"the adapter {folder} cannot be merged into its base model: {kind!r:.60} adds prompts or modules and "
            "changes no weights; only adapters that do (LoRA, DoRA, IA3, ...) can be measured"
        )
    _require_taken(folder, weights, peft, wrapped)
    return wrapped


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _require_taken(folder: Path, weights: WeightFiles, peft: Any, wrapped: Any) -> None:
    """Refuse an adapter of which a tensor is missing, left over, or not the one that the model now holds."""
    from safetensors.torch import load_file

    stored = {name: tensor for file in weights.files for name, tensor in load_file(file).items()}
    # peft saves whole embeddings too where it adapts them or took them for resized; left to itself, it asks the hub
    ways = [peft.get_peft_model_state_dict(wrapped, save_embedding_layers=whole) for whole in (False, True)]
    held = min(ways, key=lambda way: len(way.keys() ^ stored.keys()))
    odd = sorted(held.keys() ^ stored.keys())
    if odd:
        raise CorruptWeights(
            f"the adapter {folder} does not fit its base model and config: {len(odd)} tensors are in one and "
            f"not in the other, {odd[0]!r} first"
        )
    lost = [name for name, tensor in stored.items() if not tensor.to(held[name].dtype).equal(held[name])]
    if lost:
        raise CorruptWeights(
            f"the adapter {folder} holds {lost[0]!r}, of which the model took other values ({len(lost)} such tensors): "
            "its base ties that tensor to another one; merge it, and save the two apart"
        )


def _set_apart(wrapped: Any) -> None:
    """Give each adapted module weights of its own.

    Where the base ties its head to its embedding, an adapter on one of them leaves the other as it is, while a merge
    into the tensor that they share would change both.
    """
    import torch

    users = Counter(id(tensor) for module in wrapped.modules() for tensor in module._parameters.values())
    for module in wrapped.modules():
        inner = getattr(module, "base_layer", None)
        for name, tensor in list(inner.named_parameters(recurse=False)) if inner is not None else ():
            if users[id(tensor)] > 1:
                setattr(inner, name, torch.nn.Parameter(tensor.detach().clone(), requires_grad=False))
