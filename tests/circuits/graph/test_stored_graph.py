"""Scores that stay in their file: the same numbers, no more memory than is asked for, and no changed byte taken."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import circuits
from checkpoints.errors import BadPrompt, DamagedResult
from checkpoints.results import artifacts
from checkpoints.results.artifacts import ARRAYS_FILE
from circuits.comparison.overlap import overlap
from circuits.comparison.similarity import similarities
from circuits.graph import scores as graph_module
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape
from circuits.tracking import changepoints

SHAPE = GraphShape(3, 4, 2)
EDGES = int(SHAPE.mask.sum())


def graph(seed: int, units: int = 12) -> AttributionGraph:
    draw = np.random.default_rng(seed)
    scores = (np.random.default_rng(0).normal(size=EDGES) + draw.normal(size=(units, EDGES))).astype(np.float32)
    facts, ones = np.arange(units), np.ones(units)
    return AttributionGraph(scores, SHAPE, ones, -ones, facts, facts, tuple({} for _ in facts), {"prompts": "p"})


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "SMALL", 0)
    monkeypatch.setattr(changepoints, "PIECE", 1000)
    monkeypatch.setattr(graph_module, "PIECE", 100)


@pytest.fixture
def stored(tmp_path: Path, nothing_is_small: None) -> list[AttributionGraph]:
    return [AttributionGraph.open(graph(seed).save(tmp_path / str(seed))) for seed in range(5)]


def test_an_opened_graph_has_the_numbers_of_the_one_in_memory(stored):
    here = graph(0)
    assert not stored[0].in_memory and here.in_memory and stored[0].read().in_memory
    for name in ("scores", "edge_scores", "mean"):
        np.testing.assert_array_equal(getattr(stored[0], name), getattr(here, name))
    np.testing.assert_array_equal(stored[0].columns(slice(3, 9)), here.edge_scores[:, 3:9])
    assert stored[0].fingerprint == here.fingerprint
    np.testing.assert_array_equal(stored[0].prune(30).mask, here.prune(30).mask)
    facts = np.array([7, 2, 5])
    part = stored[0].only(facts)
    assert not part.in_memory and part.units == len(part) == 3
    np.testing.assert_array_equal(part.edge_scores, here.edge_scores[facts])
    np.testing.assert_array_equal(part.only(np.array([2, 0])).columns(slice(4, 6)), here.edge_scores[[5, 7], 4:6])


def test_a_series_left_on_the_disk_is_tracked_to_the_same_numbers(stored):
    steps = range(0, 500, 100)
    left, here = (circuits.track(zip(steps, each, strict=True)) for each in (stored, [graph(s) for s in range(5)]))
    for field in fields(left):
        np.testing.assert_equal(getattr(left, field.name), getattr(here, field.name))


def test_a_file_that_changed_since_it_was_opened_is_not_read(stored, tmp_path):
    file = tmp_path / "1" / ARRAYS_FILE
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedResult, match="changed while it was in use"):
        _ = stored[1].edge_scores
    with pytest.raises(DamagedResult, match="differs from its digest"):
        AttributionGraph.open(tmp_path / "1")
    file.unlink()
    with pytest.raises(DamagedResult, match="cannot be read"):
        _ = stored[1].mean


def test_scores_are_taken_dense_or_by_edge_and_kept_by_edge():
    one = graph(0)
    again = replace(one, scores=one.scores)
    np.testing.assert_array_equal(again.edge_scores, one.edge_scores)
    assert again.scores.shape == (12, *SHAPE.mask.shape) and not again.scores[:, ~SHAPE.mask].any()
    with pytest.raises(BadPrompt, match=f"a graph of {EDGES} edges has a score for each of them, not {EDGES - 1}"):
        replace(one, scores=one.edge_scores[:, 1:])


def test_unmeasured_edges_are_counted_piece_by_piece(tmp_path, nothing_is_small):
    one = graph(0)
    holes = one.edge_scores.copy()
    holes[3, [2, 40]] = np.nan
    holes[5, 40] = np.nan
    assert one.unmeasured == 0
    assert AttributionGraph.open(replace(one, scores=holes).save(tmp_path / "holes")).unmeasured == 2


def test_the_overlap_alone_is_that_of_all_measures_together():
    a, b = graph(1), graph(2)
    weights = a.unit_sizes.astype(float), b.unit_sizes.astype(float)
    size = [max(20, round(0.05 * EDGES))]
    whole = similarities(a.edge_scores, b.edge_scores, weights=weights, sizes=size)[0]
    alone = overlap(a, b)
    assert alone.measure == whole.measure == f"Jaccard, {size[0]} edges"
    for field in fields(alone)[1:]:
        assert getattr(alone, field.name) == pytest.approx(getattr(whole, field.name), abs=1e-14), field.name
