"""The store: one folder per result, found again by what it was computed from.

    store/<measure>/<key>/result.json + arrays.safetensors
    store/runs/<name>.json        with <name>.jsonl while it grows, see `growing`
    store/claims, store/sweeps    who is working on what, while a sweep runs

A key is the hash of the checkpoint's weights, tokenizer and config, of the measure with all its parameters, and of
its prompts: the same question asked of the same weights is never computed twice, whatever the folders are called.
Results and records of runs carry digests, which reading checks (`checkpoints.results.artifacts`); `upkeep` checks all
of them, and removes what is no longer wanted.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.artifacts import ARRAYS_FILE, RESULT_FILE
from checkpoints.results.disk import can_be, read_regular, remove, write_file
from checkpoints.results.strict_json import digest_json, dump_json, parse_json
from circuit_drift.store.growing import lines_of, with_lines
from circuit_drift.store.leases import LEASES_FOLDER

KEY_LENGTH = 24
ENVIRONMENT = "CIRCUIT_DRIFT_STORE"
DEFAULT = ".circuit-drift"
NO_RESULTS = frozenset({"runs", LEASES_FOLDER, "sweeps", "lab"})
RECORD_FORMAT = 2
SEAL = "seal"


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
        chosen = _folder(path)
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
        chosen = _folder(path)
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

    def measures(self) -> tuple[str, ...]:
        """The measures that it has a folder for."""
        entries = [entry.name for entry in os.scandir(self.path) if entry.is_dir() and entry.name not in NO_RESULTS]
        return tuple(sorted(name for name in entries if not name.startswith(".")))

    def results(self, measure: str | None = None) -> tuple[StoredResult, ...]:
        """Every finished result, or those of one measure, by measure and key; reads names alone.

        A folder that holds neither of a result's files is somebody else's.
        """
        return tuple(
            StoredResult(name, key, self.path / name / key)
            for name in self.measures()
            if measure is None or name == measure
            for key in sorted(entry.name for entry in os.scandir(self.path / name) if _is_result(entry))
        )

    def write_run(self, name: str, record: Mapping[str, Any]) -> Path:
        """Record which results belong to a run, atomically and with a seal; lines added to the record before go.

        Raises:
            StoreError: it cannot be written.
        """
        path = self.run_file(name)
        document = {"format": RECORD_FORMAT, **record}
        written = write_file(path, dump_json({**document, SEAL: digest_json(document)}, indent=1))
        remove(lines_of(path))
        return written

    def forget_run(self, name: str) -> None:
        """Remove the record of a run; its results stay.

        Raises:
            OSError: it cannot be removed.
        """
        path = self.run_file(name)
        lines_of(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def run_file(self, name: str) -> Path:
        """Where the record of a run lies, whether or not it is there.

        Raises:
            StoreError: no file can have that name.
        """
        path = self.path / "runs" / f"{_file_name(name)}.json"
        if not can_be(path):
            raise StoreError(f"no file can be named after the run {name!r:.300}: give it a shorter, plain name")
        return path

    def run_files(self) -> tuple[Path, ...]:
        """The records of runs, the newest last; not what macOS puts beside files on other file systems, ``._NAME``."""
        ages = {path: _changed(path) for path in (self.path / "runs").glob("*.json") if not path.name.startswith("._")}
        return tuple(sorted(ages, key=lambda path: (ages[path], path.name)))

    def read_run(self, name: str | None = None) -> dict[str, Any]:
        """The record of a run; without a name, the newest.

        Raises:
            DamagedResult: a record that is not what was written.
            StoreError: no such run, or a newer version's record.
        """
        runs = self.run_files()
        chosen = [path for path in runs if name is None or path.name == f"{_file_name(name)}.json"]
        if not chosen:
            known = ", ".join(path.stem for path in runs) or "none"
            wanted = f"run {name}" if name else "run"
            raise StoreError(f"the store {self.path} holds no {wanted}; it knows: {known}")
        return read_record(chosen[-1])


def _folder(path: Path | str | None) -> Path:
    """The folder that a store is asked for by: a path, or ``file:///PATH``, in capitals or with ``localhost`` too.

    Raises:
        StoreError: it is another address, where nothing can be renamed in one step.
    """
    chosen = path or os.environ.get(ENVIRONMENT) or DEFAULT
    if local := re.fullmatch(r"(?i:file:(?://(?:localhost)?)?)(/(?!/).*)", str(chosen), re.DOTALL):
        return Path(unquote(local[1]))
    if found := re.match(r"([a-z][a-z0-9+.-]+):/+", str(chosen), re.IGNORECASE):
        address = f"{found[1]}://{str(chosen)[found.end() :]}"  # a Path has lost one slash of it
        raise StoreError(
            f"the store {address} is an address ({found[1]}), where no folder gets its name in one step, so that half "
            "a result could be read as a whole one: keep the store in a folder, and copy it there when the run is done"
        )
    return Path(chosen).expanduser()


def read_record(path: Path) -> dict[str, Any]:
    """One run's record with what was added to it, its content checked; records of earlier versions have no seal.

    Raises:
        DamagedResult: it is not what was written.
        StoreError: a newer version's.
    """
    try:
        record = parse_json(read_regular(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedResult(f"{path} cannot be read ({error}); run the series again") from error
    if not isinstance(record, dict):
        raise DamagedResult(f"{path} is no record of a run; run the series again")
    version, seal = record.pop("format", None), record.pop(SEAL, None)
    if isinstance(version, int) and version > RECORD_FORMAT:
        raise StoreError(
            f"{path} was written by a newer version (format {version}; this one reads up to {RECORD_FORMAT}): upgrade "
            "circuit-drift, or name another store"
        )
    if version not in (None, RECORD_FORMAT):
        raise DamagedResult(f"{path} has format {version!r}, not {RECORD_FORMAT}; run the series again")
    if version is not None and seal != digest_json({"format": version, **record}):
        raise DamagedResult(f"{path} is not what was written: its content differs from its seal; run the series again")
    return with_lines(record, path)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_result(entry: "os.DirEntry[str]") -> bool:
    if entry.name.startswith(".") or not entry.is_dir():
        return False
    return any(os.path.lexists(Path(entry.path, name)) for name in (RESULT_FILE, ARRAYS_FILE))


def _file_name(run: str) -> str:
    """A run's name without slashes, which names of hub repositories have."""
    return run.replace("/", "--")


def key_of(parts: Mapping[str, Any]) -> str:
    """A content key: the same parts give the same key, in any order."""
    document = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:KEY_LENGTH]
