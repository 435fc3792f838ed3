"""Retrieval scores weighted by what the head writes: against the frozen pass, and a head that stops writing is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import circuit_drift
import heads
from checkpoints import open_checkpoint
from checkpoints.results.figure import unbroken
from circuit_drift.measures.causal.writing_figure import writing_figure
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import prompts_for
from tests.drift.handmade import point, retrieval, run_of


def written(write, **options):
    """Scores by hand with the same writes on every prompt."""
    scores = retrieval({(1, 0): 0.75}, **options)
    values = np.broadcast_to(np.array(write, dtype=np.float32), (len(scores), 2, 2)).copy()
    noise = np.arange(len(scores), dtype=np.float32)[:, None, None] / 1024
    return replace(scores, detectors={"copy": scores.detectors["copy"], "copy_written": values + noise,
                                      "locos_frozen": values})  # fmt: skip


def test_a_write_is_the_copied_steps_share_of_the_direct_effect(tiny_series):
    loaded = open_checkpoint(f"{tiny_series}@10").load(device="cpu")
    needles = needle_prompts_of(tokenizer_of(loaded), prompts_for(tiny_series, length=80).needles)
    found = heads.score(loaded.model, needles, extra=("locos",))
    copies, write = found.detectors["copy_count"], found.detectors["copy_written"]
    assert (copies == 0).any()
    np.testing.assert_array_equal(write[copies == 0], 0)
    assert (write[copies > 0] != 0).all()
    with torch.no_grad():
        loaded.model.model.layers[1].self_attn.o_proj.weight.zero_()
    silent = heads.score(loaded.model, needles, extra=("locos",))
    np.testing.assert_allclose(silent.detectors["copy"], found.detectors["copy"], atol=1e-6)
    np.testing.assert_array_equal(silent.detectors["copy_written"][:, 1], 0)


def test_writing_is_measured_stored_and_shown(tiny_series, store, tmp_path):
    asked = {"prompts": prompts_for(tiny_series, length=80), "measures": ["writing"], "store": store}
    run = circuit_drift.run(tiny_series, **asked, device="cpu", progress=False)
    frame = run.to_frame()
    assert {"best_writer", "best_write", "total_write"} <= set(frame)
    last = run.points[-1].results["writing"]
    assert frame.best_write.iloc[-1] == pytest.approx(np.nanmax(last.mean_of("copy_written")))
    assert set(last.detectors) == {"copy", "copy_written", "locos_frozen"}
    assert "What retrieval heads write" in run.report(tmp_path / "report.html").read_text()


def test_a_head_that_stops_writing_is_named_by_the_diff():
    before, after = written([[0, 0], [4, 0]]), written([[0, 0], [0, 0]])
    run = run_of(point(0, writing=before), point(1, writing=after))
    pair = run.diff(0, 1)
    assert "Writes: 1 of 4 heads changed what they write towards the copied answer, in logits, over 10 needles: " in (
        " ".join(pair.verdict)
    )
    assert "a1.h0 +4.00 → +0.00." in " ".join(pair.verdict)
    assert pair.to_json()["writing"][0]["name"] == "a1.h0"


def test_the_figure_tells_heads_that_look_and_do_not_say():
    run = run_of(point(0, writing=written([[0, 0], [2, 0]])), point(1, writing=written([[0.5, 0], [-1, 0]])))
    figure = writing_figure(run)
    assert unbroken(figure.layout.title.text) == (
        "a0.h0 writes most at the last checkpoint: +0.50 logits; 1 of 1 retrieval heads write nothing for the answer"
    )
    assert figure.layout.yaxis.title.text == "write towards the copied answer, logits"
    assert [frame.name for frame in figure.frames] == ["step0", "step1"]
    np.testing.assert_allclose(figure.frames[0].data[0].x, [0, 0, 0.75, 0])
