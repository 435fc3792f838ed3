"""What is wrong where a checkpoint does not give a whole model, in this package's words."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CorruptWeights, DriftError, UnsupportedArchitecture
from checkpoints.files.formats import WeightFiles
from checkpoints.files.headers import PLAIN_FLOATS, TensorEntry, unwrapped
from checkpoints.files.trust import ALLOWED

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def explain(folder: Path, error: Exception, said: str, *, repo: str | None) -> DriftError:
    """Name what is wrong where transformers only says how it failed."""
    import pickle

    text = " ".join(said.split())
    if isinstance(error, pickle.UnpicklingError):
        return CorruptWeights(
            f"{folder} holds weights that cannot be unpickled safely (weights_only=True refused: "
            f"{text[:200]}); convert them to safetensors where you trust them"
        )
    if "trust_remote_code" in text:
        return UnsupportedArchitecture(
            f"{folder} needs model code of its own to be run, which is refused; convert it to an architecture "
            f"that transformers has or, where you have read that code, allow it: "
            f"{ALLOWED}={repo or folder}"
        )
    if "model type" in text or "Unrecognized model" in text or "Unrecognized configuration" in text:
        return UnsupportedArchitecture(
            f"{folder} is of no causal architecture that this transformers has: {text[:300]}"
        )
    if "does not support an attention implementation" in text or "attn_implementation" in text:
        return UnsupportedArchitecture(f"{folder}: {text[:300]}; try attention='eager'")
    if "device_map" in text or "device map" in text:
        return DriftError(f"{folder} cannot be spread by this device map: {text[:300]}")
    return CorruptWeights(f"{folder} cannot be loaded: {type(error).__name__}: {text[:500]}")


def refuse_misnamed(folder: Path, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> None:
    """Refuse a config that is wrong about what is quantised, and files that hold one tensor under two wrapped names.

    Raises:
        CorruptWeights: says which, and what to do.
    """
    if not entries:  # a format that hides its tensors
        return
    dtypes = {entry.dtype for entry in entries.values()}
    parts = (config, *(value for value in config.values() if isinstance(value, Mapping)))
    for part in parts:
        if part.get("quantization_config") and dtypes <= PLAIN_FLOATS:
            raise CorruptWeights(
                f"{folder / 'config.json'} says that its weights are quantised (quantization_config), but the files "
                f"hold plain {', '.join(sorted(dtypes))}: a leftover of training or merging; take that field out"
            )
    whole = next((name for name, entry in entries.items() if in_whole_numbers(name, entry)), None)
    if whole is not None and not any(part.get("quantization_config") for part in parts):
        raise CorruptWeights(
            f"{folder} holds {whole!r} in whole numbers ({entries[whole].dtype}), but its config.json says of no "
            "quantisation (quantization_config): read as they stand they make another model; restore that field"
        )
    names = Counter(map(unwrapped, entries))
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise CorruptWeights(f"{folder} holds {twice!r} twice, once with a wrapper's name (_orig_mod, module) in it")
    wrapped = [name for name in entries if unwrapped(name) != name]
    if wrapped:
        logger.warning("%s: %d tensors are named by a wrapper of the model, %r first; read as %r", folder, len(wrapped),
                       wrapped[0], unwrapped(wrapped[0]))  # fmt: skip


def in_whole_numbers(name: str, entry: TensorEntry) -> bool:
    """Whether a weight is stored in whole numbers, which stand for others; masks and positions are no weights."""
    return name.endswith(".weight") and entry.dtype[0] in "IU"


def refuse_left_over(path: Path, weights: WeightFiles, model: "torch.nn.Module") -> None:
    """Refuse a file whose tensors transformers leaves out without a word: it holds more values than its model.

    Raises:
        CorruptWeights: says how many, and names the frequencies among them.
    """
    over = weights.values() - sum(parameter.numel() for parameter in model.parameters())
    if over > 0:
        known = ", ".join(name for name in weights.entries() if name.startswith("rope_"))
        raise CorruptWeights(
            f"{path} holds {over:,} values that transformers has no place for{f' ({known})' if known else ''}: without "
            "them it is another model; convert it to safetensors"
        )


def check_coverage(folder: Path, info: dict[str, Any]) -> None:
    """Refuse files that leave a parameter without a value, or hold one of another shape."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise CorruptWeights(
            f"the weights of {folder} do not cover its model: {len(missing)} tensors are missing, "
            f"{missing[0]!r} first; they would be random, so nothing was loaded"
        )
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        raise CorruptWeights(
            f"the weights of {folder} do not fit its config: {name!r} is {tuple(found)}, "
            f"the config asks for {tuple(wanted)} ({len(mismatched)} such tensors)"
        )
    unexpected = sorted(info["unexpected_keys"])
    unused = [name for name in unexpected if _DERIVED.search(name)]
    if len(unused) < len(unexpected):
        first = next(name for name in unexpected if name not in unused)
        raise CorruptWeights(
            f"{folder} holds {len(unexpected) - len(unused)} tensors that its config leaves no place for, "
            f"{first!r} first: config.json and weights belong to different models"
        )
    if unused:
        logger.warning("%s: %d buffers in the file are not used, %r first", folder, len(unused), unused[0])


# masks, frequencies and positions, which older versions saved and which follow from the config
_DERIVED = re.compile(r"(inv_freq|(attn|attention|self_attn)\.(masked_)?bias|position_ids|relative_position_index)$")


def check_finite(folder: Path, weights: "Mapping[str, torch.Tensor]") -> None:
    """Refuse weights with a NaN or infinite value.

    Raises:
        CorruptWeights: names the first such tensor and how many of its values are not finite.
    """
    tensors = {name: tensor.detach() for name, tensor in weights.items() if tensor.is_floating_point()}
    bad = [name for name, tensor in tensors.items() if not _all_finite(tensor)]
    if bad:
        count = int((~tensors[bad[0]].isfinite()).sum())
        raise CorruptWeights(
            f"{folder}: {count} values of {bad[0]!r} are NaN or infinite "
            f"({len(bad)} tensors in all); the run diverged or the file is damaged"
        )


def _all_finite(tensor: "torch.Tensor") -> bool:
    """One pass without a temporary, several times faster than `isfinite`: extremes carry NaN and infinity."""
    if tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())
