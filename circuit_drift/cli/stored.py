"""Commands that read stored runs: no checkpoint, no torch."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoints.errors import BadPrompt
from circuit_drift.cli.options import RunOption, StoreArgument, StoreOption, names
from circuit_drift.cli.status import leave_partly, say
from circuit_drift.cli.upkeep import named_store

if TYPE_CHECKING:
    from circuit_drift.api.runs import Run

HEADS, CIRCUIT = "heads", "circuit"
USUAL = "usual"
StageOption = Annotated[str | None, typer.Option("--stage", help="Only this training stage.")]
BranchOption = Annotated[str | None, typer.Option("--branch", help="Only this branch, with what all branches share.")]
DownstreamOption = Annotated[
    str | None,
    typer.Option("--downstream", help="Scores to correlate with: a CSV by step, or a measure of the run, as sft."),
]


def add_stored(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(report)
    app.command()(track)
    app.command(hidden=True)(monitor)
    app.command(hidden=True)(evolve)


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


def track(
    folder: StoreArgument = None,
    name: RunOption = None,
    stage: StageOption = None,
    branch: BranchOption = None,
    downstream: DownstreamOption = None,
    store: StoreOption = None,
    measures: Annotated[
        str,
        typer.Option(
            "--measures",
            help="What to follow: heads, circuit; numbers of others, as corpora,maps, are set against --downstream.",
        ),
    ] = "heads,circuit",
    emergence: Annotated[
        str | None,
        typer.Option(
            "--emergence",
            help="Only when metrics emerge, and in which order: usual, or names as recall,needle_accuracy,head:a1.h2,"
            "edge:a0.h1->m2,role:induction:a0.h1.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Follow the circuit of these facts alone: kept, lost, learned, neither (first to last), or a class.",
        ),
    ] = None,
) -> None:
    """Follow heads and circuit through a stored run: births, saturation and whether it deceives, change points."""
    if emergence is not None:
        _track_emergence(folder, store, name, stage, branch, emergence)
        return
    wanted = names(measures)
    others = [measure for measure in wanted if measure not in (HEADS, CIRCUIT)]
    if not wanted or (others and downstream is None):
        raise BadPrompt(
            f"track follows heads and circuit, not {measures!r}: name one of them, or both; numbers of other measures "
            "are set against --downstream SCORES"
        )
    run = _stored_run(folder, store, name, *wanted, downstream)
    follow = {
        HEADS: partial(_track_heads, run, stage, branch, downstream),
        CIRCUIT: partial(_track_circuit, run, stage, branch, group),
    }
    halves = [half for measure, half in follow.items() if measure in wanted]
    if downstream is not None and others:
        halves.append(partial(_track_others, run, stage, branch, downstream, others))
    refused = [reason for half in halves if (reason := _refusal(half))]
    if len(refused) == len(halves):
        raise BadPrompt("; ".join(dict.fromkeys(refused)))
    for reason in refused:
        say(reason)
    leave_partly(run.unread, f"the run {run.name}")


def monitor(
    folder: StoreArgument = None,
    name: RunOption = None,
    stage: StageOption = None,
    branch: BranchOption = None,
    downstream: DownstreamOption = None,
    store: StoreOption = None,
) -> None:
    """The heads' half of track; goes with the next release."""
    _warn_of_end("monitor")
    run = _stored_run(folder, store, name, HEADS, downstream)
    _track_heads(run, stage, branch, downstream)
    leave_partly(run.unread, f"the run {run.name}")


def evolve(
    folder: StoreArgument = None,
    name: RunOption = None,
    stage: StageOption = None,
    branch: BranchOption = None,
    store: StoreOption = None,
) -> None:
    """The circuit's half of track; goes with the next release."""
    _warn_of_end("evolve")
    run = _stored_run(folder, store, name, CIRCUIT)
    _track_circuit(run, stage, branch, None)
    leave_partly(run.unread, f"the run {run.name}")


def _warn_of_end(command: str) -> None:
    say(f"the command {command} goes with the next release: track follows heads and circuit")


def _refusal(follow: Callable[[], None]) -> str:
    """Why something cannot be followed; empty where it was."""
    try:
        follow()
    except BadPrompt as reason:
        return str(reason)
    return ""


def _track_heads(run: "Run", stage: str | None, branch: str | None, downstream: str | None) -> None:
    from circuit_drift.cli.render import print_head_track

    table = _downstream(run, downstream) if downstream else None
    print_head_track(run.track_heads(stage, branch, downstream=table))


def _track_emergence(
    folder: Path | None, store: Path | None, name: str | None, stage: str | None, branch: str | None, asked: str
) -> None:
    from circuit_drift.cli.render import print_emergence

    metrics = [] if asked == USUAL else names(asked)
    read = [HEADS, CIRCUIT, *(["roles"] if any(metric.startswith("role:") for metric in metrics) else [])]
    run = _stored_run(folder, store, name, *read)
    print_emergence(run.emergence(metrics, stage=stage, branch=branch))
    leave_partly(run.unread, f"the run {run.name}")


def _track_circuit(run: "Run", stage: str | None, branch: str | None, group: str | None) -> None:
    from circuit_drift.cli.render import print_circuit_track
    from circuit_drift.stages.stages import track_circuit

    print_circuit_track(*track_circuit(run, stage, branch, group))


def _track_others(run: "Run", stage: str | None, branch: str | None, downstream: str, measures: Sequence[str]) -> None:
    from circuit_drift.report.correlations import correlations

    for sentence in correlations(run, measures, _downstream(run, downstream), stage=stage, branch=branch):
        typer.echo(f"• {sentence}")


def _downstream(run: "Run", given: str) -> dict[str, dict[int, float]]:
    """Column -> {step: value}, of a file or of a measure of the run."""
    from circuit_drift.measures.registry import find
    from circuit_drift.report.run_table import readings
    from heads.tracking.correlation import read_downstream

    if Path(given).is_file() or find(given) is None:
        return read_downstream(Path(given))
    return readings(run, given)


def _stored_run(folder: Path | None, store: Path | None, name: str | None, *measures: str | None) -> "Run":
    """A stored run with the results of these measures alone."""
    import circuit_drift

    return circuit_drift.load_run(named_store(folder, store), name, [each for each in measures if each is not None])
