"""Documents with what is known of them: records from a folder, or from JSON lines."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import Record, read_records, read_text
from checkpoints.results.disk import can_be
from circuit_drift.benchmark.recipe import Recipe

FILES = (".json", ".jsonl", ".txt", ".md")


@dataclass(frozen=True, slots=True)
class Source:
    """All that is there about one entity.

    Attributes:
        entity: its name.
        aliases: other names.
        records: what was read about it.
        texts: running text about it.
        where: the first place that it was read from.
    """

    entity: str
    aliases: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    texts: tuple[str, ...]
    where: str

    @property
    def names(self) -> tuple[str, ...]:
        """The entity's name and the others."""
        return (self.entity, *self.aliases)


def read_sources(path: Path | str, recipe: Recipe) -> tuple[tuple[Source, ...], tuple[tuple[str, str], ...]]:
    """The entities of a folder or file, and (place, reason) of what is none; places are told from the folder on.

    Read are JSON lines, lists and objects, and plain text, whose entity is the file's name. Records of one entity are
    joined.

    Args:
        path: a folder, read with all that is in it, or one file.
        recipe: where entity, names and text stand in a record.

    Raises:
        BadPrompt: there is nothing to read, or no record names an entity.
    """
    path = Path(path)
    if not can_be(path) or not path.exists():
        raise BadPrompt(f"{path} is not there; name a folder or a JSONL file of documents")
    files = sorted(file for file in path.rglob("*") if file.suffix in FILES) if path.is_dir() else [path]
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    refused: list[tuple[str, str]] = []
    root = path if path.is_dir() else path.parent
    for file in files:
        for read in _rows(file, recipe):
            where = str(file.relative_to(root)) + (f", {read.where}" if read.where else "")
            entity = first(read.value, recipe.entity) if isinstance(read.value, Mapping) else None
            if not isinstance(read.value, Mapping) or entity is None:
                other = f"names no entity at {' or '.join(recipe.entity)}"
                refused.append((where, f"is not JSON: {read.problem}" if read.problem else other))
            else:
                found.setdefault(entity, []).append((where, read.value))
    if not found:
        reasons = "; ".join(f"{where}: {why}" for where, why in refused[:3]) or "write one JSON object a line"
        raise BadPrompt(f"{path} holds no record of an entity: {reasons}")
    return tuple(_source(entity, rows, recipe) for entity, rows in found.items()), tuple(refused)


def _source(entity: str, rows: Sequence[tuple[str, Mapping[str, Any]]], recipe: Recipe) -> Source:
    records = tuple(value for _, value in rows)
    aliases = [name for record in records for name in _all(record, recipe.aliases) if name != entity]
    texts = [text for record in records for text in _all(record, recipe.text)]
    return Source(entity, tuple(dict.fromkeys(aliases)), records, tuple(dict.fromkeys(texts)), rows[0][0])


def first(record: Mapping[str, Any], paths: Sequence[str]) -> str | None:
    """The first value that stands at one of the paths, as clean text; None where there is none."""
    return next(iter(_all(record, paths)), None)


def _all(record: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    return [text for path in paths for value in _at(record, path.split("/")) if (text := clean(value))]


def _at(value: Any, keys: Sequence[str]) -> Iterator[str]:
    """Every text at a path, and below it."""
    if keys and isinstance(value, Mapping):
        yield from _at(value.get(keys[0]), keys[1:])
    elif not keys and isinstance(value, Mapping):
        yield from (text for inner in value.values() for text in _at(inner, ()))
    elif not keys and isinstance(value, list):
        yield from (text for inner in value for text in _at(inner, ()))
    elif not keys and isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def clean(text: str) -> str:
    """A text with entities of HTML as characters, and one space where there are several."""
    return " ".join(html.unescape(text).split())


def _rows(file: Path, recipe: Recipe) -> list[Record]:
    """The records of a file; a text file is one, its name and its text where the recipe looks for them."""
    if file.suffix in (".json", ".jsonl"):
        return read_records(file, "documents")
    value: dict[str, Any] = {}
    text = read_text(file, "a document", BadPrompt)
    for paths, told in ((recipe.entity, file.stem.replace("_", " ")), (recipe.text, text)):
        for path in paths[:1]:
            _put(value, path.split("/"), told)
    return [Record("", value)]


def _put(value: dict[str, Any], keys: Sequence[str], told: str) -> None:
    for key in keys[:-1]:
        value = value.setdefault(key, {})
    value[keys[-1]] = told
