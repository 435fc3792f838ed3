"""Reliability by rank, and intervals of edges that were named."""

import numpy as np
import pytest

from checkpoints.errors import BadPrompt
from checkpoints.stats.ttests import difference_test, selected_interval
from circuits.comparison.reliability import RankBand, recommended_size, reliability_by_rank
from tests.circuits.comparison.test_comparison import EDGES, graph


def test_reliability_falls_from_what_stands_out_to_what_is_noise():
    rng = np.random.default_rng(0)
    truth = np.r_[np.linspace(6, 3, 16), np.zeros(EDGES - 16)]
    bands = reliability_by_rank(graph(truth + rng.normal(size=(24, EDGES))))
    assert (bands[0].first, bands[0].last) == (1, 16)
    assert bands[-1].last == EDGES
    assert [band.first for band in bands[1:]] == [band.last + 1 for band in bands[:-1]]
    assert bands[0].reliability > 0.98
    assert all(abs(band.reliability) < 0.45 for band in bands[1:])
    assert recommended_size(bands) == 16
    exact = reliability_by_rank(graph(np.tile(truth + 1, (6, 1))))
    assert [band.reliability for band in exact] == pytest.approx([1.0] * len(exact))
    assert recommended_size(exact) == EDGES


def test_a_size_is_recommended_up_to_the_first_band_that_is_not_reliable():
    bands = (RankBand(1, 16, 0.9), RankBand(17, 32, 0.4), RankBand(33, 64, 0.9))
    assert recommended_size(bands) == 16
    assert recommended_size(bands, least=0.3) == 64
    assert recommended_size(bands[1:]) == recommended_size(()) == 0
    assert recommended_size((RankBand(1, 16, float("nan")),)) == 0


def test_few_facts_tell_no_reliability():
    with pytest.raises(BadPrompt, match="needs 6 facts and 8 edges, got 5"):
        reliability_by_rank(graph(np.ones((5, EDGES))))


def test_intervals_of_what_was_named_cover_it():
    """One edge of ten changes: plain intervals of the named ones miss half, those of the false coverage rate do not."""
    rng = np.random.default_rng(0)
    truth = np.r_[np.full(40, 0.45), np.zeros(360)]
    missed, plain = [], []
    for _ in range(60):
        test = difference_test(truth + rng.normal(size=(24, 400)))
        named = test.q <= 0.05
        low, high = selected_interval(test, named, 24)
        assert np.isnan(low[~named]).all()
        plain += list((test.low[named] <= truth[named]) & (truth[named] <= test.high[named]))
        misses = (low[named] > truth[named]) | (truth[named] > high[named])
        missed.append(misses.sum() / max(1, named.sum()))
    assert np.mean(plain) < 0.85
    assert np.mean(missed) <= 0.07
    everything = selected_interval(test, np.ones(400, dtype=bool), 24)
    np.testing.assert_allclose(everything, (test.low, test.high))
    assert np.isnan(selected_interval(test, np.zeros(400, dtype=bool), 24)).all()
