"""The store: one folder per result, found again by what it was computed from.

    store/<measure>/<key>/result.json + arrays.safetensors
    store/runs/<name>.json
    store/claims, store/sweeps    who is working on what, while a sweep runs

A key is the hash of the checkpoint's weights, tokenizer and config, of the measure with all its parameters, and of
its prompts: the same question asked of the same weights is never computed twice, whatever the folders are called.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import StoreError
from checkpoints.results.artifacts import RESULT_FILE, flush_to_disk
from checkpoints.results.strict_json import dump_json, parse_json

KEY_LENGTH = 24
ENVIRONMENT = "CIRCUIT_DRIFT_STORE"
DEFAULT = ".circuit-drift"
NO_RESULTS = frozenset({"runs", "claims", "sweeps"})


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished result: which measure, and the key of what it was computed from."""

    measure: str
    key: str
    folder: Path


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

    @classmethod
    def existing(cls, path: Path | str | None = None) -> "Store":
        """The store that is there already, for reading: nothing is made, and it need not be writable.

        Raises:
            StoreError: there is no such folder.
        """
        chosen = Path(path or os.environ.get(ENVIRONMENT) or DEFAULT).expanduser()
        if not chosen.is_dir():
            raise StoreError(
                f"there is no store at {chosen}; name it with --store or ${ENVIRONMENT}, or measure a series into it "
                "with circuit-drift run"
            )
        return cls(chosen)

    def folder(self, measure: str, key: str) -> Path:
        """Where the result of one measure with one key lives, whether or not it is there yet."""
        return self.path / measure / key

    def has(self, measure: str, key: str) -> bool:
        """Whether a finished result is there."""
        return (self.folder(measure, key) / RESULT_FILE).is_file()

    def results(self, measure: str | None = None) -> tuple[StoredResult, ...]:
        """Every finished result, or those of one measure, by measure and key; reads names alone."""
        measures = sorted(
            entry.name for entry in os.scandir(self.path) if entry.is_dir() and entry.name not in NO_RESULTS
        )
        return tuple(
            StoredResult(name, key, self.path / name / key)
            for name in measures
            if measure is None or name == measure
            for key in sorted(entry.name for entry in os.scandir(self.path / name) if not entry.name.startswith("."))
        )

    def remove_drafts(self, measure: str, key: str) -> None:
        """Remove what writers of one result left that died in mid-write; only for who holds the claim on it."""
        folder = self.folder(measure, key)
        for draft in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(draft, ignore_errors=True)

    def write_run(self, name: str, record: Mapping[str, Any]) -> Path:
        """Record which results belong to a run, atomically."""
        path = self.path / "runs" / f"{_file_name(name)}.json"
        try:
            path.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                file.write(dump_json(record, indent=1))
            flush_to_disk(Path(file.name))
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
        chosen = [path for path in runs if name is None or path.stem == _file_name(name)]
        if not chosen:
            known = ", ".join(path.stem for path in runs) or "none"
            wanted = f"run {name}" if name else "run"
            raise StoreError(f"the store {self.path} holds no {wanted}; it knows: {known}")
        try:
            record: dict[str, Any] = parse_json(chosen[-1].read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(f"{chosen[-1]} cannot be read ({error}); run the series again") from error
        return record


def _file_name(run: str) -> str:
    """A run's name without slashes, which names of hub repositories have."""
    return run.replace("/", "--")


def key_of(parts: Mapping[str, Any]) -> str:
    """A content key: the same parts give the same key, in any order."""
    document = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:KEY_LENGTH]
