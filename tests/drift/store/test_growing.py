"""The record of a run that grows: a line for each checkpoint, read with what was there, one record at the end."""

import json

import pytest

from checkpoints.errors import DamagedResult
from circuit_drift import load_run, run
from circuit_drift.prompts import prompts_for
from circuit_drift.store.growing import ORDER, add_line, lines_of
from circuit_drift.store.store import Store, read_record
from circuit_drift.store.upkeep import Selection, prune, verify

ASKED = {"measures": {"heads": "h"}}


def entry(step, weights="w", **keys):
    return {
        "name": f"step{step}", "step": step, "tokens": None, "stage": None, "branch": None, "weights": weights,
        "keys": keys, "failures": {},
    }  # fmt: skip


@pytest.fixture
def begun(tmp_path):
    store = Store.open(tmp_path)
    record = {"name": "a", "question": ASKED, "origins": {}, ORDER: ["100", "200", "300"]}
    return store, store.write_run("a", {**record, "points": [entry(200, heads="old")]})


def points(path):
    return [(point["step"], dict(point["keys"])) for point in read_record(path)["points"]]


def test_lines_stand_in_the_order_of_the_series_and_join_what_is_known_of_the_same_weights(begun):
    store, path = begun
    add_line(path, ASKED, entry(300, heads="c"))
    add_line(path, ASKED, entry(100, heads="a"))
    add_line(path, ASKED, entry(200, circuit="b"))
    add_line(path, {"measures": {"heads": "another question"}}, entry(100, heads="x"))
    assert points(path) == [(100, {"heads": "a"}), (200, {"heads": "old", "circuit": "b"}), (300, {"heads": "c"})]
    add_line(path, ASKED, entry(200, weights="others", heads="new"))
    assert points(path)[1] == (200, {"heads": "new"})
    store.write_run("a", {"name": "a", "question": ASKED, "points": []})
    assert points(path) == [] and not lines_of(path).exists()


def test_a_torn_line_costs_itself_alone_and_an_altered_one_is_damage(begun, caplog):
    store, path = begun
    add_line(path, ASKED, entry(100, heads="a"))
    with lines_of(path).open("a") as file:
        file.write('\n{"question": "torn')
    add_line(path, ASKED, entry(300, heads="c"))
    assert [step for step, _ in points(path)] == [100, 200, 300]
    assert "line 4 is torn" in caplog.text
    text = lines_of(path).read_text()
    lines_of(path).write_text(text.replace('"heads": "c"', '"heads": "d"'))
    with pytest.raises(DamagedResult, match=r"a\.jsonl, line 5 is not what was written"):
        read_record(path)
    assert [notice.kind for notice in verify(store).notices][:1] == ["damaged"]
    lines_of(path).write_text(json.dumps([1]) + "\n")
    with pytest.raises(DamagedResult, match="line 1 is not what was written"):
        read_record(path)


def test_a_run_that_is_pruned_takes_its_lines_along(begun):
    store, path = begun
    add_line(path, ASKED, entry(100, heads="a"))
    prune(store, Selection(run="a"))
    assert not path.exists() and not lines_of(path).exists()


def test_a_run_is_written_whole_twice_and_can_be_read_at_any_time(tiny_series, tmp_path, monkeypatch):
    store, whole, seen = tmp_path / "store", [], []
    write = Store.write_run
    monkeypatch.setattr(Store, "write_run", lambda self, name, record: whole.append(name) or write(self, name, record))

    class Reader:
        def log(self, name, step, numbers):
            seen.append([point.step for point in load_run(store)])

        def close(self):
            pass

    found = run(
        tiny_series,
        store=store,
        prompts=prompts_for(tiny_series, length=32),
        measures=["heads"],
        progress=False,
        track_to=[Reader()],
    )
    steps = [point.step for point in found]
    assert seen == [steps[: count + 1] for count in range(len(steps))] and len(steps) == 3
    assert whole == [found.name, found.name]
    assert sorted(path.suffix for path in (store / "runs").iterdir()) == [".json"]
    assert ORDER not in read_record(Store.open(store).run_file(found.name))
