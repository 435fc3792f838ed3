"""How the hub is asked: again when it is busy, and with its errors in this package's words."""

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from checkpoints.errors import DriftError, NotACheckpoint
from checkpoints.results.disk import free_bytes
from checkpoints.results.text import in_bytes

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TRIES = 6
_MAX_WAIT = 60.0


class Unreached(DriftError):
    """The hub could not be asked."""


class Forbidden(Unreached, NotACheckpoint):
    """The environment forbids asking it."""


class NoRoom(DriftError):
    """What is to be fetched does not fit on the disk."""


MAKE_ROOM = "make room there, or name another place with HF_HUB_CACHE"


def patiently(ask: Callable[[], Result]) -> Result:
    """Ask again when the hub says to come back later (429) or fails (5xx): the client does so for files only."""
    from huggingface_hub.errors import HfHubHTTPError

    attempt = 0
    while True:
        try:
            return ask()
        except HfHubHTTPError as error:
            attempt += 1
            status = error.response.status_code
            if attempt == TRIES or (status != 429 and status < 500):
                raise
            wait = _wait(error.response.headers.get("Retry-After"), attempt)
            logger.warning("the hub answered %d; asking again in %.0f s", status, wait)
            time.sleep(wait)


def _wait(asked: str | None, attempt: int) -> float:
    return min(_MAX_WAIT, float(asked) if asked and asked.isdigit() else 2.0**attempt)


@contextmanager
def explained(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn the client's errors into this package's, naming what to do."""
    from huggingface_hub import errors

    place = repo if revision is None else f"{repo}@{revision}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise NotACheckpoint(f"{place} is gated: ask for access on its page and log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise NotACheckpoint(
            f"{repo} is neither a folder here nor a repository of the hub (private ones need `hf auth login`)"
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise NotACheckpoint(f"{place} is not on the hub: {_first_line(error)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise Forbidden(f"{place} is no folder here, and HF_HUB_OFFLINE forbids asking the hub for it") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise Unreached(_not_reached(place, error)) from error
        raise NoRoom(
            f"the disk of the hub client's cache, {cache_folder()}, is full, at {place}; {MAKE_ROOM}"
        ) from error
    except Exception as error:  # whichever HTTP library the client uses
        raise Unreached(_not_reached(place, error)) from error


def cache_folder() -> Path:
    """Where the client keeps what it fetches."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def require_room(size: int, what: str) -> None:
    """Refuse to fetch what the disk of the client's cache has no room for.

    Args:
        size: bytes to come.
        what: they are of.

    Raises:
        NoRoom: it has not.
    """
    folder = cache_folder()
    if size > (free := free_bytes(folder)):
        raise NoRoom(
            f"{what} takes {in_bytes(size)} in the hub client's cache, {folder}, and {in_bytes(free)} are free on its "
            f"disk; {MAKE_ROOM}"
        )


def _not_reached(place: str, error: Exception) -> str:
    return f"the hub could not be reached for {place}: {_first_line(error)}; try again"


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
