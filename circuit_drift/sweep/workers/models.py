"""The models of a sweep, one alive at a time, through the stream of checkpoints for as long as it is followed.

Within a stream the model object is reused where that equals a fresh load, and the next checkpoint is read ahead. A
worker that skips a checkpoint, meets one it cannot load or another tokenizer starts a new stream behind it.
"""

import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self, cast

from checkpoints.loading.load import LoadedModel
from checkpoints.loading.stream import stream
from checkpoints.series.downloads import Downloads
from circuit_drift.store.timings import FIRST, FOLLOWED, OPENED
from circuit_drift.sweep.workers.machine import seconds_to_import
from circuit_drift.sweep.workers.tasks import Sweep

_OPENED = count()
"""Streams that this process began: the first alone waits for what builds models to be imported, and counts that."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """How a model came: `FIRST`, `OPENED` or `FOLLOWED`, and the seconds that it was waited for."""

    kind: str
    seconds: float


class Models:
    """Hands out the model of one checkpoint after the other; only the newest is alive.

    Args:
        sweep: what is measured.
        downloads: of its checkpoints; whoever made them ends them.

    Attributes:
        drawn: how the newest came; None before there is one.
    """

    def __init__(self, sweep: Sweep, downloads: Downloads) -> None:
        self.sweep = sweep
        self.drawn: Drawn | None = None
        self._stream: Generator[LoadedModel] | None = None
        self._loaded: LoadedModel | None = None
        self._index = self._wanted = -1
        self._downloads = downloads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def anticipate(self, index: int) -> None:
        """Draw a checkpoint now if it is the one that is being read ahead: its hash is then known too.

        It is not after one that was drawn in vain: where one is stored already, the next may well be.
        """
        if self._stream is not None and index == self._index + 1 and self._wanted == self._index:
            with suppress(Exception):  # taking it will say what is wrong
                self._draw(index)

    def take(self, index: int) -> LoadedModel:
        """The model of a checkpoint; the one taken before is let go of.

        Raises:
            DriftError: it cannot be loaded.
        """
        self._wanted = index
        return self._draw(index)

    def close(self) -> None:
        """Let go of the model."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._loaded = None
        self._index = -1

    def _draw(self, index: int) -> LoadedModel:
        if self._loaded is not None and index == self._index:
            return self._loaded
        start, kind = time.perf_counter(), FOLLOWED
        if self._stream is None or not self._follows(index):
            self.close()
            self._stream, kind = self._open(index), OPENED if next(_OPENED) else FIRST
        if kind == FIRST:
            imported = seconds_to_import()
            start = time.perf_counter() - imported
        try:
            self._loaded = next(self._stream)
        except BaseException:
            self.close()
            raise
        self._index, self.drawn = index, Drawn(kind, time.perf_counter() - start)
        return self._loaded

    def _open(self, index: int) -> Generator[LoadedModel]:
        sweep = self.sweep
        models = stream(
            sweep.checkpoints[index:],
            sweep.placement,
            reuse=True,
            downloads=self._downloads,
        )
        return cast("Generator[LoadedModel]", models)

    def _follows(self, index: int) -> bool:
        """Whether a checkpoint is next in the stream and shares the tokenizer, which a reused model keeps."""
        if index != self._index + 1:
            return False
        now, following = self.sweep.checkpoints[self._index], self.sweep.checkpoints[index]
        return now.tokenizer_hash == following.tokenizer_hash
