"""Code that a checkpoint brings along runs only where the user names that checkpoint.

    CIRCUIT_DRIFT_ALLOW_CODE=org/name,runs/mine

Names are those of hub repositories, whose code is that of the pinned commit, or folders: of a checkpoint or of its
series. There is no name for everything.
"""

import os
from pathlib import Path

ALLOWED = "CIRCUIT_DRIFT_ALLOW_CODE"


def allows_code(path: Path, repo: str | None = None) -> bool:
    """Whether the user named this hub repository, or without one this folder or one that it lies in."""
    names = [name.strip() for name in os.environ.get(ALLOWED, "").split(",") if name.strip()]
    if repo is not None:
        return repo in names
    place = path.resolve()
    return any(Path(name).expanduser().resolve() in (place, place.parent) for name in names)
