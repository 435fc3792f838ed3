"""What this process may use of its machine, and what other work takes of it: memory, cores."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from checkpoints.loading.room import free_main_memory
from checkpoints.placement import Placement

MUCH = 0.25
"""Share of the cores from which on other work is told."""


def free_memory(placement: Placement) -> int | None:
    """Bytes free where a model would lie; None where it is spread over several places."""
    if placement.device_map is not None:
        return None
    if placement.here.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(placement.here))[0]
    return free_main_memory()


@cache
def seconds_to_import() -> float:
    """Seconds that what builds models takes to import: once a process, wherever that is asked for first."""
    began = time.perf_counter()
    from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: F401

    return time.perf_counter() - began


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
