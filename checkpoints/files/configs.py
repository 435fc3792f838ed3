"""The JSON that describes a checkpoint beside its weights: how it is read, and what of it counts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.errors import NotACheckpoint
from checkpoints.files.reading import decode, parse_lenient, read_bytes

CONFIG_FILE = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"

VOLATILE = frozenset(
    {"transformers_version", "_name_or_path", "_attn_implementation_autoset", "base_model_name_or_path", "revision"}
)
SWITCHES: Mapping[str, Any] = {
    "output_attentions": False, "output_hidden_states": False, "return_dict": True, "use_cache": True,
    "torchscript": False, "gradient_checkpointing": False,
}  # fmt: skip
"""What a forward pass is asked to hand out or to keep, with the usual value: no weight means anything else by it."""
_NO_PART_OF_IT = {*SWITCHES, "use_return_dict", "_attn_implementation", "attn_implementation", "output_router_logits",
                  "num_labels", "id2label", "label2id", "problem_type"}  # fmt: skip
_IDLE = VOLATILE | SWITCHES.keys() | {"_from_model_config"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        NotACheckpoint: missing, unreadable, or not an object.
    """
    try:
        value = parse_lenient(decode(read_bytes(path)))
    except FileNotFoundError as error:
        raise NotACheckpoint(f"{path.parent} is no checkpoint: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise NotACheckpoint(f"{path} cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise NotACheckpoint(f"{path} holds a JSON {type(value).__name__}, not an object; restore the file")
    return value


def neutral(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, its parts included, without what is no part of the model: switches, labels, how attention is computed.

    These are decided here, and some stop a forward pass, or take memory that no file warrants.
    """
    kept = {key: value for key, value in config.items() if key not in _NO_PART_OF_IT}
    return {key: neutral(value) if key.endswith("_config") and isinstance(value, dict) else value
            for key, value in kept.items()}  # fmt: skip


def generation_settings(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What generation_config.json adds to a config, less what changes no token (bookkeeping, outputs asked for)."""
    if not (folder / GENERATION_CONFIG).exists():
        return {}
    found = read_json(folder / GENERATION_CONFIG)
    return {key: value for key, value in found.items() if key not in _IDLE and config.get(key) != value}


def hash_config(config: dict[str, Any]) -> str:
    """SHA-256 of a config's content, less what only records the library version or the place it came from.

    Switches count as if they stood as usual.
    """
    kept = {key: SWITCHES.get(key, value) for key, value in config.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
