"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SeriesArgument = Annotated[
    str, typer.Argument(metavar="SERIES", help="A folder of checkpoints, 'demo', or 'org/name@step*'.")
]
StepsOption = Annotated[
    str | None,
    typer.Option("--steps", help="Which checkpoints: 'last', 'every 3', 'log 8', '100:2000', '0,500'."),
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Where results are kept. Default: $CIRCUIT_DRIFT_STORE, else .circuit-drift here."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="A torch device; auto = an accelerator if there is one.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="Dtype of the forward passes.")]
LengthOption = Annotated[int, typer.Option("--length", help="Needle prompt length in tokens.", min=16)]


def names(text: str) -> list[str]:
    """A comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]
