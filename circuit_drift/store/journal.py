"""What became of each checkpoint of a sweep, told by its workers through the store.

    store/sweeps/<sweep>/<index>.json

Results speak for themselves; the journal says that a checkpoint is finished, and why some of its measures have no
result. It belongs to one sweep and goes with it: the next start tries again what failed.
"""

import json
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from checkpoints import StoreError

ABANDONED = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished checkpoint.

    Attributes:
        index: its place in the sweep.
        keys: store key of each result there is.
        failures: measure -> why there is no result.
        computed: how many measures were computed now; the others were stored already.
    """

    index: int
    keys: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    computed: int = 0


@dataclass(frozen=True, slots=True)
class Journal:
    """The outcomes of one sweep."""

    folder: Path

    def write(self, outcome: Outcome) -> None:
        """Tell what became of a checkpoint; at once or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        draft = self.folder / f".{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
            draft.replace(self._path(outcome.index))
        except OSError as error:
            raise StoreError(f"cannot record an outcome in {self.folder}: {error.strerror}") from error

    def has(self, index: int) -> bool:
        """Whether a checkpoint is finished."""
        return self._path(index).exists()

    def read(self, indices: Iterable[int]) -> tuple[Outcome, ...]:
        """The outcomes there are among these checkpoints."""
        paths = [self._path(index) for index in indices]
        return tuple(Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists())

    def close(self) -> None:
        """Remove it, and those of sweeps that ended without doing so a week ago or more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for other in self.folder.parent.glob("*"):
            if time.time() - other.stat().st_mtime > ABANDONED:
                shutil.rmtree(other, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.json"
