import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from checkpoints import StoreError
from checkpoints.artifacts import ARRAYS_FILE, RESULT_FILE, read_artifact, read_meta, write_artifact


@settings(max_examples=25, deadline=None)
@given(array=arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 3))), text=st.text(max_size=20))
def test_a_result_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, array, text):
    folder = tmp_path_factory.mktemp("artifact") / "result"
    write_artifact(folder, "thing", {"text": text, "n": 3}, {"x": array})
    meta, found = read_artifact(folder, "thing")
    assert meta == {"text": text, "n": 3}
    np.testing.assert_array_equal(found["x"], array)


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path: Path):
    for value in (1, 2):
        write_artifact(tmp_path / "r", "thing", {"value": value}, {"x": np.arange(value)})
    assert read_artifact(tmp_path / "r", "thing")[0] == {"value": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_artifact(tmp_path / "r", "thing", {"value": 1}, {"x": np.zeros(2)})

    def full(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("checkpoints.artifacts.save_file", full)
    with pytest.raises(StoreError, match="no space left"):
        write_artifact(tmp_path / "r", "thing", {"value": 2}, {"x": np.zeros(2)})
    assert read_artifact(tmp_path / "r", "thing")[0] == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_another_kind_is_refused(tmp_path: Path):
    write_artifact(tmp_path / "r", "thing", {}, {"x": np.zeros(1)})
    with pytest.raises(StoreError, match="'thing', not 'other'"):
        read_artifact(tmp_path / "r", "other")


@pytest.mark.parametrize("damage", ["truncate arrays", "remove arrays", "garble json", "old format", "no folder"])
def test_damage_is_named(tmp_path: Path, damage: str):
    folder = write_artifact(tmp_path / "r", "thing", {}, {"x": np.zeros(100)})
    arrays_file, json_file = folder / ARRAYS_FILE, folder / RESULT_FILE
    if damage == "truncate arrays":
        arrays_file.write_bytes(arrays_file.read_bytes()[:50])
    elif damage == "remove arrays":
        arrays_file.unlink()
    elif damage == "garble json":
        json_file.write_text("{")
    elif damage == "old format":
        json_file.write_text(json.dumps({**read_meta(folder), "format": 0}))
    else:
        folder = tmp_path / "elsewhere"
    with pytest.raises(StoreError, match=str(folder.name)):
        read_artifact(folder, "thing")
