"""Adapters, merged into their base model."""

import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files.folder import ADAPTER_CONFIG, ADAPTER_FILE, loading_files, read_json
from checkpoints.files.headers import read_header
from checkpoints.loading.size import require_possible_adapter
from checkpoints.loading.view import view

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "embed_in.weight", "embed_out.weight", "wte.weight")


def merge_adapter(folder: Path, base: "PreTrainedModel") -> "PreTrainedModel":
    """Merge the PEFT adapter in a folder into its base model, which is used up.

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
    require_possible_adapter(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other packages' deprecations; what matters is checked below
            with view(folder, loading_files(folder, code=False)) as shown:
                wrapped = peft.PeftModel.from_pretrained(base, str(shown), local_files_only=True)
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise CorruptWeights(f"the adapter {folder} does not fit its base model: {text}") from error
    found = set(read_header(folder / ADAPTER_FILE))
    embeddings = any(name.endswith(_EMBEDDINGS) for name in found)  # left to itself, peft asks the hub
    wanted = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=embeddings))
    odd = sorted(wanted ^ found)
    if odd:
        raise CorruptWeights(
            f"the adapter {folder} does not fit its base model and config: {len(odd)} tensors are in one and "
            f"not in the other, {odd[0]!r} first"
        )
    try:
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise CorruptWeights(f"the adapter {folder} cannot be merged into its base model: {text}") from error
    return merged
