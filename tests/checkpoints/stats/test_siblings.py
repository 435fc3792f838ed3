"""A change beside those of siblings: Student's t by hand, and what several changes say together."""

import numpy as np
import pytest

from checkpoints.stats.siblings import combined_p, sibling_p, siblings_needed


def test_one_more_sibling_is_judged_by_students_t():
    times = np.array([12.7062, 12.7062 / 2, 0.0, np.nan])
    np.testing.assert_allclose(sibling_p(times, 1), [0.05, 0.0994, 1.0, 1.0], atol=1e-4)
    np.testing.assert_allclose(sibling_p(np.array([4.3027, np.inf]), 2), [0.05, 0.0], atol=1e-5)


def test_changes_that_say_the_same_say_it_together_and_one_of_many_says_little():
    assert combined_p(np.array([0.02])) == pytest.approx(0.02)
    assert combined_p(np.full(7, 0.03)) == pytest.approx(0.03)
    assert combined_p(np.array([0.001, *[1.0] * 9])) == pytest.approx(0.01, rel=0.01), "as Bonferroni's"
    assert combined_p(np.array([1.0, 0.7])) == 0.5
    assert combined_p(np.array([0.0, 1.0])) == 0.0


def test_how_many_siblings_would_tell():
    five = np.array([5.0])  # t (97.5 %) is 12.7, 4.30, 3.18 with 1, 2, 3 degrees of freedom
    assert siblings_needed(five, 1, 0.05, reached=[True]) == 2
    assert siblings_needed(five, 3, 0.05, reached=[True]) == 3, "so many already"
    assert siblings_needed(five, 1, 0.05, reached=[False]) == 0, "its interval reaches into theirs"
    assert siblings_needed(np.array([1.9]), 1, 0.05, reached=[True]) == 0, "less than 1.96 is no more than chance"
    assert siblings_needed(np.array([5.0, 0.0]), 1, 0.05, reached=[True, True]) == 3
