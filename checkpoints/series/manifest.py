"""Series manifests: a CSV with the columns `Stage,Step,Tokens Seen,Checkpoint Directory`.

The form is that of the OLMo-3 releases. Stages keep the order in which the file first names them; directories
are relative to the manifest.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import NotACheckpoint
from checkpoints.files.reading import read_table
from checkpoints.results.disk import can_be, write_file
from checkpoints.series.names import natural, parse_count, split_stage

MANIFEST_FILE = "manifest.csv"
COLUMNS = ("Stage", "Step", "Tokens Seen", "Checkpoint Directory")
_DIGITS = 18


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One checkpoint as the manifest describes it."""

    step: int
    path: Path
    stage: str | None
    branch: str | None
    tokens: int | None


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read a manifest, ordered by (stage of first appearance, branch, step).

    Raises:
        NotACheckpoint: it cannot be read, a column is missing, or a row has no whole number as its step.
    """
    (_, header), *lines = read_table(path, "a manifest", NotACheckpoint) or [(1, [])]
    names = [name.lower() for name in header]
    missing = [name for name in ("Step", "Checkpoint Directory") if name.lower() not in names]
    if missing:
        raise NotACheckpoint(f"{path} lacks the column {missing[0]!r}; a series manifest has {','.join(COLUMNS)}")
    rows = [_row(path, line, dict(zip(names, cells, strict=False))) for line, cells in lines]
    if not rows:
        raise NotACheckpoint(f"{path} lists no checkpoint")
    stages = list(dict.fromkeys(row.stage for row in rows))
    return tuple(sorted(rows, key=lambda r: (stages.index(r.stage), natural(r.branch or ""), r.step)))


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest that `read_manifest` reads; directories are written relative to it where they lie below it."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        stage = "-".join(part for part in (row.stage, row.branch) if part)
        below = row.path.is_relative_to(path.parent)
        directory = row.path.relative_to(path.parent) if below else row.path.absolute()
        writer.writerow((stage, row.step, "" if row.tokens is None else row.tokens, directory.as_posix()))
    write_file(path, lines.getvalue())


def _row(path: Path, line: int, record: Mapping[str, str]) -> ManifestRow:
    step, directory, tokens = (record.get(name, "") for name in ("step", "checkpoint directory", "tokens seen"))
    if not (step.isascii() and step.isdigit() and len(step) <= _DIGITS):
        raise NotACheckpoint(f"{path}, line {line}: step {step!r:.60} is not a whole number")
    if not directory:
        raise NotACheckpoint(f"{path}, line {line}: no checkpoint directory for step {step}")
    if not can_be(path.parent / directory):
        raise NotACheckpoint(f"{path}, line {line}: {directory!r:.60} can be no folder's name")
    if tokens and parse_count(tokens) is None:
        raise NotACheckpoint(f"{path}, line {line}: tokens seen {tokens!r:.60} is not a count such as 84B")
    stage, branch = split_stage(record.get("stage", ""))
    return ManifestRow(int(step), path.parent / directory, stage, branch, parse_count(tokens))
