"""Results on disk: one folder each, `result.json` beside `arrays.safetensors`, written atomically.

A folder appears under its final name only once complete, so a reader never meets a half-written result and a
killed writer leaves nothing behind but a hidden temporary folder. Reading needs numpy alone.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from checkpoints.errors import StoreError

RESULT_FILE = "result.json"
ARRAYS_FILE = "arrays.safetensors"
FORMAT = 1


def write_artifact(folder: Path | str, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write one result folder atomically, replacing an older one of the same name.

    Args:
        folder: where the result goes; its parents are made.
        kind: what the result is (``"retrieval_scores"``); checked again when it is read.
        meta: everything that is not an array; must be JSON.
        arrays: name -> array, any dtype safetensors knows.

    Raises:
        StoreError: the place cannot be written.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise StoreError(
            f"cannot write a result to {folder}: {error.strerror}; choose another place with --store"
        ) from error
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, scratch / ARRAYS_FILE)
        document = {"format": FORMAT, "kind": kind, **meta}
        (scratch / RESULT_FILE).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")
        scratch.chmod(0o755)
        _replace(scratch, folder)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write a result to {folder}: {error}; nothing was changed there") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def read_artifact(folder: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a result folder written by `write_artifact`.

    Returns:
        its metadata (without ``format`` and ``kind``) and its arrays.

    Raises:
        StoreError: nothing there, damaged, or of another kind.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    found = meta.pop("kind", None)
    if found != kind:
        raise StoreError(f"{folder} holds a result of kind {found!r}, not {kind!r}")
    try:
        arrays = load_file(folder / ARRAYS_FILE)
    except (OSError, SafetensorError) as error:
        damaged = folder / ARRAYS_FILE
        raise StoreError(f"{damaged} cannot be read ({error}); delete the folder and run again") from error
    meta.pop("format")
    return meta, arrays


def read_meta(folder: Path | str) -> dict[str, Any]:
    """Read only the JSON of a result folder, ``format`` and ``kind`` included."""
    path = Path(folder) / RESULT_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no result folder: it has no {RESULT_FILE}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete the folder and run again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        seen = meta.get("format") if isinstance(meta, dict) else None
        raise StoreError(f"{path} has format {seen!r}, not {FORMAT}: delete the folder and run again")
    return meta


def _replace(scratch: Path, folder: Path) -> None:
    """Move a finished folder into place; a result that another writer finished meanwhile gives way."""
    if folder.exists():
        doomed = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        folder.replace(doomed / "old")
        try:
            scratch.replace(folder)
        finally:
            shutil.rmtree(doomed, ignore_errors=True)
    else:
        scratch.replace(folder)
