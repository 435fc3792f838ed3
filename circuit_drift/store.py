"""The store: one folder per result, found again by what it was computed from.

    store/<measure>/<key>/result.json + arrays.safetensors
    store/runs/<name>.json

A key is the hash of the checkpoint's weights, tokenizer and config, of the measure with all its parameters, and of
its prompts: the same question asked of the same weights is never computed twice, whatever the folders are called.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import StoreError
from checkpoints.artifacts import RESULT_FILE

KEY_LENGTH = 24
ENVIRONMENT = "CIRCUIT_DRIFT_STORE"
DEFAULT = ".circuit-drift"


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of results."""

    path: Path

    @classmethod
    def open(cls, path: Path | str | None = None) -> "Store":
        """The store at ``path``, else at ``$CIRCUIT_DRIFT_STORE``, else ``.circuit-drift`` here; made if missing.

        Raises:
            StoreError: the folder cannot be made or written.
        """
        chosen = Path(path or os.environ.get(ENVIRONMENT) or DEFAULT).expanduser()
        try:
            chosen.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=chosen):
                pass
        except OSError as error:
            raise StoreError(
                f"the store {chosen} cannot be written ({error.strerror}); name another with --store or ${ENVIRONMENT}"
            ) from error
        return cls(chosen)

    def folder(self, measure: str, key: str) -> Path:
        """Where the result of one measure with one key lives, whether or not it is there yet."""
        return self.path / measure / key

    def has(self, measure: str, key: str) -> bool:
        """Whether a finished result is there."""
        return (self.folder(measure, key) / RESULT_FILE).is_file()

    def write_run(self, name: str, record: Mapping[str, Any]) -> Path:
        """Record which results belong to a run, atomically."""
        path = self.path / "runs" / f"{name}.json"
        try:
            path.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump(record, file, indent=1)
            Path(file.name).replace(path)
        except OSError as error:
            raise StoreError(f"cannot record the run in {path}: {error.strerror}") from error
        return path

    def read_run(self, name: str | None = None) -> dict[str, Any]:
        """The record of a run; without a name, the newest.

        Raises:
            StoreError: no such run, or a damaged record.
        """
        runs = sorted((self.path / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime)
        chosen = [path for path in runs if name is None or path.stem == name]
        if not chosen:
            known = ", ".join(path.stem for path in runs) or "none"
            raise StoreError(f"the store {self.path} holds no run {name or ''}; it knows: {known}")
        try:
            record: dict[str, Any] = json.loads(chosen[-1].read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(f"{chosen[-1]} cannot be read ({error}); run the series again") from error
        return record


def key_of(parts: Mapping[str, Any]) -> str:
    """A content key: the same parts give the same key, in any order."""
    document = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:KEY_LENGTH]
