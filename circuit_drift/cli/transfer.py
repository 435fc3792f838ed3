"""Commands that set the models of several checkpoints side by side: circuits run elsewhere, weights put elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from checkpoints.placement import AUTO
from circuit_drift.cli.options import (
    FIRST_BEHAVIOUR,
    AnswersOption,
    AttentionOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    FactsOption,
    HaystackOption,
    LengthOption,
    NeedlesOption,
    SeedOption,
    SeriesArgument,
    StepsOption,
    StoreOption,
    answers_of,
    placed,
)
from circuit_drift.cli.status import say, shown_table
from circuit_drift.store.store import Store


def add_transfer(app: typer.Typer) -> None:
    """Add ``circuit-drift transfer`` and ``circuit-drift explain``."""
    app.command()(transfer)
    app.command()(explain)


def transfer(
    series: SeriesArgument,
    steps: StepsOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the figure here.")] = None,
    store: StoreOption = None,
    facts: FactsOption = None,
    answers: AnswersOption = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    attention: AttentionOption = AUTO,
    device_map: DeviceMapOption = None,
) -> None:
    """Run every checkpoint's circuit in every checkpoint's model; print the faithfulness of each as CSV."""
    from checkpoints import open_series
    from checkpoints.results.disk import write_file
    from circuit_drift.comparison.transfer import measure_transfer
    from circuit_drift.prompts import prompts_for
    from circuit_drift.sweep.sweep import measure_each

    opened = open_series(series)
    chosen = (opened.select(steps) if steps else opened).checkpoints
    prompts, kept = prompts_for(opened.path, facts=facts, answers=answers_of(answers)), Store.open(store)
    placement = placed(device, dtype, attention, device_map)
    points = list(measure_each(chosen, kept, prompts, measures=["circuit"], placement=placement))
    matrix = measure_transfer(chosen, points, kept, prompts, placement=placement)
    typer.echo(shown_table(matrix.to_frame()), nl=False)
    if html:
        typer.echo(write_file(html, matrix.plot().to_html(include_plotlyjs=True)), err=True)


def explain(
    series: SeriesArgument,
    behaviour: Annotated[
        str,
        typer.Option(
            "--behaviour",
            help="needle, facts, facts:GROUP, log-probability, text, or a head as a18.h6: its attention on the needle.",
        ),
    ] = FIRST_BEHAVIOUR,
    steps: StepsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the figure here.")] = None,
    count: Annotated[int, typer.Option("--prompts", help="At most so many prompts, evenly taken.", min=1)] = 12,
    needles: NeedlesOption = None,
    haystack: HaystackOption = None,
    facts: FactsOption = None,
    answers: AnswersOption = "auto",
    length: LengthOption = 256,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    attention: AttentionOption = AUTO,
    device_map: DeviceMapOption = None,
) -> None:
    """Which component's weights made a behaviour in which interval of training; print the table as CSV."""
    import json

    from checkpoints import open_series
    from checkpoints.results.disk import write_file
    from circuit_drift.explanation.along import explain_series
    from circuit_drift.explanation.effort import Effort
    from circuit_drift.prompts import prompts_for

    opened = open_series(series)
    chosen = (opened.select(steps) if steps else opened).checkpoints
    prompts = prompts_for(
        opened.path,
        needles=needles,
        haystack=haystack,
        facts=facts,
        answers=answers_of(answers),
        length=length,
        seed=seed,
    )
    course = explain_series(
        chosen,
        behaviour,
        prompts=prompts,
        placement=placed(device, "float32", attention, device_map),
        effort=Effort(prompts=count, patching=False),
    )
    if as_json:
        typer.echo(json.dumps(course.to_json(), indent=1))
    else:
        typer.echo(shown_table(course.to_frame()), nl=False)
        say(course.verdict)
    if html:
        typer.echo(write_file(html, course.plot().to_html(include_plotlyjs=True)), err=True)
