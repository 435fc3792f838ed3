"""What this package and installed ones offer under a name: built-in entries by where they are defined, entry points.

A built-in entry is loaded when it is asked for, so that a room above, or one outside, may own it.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points


def offered(group: str, built_in: Mapping[str, str]) -> tuple[EntryPoint, ...]:
    """Every entry of a group, the built-in ones first; a package cannot take a built-in one's name.

    Args:
        group: of entry points.
        built_in: name -> ``module:attribute``.
    """
    own = tuple(EntryPoint(name, value, group) for name, value in built_in.items())
    return (*own, *(point for point in _installed(group) if point.name not in built_in))


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
