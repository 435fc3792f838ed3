"""Files and folders that appear whole or not at all, what killed writers leave of them, and reading that ends.

A writer fills a draft beside its target, has it on the disk itself, and gives it the target's name in one step.

    .NAME.MACHINE-PROCESS-START-RANDOM.draft

The draft's name says who writes it: the next writer of the same target removes the drafts of processes that are gone.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from checkpoints.errors import StoreError
from checkpoints.results.processes import process_mark, this_machine

STALE = 24 * 3600.0
_ROOM = 150  # bytes of a target's name within its draft's: file systems allow 255
_NAME = re.compile(
    r"\.(?P<name>.*)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d*)-[0-9a-f]{8}\.draft", re.DOTALL
)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A draft to write to, which takes the file's place at the end of the block; an error leaves all as it was.

    The folder is made where there is none; a link is followed; an existing file keeps its permissions.

    Raises:
        StoreError: the place cannot be written, or is no regular file.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise StoreError(f"{path} cannot be written: it is no regular file; name another place")
        target.parent.mkdir(parents=True, exist_ok=True)
        collect_drafts(target.parent, target.name)
        draft = draft_of(target)
        try:
            yield draft
            if target.exists():
                draft.chmod(stat.S_IMODE(target.stat().st_mode))
            flush_to_disk(draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}; name another place") from error


def write_file(path: Path | str, content: str | bytes) -> Path:
    """Write a whole file in one step; text as UTF-8, with what that cannot write as its escape.

    Raises:
        StoreError: the place cannot be written, or is no regular file.
    """
    with whole_file(path) as draft:
        draft.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside a target, to be filled and moved there within the block; what is left of it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    collect_drafts(path.parent, path.name)
    draft = draft_of(path)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; nothing waits for a pipe, or reads a device without end.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        return file.read()


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading its bytes.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def can_be(path: Path) -> bool:
    """Whether a path can be one at all: names are not longer than a file system takes, and hold no NUL."""
    try:
        path.lstat()
    except ValueError:
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def draft_of(target: Path) -> Path:
    """A name for a draft beside its target that no other writer uses."""
    writer = process_mark(os.getpid()).replace(":", "-")
    return target.with_name(f".{_short(target.name)}.{_machine()}-{writer}-{uuid.uuid4().hex[:8]}.draft")


def collect_drafts(folder: Path, name: str | None = None) -> tuple[Path, ...]:
    """Remove the drafts of writers that are gone; of one target, or of every one in the folder.

    Returns:
        what was removed.
    """
    doomed = abandoned_drafts(folder, name)
    for draft in doomed:
        remove(draft)
    return doomed


def abandoned_drafts(folder: Path, name: str | None = None) -> tuple[Path, ...]:
    """The drafts of one target (or all) whose writer is gone: dead on this machine, or silent for a day on another."""
    prefix = "." if name is None else f".{_short(name)}."
    with suppress(OSError), os.scandir(folder) as entries:
        found = [folder / entry.name for entry in entries if entry.name.startswith(prefix)]
        return tuple(draft for draft in sorted(found) if _abandoned(draft, name))
    return ()


def remove(path: Path) -> None:
    """Remove a file or a folder with what it holds, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def older_than(path: Path, seconds: float) -> bool:
    """Whether something was last changed that long ago; what is gone is not."""
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > seconds
    return False


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(_there(folder)).free


def disk_of(folder: Path) -> int:
    """The disk that a folder is on, or will be, by the system's number."""
    return _there(folder).stat().st_dev


def _there(folder: Path) -> Path:
    """A folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def flush_to_disk(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _abandoned(draft: Path, name: str | None) -> bool:
    found = _NAME.fullmatch(draft.name)
    if found is None or (name is not None and found["name"] != _short(name)):
        return False
    if found["machine"] != _machine():
        return older_than(draft, STALE)
    return process_mark(int(found["pid"])) != f"{found['pid']}:{found['start']}"


def _machine() -> str:
    return hashlib.sha256(this_machine().encode()).hexdigest()[:8]


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_ROOM])
