"""What this process may use of its machine, and what other work takes of it: memory, cores."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from checkpoints.placement import Placement

ROOT = Path("/")
MUCH = 0.25
"""Share of the cores from which on other work is told."""


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

    available: int = psutil.virtual_memory().available
    return min([available, *_left_by_groups(ROOT)])


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


def own_cores() -> tuple[int, ...]:
    """The cores that this process may use: those of its job or container, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@dataclass(slots=True)
class Neighbours:
    """Other work on our cores while something was timed.

    Attributes:
        share: of their time, 0 to 1; known once that is done.
    """

    share: float = 0.0


@contextmanager
def neighbours() -> Iterator[Neighbours]:
    """Watch other work while the block runs."""
    found, cores = Neighbours(), own_cores()
    busy, own, began = _busy(cores), time.process_time(), time.perf_counter()
    try:
        yield found
    finally:
        others = (_busy(cores) - busy) - (time.process_time() - own)
        whole = (time.perf_counter() - began) * len(cores)
        found.share = min(1.0, max(0.0, others / whole)) if whole else 0.0


def caution(share: float) -> str:
    """Behind a time that was taken while other work had such a share of our cores; empty where that is little."""
    if share < MUCH:
        return ""
    return f" (timed while other work took {share:.0%} of the processors here: without it, less)"


def _busy(cores: tuple[int, ...]) -> float:
    """Seconds that some cores worked since the machine was started, for anybody."""
    import psutil

    known = psutil.cpu_times(percpu=True)
    times = [known[core] for core in cores if core < len(known)]
    return sum(float(one.user + one.system + getattr(one, "nice", 0.0)) for one in times)
