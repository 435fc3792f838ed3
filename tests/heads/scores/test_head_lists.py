"""Files of head lists as the published tools write them."""

import json

import numpy as np
import pytest
from toys import fake_scores

from checkpoints.errors import BadPrompt
from heads.detect.adaptive import stability
from heads.scores.agreement import agreement
from heads.scores.head_lists import head_list_table, load_head_lists


def write(path, values):
    """[N, L, H] as a file."""
    _, layers, n = np.shape(values)
    content = {f"{x}-{y}": np.asarray(values)[:, x, y].tolist() for x in range(layers) for y in range(n)}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def published():
    """Twenty trials of 4 x 5 heads: one always strong, one in half of the trials, one weak, two all-zero trials."""
    values = np.zeros((20, 4, 5))
    values[:, 2, 3] = 0.9
    values[::2, 1, 4] = 0.4
    values[0, 3, 0] = 1.2
    values[18:] = 0.0
    return values


def test_the_table_counts_what_a_file_says(published, tmp_path):
    (row,) = head_list_table(write(tmp_path / "model.json", published)).to_dict("records")
    best = row.pop("best")
    assert row == {
        "file": "model.json",
        "layers": 4,
        "heads": 5,
        "trials": 20,
        "all_zero": 2,
        "above_threshold": 2,
        "share": pytest.approx(0.1),
        "strong": 1,
        "never": 17,
        "always": 0,
    }
    assert best.startswith("a2.h3 0.810, a1.h4 0.180, a3.h0 0.060")
    (kept,) = head_list_table(write(tmp_path / "kept.json", published[:18])).to_dict("records")
    assert (kept["all_zero"], kept["always"]) == (0, 1), "two all-zero trials hide an always active head"


def test_our_own_export_comes_back(published, tmp_path):
    scores = fake_scores(published)
    scores.detectors["copy"][:, 0] = np.nan
    path = tmp_path / "ours.json"
    path.write_text(json.dumps(scores.to_head_lists()))
    back = load_head_lists(path)
    assert list(load_head_lists(path, detector="copy").detectors) == ["copy"]
    np.testing.assert_array_equal(back.detectors["copy_count"], scores.copy)
    assert head_list_table(path).never.item() == 12, "heads without rows are none that never score"
    assert back.top(1)[0].name == "a2.h3"


def test_two_files_are_compared_and_a_few_trials_give_the_list(published, tmp_path):
    one, other = (load_head_lists(write(tmp_path / f"{n}.json", published[n::2])) for n in (0, 1))
    alike = agreement(one.mean_of("copy_count"), other.mean_of("copy_count"), top_k=3)
    assert (alike.shared, alike.k) == (1, 3)
    overlap, _ = stability(one.detectors["copy_count"], top_k=1, draws=100, seed=0)
    assert overlap == 1.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "holds no head lists"),
        ("{", "holds no head lists"),
        ("{}", "holds no head lists"),
        ('{"a-b": [1]}', "holds no head lists"),
        ('{"1": [1]}', "keys are 'layer-head'"),
        ('{"0-0": [1], "1-1": [1]}', r"lacks 2 of 4 heads, a0\.h1 first"),
        ('{"0-0": [1, 2], "0-1": [1]}', r"lists \[1, 2\] trials a head"),
        ('{"0-0": [], "0-1": []}', "lists no trials a head"),
        ('{"0-0": [1e999, 1]}', "1 infinite scores"),
    ],
)
def test_files_that_are_no_head_lists_are_refused(tmp_path, content, reason):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(BadPrompt, match=reason):
        load_head_lists(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadPrompt, match=r"gone\.json"):
        load_head_lists(tmp_path / "gone.json")
