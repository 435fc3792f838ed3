"""The hub client's cache on the disk: ``snapshots/<commit>`` hold links to ``blobs/<hash>``.

Whoever fetches a blob, the client too, holds a lock on ``.locks/models--org--name/<hash>.lock``.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

AT_ONCE = 0.1
"""Seconds that a lock is waited for; the client's takes 0 for a refusal."""


def repo_folder(repo: str) -> Path:
    """Where the client keeps a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def put_there(path: Path) -> int | None:
    """When a file, or a link, was put where it is, in nanoseconds since 1970; None where there is none."""
    with suppress(FileNotFoundError):
        return path.lstat().st_mtime_ns
    return None


def is_on_its_way(path: Path, digest: str) -> bool:
    """Whether somebody else may be fetching a file of a snapshot at this moment; arguments as for `take_out`."""
    try:
        with _lock(path.parent.parent.parent, digest):
            return False
    except OSError:  # the lock is held, or is not to be had by this user
        return True


def take_out(path: Path, digest: str, arrived: int | None) -> None:
    """Delete a file of a snapshot, its content too where no other snapshot has it, and what of it came in part.

    Args:
        path: of the file in the snapshot.
        digest: the name of its blob.
        arrived: when it was put there, in nanoseconds; one that was put there at another time stays. None where it
            did not arrive, so that it can be here in part alone.

    Raises:
        TimeoutError: a process fetches it at this moment.
    """
    cache = path.parent.parent.parent
    with _lock(cache, digest):
        if arrived is not None and put_there(path) == arrived:
            content = path.resolve() if path.is_symlink() else path
            path.unlink()
            shared = any(link.is_symlink() and link.resolve() == content for link in (cache / "snapshots").rglob("*"))
            if content.parent == (cache / "blobs").resolve() and not shared:
                content.unlink(missing_ok=True)
        for part in (cache / "blobs").glob(f"{digest}*.incomplete"):
            part.unlink(missing_ok=True)


@contextmanager
def _lock(cache: Path, digest: str) -> Iterator[None]:
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder = cache.parent / ".locks" / cache.name
    folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder / f"{digest}.lock", timeout=AT_ONCE):
        yield
