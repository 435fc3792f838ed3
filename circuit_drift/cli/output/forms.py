"""A table that a command found, for people or for programs: as it is drawn, as CSV, as one JSON object."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from checkpoints.errors import DriftError
from checkpoints.results.text import to_csv, visible

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["table", "csv", "json"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")]


@dataclass(frozen=True, slots=True)
class Found:
    """What a command found.

    Attributes:
        name: what it is of, the key in JSON.
        frame: its table.
        show: prints it for people.
        sentences: what it says in words.
    """

    name: str
    frame: "pd.DataFrame"
    show: Callable[[], object]
    sentences: Sequence[str] = ()


def form_of(as_json: bool, as_csv: bool) -> Form:
    """The form asked for.

    Raises:
        DriftError: two were asked for.
    """
    if as_json and as_csv:
        raise DriftError("--json and --csv are two forms of one output: give one of them")
    return "json" if as_json else "csv" if as_csv else "table"


def put(form: Form, found: Sequence[Found], **about: Any) -> None:
    """Print what was found in a form.

    Args:
        form: JSON has a key for each, with its ``findings`` and the rows of its ``table``; CSV is of one table.
        found: at least one.
        about: further keys of the JSON object.

    Raises:
        DriftError: CSV of several tables.
    """
    if form == "json":
        tables = {each.name: {"findings": list(each.sentences), "table": records(each.frame)} for each in found}
        typer.echo(json.dumps({**about, **tables}, indent=1))
    elif form == "csv":
        if len(found) > 1:
            names = " and ".join(each.name for each in found)
            raise DriftError(f"--csv prints one table, and there are those of {names}: choose one with --measures")
        typer.echo(csv_table(found[0].frame), nl=False)
    else:
        for each in found:
            each.show()


def records(frame: "pd.DataFrame") -> list[Mapping[str, Any]]:
    """The rows of a table as plain values; what is missing is null."""
    rows: list[Mapping[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def csv_table(frame: "pd.DataFrame") -> str:
    """A table as CSV of four significant digits, for a terminal and a spreadsheet alike: names in it are only shown."""
    return visible(to_csv(frame, digits=4))
