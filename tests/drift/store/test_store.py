import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import write_artifact
from checkpoints.results.disk import draft_of
from circuit_drift.cli import app
from circuit_drift.store.store import KEY_LENGTH, Store, key_of

_parts = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5)), max_size=4)


@given(parts=_parts)
def test_a_key_does_not_depend_on_order(parts):
    shuffled = dict(reversed(list(parts.items())))
    assert key_of(parts) == key_of(shuffled)
    assert len(key_of(parts)) == KEY_LENGTH


@given(a=_parts, b=_parts)
def test_different_parts_have_different_keys(a, b):
    assert (key_of(a) == key_of(b)) == (a == b)


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CIRCUIT_DRIFT_STORE", str(tmp_path / "named"))
    assert Store.open().path == tmp_path / "named"
    assert Store.open(tmp_path / "given").path == tmp_path / "given"


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--store"):
        Store.open(tmp_path / "file" / "store")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://bucket/store", "s3://bucket/store"),
        (Path("s3://bucket/store"), "s3://bucket/store"),
        ("gs:/bucket", "gs://bucket"),
        ("hf://datasets/a", "hf://datasets/a"),
        ("file://host/store", "file://host/store"),
    ],
)
def test_an_address_is_refused_where_no_folder_gets_its_name_in_one_step(address: str | Path, told: str):
    with pytest.raises(StoreError, match=rf"the store {told} is an address .* keep the store in a folder"):
        Store.open(address)


def test_a_folder_may_be_named_by_its_url(tmp_path: Path):
    folder = tmp_path / "a store"
    assert Store.open(folder.as_uri()) == Store(folder) == Store.existing(Path(folder.as_uri()))
    for start in ("FILE://", "file://localhost", "File://LocalHost"):
        assert Store.existing(folder.as_uri().replace("file://", start)) == Store(folder)


def test_a_command_takes_no_host_for_a_folder(tmp_path: Path):
    told = CliRunner().invoke(app, ["store", f"file://elsewhere{tmp_path}"])
    assert told.exit_code != 0
    assert f"the store file://elsewhere{tmp_path} is an address" in str(told.stderr) + str(told.exception)


def test_the_newest_run_is_read_unless_one_is_named(tmp_path: Path):
    store = Store.open(tmp_path)
    for age, name in enumerate(("late", "early")):
        path = store.write_run(name, {"name": name})
        os.utime(path, (1e9 - age, 1e9 - age))
    assert store.read_run()["name"] == "late"
    assert store.read_run("early")["name"] == "early"


def test_a_missing_or_damaged_run_is_named(tmp_path: Path):
    store = Store.open(tmp_path)
    with pytest.raises(StoreError, match="it knows: none"):
        store.read_run()
    path = store.write_run("one", {"name": "one"})
    with pytest.raises(StoreError, match="it knows: one"):
        store.read_run("two")
    path.write_text(json.dumps({})[:1])
    with pytest.raises(StoreError, match="run the series again"):
        store.read_run("one")


def test_finished_results_are_listed_by_name(tmp_path: Path):
    store = Store.open(tmp_path)
    for measure, key in (("heads", "b"), ("circuit", "c"), ("heads", "a")):
        write_artifact(store.folder(measure, key), "thing", {}, {})
    (tmp_path / "heads" / ".draft.1").mkdir()
    (tmp_path / "claims").mkdir()
    store.write_run("one", {})
    assert [(r.measure, r.key) for r in store.results()] == [("circuit", "c"), ("heads", "a"), ("heads", "b")]
    assert [r.folder for r in store.results("circuit")] == [store.folder("circuit", "c")]
    assert all(store.has(r.measure, r.key) for r in store.results())


def test_drafts_of_dead_writers_of_one_result_are_removed_and_no_others(tmp_path: Path):
    store, alive = Store.open(tmp_path), draft_of(tmp_path / "heads" / "ab").name
    dead = alive.replace(f"-{os.getpid()}-", "-999999999-")
    kept = sorted([alive, dead.replace(".ab.", ".abc."), dead.replace(".ab.", ".ab.c."), ".ab.mine"])
    for draft in (dead, *kept):
        (tmp_path / "heads" / draft / "inner").mkdir(parents=True)
    write_artifact(store.folder("heads", "ab"), "thing", {}, {})
    assert sorted(path.name for path in (tmp_path / "heads").iterdir()) == sorted([*kept, "ab"])


def test_a_run_of_a_hub_repository_has_a_slash_in_its_name(tmp_path: Path):
    store = Store.open(tmp_path)
    store.write_run("org/name", {"name": "org/name"})
    assert store.read_run("org/name") == store.read_run() == {"name": "org/name"}
