"""Results on disk: one folder each, `result.json` beside `arrays.safetensors`, written atomically.

A folder appears under its final name only once complete and on the disk itself, so a reader never meets a half-written
result, after a loss of power either, and a killed writer leaves nothing behind but a hidden temporary folder. Writers
that finish the same result at once do each other no harm. Reading needs numpy alone.
"""

import errno
import filecmp
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from checkpoints.errors import StoreError
from checkpoints.results.strict_json import dump_json, parse_json

RESULT_FILE = "result.json"
ARRAYS_FILE = "arrays.safetensors"
FORMAT = 1


def write_artifact(folder: Path | str, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write one result folder atomically, replacing an older one of the same name.

    Args:
        folder: where the result goes; its parents are made.
        kind: what the result is (``"retrieval_scores"``); checked again when it is read.
        meta: everything that is not an array; JSON, and numbers that are not finite.
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
        (scratch / RESULT_FILE).write_text(dump_json(document, indent=1, sort_keys=True), encoding="utf-8")
        scratch.chmod(0o755)
        for path in (scratch / ARRAYS_FILE, scratch / RESULT_FILE, scratch):
            flush_to_disk(path)
        _replace(scratch, folder)
        flush_to_disk(folder.parent)
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
        meta = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no result folder: it has no {RESULT_FILE}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete the folder and run again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        seen = meta.get("format") if isinstance(meta, dict) else None
        raise StoreError(f"{path} has format {seen!r}, not {FORMAT}: delete the folder and run again")
    return meta


def flush_to_disk(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(scratch: Path, folder: Path) -> None:
    """Move a finished folder into place; of writers that meet there, one is the last, and its result stays."""
    while not _moved(scratch, folder):
        if _same(scratch, folder):
            return
        doomed = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        with suppress(FileNotFoundError):  # another writer was quicker to take it away
            folder.replace(doomed / "old")
        shutil.rmtree(doomed, ignore_errors=True)


def _moved(scratch: Path, folder: Path) -> bool:
    """Move a folder to a place where there is none; False where there is."""
    try:
        scratch.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _same(scratch: Path, folder: Path) -> bool:
    """Whether what lies there is byte for byte what was to be put there."""
    try:
        return not any(filecmp.cmpfiles(scratch, folder, (RESULT_FILE, ARRAYS_FILE), shallow=False)[1:])
    except FileNotFoundError:
        return False
