import numpy as np
import pytest

from circuit_drift.recall import recall_change


def test_no_change_is_certain_to_be_none():
    known = np.array([True, False, True, False])
    change = recall_change(known, known)
    assert (change.delta, change.p) == (0.0, 1.0)


def test_mcnemar_by_hand():
    """Nine gained, one lost of twenty: two-sided binomial p = 2 (C(10,0) + C(10,1)) / 2^10."""
    a = np.array([True] * 1 + [False] * 9 + [True] * 10)
    b = np.array([False] * 1 + [True] * 9 + [True] * 10)
    change = recall_change(a, b)
    assert change.p == pytest.approx(2 * 11 / 2**10)
    assert change.delta == pytest.approx(8 / 20)
    assert change.low < change.delta < change.high


def test_the_sign_turns_with_the_order():
    a, b = np.array([True, False, False, False, True]), np.array([True, True, True, False, False])
    forth, back = recall_change(a, b), recall_change(b, a)
    assert forth.delta == -back.delta
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p == back.p
