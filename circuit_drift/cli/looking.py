"""Commands that look and measure nothing: what a series holds, whether it is so, which models are proved, formats."""

import json
import shlex
import sys
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from checkpoints.errors import DriftError, require_choice
from circuit_drift.cli import completion
from circuit_drift.cli.options import SeriesArgument
from circuit_drift.cli.output.forms import CsvOption, Found, JsonOption, form_of, put
from circuit_drift.cli.status import advise, leave, leave_partly

if TYPE_CHECKING:
    from checkpoints.audit import Depth


def add_looking(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(architectures)
    app.command()(show)
    app.command("audit")(audit_series)
    app.command()(schema)


def architectures(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the model architectures that the tests prove, with what each can and cannot do."""
    from checkpoints.model.architectures import capabilities

    table = capabilities()
    typer.echo(table.to_frame().to_json(orient="records", indent=1) if as_json else table)


def show(series: SeriesArgument, as_json: JsonOption = False, as_csv: CsvOption = False) -> None:
    """List the checkpoints of a series: step, tokens, stage, size, hash of the weights, or what is wrong with them."""
    from checkpoints import open_series
    from circuit_drift.cli.render import print_series, series_frame

    form, opened = form_of(as_json, as_csv), open_series(series)
    frame, damaged = series_frame(opened)
    told = [*(f"left out: {each.name} ({each.reason})" for each in opened.left_out), *damaged.values()]
    put(form, [Found("checkpoints", frame, partial(print_series, opened, frame, damaged), told)], series=opened.name)
    if len(damaged) == len(opened):
        raise DriftError(f"no checkpoint of {opened.name} can be read; the reasons are above")
    leave_partly(damaged, f"the list of {opened.name}")
    if form == "table":
        advise(
            f"circuit-drift run {shlex.quote(series)} --plan says what measuring it costs; without --plan, it measures"
        )


def audit_series(
    series: SeriesArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    depth: Annotated[
        str | None,
        typer.Option("--depth", help="metadata, samples or weights. Default: weights, metadata alone on the hub."),
    ] = None,
) -> None:
    """Look for wrong weights behind step names: repeated, damaged, misplaced, foreign or missing checkpoints.

    Exit status: 0 = nothing found, 1 = warnings, 2 = errors.
    """
    from checkpoints import open_series
    from checkpoints.audit import audit
    from circuit_drift.cli.render import print_audit

    report = audit(open_series(series), depth=cast("Depth | None", depth), progress=sys.stderr.isatty())
    if as_json:
        typer.echo(report.to_json())
    else:
        print_audit(report)
    leave(report.status)
    if not as_json:
        advise(f"circuit-drift run {shlex.quote(series)} --plan says what measuring it costs")


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="As fact or diff; without one, all are listed.", autocompletion=completion.schemas
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of a file that is read, or of what a command prints with --json."""
    folder = files("circuit_drift") / "schemas"
    known = {Path(each.name).stem: each for each in folder.iterdir()}
    if name is None:
        for each in sorted(known):
            typer.echo(f"{each:14}{json.loads(known[each].read_text(encoding='utf-8'))['title']}")
        return
    require_choice("schema", name, sorted(known), error=DriftError)
    typer.echo(known[name].read_text(encoding="utf-8"), nl=False)
