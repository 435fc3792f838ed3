"""Curves of hand-made tracks under several seeds, and the claims that each of them decides."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

import heads
from checkpoints.errors import BadPrompt
from circuit_drift.replicate.long_context_claims import track_claims
from circuit_drift.replicate.long_context_seeds import (
    curves_frame,
    first_retrieves,
    load_seeds,
    seeds_figure,
    seeds_finding,
)
from heads.tracking.head_track import Curve
from tests.lab.replicate.test_long_context import STEPS, scores


@pytest.fixture(scope="module")
def track():
    return heads.track([(s, 64 * s, scores(i, fall=0.15)) for i, s in enumerate(STEPS)], top_k=1)


def with_curve(track, name, value, half):
    value = np.asarray(value, float)
    return replace(track, curves={**track.curves, name: Curve(value, value - half, value + half)})


def test_an_interval_over_seeds_holds_the_seeds_scatter_and_the_needles(track):
    seeds = {name: with_curve(track, "answer_nll", [at] * 8, 0.3) for name, at in (("a", 1.0), ("b", 1.2), ("c", 1.4))}
    row = curves_frame(seeds).query("curve == 'answer_nll'").iloc[0]
    half = np.hypot(t.ppf(0.975, 2) * 0.2 / np.sqrt(3), 0.3)
    assert (row.step, row.a, row.b, row.c) == (STEPS[0], 1.0, 1.2, 1.4)
    assert (row["mean"], row.low, row.high) == pytest.approx((1.2, 1.2 - half, 1.2 + half))


def test_an_interval_ends_where_the_curve_does(track):
    seeds = {name: with_curve(track, "needle_score", [at] * 8, 0.1) for name, at in (("a", 0.2), ("b", 0.8))}
    frame = curves_frame(seeds).query("curve == 'needle_score'")
    assert (frame.low == 0).all()
    assert (frame.high == 1).all()
    count = {name: with_curve(track, "retrieval_heads", [at] * 8, 0.0) for name, at in (("a", 0.0), ("b", 4.0))}
    assert (curves_frame(count).query("curve == 'retrieval_heads'").low == 0).all()


def test_the_figure_says_when_heads_begin_and_where_the_seeds_end(track):
    late = with_curve(track, "retrieval_heads", [0] * 5 + [1, 2, 2], 0.0)
    never = with_curve(track, "retrieval_heads", [0] * 8, 0.0)
    assert [first_retrieves(one) for one in (late, never)] == [STEPS[5], None]
    seeds = {
        "seed 0": with_curve(with_curve(late, "needle_score", [0.5] * 8, 0.1), "answer_nll", [np.log(4)] * 8, 0.1),
        "seed 1": with_curve(with_curve(never, "needle_score", [0.25] * 8, 0.1), "answer_nll", [np.log(9)] * 8, 0.1),
    }
    said = "Heads first retrieve at step 3,200, never; the needle score ends at 0.50, 0.25, the perplexity at 4, 9"
    assert seeds_finding(seeds) == said
    figure = seeds_figure(seeds)
    assert figure.layout.title.text.replace("<br>", " ").startswith(said)
    assert [trace.name for trace in figure.data] == ["seed 0"] * 3 + ["seed 1"] * 3
    assert list(figure.data[4].y) == [0.25] * 8
    assert list(figure.data[4].error_y.array) == pytest.approx([0.1] * 8)


def test_one_seed_or_other_steps_are_refused(track):
    with pytest.raises(BadPrompt, match="at least 2 of them; got 1: train more"):
        curves_frame({"a": track})
    with pytest.raises(BadPrompt, match=r"b was saved at steps \(1, .*, a at \(100, .*: measure the same"):
        seeds_figure({"a": track, "b": replace(track, steps=(1, *STEPS[1:]))})


def test_saved_tracks_are_read_by_name_and_decide_their_claims(track, tmp_path):
    for name in ("seed2", "seed1"):
        track.save(tmp_path / name)
    seeds = load_seeds(tmp_path)
    assert list(seeds) == ["seed1", "seed2"]
    table = track_claims(heads.track([(s, 64 * s, scores(i, fall=0.15)) for i, s in enumerate(STEPS)], top_k=1), 16)
    assert track_claims(seeds["seed2"], 16).equals(table)
    said = dict(zip(table.claim, table.reproduced, strict=True))
    assert said == {
        "the needle score saturates while the answer's perplexity still falls": "yes",
        "the heads that retrieve at first retrieve more later": "yes",
        "the top heads stay the same between checkpoints": "yes",
        "few heads retrieve": "no",
    }
    assert dict(zip(table.claim, table.here, strict=True))["few heads retrieve"] == "1 of 16 (6%)"
