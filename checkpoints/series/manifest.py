"""Series manifests: a CSV with the columns `Stage,Step,Tokens Seen,Checkpoint Directory`.

The form is that of the OLMo-3 releases. Stages keep the order in which the file first names them; directories
are relative to the manifest.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import NotACheckpoint
from checkpoints.series.names import natural, parse_count, split_stage

MANIFEST_FILE = "manifest.csv"
COLUMNS = ("Stage", "Step", "Tokens Seen", "Checkpoint Directory")


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
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            header = {name.strip().lower(): name for name in reader.fieldnames or ()}
            missing = [name for name in ("Step", "Checkpoint Directory") if name.lower() not in header]
            if missing:
                raise NotACheckpoint(
                    f"{path} lacks the column {missing[0]!r}; a series manifest has {','.join(COLUMNS)}"
                )
            rows = [_row(path, reader.line_num, record, header) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NotACheckpoint(f"{path} cannot be read as a manifest: {error}") from error
    if not rows:
        raise NotACheckpoint(f"{path} lists no checkpoint")
    stages = list(dict.fromkeys(row.stage for row in rows))
    return tuple(sorted(rows, key=lambda r: (stages.index(r.stage), natural(r.branch or ""), r.step)))


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest that `read_manifest` reads; directories are written relative to it where they lie below it."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            stage = "-".join(part for part in (row.stage, row.branch) if part)
            below = row.path.is_relative_to(path.parent)
            directory = row.path.relative_to(path.parent) if below else row.path.absolute()
            writer.writerow((stage, row.step, "" if row.tokens is None else row.tokens, directory.as_posix()))


def _row(path: Path, line: int, record: dict[str, str | None], header: dict[str, str]) -> ManifestRow:
    def cell(column: str) -> str:
        return (record.get(header.get(column.lower(), "")) or "").strip()

    step, directory, tokens = cell("Step"), cell("Checkpoint Directory"), cell("Tokens Seen")
    if not step.isdigit():
        raise NotACheckpoint(f"{path}, line {line}: step {step!r} is not a whole number")
    if not directory:
        raise NotACheckpoint(f"{path}, line {line}: no checkpoint directory for step {step}")
    if tokens and parse_count(tokens) is None:
        raise NotACheckpoint(f"{path}, line {line}: tokens seen {tokens!r} is not a count such as 84B")
    stage, branch = split_stage(cell("Stage"))
    return ManifestRow(int(step), path.parent / directory, stage, branch, parse_count(tokens))
