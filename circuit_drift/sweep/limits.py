"""What a sweep may take: hours and bytes, and the free space that it leaves; looked at before and during the sweep."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from checkpoints.errors import DriftError
from checkpoints.results.disk import disk_of, free_bytes
from checkpoints.results.text import in_bytes

LEAST_FREE = 200_000_000
"""Bytes that a sweep leaves free on the disk of its store."""
STOPPED = "stopped with %d of %d checkpoints measured: %s; the same command goes on from here"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)


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
        disks: folders on disks of their own that it writes to, that of its store first.
        downloads: most bytes of downloads on the disk at once.
        began: by the monotonic clock.
        workers: how many results may be written at once.
        written, most: bytes of the results so far, and of the largest checkpoint's.
        why: no further checkpoint is to be begun; empty while one is.
    """

    limits: Limits
    disks: tuple[Path, ...]
    downloads: int
    began: float
    workers: int = 1
    written: int = 0
    most: int = 0
    why: str = ""

    @classmethod
    def begin(
        cls,
        limits: Limits,
        store: Path,
        *,
        downloads: int,
        results: int,
        cache: Path | None = None,
        began: float | None = None,
        workers: int = 1,
    ) -> "Watch":
        """Refuse a sweep that will not fit, as far as that is known before.

        Args:
            limits: what it may take.
            store: where results go.
            downloads: most bytes of downloads on the disk at once.
            results: bytes of results to come, 0 where nobody knows yet.
            cache: where downloads go; by default to the disk of the store.
            began: by the monotonic clock; by default now.
            workers: how many.

        Raises:
            DriftError: names what is needed and what may be taken.
        """
        needed = on_disks(store, results, cache, downloads)
        if limits.disk is not None and downloads + results > limits.disk:
            _refuse(store, downloads + results, downloads, results, f"--max-disk allows {in_bytes(limits.disk)}")
        for folder, size in needed.items():
            if size > (free := free_bytes(folder)) - LEAST_FREE and size:
                _refuse(
                    folder,
                    size,
                    downloads,
                    results,
                    f"{in_bytes(free)} are free there, of which {in_bytes(LEAST_FREE)} are left alone",
                )
        return cls(limits, tuple(needed), downloads, time.monotonic() if began is None else began, workers)

    def reached(self, written: int, *, failed: bool = False) -> str:
        """Why no further checkpoint is to be begun; empty where one is.

        Args:
            written: bytes of results of one more checkpoint; 0 where it was stored already, which costs nothing.
            failed: whether one of its measures failed.
        """
        self.written, self.most = self.written + written, max(self.most, written)
        if written or failed:
            self.why = self.why or self._reached()
        return self.why

    def _reached(self) -> str:
        hours = (time.monotonic() - self.began) / 3600
        if self.limits.hours is not None and hours >= self.limits.hours:
            return f"--max-hours {self.limits.hours:g} are over"
        if self.limits.disk is not None and self.written + self.downloads + self.workers * self.most > self.limits.disk:
            return f"another checkpoint would take more than --max-disk {in_bytes(self.limits.disk)} allows"
        for folder in self.disks:
            if (free := free_bytes(folder)) < LEAST_FREE:
                return f"{in_bytes(free)} are free on the disk of {folder}, and {in_bytes(LEAST_FREE)} are left alone"
        return ""


def on_disks(store: Path, results: int, cache: Path | None, downloads: int) -> dict[Path, int]:
    """Folder -> bytes that are to go to its disk, one folder for each disk, the store first."""
    apart = cache is not None and downloads > 0 and disk_of(cache) != disk_of(store)
    return {store: results, cache: downloads} if apart and cache is not None else {store: results + downloads}


def _refuse(folder: Path, needed: int, downloads: int, results: int, allowed: str) -> NoReturn:
    raise DriftError(
        f"this run needs about {in_bytes(needed)} on the disk of {folder} ({in_bytes(downloads)} of downloads at once, "
        f"{in_bytes(results)} of results), and {allowed}: choose fewer checkpoints with --steps, or make room"
    )


def size_in_words(text: str) -> int:
    """Bytes of a size as people write it: ``50GB``, ``1.5 tb``, ``800m``, ``50GiB``.

    Raises:
        DriftError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise DriftError(f"{text!r} is no size; write a number with kB, MB, GB or TB, or KiB to TiB, as in 50GB")
    power = " kmgt".index((found[2] or " ").lower())
    return round(float(found[1]) * float((1024 if found[3] else 1000) ** power))
