"""A store is checked, listed, pruned and cleared of what killed writers left."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from checkpoints.errors import StoreError
from checkpoints.results import disk
from checkpoints.results.artifacts import ARRAYS_FILE, RESULT_FILE, write_artifact
from checkpoints.results.disk import draft_of
from circuit_drift.cli import app
from circuit_drift.store import upkeep
from circuit_drift.store.journal import Journal
from circuit_drift.store.leases import Leases
from circuit_drift.store.store import Store, read_record
from circuit_drift.store.upkeep import PRUNED, Selection, chosen, collect, inventory, leftovers, prunable, prune, verify

runner = CliRunner()
OLD = 1e9
KEY = "0123456789abcdef01234567"


def keep(store: Store, measure: str, key: str, **provenance: object) -> Path:
    meta = {"provenance": {"key": key, **provenance}}
    return write_artifact(store.folder(measure, key), "thing", {"meta": meta}, {"x": np.arange(9)})


def record(store: Store, name: str, *points: dict[str, str]) -> None:
    entries = [{"name": f"s{i}", "step": i, "stage": None, "keys": k, "failures": {}} for i, k in enumerate(points)]
    store.write_run(name, {"name": name, "points": entries})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs that share one result, a transfer of one of them, and a result of no run."""
    store = Store.open(tmp_path / "store")
    for measure, key in (("heads", "h0"), ("heads", "h1"), ("heads", "h2"), ("circuit", "c0"), ("circuit", "c1")):
        keep(store, measure, key)
    keep(store, "transfer", "t", circuits=["c0", "c1"])
    record(store, "long", {"heads": "h0", "circuit": "c0"}, {"heads": "h1", "circuit": "c1"})
    record(store, "short", {"heads": "h0"})
    return store


def names(entries) -> list[str]:
    return [f"{entry.result.measure}/{entry.result.key}" for entry in entries]


def kinds(store: Store) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for notice in verify(store).notices:
        found.setdefault(notice.kind, []).append(notice.path.name)
    return found


def test_a_whole_store_is_whole_and_its_orphans_are_named(store):
    found = verify(store)
    assert (found.results, found.runs, found.whole) == (6, 2, True)
    assert kinds(store) == {"orphaned": ["h2"]}
    done = runner.invoke(app, ["verify", str(store.path)])
    assert done.exit_code == 0, done.output
    assert "6 results and 2 runs checked" in done.stdout


