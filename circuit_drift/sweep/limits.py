"""What a sweep may take: hours and bytes, and the free space that it leaves; looked at before and during the sweep."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import DriftError
from checkpoints.results.text import in_bytes

LEAST_FREE = 200_000_000
"""Bytes that a sweep leaves free on the disk of its store."""
STOPPED = "stopped with %d of %d checkpoints measured: %s; the same command goes on from here"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a sweep.

    Attributes:
        disk: bytes of results and downloads together; None for what is free.
        hours: wall time after which no further checkpoint is begun; None for as long as it takes.
    """

    disk: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--max-disk", self.disk), ("--max-hours", self.hours)):
            if value is not None and not value >= 0:
                raise DriftError(f"{name} cannot be {value:g}: give a number from 0 on")


UNLIMITED = Limits()


@dataclass(slots=True)
class Watch:
    """Looks at the limits while a sweep runs.

    Attributes:
        limits: what it may take.
        store: where results go.
        downloads: most bytes of downloads on the disk at once.
        began: by the monotonic clock.
        written: bytes of the results so far.
        why: no further checkpoint is to be begun; empty while one is.
    """

    limits: Limits
    store: Path
    downloads: int
    began: float
    written: int = 0
    why: str = ""

    @classmethod
    def begin(cls, limits: Limits, store: Path, *, downloads: int, results: int) -> "Watch":
        """Refuse a sweep that will not fit, as far as that is known before.

        Args:
            limits: what it may take.
            store: where results go.
            downloads: most bytes of downloads on the disk at once.
            results: bytes of results to come, 0 where nobody knows yet.

        Raises:
            DriftError: names what is needed and what may be taken.
        """
        needed, room = downloads + results, free_bytes(store) - LEAST_FREE
        allowed = f"{in_bytes(room + LEAST_FREE)} are free"
        if limits.disk is not None and limits.disk < room:
            room, allowed = limits.disk, f"--max-disk allows {in_bytes(limits.disk)}"
        if needed and needed > room:
            raise DriftError(
                f"this run needs about {in_bytes(needed)} on the disk of {store} ({in_bytes(downloads)} of downloads "
                f"at once, {in_bytes(results)} of results), and {allowed}: choose fewer checkpoints with --steps, or "
                "make room"
            )
        return cls(limits, store, downloads, time.monotonic())

    def reached(self, written: int) -> str:
        """Why no further checkpoint is to be begun, after so many more bytes of results; empty where one is."""
        self.written += written
        self.why = self.why or self._reached(written)
        return self.why

    def _reached(self, written: int) -> str:
        hours = (time.monotonic() - self.began) / 3600
        if self.limits.hours is not None and hours >= self.limits.hours:
            return f"--max-hours {self.limits.hours:g} are over"
        if self.limits.disk is not None and self.written + self.downloads >= self.limits.disk:
            return f"--max-disk {in_bytes(self.limits.disk)} is reached"
        if written and (free := free_bytes(self.store)) < LEAST_FREE:
            return f"{in_bytes(free)} are free on the disk of {self.store}, and {in_bytes(LEAST_FREE)} are left alone"
        return ""


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def size_in_words(text: str) -> int:
    """Bytes of a size as people write it: ``50GB``, ``1.5 tb``, ``800m``.

    Raises:
        DriftError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise DriftError(f"{text!r} is no size; write a number with kB, MB, GB or TB, as in 50GB")
    power = " kmgt".index(found[2].lower() or " ")
    return round(float(found[1]) * float(1000**power))
