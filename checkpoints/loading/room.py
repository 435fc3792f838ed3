"""How much main memory is free: of the machine's, no more than a container or a queue's job leaves of its own bound."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOT = Path("/")
SPARE = 1.5
"""Sizes of a model that are to be free beside it before a second one's tensors are read."""


@dataclass(frozen=True, slots=True)
class _Version:
    """Where Linux tells of control groups: by which controller's name, below which folder, in which files."""

    controller: str
    top: str
    most: str
    used: str
    idle: str


VERSIONS = (
    _Version("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    _Version("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_main_memory() -> int:
    """Bytes that this process may still take."""
    import psutil

    available: int = psutil.virtual_memory().available
    return min([available, *_left_by_groups(ROOT)])


def has_room_beside(model: "PreTrainedModel") -> bool:
    """Whether the tensors of a second one may be held in main memory while this one is at work."""
    return SPARE * sum(parameter.nbytes for parameter in model.parameters()) <= free_main_memory()


def _left_by_groups(root: Path) -> Iterator[int]:
    """What the control groups of this process leave (Linux): its own and those above it."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for version in VERSIONS:
                if version.controller in controllers.split(",") and (top := root / version.top).is_dir():
                    own = top / path.lstrip("/")
                    groups = [each for each in (own, *own.parents) if each.is_relative_to(top)]
                    yield from (left for group in groups if (left := _left(group, version)) is not None)


def _left(group: Path, version: _Version) -> int | None:
    """What one group leaves, pages of files that it would let go counted as free; None where it has no bound."""
    try:
        most = int((group / version.most).read_text(encoding="ascii"))
        used = int((group / version.used).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, most - used + int(stat.get(version.idle, 0)))
    except (OSError, ValueError):
        return None
