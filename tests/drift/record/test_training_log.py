"""The loss of a run's own training: every form that logs come in, and nothing of them ever stops a run."""

import json
import os
from pathlib import Path

import pytest

from checkpoints import open_series
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.record.training_log import LogRow, losses, parse_log, read_log
from circuit_drift.report.run_table import run_frame


@pytest.fixture
def series(tmp_path):
    for step in (10, 20, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
    return tmp_path


def _run(log, *places):
    points = tuple(
        Point(f"{branch or ''}{step}", step, None, stage, {}, branch=branch) for stage, branch, step in places
    )
    return RunRecord("run", points, Path("store"), {}, log=log)


PLAIN = ((None, None, 10), (None, None, 20), (None, None, 1000))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"step,train_loss\n10,3.5\n20,2.5\n1000,1.5\n", [3.5, 2.5, 1.5]),
        (b"\xef\xbb\xbfstep,train_loss\r\n10,3.5\r\n1000,1.5\r\n", [3.5, None, 1.5]),
        ("step,train_loss,note\n10,3.5,début\n".encode("latin-1"), [3.5, None, None]),
        (b"step,train_loss\n10,NA\n20,\n1e3,1.5\n", [None, None, 1.5]),
        (b"step,train_loss\n10.0,3.5\nnan,4\n,5\n", [3.5, None, None]),
        (b"step,train_loss\n10,3.5\n20\n1000,1.5\n", [3.5, None, 1.5]),
        (b"Step, Loss\n10, 3.5\n", [3.5, None, None]),
        (b"global_step,train/loss\n10,3.5\n", [3.5, None, None]),
        (b"step,train_loss\n10,1\n10,2\n", [2.0, None, None]),
        ("step,train_loss\n10,3.5\n".encode("utf-16"), [3.5, None, None]),
    ],
)
def test_logs_are_read_as_they_come(series, caplog, text, expected):
    (series / "training_log.csv").write_bytes(text)
    assert losses(_run(read_log(open_series(series)), *PLAIN)) == expected
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "needs a column step"),
        (b"a,b\n1,2\n", "needs a column step or global_step or iter or iteration and one train_loss"),
        (b"\x00\x01", "needs a column step"),
        (b'step,train_loss\n"' + b"x" * 200_000, "is left out: it cannot be read: it is not CSV"),
    ],
)
def test_a_log_that_is_none_is_left_out_and_said(series, caplog, text, told):
    (series / "training_log.csv").write_bytes(text)
    assert read_log(open_series(series)) is None
    assert told in caplog.text
    assert len(caplog.records) == 1


def test_lines_that_are_no_numbers_are_said_and_the_others_read(series, caplog):
    (series / "training_log.csv").write_text("step,train_loss\n10,3.5\n20,low\n20.5,2\ninf,2\n1000,1.5\n")
    assert losses(_run(read_log(open_series(series)), *PLAIN)) == [3.5, None, 1.5]
    assert "3 lines are left out, the first: line 3 has the step '20' and the train_loss 'low'" in caplog.text


def test_a_pipe_or_a_folder_in_place_of_the_log_is_left_out(series, caplog):
    os.mkfifo(series / "training_log.csv")
    assert read_log(open_series(series)) is None
    (series / "training_log.csv").unlink()
    (series / "training_log.csv").mkdir()
    assert read_log(open_series(series)) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_the_trainers_history_is_a_log(series):
    """Logged every 8 steps: a checkpoint's loss is the last one logged at or before it."""
    for step in (10, 20):
        history = [{"step": at, "loss": 100 - at, "epoch": 1} for at in range(8, step + 1, 8)]
        history += [{"step": step, "eval_loss": 9.0}, {"step": step, "train_loss": 50.0, "train_runtime": 1.0}]
        state = {"global_step": step, "log_history": history}
        (series / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (series / "checkpoint-1000" / "trainer_state.json").write_text("")
    log = read_log(open_series(series))
    assert log == "checkpoint,step,train_loss\ncheckpoint-10,10,92.0\ncheckpoint-20,20,84.0\n"
    assert read_log(open_series(series).select("last")) == log, "a part of a series has the log of all of it"
    points = tuple(Point(f"checkpoint-{step}", step, None, None, {}) for step in (10, 20, 1000))
    frame = run_frame(RunRecord("run", points, Path("store"), {}, log=log))
    assert frame["loss"].tolist()[:2] == [92.0, 84.0]
    assert frame["loss"].isna().tolist() == [False, False, True]
    (series / "training_log.csv").write_text("step,train_loss\n10,1\n")
    assert read_log(open_series(series)) == "step,train_loss\n10,1\n", "a log of one's own comes first"


@pytest.mark.parametrize(
    "state",
    [
        {"log_history": None},
        {"log_history": {"loss": 1}},
        {"log_history": [1, None, {"loss": 1}, {"step": 5}, {"step": "5", "loss": 2}, {"step": 5, "loss": "2"}]},
        {"log_history": [{"step": 5, "loss": float("nan")}]},
        [],
    ],
)
def test_a_history_without_losses_is_no_log(series, state):
    (series / "checkpoint-10" / "trainer_state.json").write_text(json.dumps(state))
    assert read_log(open_series(series)) is None


def test_a_state_beside_the_checkpoints_serves_them_all(series):
    history = [{"step": at, "loss": 1 / at} for at in (10, 20, 1000)]
    (series / "trainer_state.json").write_text(json.dumps({"global_step": 1000, "log_history": history}))
    assert losses(_run(read_log(open_series(series)), *PLAIN)) == [None] * 3, "rows name checkpoints"
    points = tuple(Point(f"checkpoint-{step}", step, None, None, {}) for step in (10, 20, 1000))
    run = RunRecord("run", points, Path("store"), {}, log=read_log(open_series(series)))
    assert losses(run) == [0.1, 0.05, 0.001]


def test_a_loss_of_a_step_that_several_checkpoints_have_is_given_to_none():
    places = (("one", None, 10), ("two", "a", 10), ("two", "b", 10), ("two", "b", 20))
    assert losses(_run("step,train_loss\n10,3\n20,2\n", *places)) == [None, None, None, 2.0]
    assert losses(_run("step,stage,train_loss\n10,one,3\n10,two,2\n20,two,1\n", *places)) == [3.0, None, None, 1.0]
    named = "step,stage,train_loss\n10,two-a,3\n10,two-b,2\n10,one,1\n"
    assert parse_log(named)[0][0] == LogRow(10, 3.0, "two-a")
    assert losses(_run("step,stage,train_loss\n10,warm,3\n", *PLAIN)) == [3.0, None, None], "stages of other names"
