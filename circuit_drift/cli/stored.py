"""Commands that read stored runs: no checkpoint, no torch."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoints.errors import BadPrompt, StoreError
from circuit_drift.cli import completion
from circuit_drift.cli.options import RunOption, StoreArgument, StoreOption, names
from circuit_drift.cli.output.forms import CsvOption, Form, Found, JsonOption, form_of, put
from circuit_drift.cli.status import advise, leave_partly, say
from circuit_drift.cli.upkeep import named_store

if TYPE_CHECKING:
    from circuit_drift.api.runs import Run
    from circuit_drift.record.record import RunRecord

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
    app.command()(export)
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
    advise("circuit-drift track follows the same run at a terminal; diff A B compares two of its checkpoints")


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
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Follow heads and circuit through a stored run: births, saturation and whether it deceives, change points."""
    form = form_of(as_json, as_csv)
    if emergence is not None:
        _track_emergence(folder, store, name, stage, branch, emergence, form)
        return
    wanted = names(measures)
    if not wanted or (_others(wanted) and downstream is None):
        raise BadPrompt(
            f"track follows heads and circuit, not {measures!r}: name one of them, or both; numbers of other measures "
            "are set against --downstream SCORES"
        )
    run = _stored_run(folder, store, name, *wanted, downstream)
    found, refused = _followed(_halves(wanted, run, stage, branch, downstream, group))
    if not found:
        raise BadPrompt("; ".join(dict.fromkeys(refused)))
    put(form, found, run=run.name)
    for reason in refused:
        say(reason)
    leave_partly(run.unread, f"the run {run.name}")
    if form == "table":
        advise("circuit-drift report report.html draws it; track --emergence usual says what emerges when")


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
    _track_heads(run, stage, branch, downstream).show()
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
    _track_circuit(run, stage, branch, None).show()
    leave_partly(run.unread, f"the run {run.name}")


def _warn_of_end(command: str) -> None:
    say(f"the command {command} goes with the next release: track follows heads and circuit")


def _others(wanted: Sequence[str]) -> list[str]:
    return [measure for measure in wanted if measure not in (HEADS, CIRCUIT)]


def _halves(
    wanted: Sequence[str],
    run: "Run",
    stage: str | None,
    branch: str | None,
    downstream: str | None,
    group: str | None,
) -> list[Callable[[], Found]]:
    """What follows each of the measures that are wanted; those beside heads and circuit together, against scores."""
    follow = {
        HEADS: partial(_track_heads, run, stage, branch, downstream),
        CIRCUIT: partial(_track_circuit, run, stage, branch, group),
    }
    halves: list[Callable[[], Found]] = [half for measure, half in follow.items() if measure in wanted]
    if downstream is not None and (others := _others(wanted)):
        halves.append(partial(_track_others, run, stage, branch, downstream, others))
    return halves


def _followed(halves: Sequence[Callable[[], Found]]) -> tuple[list[Found], list[str]]:
    """What could be followed; and why the rest cannot be."""
    found, refused = [], []
    for half in halves:
        try:
            found.append(half())
        except BadPrompt as reason:
            refused.append(str(reason))
    return found, refused


def _track_heads(run: "Run", stage: str | None, branch: str | None, downstream: str | None) -> Found:
    from circuit_drift.cli.render import print_head_track

    table = _downstream(run, downstream) if downstream else None
    track = run.track_heads(stage, branch, downstream=table)
    return Found(HEADS, track.to_frame(), partial(print_head_track, track), track.findings)


def _track_emergence(
    folder: str | None,
    store: str | None,
    name: str | None,
    stage: str | None,
    branch: str | None,
    asked: str,
    form: Form,
) -> None:
    from circuit_drift.cli.render import print_emergence

    metrics = [] if asked == USUAL else names(asked)
    read = [HEADS, CIRCUIT, *(["roles"] if any(metric.startswith("role:") for metric in metrics) else [])]
    run = _stored_run(folder, store, name, *read)
    found = run.emergence(metrics, stage=stage, branch=branch)
    put(form, [Found("emergence", found.to_frame(), partial(print_emergence, found), found.findings)], run=run.name)
    leave_partly(run.unread, f"the run {run.name}")


def _track_circuit(run: "Run", stage: str | None, branch: str | None, group: str | None) -> Found:
    import pandas as pd

    from circuit_drift.cli.render import print_circuit_track
    from circuit_drift.stages.stages import track_circuit, track_circuits

    followed = track_circuits(run, stage, branch) if group is None else [track_circuit(run, stage, branch, group)]
    frames = [track.to_frame().assign(facts=facts) for track, facts in followed]
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else followed[0][0].to_frame()

    def show() -> None:
        for track, facts in followed:
            print_circuit_track(track, facts)

    told = tuple(f"On {facts}: {track.verdict}" for track, facts in followed)
    return Found(CIRCUIT, frame, show, told)


def _track_others(run: "Run", stage: str | None, branch: str | None, downstream: str, measures: Sequence[str]) -> Found:
    import pandas as pd

    from circuit_drift.report.correlations import correlations

    told = tuple(correlations(run, measures, _downstream(run, downstream), stage=stage, branch=branch))
    bullets = "\n".join(f"• {sentence}" for sentence in told)
    return Found("correlations", pd.DataFrame({"finding": told}), partial(typer.echo, bullets), told)


def _downstream(run: "Run", given: str) -> dict[str, dict[int, float]]:
    """Column -> {step: value}, of a file or of a measure of the run."""
    from circuit_drift.measures.registry import find
    from circuit_drift.report.run_table import readings
    from heads.tracking.correlation import read_downstream

    if Path(given).is_file() or find(given) is None:
        return read_downstream(Path(given))
    return readings(run, given)


def _stored_run(folder: str | None, store: str | None, name: str | None, *measures: str | None) -> "Run":
    """A stored run with the results of these measures alone."""
    import circuit_drift

    return circuit_drift.load_run(named_store(folder, store), name, [each for each in measures if each is not None])


def export(
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP",
            help="A step of a stored run, a checkpoint's name, first or last.",
            autocompletion=completion.stored_steps,
        ),
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
