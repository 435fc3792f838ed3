"""Commands on behaviour: what checkpoints can do, by step; facts and benchmarks from the files of others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoints.errors import require_choice
from circuit_drift.cli.groups import PlacementOptions, grouped
from circuit_drift.cli.options import LengthOption, SeriesArgument, StepsOption, StoreOption, names
from circuit_drift.cli.output.forms import csv_table
from circuit_drift.cli.status import leave_partly

if TYPE_CHECKING:
    from checkpoints import Series
    from circuit_drift.behaviour.table import BehaviourTable

OutOption = Annotated[
    Path | None, typer.Option("--out", help="CSV of scores by step, joined to what it holds; for track.")
]

OWN_TASKS = (
    "Folder with tasks of your own, in YAML; they may run Python code of theirs, so name only what you have read."
)


def add_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(grouped(sft))
    app.command()(grouped(evaluate))
    app.command()(facts)
    app.command()(benchmark)


def sft(
    series: SeriesArgument,
    *,
    out: OutOption = None,
    steps: StepsOption = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Comma-separated. Default: RULER, LongBio, MRCR, or the lab's own.")
    ] = None,
    tune_steps: Annotated[int, typer.Option("--tune-steps", help="Optimizer steps of the fine-tune.", min=1)] = 40,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate of the fine-tune.")] = 1e-4,
    batch: Annotated[int, typer.Option("--batch", help="Prompts in a step.", min=1)] = 8,
    count: Annotated[int, typer.Option("--count", help="Test needles of each task.", min=1)] = 8,
    store: StoreOption = None,
    length: LengthOption = 256,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the test.")] = 0,
    placing: PlacementOptions,
) -> None:
    """Fine-tune a copy of each checkpoint alike and test it; print scores by step as CSV. Now: run --measures sft."""
    from circuit_drift.behaviour.sft import sft_probe
    from circuit_drift.behaviour.tuning import Tuning

    _warn_of_end("sft", "run SERIES --measures sft, or sft:TASK")
    table = sft_probe(
        _opened(series, steps),
        tasks=names(tasks) if tasks else None,
        tuning=Tuning(tune_steps, batch, lr),
        length=length,
        count=count,
        seed=seed,
        store=store,
        placement=placing.placement,
    )
    _show(table, out)


def evaluate(
    series: SeriesArgument,
    *,
    tasks: Annotated[str, typer.Option("--tasks", help="Comma-separated tasks, groups or tags of the harness.")],
    out: OutOption = None,
    steps: StepsOption = None,
    include: Annotated[Path | None, typer.Option("--include", help=OWN_TASKS)] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Items of each task. Default: all.", min=1)] = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Worked examples in front of each item.", min=0)] = None,
    batch: Annotated[int, typer.Option("--batch", help="Items in a forward pass.", min=1)] = 8,
    store: StoreOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the choice of examples.")] = 0,
    placing: PlacementOptions,
) -> None:
    """Run tasks of lm-evaluation-harness; print the scores by step as CSV. Now: run --measures harness:TASK."""
    from circuit_drift.behaviour.harness import harness_probe

    _warn_of_end("evaluate", "run SERIES --measures harness:TASK")
    table = harness_probe(
        _opened(series, steps),
        names(tasks),
        include=include,
        limit=limit,
        shots=shots,
        batch_size=batch,
        seed=seed,
        store=store,
        placement=placing.placement,
    )
    _show(table, out)


def facts(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON or JSON lines.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL of clean/corrupt facts, for run --facts.")],
    form: Annotated[str, typer.Option("--format", help="counterfact, lama, or probes of your own.")] = "probes",
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Checkpoint whose tokenizer says which prompts are as long.")
    ] = None,
    templates: Annotated[Path | None, typer.Option("--templates", help="LAMA's relations.jsonl.")] = None,
) -> None:
    """Read CounterFact, LAMA or your own probes into clean/corrupt facts; what is refused is said row by row."""
    from checkpoints import DriftError, open_checkpoint
    from circuit_drift.measures.tokenizers import tokenizer_of
    from circuits.facts.readers import READERS

    require_choice("format", form, READERS, error=DriftError)
    if templates and form != "lama":
        raise DriftError(f"--templates belong to LAMA files, and the format is {form}")
    words = tokenizer_of(open_checkpoint(tokenizer)) if tokenizer else None
    found = READERS[form](path, words, **({"templates": templates} if templates else {}))  # type: ignore[index]
    for where, reason in found.refused:
        typer.echo(f"{path}, {where}: {reason}", err=True)
    typer.echo(f"{found.write_jsonl(out)}: {found}")


def benchmark(
    documents: Annotated[
        Path,
        typer.Argument(metavar="DOCUMENTS", help="Folder of JSON or text files, or JSON lines: one record a line."),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for documents, probes, facts and controls; see docs/benchmark.md.")
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="TOML: which facts, how they are told and asked, how many entities.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Checkpoint: its tokenizer pairs facts, its recall is the prior exposure."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Corpus (folder or file) whose mentions are the prior exposure.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every choice, in place of the recipe's.")] = None,
) -> None:
    """Build a knowledge benchmark from real documents: what train tells and asks, and controls it never tells."""
    from dataclasses import replace

    from checkpoints import open_checkpoint
    from circuit_drift.benchmark import Recipe, build_benchmark, load_recipe

    asked = load_recipe(recipe) if recipe is not None else Recipe()
    asked = asked if seed is None else replace(asked, seed=seed)
    opened = open_checkpoint(model) if model is not None else None
    typer.echo(str(build_benchmark(documents, asked, out, model=opened, reference=reference)))


def _warn_of_end(command: str, instead: str) -> None:
    typer.echo(
        f"circuit-drift: the command {command} goes with the next release; its scores are measures like any other: "
        f"circuit-drift {instead}, and circuit-drift track --downstream {instead.split()[-1].split(':')[0]}",
        err=True,
    )


def _opened(series: str, steps: str | None) -> "Series":
    from checkpoints import open_series

    opened = open_series(series)
    return opened.select(steps) if steps else opened


def _show(table: "BehaviourTable", out: Path | None) -> None:
    typer.echo(csv_table(table.downstream()), nl=False)
    if out:
        typer.echo(table.write_csv(out), err=True)
    leave_partly(table.failures, "the table")
