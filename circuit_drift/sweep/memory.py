"""Memory that is free where a model would lie: what the machine has, and what this process is allowed of it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkpoints.placement import Placement

ROOT = Path("/")


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


def free_memory(placement: Placement) -> int | None:
    """Bytes free where a model would lie; None where it is spread over several places.

    On a CPU no more than a container or a job of a queue leaves of its own bound.
    """
    if placement.device_map is not None:
        return None
    if placement.here.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(placement.here))[0]
    import psutil

    return min([psutil.virtual_memory().available, *_left_by_groups(ROOT)])


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
