"""Commands that set checkpoints side by side: two compared, circuits run elsewhere, weights put elsewhere."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoints.errors import BadPrompt, CheckpointMismatch, UnsupportedArchitecture
from circuit_drift.cli.groups import (
    FactOptions,
    Float32Options,
    NeedleOptions,
    PlacementOptions,
    ScoringOptions,
    grouped,
)
from circuit_drift.cli.options import (
    FIRST_BEHAVIOUR,
    ClusterOption,
    DeltaOption,
    Explaining,
    ExplainOption,
    FirstArgument,
    FloorOption,
    MeasuresOption,
    MetricOption,
    OutputsOption,
    PromptsOption,
    SecondArgument,
    SeriesArgument,
    StepsOption,
    StoreOption,
    deltas_of,
    measures_of,
    names,
    outputs_of,
)
from circuit_drift.cli.output.forms import csv_table
from circuit_drift.cli.status import DIFFERENT, DONE, advise, leave, leave_partly, say

if TYPE_CHECKING:
    from circuit_drift.api.pairs import PairDiff
    from circuit_drift.explanation.explanation import Effort


def add_comparing(app: typer.Typer) -> None:
    """Add ``circuit-drift diff``, ``transfer`` and ``explain``."""
    app.command(cls=Explaining)(grouped(diff))
    app.command()(grouped(transfer))
    app.command()(grouped(explain))


def diff(
    a: FirstArgument,
    b: SecondArgument,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Print every table instead of one screen.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the pair's report here.")] = None,
    q: Annotated[
        float, typer.Option("--q", help="Level of the pair, and false discovery rate of heads and edges.", min=0, max=1)
    ] = 0.05,
    delta: DeltaOption = None,
    floor: FloorOption = None,
    cluster: ClusterOption = None,
    explain: ExplainOption = None,
    outputs: OutputsOption = None,
    count: PromptsOption = 12,
    store: StoreOption = None,
    needles: NeedleOptions,
    facts: FactOptions,
    scoring: ScoringOptions,
    measures: MeasuresOption = None,
    placing: PlacementOptions,
) -> None:
    """Compare two checkpoints: recall, circuits, heads, answers; different, equivalent or undecided.

    Scores what is not stored yet. Exit status: 0 = equivalent or undecided, or, with --floor, no more than training
    does anyway; 1 = they differ; 2 = trouble; 3 = no difference in what could be measured.
    """
    import circuit_drift
    from checkpoints import open_checkpoint
    from circuit_drift.explanation.explanation import Effort
    from circuit_drift.prompts import prompts_for

    explained = _explainable(explain, outputs, placing.dtype)
    effort = Effort(prompts=count, outputs=outputs_of(outputs))
    prompts = prompts_for(open_checkpoint(a).path, **needles.given, **facts.given, scoring=scoring.given)
    pair = circuit_drift.diff(
        a,
        b,
        store=store,
        prompts=prompts,
        **measures_of(measures),
        placement=placing.placement,
        q=q,
        delta=deltas_of(delta),
        floor=floor or (),
        cluster=names(cluster or ""),
    )
    for asked in explained:
        pair = _explained(pair, asked, effort)
    _put_pair(pair, html, as_json=as_json, everything=everything)
    if not as_json:
        advise(_after_diff(html, everything=everything, explained=bool(explain)))
    leave(DIFFERENT if pair.exceeds_floor else DONE)
    leave_partly(_lacking(pair, explained), "the comparison")


def _put_pair(pair: "PairDiff", html: Path | None, *, as_json: bool, everything: bool) -> None:
    """Print a pair, and write its page where one is wanted."""
    from circuit_drift.cli.render import print_pair, print_screen
    from circuit_drift.report import write_pair_report
    from circuit_drift.report.pair_view import pair_json

    statements = pair.statements
    if as_json:
        typer.echo(json.dumps(pair_json(pair, statements), indent=1))
    else:
        (print_pair if everything else print_screen)(pair, statements)
    if html:
        typer.echo(write_pair_report(pair, html, statements=statements), err=as_json)


def _lacking(pair: "PairDiff", explained: Sequence[str]) -> set[str]:
    """What was asked of a pair and could not be had."""
    from circuit_drift.comparison.transfer import TRANSFER

    failed = {f"{name} of {point.name}" for point in (pair.a, pair.b) for name in point.failures}
    return failed | (pair.missing.keys() & {TRANSFER, *map(_explanation_of, explained)})


def _explainable(explain: str | None, outputs: str | None, dtype: str) -> list[str]:
    """The behaviours to be explained, all of which there are; what cannot be is refused before anything is measured."""
    from circuit_drift.explanation.explanation import require_behaviour

    if outputs and not explain:
        raise BadPrompt("--outputs tells where in the prompt an explained change is made; give --explain with it")
    asked = list(dict.fromkeys(names(explain or "")))
    if explain is not None and not asked:
        raise BadPrompt(f"--explain {explain!r} names no behaviour; give --explain alone for {FIRST_BEHAVIOUR}")
    for behaviour in asked:
        require_behaviour(behaviour)
    if asked and dtype != "float32":
        raise BadPrompt(f"--explain needs float32: in {dtype} the line between the weights is made of steps")
    return asked


def _explained(pair: "PairDiff", asked: str, effort: "Effort") -> "PairDiff":
    """The pair with an explanation, or with the reason that these two checkpoints have none."""
    try:
        return pair.explained(asked, effort=effort)
    except (BadPrompt, CheckpointMismatch, UnsupportedArchitecture) as error:
        return replace(pair, missing={**pair.missing, _explanation_of(asked): str(error)})


def _explanation_of(asked: str) -> str:
    return f"the explanation of {asked}"


def _after_diff(page: Path | None, *, everything: bool, explained: bool) -> str:
    """What a diff offers that was not asked for yet."""
    offered = {
        f"open {page} in a browser": page is not None,
        "--all every table": not everything,
        "--explain why": not explained,
        "--html FILE figures": page is None,
    }
    return ", ".join(option for option, open_ in offered.items() if open_)


def transfer(
    series: SeriesArgument,
    *,
    steps: StepsOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the figure here.")] = None,
    store: StoreOption = None,
    facts: FactOptions,
    metric: MetricOption = "logit difference",
    placing: PlacementOptions,
) -> None:
    """Run every checkpoint's circuit in every checkpoint's model; print the faithfulness of each as CSV."""
    from checkpoints import open_series
    from checkpoints.results.disk import write_file
    from circuit_drift.comparison.transfer import measure_transfer
    from circuit_drift.prompts import EdgeScoring, prompts_for
    from circuit_drift.store.store import Store
    from circuit_drift.sweep.sweep import measure_each

    opened = open_series(series)
    chosen = (opened.select(steps) if steps else opened).checkpoints
    scoring = EdgeScoring(metric=metric.replace("-", " "))
    prompts = prompts_for(opened.path, **facts.given, scoring=scoring)
    kept = Store.open(store)
    placement = placing.placement
    points = list(measure_each(chosen, kept, prompts, measures=["circuit"], placement=placement))
    matrix = measure_transfer(chosen, points, kept, prompts, placement=placement)
    typer.echo(csv_table(matrix.to_frame()), nl=False)
    if html:
        typer.echo(write_file(html, matrix.plot().to_html(include_plotlyjs=True)), err=True)
    else:
        advise("--html transfer.html draws it")


def explain(
    series: SeriesArgument,
    *,
    behaviour: Annotated[
        str,
        typer.Option(
            "--behaviour",
            help="needle, accuracy (by patching alone), facts, facts:GROUP, log-probability, text, or a head as "
            "a18.h6: its attention on the needle.",
        ),
    ] = FIRST_BEHAVIOUR,
    steps: StepsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page here: verdict, figure, table, proof.")
    ] = None,
    count: PromptsOption = 12,
    store: StoreOption = None,
    needles: NeedleOptions,
    facts: FactOptions,
    placing: Float32Options,
) -> None:
    """Which component's weights made a behaviour in which interval of training; print the table as CSV.

    Of the interval with the largest change, components are put back for proof. Finished intervals are stored, so that
    the same command goes on after an interrupt.
    """
    from checkpoints import open_series
    from circuit_drift.explanation.along import explain_series
    from circuit_drift.explanation.explanation import Effort, require_behaviour
    from circuit_drift.prompts import prompts_for
    from circuit_drift.store.store import Store

    require_behaviour(behaviour)
    opened = open_series(series)
    chosen = (opened.select(steps) if steps else opened).checkpoints
    prompts = prompts_for(opened.path, **needles.given, **facts.given)
    course = explain_series(
        chosen,
        behaviour,
        prompts=prompts,
        placement=placing.placement,
        effort=Effort(prompts=count),
        store=Store.open(store),
    )
    if as_json:
        typer.echo(json.dumps(course.to_json(), indent=1))
    else:
        typer.echo(csv_table(course.to_frame()), nl=False)
        say(course.verdict)
    if html:
        typer.echo(course.write_html(html), err=True)
    if not as_json:
        drawn = "" if html else "--html who.html draws it; "
        advise(f"{drawn}circuit-drift diff A B --explain {behaviour} proves it between any two checkpoints")
