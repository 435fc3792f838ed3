"""The command that builds a benchmark from documents."""

from pathlib import Path
from typing import Annotated

import typer


def add_commands(app: typer.Typer) -> None:
    """Add it to the command line."""
    app.command()(benchmark)


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
