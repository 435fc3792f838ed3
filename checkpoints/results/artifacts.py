"""Results on disk: one folder each, `result.json` beside `arrays.safetensors`, written atomically.

A folder appears under its final name only once complete and on the disk itself, so a reader never meets a half-written
result, after a loss of power either, and a killed writer leaves nothing behind but a hidden draft, which the next one
removes. Writers that finish the same result at once do each other no harm. Reading needs numpy alone.

`result.json` holds the digest of every file of the result, its own content included:

    {"format": 2, "kind": "...", "digests": {"arrays.safetensors": "<sha-256>", "result.json": "<sha-256>"}, ...}

Reading checks them, so no changed byte is taken for a number. Format 1, of earlier versions, had none.
"""

import errno
import filecmp
import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save_file

from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.disk import draft_folder, draft_of, flush_to_disk, open_regular, read_regular, remove
from checkpoints.results.stored_array import Stamp, StoredArray, stamp_of, stored_array
from checkpoints.results.strict_json import digest_json, dump_json, parse_json

RESULT_FILE = "result.json"
ARRAYS_FILE = "arrays.safetensors"
FORMAT = 2
WITHOUT_DIGESTS = 1
DIGESTS = "digests"
SMALL = 1 << 20
"""Bytes of arrays below which a result is read whole."""
T = TypeVar("T")


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
        with draft_folder(folder) as draft:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft / ARRAYS_FILE)
            document = {"format": FORMAT, "kind": kind, **meta}
            digests = {ARRAYS_FILE: _digest_of(draft / ARRAYS_FILE), RESULT_FILE: digest_json(document)}
            text = dump_json({**document, DIGESTS: digests}, indent=1, sort_keys=True)
            (draft / RESULT_FILE).write_text(text, encoding="utf-8")
            for path in (draft / ARRAYS_FILE, draft / RESULT_FILE, draft):
                flush_to_disk(path)
            _replace(draft, folder)
            flush_to_disk(folder.parent)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot write a result to {folder}: {why}; nothing was changed there; choose another place with --store"
        ) from error
    return folder


