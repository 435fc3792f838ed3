"""Where the result of a measure lies in the store, what it was computed from, and how it is read back."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import circuit_drift
from checkpoints import Checkpoint
from checkpoints.errors import DamagedResult
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import ATTENTION, Measure
from circuit_drift.store.store import Store, key_of


def stored_result(store: Store, kind: "Measure | type[Measure]", key: str) -> Any:
    """The result of a measure with a key, every byte of it checked, and that it is the one of that key.

    Large tables stay in their file until they are used, where the kind of result can (`Result.open`).

    Raises:
        DamagedResult: it is gone, not what was written, or another one's.
        StoreError: a newer version's, or of another kind.
    """
    folder = store.folder(kind.name, key)
    result = _read(kind, folder)
    provenance = result.meta.get("provenance", {}) if isinstance(result.meta, Mapping) else {}
    found = provenance.get("key", key)
    if found != key:
        raise DamagedResult(f"{folder} holds the result of {found}; run again")
    return result


def _read(kind: "Measure | type[Measure]", folder: Path) -> Any:
    try:
        return getattr(kind.result, "open", kind.result.load)(folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DamagedResult(f"{folder} lacks what a result of {kind.name} has ({why}); run again") from error


def store_key(checkpoint: Checkpoint, measure: Measure, dtype: str, attention: str = ATTENTION) -> str:
    """The store key of one measure of one checkpoint: the hash of everything that decides its numbers."""
    used = checkpoint.attention(attention)
    other = {} if used == "sdpa" else {"attention": used}
    files = identity(checkpoint)
    return key_of(
        {
            **(files if measure.of_weights else {name: value for name, value in files.items() if name != "weights"}),
            "measure": measure.name,
            "parameters": measure.key_params(),
            "dtype": dtype,
            "libraries": libraries(),
            **other,
        }
    )


def identity(checkpoint: Checkpoint) -> dict[str, str | None]:
    """The hashes of everything of a checkpoint that decides a result; of code where that is allowed to run."""
    code = checkpoint.code_hash
    return {
        "weights": checkpoint.weights_hash,
        "tokenizer": checkpoint.tokenizer_hash,
        "config": checkpoint.config_hash,
        **({} if code is None else {"code": code}),
    }


@cache
def libraries() -> dict[str, str]:
    """The versions of the libraries that compute the numbers, without what says for which device they were built."""
    return {name: version(name).partition("+")[0] for name in ("torch", "transformers")}


def with_provenance(result: Any, loaded: LoadedModel, measure: Measure, key: str) -> Any:
    """The same result, with what it was computed from written into its ``meta``."""
    checkpoint = loaded.checkpoint
    provenance = {
        "key": key,
        "checkpoint": checkpoint.name,
        "step": checkpoint.step,
        "weights_hash": checkpoint.weights_hash if measure.of_weights else None,
        "tokenizer_hash": checkpoint.tokenizer_hash,
        "config_hash": checkpoint.config_hash,
        "code_hash": checkpoint.code_hash,
        "measure": measure.name,
        "parameters": measure.key_params(),
        "dtype": loaded.dtype,
        "device": loaded.device,
        "device_map": loaded.device_map,
        "attention": loaded.attention,
        "code_version": circuit_drift.__version__,
        "libraries": libraries(),
    }
    return replace(result, meta={**result.meta, "provenance": provenance})
