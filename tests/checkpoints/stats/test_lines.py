"""Lines through a handful of points."""

import math

import numpy as np
import pytest

from checkpoints.stats.lines import pearson, prediction_reach, slope_reach, slopes, student_reach


def test_students_reach_is_that_of_the_tables():
    assert student_reach(1) == pytest.approx(12.7062, abs=1e-4)
    assert student_reach(2) == pytest.approx(4.30265, abs=1e-5)
    assert student_reach(10) == pytest.approx(2.22814, abs=1e-5)


def test_a_slope_and_how_far_its_interval_reaches():
    time = np.array([0.0, 1.0, 2.0, 3.0])
    values = np.array([[1.0, 3.0, 5.0, 7.0], [0.0, 1.0, 1.0, 2.0]])
    assert slopes(time, values) == pytest.approx([2.0, 0.6])
    assert slope_reach(time, values[0], 2.0) == pytest.approx(0.0, abs=1e-12)
    # away from the line: -.1, .3, -.3, .1, in all .2 of squares over 2 degrees; times are 5 of squares apart
    assert slope_reach(time, values[1], 0.6) == pytest.approx(4.30265 * np.sqrt(0.2 / 2 / 5), abs=1e-5)


def test_one_more_value_is_predicted_wider_than_the_mean_is_known():
    assert prediction_reach(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.30265 * np.sqrt(4 / 3), abs=1e-5)
    assert prediction_reach(np.array([5.0, 5.0])) == 0.0


def test_a_correlation_knows_no_scale():
    small = np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.3, 0.2])
    assert pearson(*small) == pytest.approx(0.5)
    assert pearson(small[0] * 1e-3, small[1] * 1e6) == pytest.approx(0.5)


def test_no_correlation_is_beyond_1_by_rounding():
    drawn = np.random.default_rng(0).normal(size=(200, 50))
    unrounded = [float(row @ row) / math.sqrt(float(row @ row) * float((3 * row) @ (3 * row))) * 3 for row in drawn]
    assert max(unrounded) > 1
    found = np.array([(pearson(row, 3 * row), pearson(row, -3 * row)) for row in drawn])
    assert found[:, 0].max() == 1 and found[:, 1].min() == -1
    np.testing.assert_allclose(found, np.tile([1.0, -1.0], (200, 1)), atol=1e-12)
