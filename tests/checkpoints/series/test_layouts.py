"""Series as people save them: every layout opens in order, and what is left out is named with the reason."""

import json
import logging
import os
import shutil

import pytest

from checkpoints import open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import NotACheckpoint
from tests.checkpoints.conftest import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("one") / "model")


@pytest.fixture
def lay(model, tmp_path):
    """Put the one model into folders of a series."""

    def put(*places):
        for place in places:
            shutil.copytree(model, tmp_path / "run" / place)
        return tmp_path / "run"

    return put


@pytest.mark.parametrize(
    "names",
    [
        ["stage3-step-4240000", "stage3-step-4720000", "lc-4k-to-32k-step-4000", "lc-32k-to-64k-step-20000"],
        ["step5-hf", "step10-hf"],
        ["9", "10", "200"],
        ["epoch_1", "epoch_2", "epoch_10"],
        ["0B", "20B", "100B"],
        ["ckpt-250B", "ckpt-1T"],
        ["model_step_5", "model_step_1000"],
        ["step-00000009", "step-00000010"],
    ],
)
def test_layouts_of_the_field_open_in_order(lay, caplog, names):
    series = open_series(lay(*reversed(names)))
    assert [checkpoint.name for checkpoint in series] == names
    assert (series.left_out, caplog.text) == ((), "")
    assert [open_series(series.path).at(name) for name in names] == list(series)
    assert [open_checkpoint(series.path / name) for name in names] == list(series)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["epoch_0_step_100", "epoch_0_step_200", "epoch_1_step_100"],
         [("epoch0", 100), ("epoch0", 200), ("epoch1", 100)]),
        (["epoch-2-step-100", "epoch-10-step-50"], [("epoch2", 100), ("epoch10", 50)]),
        (["step_100_epoch_0", "step_100_epoch_1"], [("epoch0", 100), ("epoch1", 100)]),
        (["epoch_0_step_100", "epoch_1_step_300"], [(None, 100), (None, 300)]),  # counted through
        (["step_100_epoch_0", "step_200_epoch_1"], [(None, 100), (None, 200)]),
        (["stage1_epoch_0_step_9", "stage1_epoch_1_step_9"], [("stage1-epoch0", 9), ("stage1-epoch1", 9)]),
    ],
)  # fmt: skip
def test_an_epoch_is_a_stage_where_steps_begin_anew_with_it(lay, caplog, names, places):
    series = open_series(lay(*reversed(names)))
    assert [(c.name, (c.stage, c.step)) for c in series] == list(zip(names, places, strict=True))
    assert (series.left_out, caplog.text) == ((), "")


def test_runs_that_count_tokens_alone_stand_at_their_tokens(lay):
    series = open_series(lay("0B", "20B", "50B"))
    assert [(c.label, c.step, c.position) for c in series] == [
        ("0B", None, 0), ("20B", None, 20 * 10**9), ("50B", None, 50 * 10**9)
    ]  # fmt: skip
    assert [c.name for c in series.select("20B:")] == ["20B", "50B"]
    assert [c.name for c in series.select("log 2")] == ["0B", "50B"]


def test_a_steps_folder_may_hold_its_checkpoint_further_down(lay):
    root = lay("epoch_7/merged_model", "epoch_8/actor/huggingface")
    series = open_series(root)
    assert [(c.name, c.step, c.path) for c in series] == [
        ("epoch_7", 7, root / "epoch_7" / "merged_model"),
        ("epoch_8", 8, root / "epoch_8" / "actor" / "huggingface"),
    ]
    for place in ("epoch_7", "epoch_7/merged_model"):
        assert open_checkpoint(root / place) == series[0]


def test_a_steps_folder_with_two_checkpoints_is_left_out_with_their_names(lay, caplog):
    series = open_series(lay("step1", "step2/ema", "step2/model"))
    assert series.steps == (1,)
    assert "left out step2: " in caplog.text
    assert "holds 2 checkpoints, ema and model" in caplog.text
    with pytest.raises(NotACheckpoint, match="ema and model: name one"):
        open_checkpoint(series.path / "step2")
    assert open_checkpoint(series.path / "step2" / "ema").name == "ema"