def test_every_kind_of_damage_is_named(store):
    flipped = bytearray((store.folder("heads", "h0") / ARRAYS_FILE).read_bytes())
    flipped[-1] ^= 4
    (store.folder("heads", "h0") / ARRAYS_FILE).write_bytes(flipped)
    shutil.rmtree(store.folder("circuit", "c1"))
    shutil.rmtree(store.folder("heads", "h1"))
    shutil.copytree(store.folder("heads", "h2"), store.folder("heads", "h1"))
    newer = store.folder("circuit", "c0") / RESULT_FILE
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "format": 3}))
    older = store.folder("heads", "h2")
    (older / RESULT_FILE).write_text(json.dumps({"format": 1, "kind": "thing"}))
    (store.run_file("short")).write_text("{")
    found = kinds(store)
    assert found["damaged"] == ["h0", "h1", "short.json"]
    assert found["missing"] == ["c1"]
    assert found["newer"] == ["c0"]
    assert found["older"] == ["h2"]
    done = runner.invoke(app, ["verify", "--store", str(store.path), "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["whole"] is False
    assert len(document["findings"]) == sum(map(len, found.values()))
    assert all("\n" not in notice["message"] for notice in document["findings"])


def test_a_store_that_is_not_there_is_trouble(tmp_path):
    for command in ("verify", "store"):
        done = runner.invoke(app, [command, str(tmp_path / "typo")])
        assert done.exit_code == 2
        assert "there is no store" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_results_belong_to_runs(store):
    owners = {f"{entry.result.measure}/{entry.result.key}": set(entry.runs) for entry in inventory(store)}
    assert owners == {
        "circuit/c0": {"long"},
        "circuit/c1": {"long"},
        "heads/h0": {"short", "long"},
        "heads/h1": {"long"},
        "heads/h2": set(),
        "transfer/t": {"long"},
    }
    assert all(entry.size > 100 for entry in inventory(store))


@pytest.mark.parametrize(
    ("selection", "gone"),
    [
        (Selection(run="long"), ["circuit/c0", "circuit/c1", "heads/h1", "transfer/t"]),
        (Selection(run="long", measure="heads"), ["heads/h1"]),
        (Selection(measure="heads"), ["heads/h0", "heads/h1", "heads/h2"]),
        (Selection(orphans=True), ["heads/h2"]),
        (Selection(older_than=3600.0), ["heads/h1"]),
        (Selection(measure="circuit", older_than=3600.0), []),
    ],
)
def test_what_is_selected_goes_and_nothing_else(store, selection, gone):
    os.utime(store.folder("heads", "h1"), (OLD, OLD))
    assert names(chosen(store, selection)) == gone
    before = names(inventory(store))
    assert names(prune(store, selection)) == gone
    assert names(inventory(store)) == [name for name in before if name not in gone]
    assert verify(store).whole, "no record names what is gone"
    assert store.run_file("long").exists() == (selection != Selection(run="long"))
    if selection == Selection(run="long", measure="heads"):
        points = read_record(store.run_file("long"))["points"]
        assert [point["failures"] for point in points] == [{}, {"heads": PRUNED}]


def test_a_dry_run_says_what_would_go_and_removes_nothing(store):
    arguments = ["store", str(store.path), "--prune", "--measure", "circuit"]
    done = runner.invoke(app, [*arguments, "--dry-run"])
    assert done.exit_code == 0, done.output
    rows = done.stdout.splitlines()
    assert [row.split(",")[0] for row in rows[:2]] == ["would remove circuit/c0", "would remove circuit/c1"]
    assert "would remove 2 results" in rows[-1]
    assert len(store.results()) == 6
    assert "removed 2 results" in runner.invoke(app, arguments).stdout.splitlines()[-1]
    assert len(store.results()) == 4


def test_runs_and_measures_are_listed_with_their_sizes(store):
    shown = runner.invoke(app, ["store", str(store.path)]).stdout.splitlines()
    rows = {line[:40].strip(): line[40:].split()[:2] for line in shown[:-1]}
    assert rows == {
        "run (none)": ["1", "results"],
        "run long": ["5", "results"],
        "run short": ["1", "results"],
        "measure circuit": ["2", "results"],
        "measure heads": ["3", "results"],
        "measure transfer": ["1", "results"],
    }
    document = json.loads(runner.invoke(app, ["store", str(store.path), "--json", "--orphans"]).stdout)
    assert [result["key"] for result in document["results"]] == ["h2"]
    assert document["removed"] is False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prune"], "say what --prune removes"),
        (["--dry-run"], "give both"),
        (["--older-than", "soon"], "'soon' is no age"),
        (["--run", "lang"], "has no run lang; it has long, short"),
        (["--prune", "--measure", "norms"], "has no measure norms; it has circuit, heads, transfer"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(store, options, told):
    os.utime(store.run_file("long"), (OLD, OLD))
    done = runner.invoke(app, ["store", str(store.path), *options])
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(store.results()) == 6


def test_a_store_at_work_is_not_pruned(store):
    with Leases(store.path / "claims", "sweep").take("work", "checkpoint-1"):
        with pytest.raises(StoreError, match=r"a sweep is at work in .*checkpoint-1"):
            prune(store, Selection(measure="heads"))
        assert leftovers(store) == ()
    assert len(prune(store, Selection(measure="heads"))) == 3


def test_what_killed_writers_left_is_named_and_removed(store):
    alive = draft_of(store.folder("heads", "h0"))
    dead = [path.name.replace(f"-{os.getpid()}-", "-999999999-") for path in (alive, draft_of(store.run_file("long")))]
    left = [
        store.path / "heads" / dead[0],
        store.path / "runs" / dead[1],
        store.path / "runs" / "tmpabc_1234",
        store.path / "heads" / f".{KEY}.xyz_0123",
    ]
    for path in (alive, *left):
        path.mkdir()
        os.utime(path, (OLD, OLD))
    leases = Leases(store.path / "claims", "sweep")
    with leases.take("dead", "checkpoint-1") as lease:
        lease.path.write_text(lease.path.read_text().replace(f'"{os.getpid()}:', '"999999999:'))
        left.append(lease.path)
        assert set(leftovers(store)) == set(left)
        assert sorted(kinds(store)["leftover"]) == sorted(path.name for path in left)
        assert set(collect(store)) == set(left)
    assert leftovers(store) == ()
    assert alive.is_dir()
    assert not any(path.exists() for path in left)
    assert verify(store).whole


FOREIGN = (
    ".git/HEAD", "heads/.git/HEAD", "heads/.env", "heads/tmp/file", "heads/tmp.txt", "src/.git/HEAD", "src/main/a.py",
    "src/.env.local", "runs/.gitignore", "runs/events.1", "claims/insurance.pdf", "sweeps/search/config.yaml",
    "sweeps/slurm-logs/1_log.out", "lab/.notes", "lab/tmpdir/notes",
)  # fmt: skip


def test_what_is_not_the_store_s_own_is_never_removed(store):
    """A store may lie in a folder that holds other work, whatever that is called and however old it is."""
    for name in FOREIGN:
        path = store.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for path in (*store.path.rglob("*"), *store.path.rglob(".*")):
        os.utime(path, (OLD, OLD))
    assert leftovers(store) == ()
    assert collect(store) == ()
    Journal(store.path / "sweeps" / "done").close()
    for selection in (Selection(orphans=True), Selection(older_than=1.0)):
        assert all(entry.result.measure in ("heads", "circuit", "transfer") for entry in prune(store, selection))
    assert prune(store, Selection(measure="src")) == ()
    assert [name for name in FOREIGN if not (store.path / name).is_file()] == []
    assert inventory(store) == ()


@pytest.mark.parametrize("content", ["{", json.dumps({"format": 99, "points": []}), json.dumps({"format": 2})])
def test_nothing_is_pruned_while_the_record_of_a_run_cannot_be_read(store, content):
    """Its results would pass for those of no run."""
    store.run_file("long").write_text(content)
    for selection in (Selection(orphans=True), Selection(run="short"), Selection(measure="heads")):
        for remove in (prunable, prune):
            with pytest.raises(StoreError, match=r"nothing is removed.*long\.json"):
                remove(store, selection)
    for extra in ([], ["--dry-run"]):
        done = runner.invoke(app, ["store", str(store.path), "--prune", "--orphans", *extra])
        assert (done.exit_code, done.stdout) == (2, "")
        assert "nothing is removed" in done.stderr
    assert len(inventory(store)) == 6


@pytest.mark.parametrize("name", [".hidden", "..", "", "../../x", "org/name", "a\x1b[31m", " ", "é" * 120])
def test_a_run_of_any_name_is_found_again_and_keeps_its_results(store, name):
    record(store, name, {"heads": "h2"})
    assert store.read_run(name)["name"] == name
    assert store.run_file(name).parent == store.path / "runs"
    assert names(chosen(store, Selection(orphans=True))) == []
    assert names(prune(store, Selection(run=name))) == ["heads/h2"]
    assert not store.run_file(name).exists()


@pytest.mark.parametrize("name", ["n" * 300, "é" * 126, "a\0b"])
def test_a_run_whose_name_no_file_can_have_is_refused(store, name):
    with pytest.raises(StoreError, match="no file can be named after the run"):
        record(store, name, {"heads": "h2"})


def test_a_result_whose_provenance_is_no_list_belongs_to_no_run(store):
    for key, circuits in (("t1", 5), ("t2", None), ("t3", "c0"), ("t4", {"c0": 1})):
        keep(store, "transfer", key, circuits=circuits)
    assert kinds(store) == {"orphaned": ["h2", "t1", "t2", "t3", "t4"]}


def test_a_full_disk_is_what_is_pruned_for(store, monkeypatch):
    full, write = [True], Store.write_run

    def write_run(self, name, record):
        if full[0]:
            raise StoreError("no room") from OSError(errno.ENOSPC, "No space left on device")
        return write(self, name, record)

    monkeypatch.setattr(Store, "write_run", write_run)
    monkeypatch.setattr(upkeep, "remove", lambda path: (full.clear(), full.append(False), disk.remove(path)))
    assert len(prune(store, Selection(measure="heads"))) == 3
    assert verify(store).whole
    full[0] = True
    monkeypatch.setattr(upkeep, "remove", disk.remove)
    with pytest.raises(StoreError, match=r"the results are removed, but the disk of .* is still full"):
        prune(store, Selection(measure="circuit"))
    assert {notice.kind for notice in verify(store).notices} == {"missing"}
