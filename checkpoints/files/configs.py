"""The JSON that describes a checkpoint beside its weights: how it is read, and what of it counts."""

import hashlib
import json
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
_IDLE = VOLATILE | {"_from_model_config", "output_attentions", "output_hidden_states", "use_cache"}


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


def generation_settings(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What generation_config.json adds to a config, less what changes no token (bookkeeping, outputs asked for)."""
    if not (folder / GENERATION_CONFIG).exists():
        return {}
    found = read_json(folder / GENERATION_CONFIG)
    return {key: value for key, value in found.items() if key not in _IDLE and config.get(key) != value}


def hash_config(config: dict[str, Any]) -> str:
    """SHA-256 of a config's content, less what only records the library version or the place it came from."""
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
