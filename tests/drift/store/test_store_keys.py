"""A result is filed under what decided it: libraries and allowed code too, and files that change are noticed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import circuit_drift
from checkpoints import open_checkpoint, open_series
from circuit_drift.measures import stored
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.measures.registry import build_measures
from circuit_drift.measures.stored import store_key
from circuit_drift.store.store import Store
from circuit_drift.sweep.sweep import measure_each
from tests.drift.conftest import save_model
from tests.drift.sweep.test_sweep_kill import prompts_of


@pytest.fixture
def folder(tiny_series: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_series / "checkpoint-10", tmp_path / "checkpoint-10")
    return tmp_path / "checkpoint-10"


def key(folder: Path, series: Path) -> str:
    return store_key(open_checkpoint(folder), build_measures(prompts_of(series))[0], "float32")


def test_the_versions_of_the_libraries_are_in_the_key_and_in_the_provenance(folder, tiny_series, tmp_path, monkeypatch):
    import torch
    import transformers

    before = key(folder, tiny_series)
    assert stored.libraries() == {
        "torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__
    }  # fmt: skip
    point = next(measure_each([open_checkpoint(folder)], Store.open(tmp_path / "s"), prompts_of(tiny_series),
                              measures=["heads"], progress=False))  # fmt: skip
    assert point.heads.meta["provenance"]["libraries"] == stored.libraries()
    assert point.heads.meta["provenance"]["key"] == point.keys["heads"] == before
    versions = stored.libraries()
    for name in versions:
        monkeypatch.setattr(stored, "libraries", lambda name=name: {**versions, name: "9"})
        assert key(folder, tiny_series) != before
        monkeypatch.undo()


def test_code_is_in_the_key_where_it_may_run_and_nowhere_else(folder, tiny_series, monkeypatch):
    plain = key(folder, tiny_series)
    (folder / "modeling.py").write_text("layers = 2\n")
    assert key(folder, tiny_series) == plain
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", str(folder))
    allowed = key(folder, tiny_series)
    assert allowed != plain
    (folder / "modeling.py").write_text("layers = 3\n")
    assert key(folder, tiny_series) not in (plain, allowed)
    elsewhere = folder.parent / "moved"
    folder.rename(elsewhere)
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", str(elsewhere))
    (elsewhere / "modeling.py").write_text("layers = 2\n")
    assert key(elsewhere, tiny_series) == allowed, "the folder's name decides nothing"


@pytest.mark.parametrize("changed", ["weights", "config", "tokenizer"])
def test_a_checkpoint_that_is_replaced_while_it_is_measured_is_refused(changed, tiny_series, tmp_path, monkeypatch):
    series = tmp_path / "series"
    shutil.copytree(tiny_series, series)
    sound = RetrievalMeasure.compute

    def replaced(self, loaded, earlier):
        found = sound(self, loaded, earlier)
        folder = loaded.checkpoint.path
        if folder.name == "checkpoint-10" and changed == "weights":
            save_model(folder, seed=77)
        elif folder.name == "checkpoint-10":
            path = folder / ("config.json" if changed == "config" else "tokenizer.json")
            path.write_text(path.read_text().replace('"max_position_embeddings": 256', '"max_position_embeddings": 512')
                            .replace('"river"', '"lake"'))  # fmt: skip
        return found

    monkeypatch.setattr(RetrievalMeasure, "compute", replaced)
    run = circuit_drift.run(
        series, store=tmp_path / "s", prompts=prompts_of(series), measures=["heads"], device="cpu", progress=False
    )
    assert "the files of checkpoint-10 changed while it was measured" in run.at(10).failures["heads"]
    assert all(run.at(step).heads is not None for step in (0, 100))
    assert len(Store.open(tmp_path / "s").results("heads")) == 2


def test_a_measure_of_another_name_has_a_place_in_the_record(tmp_path):
    from circuit_drift.record.record import Point, point_record

    point = Point("checkpoint-1", 1, None, None, keys={"norms": "abc"}, results={"norms": 1.5})
    assert point.results == {"norms": 1.5}
    assert point_record(point)["keys"] == {"norms": "abc"}
    assert replace(point, step=2).step == 2


def test_a_selection_knows_what_it_was_chosen_from(tiny_series):
    series = open_series(tiny_series)
    assert series.chosen_from is None
    assert series.select("last").select("last").chosen_from is series
    assert series[1:].chosen_from is series
