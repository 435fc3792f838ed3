"""SHA-256 of files, remembered: within a process, and for large files from one start to the next.

    $CIRCUIT_DRIFT_CACHE, else $XDG_CACHE_HOME/circuit-drift, else ~/.cache/circuit-drift

A remembered hash is used only where the file is still the very one that was read: same path, device, inode, size, time
of modification and time of change (which no program can set), and the same bytes in its header and in blocks spread
over it. What was changed within two seconds before it was read is not remembered, since a later change could carry the
same times. A record that is damaged, or says anything else, is made anew; where the cache cannot be written, nothing is
remembered. `checkpoints.audit` by weights trusts no record: it reads every byte.
"""

import hashlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from checkpoints.errors import StoreError
from checkpoints.files.limits import require_file
from checkpoints.results.disk import read_regular, write_file

CACHE = "CIRCUIT_DRIFT_CACHE"
SMALLEST = 1 << 20
_SETTLED_NS = 2 * 10**9
_HEADER = 1 << 16
_BLOCK = 1 << 12
_BLOCKS = 32

_turns: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes; read once for as long as the file stays what it is."""
    path = path.resolve()
    require_file(path)
    with _turns[path]:  # who asks while another is reading gets its answer
        return _hash_file(path, _identity(path))


def cache_folder() -> Path:
    """Where hashes are kept between starts."""
    named = os.environ.get(CACHE)
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (Path(named) if named else home / "circuit-drift") / "hashes"


def stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, ...] | None]:
    """What each file looks like without being read: device, inode, time of modification, size; None where it is gone.

    The time of change is left out: a hard link or new permissions move it and leave the content alone.
    """
    found: dict[Path, tuple[int, ...] | None] = {}
    for path in paths:
        try:
            device, inode, modified, _, size = _identity(path)
            found[path] = (device, inode, modified, size)
        except OSError:
            found[path] = None
    return found


@lru_cache(maxsize=65536)
def _hash_file(path: Path, identity: tuple[int, ...]) -> str:
    if identity[-1] < SMALLEST:
        return _read(path)
    known = _recall(path, identity)
    if known is not None:
        return known
    started = time.time_ns()
    digest = _read(path)
    if _identity(path) == identity and started - max(identity[2:4]) > _SETTLED_NS:
        _remember(path, identity, digest)
    return digest


def _identity(path: Path) -> tuple[int, ...]:
    """Device, inode, times of modification and change, size."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sample(path: Path) -> str:
    """Hash of the file's beginning, its end, and blocks between them; at places that its size decides."""
    size = path.stat().st_size
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        found.update(stream.read(_HEADER))
        for place in range(1, _BLOCKS + 1):
            stream.seek((size - _BLOCK) * place // _BLOCKS)
            found.update(stream.read(_BLOCK))
    return found.hexdigest()


def _recall(path: Path, identity: tuple[int, ...]) -> str | None:
    """The hash on record, if the file is the one that it was taken of and the record is whole."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        record = json.loads(read_regular(_record_path(path)))
        seal = record.pop("seal")
        if seal == _seal(record) and record["path"] == str(path) and tuple(record["identity"]) == identity:
            return str(record["sha256"]) if record["sample"] == _sample(path) else None
    return None


def _remember(path: Path, identity: tuple[int, ...], digest: str) -> None:
    record: dict[str, Any] = {"path": str(path), "identity": list(identity), "sha256": digest, "sample": _sample(path)}
    place = _record_path(path)
    with suppress(StoreError):
        write_file(place, json.dumps({**record, "seal": _seal(record)}))


def _record_path(path: Path) -> Path:
    return cache_folder() / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def _seal(record: dict[str, Any]) -> str:
    """Tells a record that was damaged or edited from a whole one."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
