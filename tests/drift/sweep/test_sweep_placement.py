"""Device map, dtype and attention of a sweep: chosen, recorded, and without influence on what is measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import circuit_drift
from checkpoints import Placement, open_series
from checkpoints.series.downloads import Downloads
from circuit_drift.api.runs import Run, load_run
from circuit_drift.cli import app
from circuit_drift.measures.registry import build_measures
from circuit_drift.measures.stored import store_key
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.models import Models
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import work
from tests.checkpoints.loading.test_device_map import SPLIT, attach_hooks
from tests.drift.sweep.test_sweep_kill import prompts_of


def run(series: Path, store: Path, **options) -> Run:
    return circuit_drift.run(series, store=store, prompts=prompts_of(series), device="cpu", progress=False, **options)


def test_attention_rows_and_circuits_of_a_spread_model_are_those_of_a_whole_one(tiny_series, tmp_path, monkeypatch):
    """Every part is on the CPU, with accelerate's hooks between them as they are between devices."""
    whole = run(tiny_series, tmp_path / "whole")
    attach_hooks(monkeypatch)
    spread = run(tiny_series, tmp_path / "spread", device_map=SPLIT)
    for a, b in zip(whole, spread, strict=True):
        assert a.failures == b.failures == {}
        assert a.keys == b.keys
        np.testing.assert_array_equal(a.heads.copy, b.heads.copy)
        np.testing.assert_array_equal(a.heads.nll, b.heads.nll)
        np.testing.assert_array_equal(a.circuit.scores, b.circuit.scores)
        np.testing.assert_array_equal(a.faithfulness.values, b.faithfulness.values)
        assert b.heads.meta["provenance"]["device_map"] == {"": "cpu"}
        assert a.heads.meta["provenance"]["device_map"] is None


def test_what_was_chosen_is_recorded(tiny_series, tmp_path):
    point = run(tiny_series, tmp_path, measures=["heads"], dtype="bfloat16", attention="eager").at(10)
    provenance = point.heads.meta["provenance"]
    assert (provenance["dtype"], provenance["attention"], provenance["device"]) == ("bfloat16", "eager", "cpu")
    assert load_run(tmp_path).at(10).heads.meta["provenance"] == provenance


def test_another_attention_implementation_is_another_result(tiny_series):
    checkpoint = open_series(tiny_series)[0]
    (measure,) = build_measures(prompts_of(tiny_series), ["heads"])
    assert store_key(checkpoint, measure, "float32") == store_key(checkpoint, measure, "float32", "sdpa")
    assert store_key(checkpoint, measure, "float32") != store_key(checkpoint, measure, "float32", "eager")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"gpus_per_worker": 1}, None),
        ({"gpus_per_worker": 4}, "auto"),
        ({"gpus_per_worker": 4, "device_map": "sequential"}, "sequential"),
        ({"device_map": SPLIT}, SPLIT),
    ],
)
def test_a_worker_that_holds_several_gpus_spreads_its_model(tiny_series, tmp_path, monkeypatch, options, expected):
    """No GPU is needed to see what a sweep asks its workers to load with: it is looked at on its way to them."""
    asked: list[Sweep] = []

    def remember(sweep, *_):
        asked.append(sweep)
        yield from work(replace(sweep, placement=replace(sweep.placement, device_map=None)))

    monkeypatch.setattr("circuit_drift.sweep.sweep.execute", remember)
    run(tiny_series, tmp_path, measures=["heads"], **options)
    assert asked[0].placement.device_map == expected


def test_the_map_reaches_the_loader(tiny_series, tmp_path, monkeypatch):
    asked = []

    def load(checkpoint, placement, held):
        asked.append(placement)
        raise KeyboardInterrupt

    monkeypatch.setattr("checkpoints.loading.stream.load", load)
    measures = build_measures(prompts_of(tiny_series), ["heads"])
    placement = Placement("cpu", "float16", "eager", "auto")
    sweep = Sweep.of(open_series(tiny_series).checkpoints, measures, Store.open(tmp_path), placement=placement)
    with Models(sweep, Downloads(0)) as models, pytest.raises(KeyboardInterrupt):
        models.take(0)
    assert asked == [placement]


def test_the_command_line_takes_them(tiny_series, tmp_path):
    from typer.testing import CliRunner

    (tmp_path / "map.json").write_text('{"": "cpu"}')
    options = ["--store", tmp_path / "store", "--length", 64, "--measures", "heads", "--attention", "eager"]
    options += ["--device-map", tmp_path / "map.json", "--device", "cpu"]
    done = CliRunner().invoke(app, ["run", str(tiny_series), *map(str, options)])
    assert done.exit_code == 0, done.output
    provenance = load_run(tmp_path / "store").at(0).heads.meta["provenance"]
    assert (provenance["attention"], provenance["device_map"]) == ("eager", {"": "cpu"})
