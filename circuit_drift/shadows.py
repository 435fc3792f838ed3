"""A file called heads.py in the working folder stands before the package of that name; Python then imports the file."""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("checkpoints", "heads", "circuits")


def require_own_packages() -> None:
    """Refuse to go on with modules of other people under the names of the packages that this one stands on.

    Raises:
        ImportError: names what stands there and what to do; nothing of it has been run by this.
    """
    for name in PACKAGES:
        found = _origin(name)
        if found is not None and not _is_ours(name, found):
            raise ImportError(
                f"circuit_drift needs its own package {name}, but {found} of the same name stands before it: rename "
                "that, or start from another folder",
                name=name,
                path=str(found),
            )


def _origin(name: str) -> Path | None:
    """Where a module or package would be imported from, or has been; None where nobody can say."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__spec__", None) is None:
        return Path(getattr(loaded, "__file__", None) or name)
    spec = find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def _is_ours(name: str, found: Path) -> bool:
    beside = Path(__file__).resolve().parent.parent / name
    return found.resolve() == beside or (found / "py.typed").is_file()
