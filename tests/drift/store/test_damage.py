"""Stored results are never trusted: damage is noticed, said, and costs the damaged result alone."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import circuit_drift
from checkpoints.errors import DamagedResult, StoreError
from checkpoints.results.artifacts import ARRAYS_FILE, FORMAT, RESULT_FILE, read_artifact, write_artifact
from checkpoints.results.disk import abandoned_drafts, collect_drafts, draft_of, whole_file, write_file
from checkpoints.results.strict_json import digest_json
from circuit_drift.api.runs import Run
from circuit_drift.store.store import RECORD_FORMAT, Store
from tests.drift.sweep.test_sweep_kill import contents, prompts_of


def flip_a_bit(folder: Path) -> None:
    path = folder / ARRAYS_FILE
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def write_nuls(folder: Path) -> None:
    path = folder / ARRAYS_FILE
    half = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:half] + b"\0" * half)


def change_a_number(folder: Path) -> None:
    path = folder / RESULT_FILE
    document = json.loads(path.read_text())
    document["provenance"] = 1
    path.write_text(json.dumps(document))


def drop_the_digests(folder: Path) -> None:
    path = folder / RESULT_FILE
    document = json.loads(path.read_text())
    del document["digests"]
    path.write_text(json.dumps(document))


def nest_deeply(folder: Path) -> None:
    (folder / RESULT_FILE).write_text("[" * 100_000)


def put_a_pipe(folder: Path) -> None:
    (folder / ARRAYS_FILE).unlink()
    os.mkfifo(folder / ARRAYS_FILE)


def put_a_folder(folder: Path) -> None:
    (folder / RESULT_FILE).unlink()
    (folder / RESULT_FILE).mkdir()


def cut(folder: Path) -> None:
    path = folder / ARRAYS_FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def take_another_s_arrays(folder: Path) -> None:
    other = next(f for f in sorted(folder.parent.iterdir()) if f != folder)
    shutil.copy(other / ARRAYS_FILE, folder / ARRAYS_FILE)


def take_all_of_another(folder: Path) -> None:
    other = next(f for f in sorted(folder.parent.iterdir()) if f != folder)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


DAMAGES = (
    flip_a_bit, write_nuls, change_a_number, drop_the_digests, nest_deeply, put_a_pipe, cut,
    take_another_s_arrays, take_all_of_another,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny_series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("whole") / "store"
    measure(tiny_series, store)
    return store


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def measure(series: Path, store: Path, **options: object) -> Run:
    options = {"measures": ["heads", "roles"], **options}
    folder = getattr(series, "path", series)
    return circuit_drift.run(series, store=store, prompts=prompts_of(folder), device="cpu", progress=False, **options)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_computed_anew_alone_and_said_so(damage: Callable, copy, whole, tiny_series, caplog):
    point = circuit_drift.load_run(copy).at(10)
    damage(Store(copy).folder("heads", point.keys["heads"]))
    others = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    caplog.clear()
    again = measure(tiny_series, copy)
    assert caplog.text.count("computed anew") == 1
    assert contents(copy) == contents(whole)
    assert not any(point.failures for point in again)
    rewritten = {p for p in others if p.exists() and p.stat().st_mtime_ns != others[p] and p.parent.name != "runs"}
    rewritten -= {copy / "timings.jsonl"}
    assert {path.parent.name for path in rewritten} <= {point.keys["heads"]}


@pytest.mark.parametrize("damage", DAMAGES)
def test_reading_a_run_leaves_out_the_damaged_result_alone(damage: Callable, copy, caplog):
    point = circuit_drift.load_run(copy).at(10)
    damage(Store(copy).folder("heads", point.keys["heads"]))
    run = circuit_drift.load_run(copy)
    assert run.at(10).heads is None
    assert "run again" in run.at(10).failures["heads"]
    assert run.at(10).roles is not None
    assert all(run.at(step).heads is not None for step in (0, 100))
    assert list(run.unread) == ["heads of 10"]
    assert "a stored result is left out" in caplog.text


def test_a_result_that_is_gone_is_left_out_too_and_nothing_left_is_refused(copy):
    point = circuit_drift.load_run(copy).at(10)
    shutil.rmtree(copy / "heads" / point.keys["heads"])
    assert "no result folder" in circuit_drift.load_run(copy).at(10).failures["heads"]
    for measure_folder in ("heads", "roles"):
        shutil.rmtree(copy / measure_folder)
    with pytest.raises(StoreError, match="no result of the run tiny-series can be read"):
        circuit_drift.load_run(copy)


def test_a_newer_version_s_result_is_refused_and_left_alone(copy, tiny_series):
    point = circuit_drift.load_run(copy).at(10)
    path = copy / "heads" / point.keys["heads"] / RESULT_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    before = path.read_bytes()
    run = measure(tiny_series, copy)
    assert "newer version (format 3; this one reads up to 2): upgrade circuit-drift" in run.at(10).failures["heads"]
    assert run.at(10).roles is not None
    assert path.read_bytes() == before


def test_an_older_version_s_result_is_read(tmp_path):
    folder = write_artifact(tmp_path / "r", "thing", {"n": 1}, {"x": np.arange(3)})
    document = {"format": 1, "kind": "thing", "n": 1}
    (folder / RESULT_FILE).write_text(json.dumps(document))
    assert read_artifact(folder, "thing")[0] == {"n": 1}


def test_the_digest_is_of_the_content_and_not_of_the_white_space(tmp_path):
    folder = write_artifact(tmp_path / "r", "thing", {"by step": {2: "b", 10: "a"}, "low": float("nan")}, {})
    path = folder / RESULT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert read_artifact(folder, "thing")[0]["by step"] == {"2": "b", "10": "a"}
    save_file({"x": np.zeros(1)}, folder / ARRAYS_FILE)
    with pytest.raises(DamagedResult, match="differs from its digest"):
        read_artifact(folder, "thing")


@pytest.mark.parametrize("damage", ["cut", "a step", "not an object", "no points", "a pipe", "newer"])
def test_a_damaged_record_is_refused_in_one_line_and_written_anew(damage, copy, tiny_series, caplog):
    path = Store(copy).run_file("tiny-series")
    record = json.loads(path.read_text())
    if damage == "cut":
        path.write_text(path.read_text()[:100])
    elif damage == "a step":
        path.write_text(path.read_text().replace('"step": 100', '"step": 900'))
    elif damage == "not an object":
        path.write_text("[1]")
    elif damage == "no points":
        path.write_text('{"name": "tiny-series"}')
    elif damage == "a pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_text(json.dumps({**record, "format": RECORD_FORMAT + 1}))
    with pytest.raises(StoreError, match=r"upgrade" if damage == "newer" else r"run the series again") as refused:
        circuit_drift.load_run(copy)
    assert "\n" not in str(refused.value)
    if damage == "newer":
        with pytest.raises(StoreError, match="upgrade"):
            measure(tiny_series, copy)
    elif damage not in ("a pipe", "no points"):
        assert len(measure(tiny_series, copy)) == len(circuit_drift.load_run(copy)) == 3
        assert "is damaged, and written anew" in caplog.text


def test_a_record_of_the_version_before_is_read(copy):
    path = Store(copy).run_file("tiny-series")
    record = json.loads(path.read_text())
    for name in ("format", "seal", "question"):
        del record[name]
    for entry in record["points"]:
        del entry["weights"]
    path.write_text(json.dumps(record))
    assert len(circuit_drift.load_run(copy)) == 3


@pytest.mark.parametrize("wrong", [{"name": 5}, {"origins": {"needles": [], "facts": 1}}, {"log": 5}, {"log": []}])
def test_a_record_of_other_types_is_refused_in_one_line(copy, wrong):
    """Records of earlier versions have no seal, so that nothing but their content speaks for them."""
    path = next((copy / "runs").glob("*.json"))
    record = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("format", "seal")}
    path.write_text(json.dumps(record | wrong))
    with pytest.raises(DamagedResult, match="its name, its origins and its log are texts"):
        circuit_drift.load_run(copy)


def test_a_selection_and_another_measure_join_the_stored_run(copy, tiny_series):
    from checkpoints import open_series

    series = open_series(tiny_series)
    before = json.loads(Store(copy).run_file("tiny-series").read_text())
    assert len(measure(series.select("last"), copy, measures=["heads"])) == 1
    joined = circuit_drift.load_run(copy)
    assert [point.step for point in joined] == [0, 10, 100]
    assert all(set(point.keys) == {"heads", "roles"} for point in joined)
    measure(series, copy, measures=["circuit"])
    joined = circuit_drift.load_run(copy)
    assert all(set(point.keys) == {"heads", "roles", "circuit"} for point in joined)
    assert joined.parents == before["parents"]
    assert joined.audit.checkpoints == ("0", "10", "100")


def test_two_names_that_share_a_file_are_told_apart(copy, tiny_series):
    measure(tiny_series, copy, name="org/name", measures=["heads"])
    with pytest.raises(StoreError, match="is the record of the run org/name, not of org--name"):
        measure(tiny_series, copy, name="org--name", measures=["heads"])


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = write_file(tmp_path / "made" / "a.txt", "one")
    target.chmod(0o600)
    with pytest.raises(KeyError), whole_file(target) as draft:
        draft.write_text("half")
        raise KeyError
    assert target.read_text() == "one"
    write_file(target, "two")
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("two", 0o600)
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]
    (tmp_path / "link").symlink_to(target)
    write_file(tmp_path / "link", "three")
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == "three"


@pytest.mark.parametrize("target", ["/dev/null", "/dev/full", "folder", "file/below", "n" * 300])
def test_a_place_that_cannot_hold_a_file_is_named(tmp_path, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_file(tmp_path / target, "text")
    assert Path("/dev/null").is_char_device()


def test_the_drafts_of_killed_writers_are_removed_by_the_next_one(tmp_path):
    alive = draft_of(tmp_path / "report.html")
    dead = tmp_path / alive.name.replace(f"-{os.getpid()}-", "-999999999-")
    elsewhere = tmp_path / alive.name.replace(f".html.{alive.name.split('.')[3][:8]}", ".html.00000000")
    others = tmp_path / dead.name.replace("report", "other")
    for draft in (alive, dead, elsewhere, others):
        draft.write_text("half")
    assert abandoned_drafts(tmp_path, "report.html") == (dead,)
    write_file(tmp_path / "report.html", "whole")
    assert not dead.exists()
    assert all(draft.exists() for draft in (alive, elsewhere, others))
    os.utime(elsewhere, (0, 0))
    assert set(collect_drafts(tmp_path)) == {elsewhere, others}
    assert alive.exists()


def test_a_long_name_still_has_a_draft(tmp_path):
    name = "é" * 120
    assert write_file(tmp_path / name, "text").read_text() == "text"


def test_a_seal_tells_documents_apart():
    assert digest_json({"a": 1, "b": [2.5]}) == digest_json({"b": [2.5], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 1.5})
