"""What SLURM itself says, by ``sinfo`` and ``squeue``: they answer where it keeps no accounting, and ``sacct`` fails.

Where a command fails or is silent (the controller restarts, say) nothing is known, and nothing is concluded from it.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

PATIENCE = 60.0
DAY = 24 * 60
PENDING, COMPLETED = "PENDING", "COMPLETED"
ENDED = frozenset((COMPLETED, "BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"))


@dataclass(frozen=True, slots=True)
class Offer:
    """What jobs may ask for.

    Attributes:
        minutes: the longest that one may take.
        gpus: whether there are GPUs; None where SLURM does not say.
    """

    minutes: int
    gpus: bool | None


@dataclass(frozen=True, slots=True)
class Queued:
    """A job as the queue shows it.

    Attributes:
        state: SLURM's word: ``PENDING``, ``RUNNING``, ``CANCELLED``, ...
        reason: why it waits, or why it ended; ``None`` where there is none.
    """

    state: str
    reason: str


GONE = Queued("no longer in the queue", "None")


def offered() -> Offer:
    """What the partition that ``sbatch`` would take offers: ``SBATCH_PARTITION``, else the default one.

    A job takes a day at most, or what ``SBATCH_TIMELIMIT`` says, so that one that ran out of time is known as such.
    """
    asked = os.environ.get("SBATCH_PARTITION")
    told = _told("sinfo", "--noheader", "--format=%P|%l|%G", *([f"--partition={asked}"] if asked else []))
    rows = [line.split("|") for line in (told or "").splitlines() if line.count("|") == 2]
    taken = [row for row in rows if asked or row[0].endswith("*")]
    limits = [limit for _, shown, _ in taken if (limit := minutes(shown)) is not None]
    own = minutes(os.environ.get("SBATCH_TIMELIMIT", ""))
    gpus = any("gpu" in resources for _, _, resources in taken) if taken else None
    return Offer(own or min([DAY, *limits]), gpus)


def minutes(limit: str) -> int | None:
    """A time limit as SLURM writes it: ``90``, ``90:00``, ``1:30:00``, ``2-12``, ``2-12:30``; None for any other text.

    Seconds are dropped, as SLURM counts limits in minutes.
    """
    days, dash, clock = limit.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or (dash and not days.isdecimal()) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    hours, rest = (numbers[0], numbers[1:]) if dash or len(numbers) == 3 else (0, numbers)
    return (int(days or 0) * 24 + hours) * 60 + (rest[0] if rest else 0)


def queue(jobs: list[str], name: str) -> Mapping[str, Queued] | None:
    """How each of these jobs of a name stands, `GONE` where the queue does not show it; None where nobody says."""
    told = _told("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", f"--name={name}", "--format=%i|%T|%r")
    if told is None:
        return None
    rows = [line.strip().split("|") for line in told.splitlines()]
    shown = {row[0]: Queued(row[1], row[2]) for row in rows if len(row) == 3}
    return {job: shown.get(job, GONE) for job in jobs}


def _told(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
