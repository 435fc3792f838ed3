"""Options that go together: their fields are options of the command, and it gets them back as one value."""

import json

import typer
from typer.testing import CliRunner

from circuit_drift.cli.groups import BoundOptions, Float32Options, NeedleOptions, PlacementOptions, grouped
from circuit_drift.cli.options import SeriesArgument

app = typer.Typer(rich_markup_mode=None)


@app.command()
@grouped
def asked(series: SeriesArgument, *, needles: NeedleOptions, placing: PlacementOptions, bounds: BoundOptions) -> None:
    """Says what it was asked."""
    told = {**needles.given, "kept": bounds.kept, **bounds.given}
    where = placing.placement
    typer.echo(json.dumps([series, {name: str(value) for name, value in told.items()}, where.dtype, where.device]))


def test_a_group_takes_the_fields_that_were_given_and_the_usual_ones_for_the_rest():
    words = ["demo", "--length", "64", "--dtype", "bfloat16", "--keep-downloads", "-1", "--max-disk", "2GB"]
    told = CliRunner().invoke(app, words)
    needles = {"needles": "None", "haystack": "None", "length": "64", "seed": "0"}
    bounds = {"kept": "None", "max_disk": "2000000000", "max_hours": "None"}
    assert json.loads(told.stdout) == ["demo", {**needles, **bounds}, "bfloat16", "auto"]


def test_the_help_tells_each_field_once_with_its_bounds():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "TERM": "dumb"}).stdout
    assert [text.count(f"--{name} ") for name in ("needles", "length", "seed", "dtype", "attention")] == [1] * 5
    assert "--placing" not in text
    refused = CliRunner().invoke(app, ["demo", "--length", "3"])
    assert refused.exit_code == 2
    assert "greater than or equal to 16" in refused.output


def test_what_needs_float32_has_no_option_for_another_dtype():
    assert Float32Options(device="cpu").placement.dtype == "float32"
    assert PlacementOptions(dtype="bfloat16").placement.dtype == "bfloat16"
