"""Code that a checkpoint brings along runs only where the user names that checkpoint.

    CIRCUIT_DRIFT_ALLOW_CODE=org/name,runs/mine

Names are those of hub repositories, whose code is that of the pinned commit, or folders: of a checkpoint or of its
series. There is no name for everything.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.errors import UnsupportedArchitecture

ALLOWED = "CIRCUIT_DRIFT_ALLOW_CODE"


def allows_code(path: Path, repo: str | None = None) -> bool:
    """Whether the user named this hub repository, or without one this folder or one that it lies in."""
    names = [name.strip() for name in os.environ.get(ALLOWED, "").split(",") if name.strip()]
    if repo is not None:
        return repo in names
    place = path.resolve()
    return any(Path(name).expanduser().resolve() in (place, place.parent) for name in names)


def refuse_foreign_code(config: Mapping[str, Any], folder: Path, *, own: bool) -> None:
    """Refuse a config that names code from elsewhere: it would run under no hash, whoever wrote it.

    Args:
        config: the content of config.json; parts of it may be configs too.
        folder: the checkpoint, for the message.
        own: whether the checkpoint's own code may run. Only then can its ``auto_map`` reach another repository's.

    Raises:
        UnsupportedArchitecture: names the field and what it asks for.
    """
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    asked = [(name, value) for part in parts for name in _KERNELS for value in _values(part.get(name))]
    asked = [(name, value) for name, value in asked if "/" in value or (name in _EXPERTS and value not in _OWN_EXPERTS)]
    if own:
        asked += [("auto_map", value) for value in _values(config.get("auto_map")) if "--" in value]
    for name, value in asked:
        raise UnsupportedArchitecture(
            f"{folder / 'config.json'} asks for code from elsewhere, {name} {value!r}: refused; take it out"
        )


_EXPERTS = ("_experts_implementation", "experts_implementation")
_KERNELS = ("_attn_implementation", "attn_implementation", *_EXPERTS)
_OWN_EXPERTS = ("eager", "batched_mm", "grouped_mm")  # transformers' other ones are kernels that it fetches


def _values(field: Any) -> list[str]:
    if isinstance(field, Mapping):
        return [text for value in field.values() for text in _values(value)]
    if isinstance(field, list | tuple):
        return [text for value in field for text in _values(value)]
    return [] if field is None else [str(field)]
