"""The command that hands a stored circuit to other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoints.errors import StoreError
from circuit_drift.cli.options import RunOption, StoreOption

if TYPE_CHECKING:
    from circuit_drift.record.record import RunRecord


def add_export(app: typer.Typer) -> None:
    """Add it to the command line."""
    app.command("export")(export)


def export(
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="A step of a stored run, a checkpoint's name, first or last.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="*.graphml, *.json (node-link), *.eap.json, *.neuronpedia.json, *.parquet"),
    ],
    edges: Annotated[
        int | None, typer.Option("--edges", help="Size the circuit is pruned from. Default: 5 % of the edges.", min=1)
    ] = None,
    name: RunOption = None,
    store: StoreOption = None,
) -> None:
    """Write the circuit of a stored checkpoint in the format the file's name ends in; needs no model."""
    import circuit_drift

    typer.echo(export_circuit(circuit_drift.load_run(store, name), step, out, edges=edges))


def export_circuit(run: "RunRecord", step: str, out: Path, *, edges: int | None = None) -> Path:
    """Write a point's circuit for another tool; formats as in `circuits.graph.exports.export`.

    Args:
        run: a stored run.
        step: as for `Run.at`.
        out: where to; its ending names the format.
        edges: the size the circuit is pruned from; by default that of reports.

    Raises:
        StoreError: there is no such point, or it has no circuit.
        BadPrompt: an ending that names no format.
    """
    point = run.at(step)
    if point.circuit is None:
        why = point.failures.get("circuit", "the run did not measure it: run it with --measures circuit")
        raise StoreError(f"{point.label} of {run.name} has no circuit: {why}")
    return point.circuit.prune(edges or None).export(out)