def read_artifact(folder: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a result folder written by `write_artifact`, every byte of it checked.

    Returns:
        its metadata (without ``format``, ``kind`` and ``digests``) and its arrays.

    Raises:
        DamagedResult: nothing there, or not what was written.
        StoreError: of another kind, or of a newer version.
    """
    folder = Path(folder)
    meta, content = _read(folder)
    _require_kind(folder, meta, kind)
    try:
        arrays = load(content)
    except SafetensorError as error:
        raise DamagedResult(f"{folder / ARRAYS_FILE} cannot be read ({error}); run again") from error
    return _about(meta), arrays


def open_artifact(
    folder: Path | str, kind: str, on_disk: Collection[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, StoredArray]]:
    """`read_artifact` for a series of results: every byte is checked, large tables stay in their file.

    Args:
        folder: of the result.
        kind: as for `read_artifact`.
        on_disk: names of the two-dimensional arrays that are left where they are, unless they are small.

    Returns:
        its metadata, the arrays that were read, and those that were left.

    Raises:
        DamagedResult: nothing there, or not what was written.
        StoreError: of another kind, or of a newer version.
    """
    path = Path(folder) / ARRAYS_FILE
    if _size(path) < SMALL:
        return *read_artifact(folder, kind), {}
    meta, stamp = _twice(lambda: _opened(Path(folder)))
    _require_kind(folder, meta, kind)
    try:
        with safe_open(path, framework="numpy") as held:
            names = list(held.keys())
            arrays = {name: held.get_tensor(name) for name in names if name not in on_disk}
        left = {name: stored_array(path, name, stamp) for name in names if name in on_disk}
        changed = stamp_of(path) != stamp
    except (OSError, SafetensorError) as error:
        raise DamagedResult(f"{path} cannot be read ({error}); run again") from error
    if changed:
        raise DamagedResult(f"{path} was changed while it was read; run again")
    return _about(meta), arrays, left


def check_artifact(folder: Path | str) -> dict[str, Any]:
    """Check every byte of a result folder, without making arrays of them; returns what `read_meta` does.

    Raises:
        DamagedResult: nothing there, or not what was written.
        StoreError: of a newer version.
    """
    return _read(Path(folder))[0]


def read_meta(folder: Path | str) -> dict[str, Any]:
    """Read only the JSON of a result folder, ``format``, ``kind`` and ``digests`` included; its content is checked.

    Raises:
        DamagedResult: nothing there, or not what was written.
        StoreError: of a newer version.
    """
    path = Path(folder) / RESULT_FILE
    try:
        meta = parse_json(read_regular(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise DamagedResult(f"{folder} is no result folder: it has no {RESULT_FILE}") from error
    except (OSError, ValueError) as error:
        raise DamagedResult(f"{path} cannot be read ({error}); run again") from error
    seen = meta.get("format") if isinstance(meta, dict) else None
    if isinstance(seen, int) and seen > FORMAT:
        raise StoreError(
            f"{path} was written by a newer version (format {seen}; this one reads up to {FORMAT}): upgrade "
            "circuit-drift, or name another store"
        )
    if not isinstance(meta, dict) or seen not in (FORMAT, WITHOUT_DIGESTS):
        raise DamagedResult(f"{path} has format {seen!r}, not {FORMAT}; run again")
    if seen == FORMAT:
        _check_digests(path, meta)
    return meta


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Both files, checked."""

    def both() -> tuple[dict[str, Any], bytes]:
        meta = read_meta(folder)
        return meta, _checked_arrays(folder, meta)

    return _twice(both)


def _opened(folder: Path) -> tuple[dict[str, Any], Stamp]:
    """The metadata, checked, and the stamp that the arrays' file had when its bytes were checked, piece by piece."""
    meta = read_meta(folder)
    path = folder / ARRAYS_FILE
    try:
        stamp = stamp_of(path)
        found = _digest_of(path)
    except OSError as error:
        raise DamagedResult(f"{path} cannot be read ({error.strerror}); run again") from error
    _require_digest(path, meta, found)
    return meta, stamp


def _twice(read: Callable[[], T]) -> T:
    """What reading two files gives; done again once, since another writer may replace both between them."""
    try:
        return read()
    except DamagedResult:
        return read()


def _require_kind(folder: Path | str, meta: Mapping[str, Any], kind: str) -> None:
    found = meta.get("kind")
    if found != kind:
        raise StoreError(f"{folder} holds a result of kind {found!r}, not {kind!r}")


def _about(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in ("format", "kind", DIGESTS)}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_digests(path: Path, meta: Mapping[str, Any]) -> None:
    digests = meta.get(DIGESTS)
    own = {name: value for name, value in meta.items() if name != DIGESTS}
    if not isinstance(digests, dict) or digests.get(RESULT_FILE) != digest_json(own):
        raise DamagedResult(f"{path} is not what was written: its content differs from its digest; run again")


def _checked_arrays(folder: Path, meta: Mapping[str, Any]) -> bytes:
    path = folder / ARRAYS_FILE
    try:
        content = read_regular(path)
    except OSError as error:
        raise DamagedResult(f"{path} cannot be read ({error.strerror}); run again") from error
    _require_digest(path, meta, _digest(content))
    return content


def _require_digest(path: Path, meta: Mapping[str, Any], found: str) -> None:
    if meta["format"] != WITHOUT_DIGESTS and meta[DIGESTS].get(ARRAYS_FILE) != found:
        raise DamagedResult(f"{path} is not what was written: its content differs from its digest; run again")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str:
    """The same of a file, in pieces that stay in the cache."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(draft: Path, folder: Path) -> None:
    """Move a finished folder into place; of writers that meet there, one is the last, and its result stays."""
    while not _moved(draft, folder):
        if _same(draft, folder):
            return
        doomed = draft_of(folder)
        with suppress(FileNotFoundError):  # another writer was quicker to take it away
            folder.replace(doomed)
        remove(doomed)


def _moved(draft: Path, folder: Path) -> bool:
    """Move a folder to a place where there is none; False where there is something."""
    try:
        draft.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _same(draft: Path, folder: Path) -> bool:
    """Whether what lies there is byte for byte what was to be put there."""
    try:
        return not any(filecmp.cmpfiles(draft, folder, (RESULT_FILE, ARRAYS_FILE), shallow=False)[1:])
    except OSError:
        return False
