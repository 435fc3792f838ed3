"""What this package and installed ones offer under a name: built-in entries by where they are defined, entry points.

A built-in entry is loaded when it is asked for, so that a room above, or one outside, may own it.
"""

import sys
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
    return (*own, *(point for point in _installed(group, tuple(sys.path)) if point.name not in built_in))


@cache
def _installed(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read once for each path that packages are looked for in, since every folder of it is gone through."""
    return tuple(entry_points(group=group))
