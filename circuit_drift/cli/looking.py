"""Commands that look and measure nothing: what a series holds, whether it is so, which models are proved."""

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from checkpoints.errors import DriftError
from circuit_drift.cli.options import SeriesArgument
from circuit_drift.cli.status import leave, leave_partly

if TYPE_CHECKING:
    from checkpoints.audit import Depth


def add_looking(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(architectures)
    app.command()(show)
    app.command("audit")(audit_series)


def architectures(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the model architectures that the tests prove, with what each can and cannot do."""
    from checkpoints.model.architectures import capabilities

    table = capabilities()
    typer.echo(table.to_frame().to_json(orient="records", indent=1) if as_json else table)


def show(series: SeriesArgument) -> None:
    """List the checkpoints of a series: step, tokens, stage, size, hash of the weights, or what is wrong with them."""
    from checkpoints import open_series
    from circuit_drift.cli.render import print_series

    opened = open_series(series)
    damaged = print_series(opened)
    if len(damaged) == len(opened):
        raise DriftError(f"no checkpoint of {opened.name} can be read; the reasons are above")
    leave_partly(damaged, f"the list of {opened.name}")


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
