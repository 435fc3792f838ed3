import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from toys import fake_scores

from checkpoints.errors import BadPrompt, DriftError, StoreError
from heads import Scores


@pytest.fixture
def scores():
    draw = np.random.default_rng(0)
    copy = np.zeros((20, 2, 3))
    copy[:, 1, 2] = draw.uniform(0.6, 1.0, 20)
    copy[:, 0, 1] = 0.1
    copy[:, 0, 0] = np.nan
    return fake_scores(copy, correct=[True] * 15 + [False] * 5, nll=np.tile([0.1, 0.2, np.nan], (20, 1)))


def test_a_saved_result_comes_back_identical(scores, tmp_path):
    back = Scores.load(scores.save(tmp_path / "scores"))
    for name, values in scores.detectors.items():
        np.testing.assert_array_equal(back.detectors[name], values)
    for name in ("nll", "correct", "depth", "needle"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scores, name))
    assert back.meta == scores.meta


def test_summaries(scores):
    assert scores.count() == 1
    assert scores.count(0.05) == 2
    assert scores.needle_accuracy == 0.75
    assert scores.answer_ppl == pytest.approx(np.exp(0.15))
    assert np.isnan(scores.mean[0, 0])
    (best, *_) = scores.top(3)
    assert best.name == "a1.h2"
    assert best.score.low < best.score.value < best.score.high
    assert len(scores.top(10)) == 5
    assert "1 of 6 heads retrieve" in scores.verdict
    assert "a1.h2" in scores._repr_html_()


def test_frame_and_export(scores):
    frame = scores.to_frame()
    assert list(frame.name) == ["a0.h0", "a0.h1", "a0.h2", "a1.h0", "a1.h1", "a1.h2"]
    assert frame.set_index("name").loc["a1.h2", "score"] == pytest.approx(scores.mean[1, 2])
    lists = scores.to_head_lists()
    assert lists["0-0"] == []
    assert len(lists["1-2"]) == 20
    json.dumps(lists)


def test_intervals_are_those_of_the_table(scores):
    for name in scores.detectors:
        low, high = scores.interval_of(name)
        frame = scores.statistics(name)
        np.testing.assert_array_equal([low.ravel(), high.ravel()], [frame["low"], frame["high"]])
    np.testing.assert_array_equal(scores.interval, scores.interval_of("copy"))


def test_exported_scores_stay_on_their_side_of_the_threshold(scores):
    lists = scores.to_head_lists()
    assert set(lists["0-1"]) == {0.1}, "0.1 in float32 is 0.10000000149, beyond a threshold of 0.1"
    masses = scores.to_head_lists(by="needle_mass")
    assert set(masses["0-1"]) == {0.05}
    with pytest.raises(BadPrompt, match="was not measured"):
        scores.to_head_lists(by="qr")


def test_wrong_names_are_explained(scores):
    with pytest.raises(DriftError, match="no name of a head"):
        scores["5-1"]
    with pytest.raises(DriftError, match=r"layers 0\.\.1, heads 0\.\.2"):
        scores["a2.h0"]
    with pytest.raises(BadPrompt, match="was not measured"):
        scores.detector("locos")


def test_a_damaged_result_is_named(scores, tmp_path):
    folder = scores.save(tmp_path / "scores")
    (folder / "arrays.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match=r"arrays\.safetensors is not what was written"):
        Scores.load(folder)


def test_figures_are_returned(scores):
    figure = scores.plot()
    assert figure.data[0].z.shape == (2, 3)
    assert "a1.h2 leads with 0." in figure.layout.title.text
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    faint = replace(scores, detectors={"copy": scores.copy, "needle_mass": scores.needle_mass / 100})
    assert faint.plot(by="needle_mass").data[0].zmax == pytest.approx(np.nanmax(faint.mean_of("needle_mass")))
    signed = replace(scores, detectors={"copy": scores.copy, "spatial": scores.copy - 0.3})
    assert (heat := signed.plot(by="spatial").data[0]).zmin == -heat.zmax


def test_reading_and_comparing_stored_results_imports_no_torch(scores, tmp_path):
    folder = scores.save(tmp_path / "scores")
    script = (
        "import sys, heads;"
        f"s = heads.Scores.load({str(folder)!r});"
        "heads.diff(s, s).verdict; s.top(3); s.to_frame(); s.plot();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_summary_says_what_it_rests_on_and_what_was_refused(scores):
    assert scores.verdict.endswith("over 20 prompts of 100 tokens (intervals over 20 needles)")
    few = replace(scores, needle=np.arange(20) // 4, meta={**scores.meta, "refused": [[5, "answer stands 0 times"]]})
    assert few.verdict.endswith("(intervals over 5 needles); 1 needle refused")
