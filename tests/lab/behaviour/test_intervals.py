"""Intervals of answers: of shares as of so few trials, of an NLL by its spread."""

import numpy as np
import pytest
from scipy.stats import t

from circuit_drift.behaviour.result import interval_of


def test_answers_that_are_all_right_leave_open_what_so_few_cannot_tell():
    assert interval_of("accuracy", np.ones(10)) == pytest.approx((1, 0.025 ** (1 / 10), 1), abs=1e-3)
    assert interval_of("pass@3_before", np.zeros(3)) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 3)), abs=1e-3)


@pytest.mark.parametrize("metric", ["nll", "answer_nll", "answer_nll_before"])
def test_an_nll_has_a_t_interval(metric: str):
    values = np.array([0.1, 0.2, 0.3])
    mean, low, high = interval_of(metric, values)
    assert (mean - low, high - mean) == pytest.approx((t.ppf(0.975, 2) * 0.1 / 3**0.5,) * 2)


def test_two_answers_have_no_interval():
    assert np.isnan(interval_of("accuracy", np.ones(2))[1:]).all()
    assert np.isnan(interval_of("nll", np.array([1.0, 3.0]))[1:]).all()
