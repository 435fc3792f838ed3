"""Files that users bring, read in one way: text, JSON, JSON lines, CSV and TOML.

A file is a regular one, and no more of it is read than its size says, so that a pipe or a device ends in a refusal.
Text is UTF-8, or what its byte-order mark says. A line ends at a line feed and nowhere else: JSON may hold U+2028 as
it is. JSON is strict: no NaN, no number beyond a float's range, no name twice, no half of a surrogate pair. Every
failure is one line that names the file, the place in it and the reason, of the kind of error that the caller raises.
"""

import codecs
import csv
import io
import json
import math
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import BadPrompt, DriftError
from checkpoints.results.disk import read_regular
from checkpoints.results.strict_json import DEEPEST, TOO_DEEP, require_shallow

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 1 << 31
"""Bytes of a text that are held in memory."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON value of a file.

    Attributes:
        where: ``"line 3"``, ``"row 3"`` of a list, or ``"the file"``.
        value: what it is; None where it cannot be read.
        problem: why it cannot be read, or None.
    """

    where: str
    value: Any = None
    problem: str | None = None


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is too large to be held.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes, more than the {LARGEST:,} of a text")
    return read_regular(path)


def decode(content: bytes) -> str:
    """Bytes as text, without the byte-order mark.

    Raises:
        ValueError: it is no text; names the byte and its line.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        name = encoding.removesuffix("-sig").upper()
        byte = content[error.start]
        raise ValueError(f"it is not {name} text (byte 0x{byte:02x} in line {line}); save it as UTF-8") from error


def read_text(path: Path | str, what: str, error: type[DriftError] = BadPrompt) -> str:
    """The text of a file.

    Args:
        path: the file.
        what: what it holds, for the message (``"needles"``).
        error: raised where it cannot be read.
    """
    try:
        return decode(read_bytes(Path(path)))
    except OSError as problem:
        raise error(f"cannot read {what} from {path}: {problem.strerror}") from problem
    except ValueError as problem:
        raise error(f"cannot read {what} from {path}: {problem}") from problem


def parse_strict(text: str) -> Any:
    """One JSON value.

    Raises:
        ValueError: it is no strict JSON, or deeper than `DEEPEST`; one line says why.
    """
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_named_once)
    except json.JSONDecodeError as error:
        raise ValueError(_explained(error)) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    _require_shallow(value, text)
    if "\\ud" in text or "\\uD" in text:
        _require_text(value)
    return value


def parse_lenient(text: str) -> Any:
    """One JSON value as Python writes it, whose configs may hold a bare ``Infinity`` or ``NaN``.

    Raises:
        ValueError: it is no such value, or deeper than `DEEPEST`; one line says why.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(_explained(error)) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    _require_shallow(value, text)
    return value


def read_document(path: Path | str, what: str, error: type[DriftError] = BadPrompt) -> Any:
    """The one JSON value of a file."""
    text = read_text(path, what, error)
    try:
        return parse_strict(text)
    except ValueError as problem:
        raise error(f"cannot read {what} from {path}: it is not JSON: {problem}") from problem


def read_records(path: Path | str, what: str, error: type[DriftError] = BadPrompt) -> list[Record]:
    """The JSON values of a file: one a line, the rows of a list, or the one object that the whole file is."""
    text = read_text(path, what, error)
    lines = [Record(f"line {number}", *_parsed(line)) for number, line in _lines(text) if line.strip()]
    if not lines or (lines[0].problem is None and not (len(lines) == 1 and _is_list_of_rows(lines[0].value))):
        return lines
    value, problem = _parsed(text)
    if isinstance(value, list):
        return [Record(f"row {number}", row) for number, row in enumerate(value, 1)]
    if isinstance(value, dict):
        return [Record("the file", value)]
    if text.lstrip().startswith("[") and all(line.problem for line in lines):
        raise error(f"cannot read {what} from {path}: it is not JSON: {problem}")
    return lines


def read_table(path: Path | str, what: str, error: type[DriftError] = BadPrompt) -> list[tuple[int, list[str]]]:
    """The rows of a CSV that hold anything, each with its line; cells without the blanks around them."""
    return parse_table(read_text(path, what, error), f"cannot read {what} from {path}", error)


def parse_table(text: str, failure: str, error: type[DriftError] = BadPrompt) -> list[tuple[int, list[str]]]:
    """`read_table` of a text; `failure` begins the message."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as problem:
        raise error(f"{failure}: it is not CSV: {problem} (line {reader.line_num})") from problem
    return [(line, row) for line, row in rows if any(row)]


def read_toml(path: Path | str, what: str, error: type[DriftError] = DriftError) -> dict[str, Any]:
    """The table of a TOML file."""
    text = read_text(path, what, error)
    try:
        table = tomllib.loads(text)
        _require_words(table)
    except (ValueError, RecursionError) as problem:
        reason = problem if isinstance(problem, ValueError) else TOO_DEEP
        raise error(f"cannot read {what} from {path}: it is not TOML: {reason}") from problem
    return table


def read_frame(path: Path | str, what: str, error: type[DriftError] = BadPrompt) -> "pd.DataFrame":
    """A CSV as a table of pandas."""
    import pandas as pd

    text = read_text(path, what, error)
    try:
        return pd.read_csv(io.StringIO(text, newline=""))
    except ValueError as problem:
        raise error(f"cannot read {what} from {path}: it is no table: {problem}") from problem


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in value)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.split("\n"), 1)


def _parsed(text: str) -> tuple[Any, str | None]:
    try:
        return parse_strict(text), None
    except ValueError as problem:
        return None, str(problem)


def _explained(error: json.JSONDecodeError) -> str:
    line = f" of line {error.lineno}" if error.lineno > 1 else ""
    return f"{error.msg} at column {error.colno}{line}"


def _require_shallow(value: Any, text: str) -> None:
    if text.count("[") + text.count("{") > DEEPEST:  # no deeper than it has brackets, which are counted sooner
        require_shallow(value)


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON; write null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of a float")
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names {twice!r} twice")
    return found


def _require_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise ValueError(f"it holds {half}, half of a surrogate pair, which is no text") from error


def _require_words(value: Any) -> None:
    """Refuse integers of more than 64 bits, which TOML does not know."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError("it holds an integer of more than 64 bits")
    for inner in _inside(value):
        _require_words(inner)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
