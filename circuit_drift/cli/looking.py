"""Commands that look and measure nothing: what a series holds, and which architectures are proved."""

from typing import Annotated

import typer

from circuit_drift.cli.options import SeriesArgument


def add_looking(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(architectures)
    app.command()(show)


def architectures(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the model architectures that the tests prove, with what each can and cannot do."""
    from checkpoints.model.architectures import capabilities

    table = capabilities()
    typer.echo(table.to_frame().to_json(orient="records", indent=1) if as_json else table)


def show(series: SeriesArgument) -> None:
    """List the checkpoints of a series: step, tokens, stage, size, hash of the weights."""
    from checkpoints import open_series
    from circuit_drift.cli.render import print_series

    print_series(open_series(series))
