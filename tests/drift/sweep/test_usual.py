"""What a run measures where nothing is asked for: the null model is made where the series does not bring one."""

import json

import pytest

from checkpoints import open_series
from circuit_drift.measures.registry import MEASURES
from circuit_drift.sweep import sweep
from circuit_drift.sweep.sweep import usual_measures

TWIN = (*MEASURES, "untrained")


def test_a_series_with_a_step_0_brings_its_null_model(tiny_series):
    series = open_series(tiny_series)
    assert usual_measures(series) == MEASURES
    assert usual_measures(series.select("10,100")) == MEASURES, "a choice of its checkpoints too"


def test_another_series_has_a_twin_unless_that_is_much_to_ask(tiny_series, tmp_path, monkeypatch):
    for step in (10, 100):
        (tmp_path / f"checkpoint-{step}").symlink_to(tiny_series / f"checkpoint-{step}")
    series = open_series(tmp_path)
    assert usual_measures(series) == TWIN
    monkeypatch.setattr(sweep, "TWIN_BYTES", series[0].size - 1)
    assert usual_measures(series) == MEASURES


@pytest.mark.parametrize("quantised", [True, False])
def test_quantised_weights_have_no_twin(quantised, tiny_series, tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for path in (tiny_series / "checkpoint-10").iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((tiny_series / "checkpoint-10" / "config.json").read_text())
    config |= {"quantization_config": {"bits": 4}} if quantised else {}
    (folder / "config.json").write_text(json.dumps(config))
    assert usual_measures(open_series(tmp_path)) == (MEASURES if quantised else TWIN)
