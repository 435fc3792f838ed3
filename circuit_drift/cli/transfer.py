"""The command that runs each checkpoint's circuit in the others' models."""

from pathlib import Path
from typing import Annotated

import typer

from checkpoints.placement import AUTO
from circuit_drift.cli.options import (
    AnswersOption,
    AttentionOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    FactsOption,
    SeriesArgument,
    StepsOption,
    StoreOption,
    answers_of,
    placed,
)
from circuit_drift.cli.status import shown_table
from circuit_drift.store.store import Store


def add_transfer(app: typer.Typer) -> None:
    """Add ``circuit-drift transfer``."""
    app.command()(transfer)


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
