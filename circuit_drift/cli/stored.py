"""Commands that read stored runs: no checkpoint, no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_drift.cli.options import RunOption, StoreArgument, StoreOption
from circuit_drift.cli.status import leave_partly
from circuit_drift.cli.upkeep import named_store

if TYPE_CHECKING:
    from circuit_drift.api.runs import Run

StageOption = Annotated[str | None, typer.Option("--stage", help="Only this training stage.")]
BranchOption = Annotated[str | None, typer.Option("--branch", help="Only this branch, with what all branches share.")]


def add_stored(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(report)
    app.command()(monitor)
    app.command()(evolve)


def report(
    html: Annotated[Path, typer.Argument(metavar="HTML", help="Where the report goes.")],
    name: RunOption = None,
    store: StoreOption = None,
) -> None:
    """Write the report of a stored run again, from its results alone."""
    import circuit_drift

    run = circuit_drift.load_run(store, name)
    typer.echo(run.report(html))
    leave_partly(run.unread, f"the report of {run.name}")


def monitor(
    folder: StoreArgument = None,
    name: RunOption = None,
    stage: StageOption = None,
    branch: BranchOption = None,
    downstream: Annotated[
        str | None,
        typer.Option("--downstream", help="Scores to correlate with: a CSV by step, or a measure of the run, as sft."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Follow retrieval through a stored run: births, agreement, saturation and whether it deceives."""
    from circuit_drift.cli.render import print_monitor

    run = _stored_run(folder, store, name)
    table = _downstream(run, downstream) if downstream else None
    print_monitor(run.monitor(stage, branch, downstream=table))
    leave_partly(run.unread, f"the run {run.name}")


def evolve(
    folder: StoreArgument = None,
    name: RunOption = None,
    stage: StageOption = None,
    branch: BranchOption = None,
    store: StoreOption = None,
) -> None:
    """Follow the circuit through a stored run: overlap, births and deaths of edges, change points, phases."""
    from circuit_drift.cli.render import print_evolution
    from circuit_drift.stages.stages import evolve as follow

    run = _stored_run(folder, store, name)
    print_evolution(*follow(run, stage, branch))
    leave_partly(run.unread, f"the run {run.name}")


def _downstream(run: "Run", given: str) -> dict[str, dict[int, float]]:
    """Column -> {step: value}, of a file or of a measure of the run."""
    from circuit_drift.measures.registry import find
    from circuit_drift.report.run_table import readings
    from heads.tracking.correlation import read_downstream

    if Path(given).is_file() or find(given) is None:
        return read_downstream(Path(given))
    return readings(run, given)


def _stored_run(folder: Path | None, store: Path | None, name: str | None) -> "Run":
    import circuit_drift

    return circuit_drift.load_run(named_store(folder, store), name)
