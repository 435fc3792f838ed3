import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import ARRAYS_FILE, RESULT_FILE, read_artifact, read_meta, write_artifact


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

    monkeypatch.setattr("checkpoints.results.artifacts.save_file", full)
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_come_back_and_stay_json(tmp_path: Path, value: float):
    folder = write_artifact(tmp_path / "r", "thing", {"floor": [{"low": value}], "text": "NaN"}, {})
    json.loads((folder / RESULT_FILE).read_text(), parse_constant=lambda name: pytest.fail(f"a bare {name}"))
    meta, _ = read_artifact(folder, "thing")
    assert repr(meta) == repr({"floor": [{"low": value}], "text": "NaN"})


def test_a_bare_nan_of_an_older_result_is_read(tmp_path: Path):
    folder = write_artifact(tmp_path / "r", "thing", {}, {})
    (folder / RESULT_FILE).write_text('{"format": 1, "kind": "thing", "floor": NaN}')
    assert math.isnan(read_artifact(folder, "thing")[0]["floor"])


def test_what_is_no_json_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_artifact(tmp_path / "r", "thing", {"path": tmp_path}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    rename = Path.replace

    def remember(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def renamed(path: Path, target: Path) -> Path:
        events.append("renamed")
        return rename(path, target)

    monkeypatch.setattr("os.fsync", remember)
    monkeypatch.setattr(Path, "replace", renamed)
    write_artifact(tmp_path / "r", "thing", {}, {"x": np.zeros(1)})
    draft, parent = events.pop(2), events.pop()
    assert events == [ARRAYS_FILE, RESULT_FILE, "renamed"]
    assert draft.startswith(".r.")
    assert parent == tmp_path.name


def write_often(folder: Path, value: int, start: "multiprocessing.synchronize.Barrier") -> None:
    """The body of a process that races another for the same folder."""
    start.wait()
    for _ in range(150):
        write_artifact(folder, "thing", {"value": value}, {"x": np.full(1000, value)})


@pytest.mark.parametrize("values", [(1, 1), (1, 2)], ids=["same result", "other result"])
def test_two_processes_that_finish_one_result_at_once_do_no_harm(tmp_path: Path, values: tuple[int, int]):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    folder = tmp_path / "r"
    racers = [context.Process(target=write_often, args=(folder, value, start)) for value in values]
    for racer in racers:
        racer.start()
    start.wait()
    seen = 0
    while any(racer.is_alive() for racer in racers):
        if seen and len(set(values)) == 1:
            assert folder.exists(), "a result that is there and right never goes away"
        seen += folder.exists()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    meta, found = read_artifact(folder, "thing")
    assert meta["value"] in values
    np.testing.assert_array_equal(found["x"], np.full(1000, meta["value"]))
    assert [path.name for path in tmp_path.iterdir()] == ["r"], "nothing is left behind"