def test_epochs_become_steps_where_the_trainer_says_which(lay):
    root = lay("epoch-1", "epoch-2")
    for name, step in (("epoch-1", 250), ("epoch-2", 500)):
        (root / name / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert open_series(root).steps == (250, 500)
    (root / "epoch-2" / "trainer_state.json").unlink()
    assert open_series(root).steps == (1, 2)


def test_what_is_left_out_is_named_with_the_reason(lay, caplog):
    root = lay("step-10", "step-20", "best", "epoch_1", "step-20-hf", "tmp-checkpoint-30")
    (root / "logs").mkdir()
    (root / "2024").mkdir()
    (root / "step-40.pt").write_bytes(b"weights")
    (root / "step-50.json").write_text("{}")
    series = open_series(root)
    assert series.steps == (10, 20)
    assert {each.name: each.reason for each in series.left_out} == {
        "best": "its name gives no step",
        "tmp-checkpoint-30": "its name gives no step",
        "epoch_1": "it counts epochs where the others count steps",
        "step-20-hf": "it is the same step as step-20",
        "step-40.pt": "it is a file, and a checkpoint is a folder with its config",
    }
    assert all(each.name in caplog.text for each in series.left_out)
    assert series.select("last").left_out == series.left_out


def test_of_two_folders_of_a_step_the_checkpoint_counts(lay):
    root = lay("step1000-hf", "step2000-hf")
    (root / "step1000").mkdir()  # the trainer's own files
    assert [c.name for c in open_series(root)] == ["step1000-hf", "step2000-hf"]


def test_folders_that_a_manifest_does_not_list_are_named(lay, caplog):
    root = lay("step-1", "step-2")
    (root / "manifest.csv").write_text("Stage,Step,Tokens Seen,Checkpoint Directory\n,1,,step-1\n")
    assert open_series(root).steps == (1,)
    assert "left out step-2: manifest.csv does not list it" in caplog.text


def test_a_folder_of_nothing_that_is_a_step_says_what_lies_there(lay):
    with pytest.raises(NotACheckpoint, match=r"no series: looked for .*; left out best: its name gives no step"):
        open_series(lay("best"))


@pytest.mark.parametrize("content", ["", '{"global_step": 30, "num_input', "[1, 2]", "\ufeff", '{"global_step": true}'])
def test_a_damaged_trainer_state_costs_the_token_count_alone(lay, caplog, content):
    root = lay("checkpoint-10", "checkpoint-20")
    (root / "checkpoint-10" / "trainer_state.json").write_text('{"global_step": 10, "num_input_tokens_seen": 999}')
    (root / "checkpoint-20" / "trainer_state.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        series = open_series(root)
    assert [(c.step, c.tokens) for c in series] == [(10, 999), (20, None)]
    damaged = [finding for finding in audit(series).faults if finding.kind == "damaged_beside"]
    whole = content.startswith('{"global_step": true')
    assert [finding.checkpoints for finding in damaged] == ([] if whole else [("20",)])
    assert whole or "trainer_state.json" in damaged[0].message
    assert whole or "trainer_state.json" in caplog.text


@pytest.mark.parametrize(("words", "kept"), [("log 4", 10), ("every 2", 7), ("log 2", 6), ("every 100", 6)])
def test_thinning_keeps_the_ends_of_every_stage_and_branch(tmp_path, words, kept):
    names = [f"stage1-step{step}" for step in (0, 1000, 10000, 100000, 900000)]
    names += [f"stage2-ingredient{k}-step{step}" for k in (1, 2) for step in (1000, 6000, 11931)]
    for name in names:
        (tmp_path / name).mkdir()
    chosen = [checkpoint.name for checkpoint in open_series(tmp_path).select(words)]
    assert set(chosen) >= {names[place] for place in (0, 4, 5, 7, 8, 10)}
    assert len(chosen) == kept


def test_a_name_that_is_no_text_is_left_out_and_said(lay, caplog):
    root = lay("step1")
    (root / os.fsdecode(b"step2\xff")).mkdir()
    series = open_series(root)
    assert series.steps == (1,)
    assert [(each.name, each.reason) for each in series.left_out] == [
        (r"step2\udcff", "its name is no UTF-8 text: rename it")
    ]
    assert open_series(root.rename(os.fsdecode(os.fsencode(root) + b"\xfe"))).name == r"run\udcfe"
