"""Quantities over seeds on hand-made ledgers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from checkpoints.errors import BadPrompt
from circuit_drift.knowledge import Ledger
from circuit_drift.knowledge.scores import UnitScores
from circuit_drift.replicate.seeds import fall_from_best, mean_over, quantities, seeds_frame, seeds_reach
from circuit_drift.training.strategies.comparison import Trained

KNOWN = np.array(
    [[[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]]], float
)  # kept, lost, learned and held, learned and lost


def trained(name, values):
    units = tuple(f"u{i}" for i in range(len(values)))
    return Trained(name, pd.DataFrame(), Ledger(UnitScores(units, (0, 1, 2), values[:, :, None])), Path())


def test_every_quantity_is_counted_as_it_says():
    found = {name: values.tolist() for name, values in quantities(KNOWN, 0.6).items()}
    assert found == {
        "recall before": [0.5],
        "recall at its best": [0.75],
        "recall at the end": [0.5],
        "known before": [0.5],
        "known at the end": [0.5],
        "newly learned": [0.5],
        "of them known at the end": [0.5],
        "of those known before, known at the end": [0.5],
    }


def test_seeds_that_agree_leave_the_units_error_alone_and_units_that_agree_the_seeds():
    values = np.repeat(KNOWN[0], 8, axis=0)
    same = seeds_frame([trained("a", values), trained("b", values), trained("c", values)]).set_index("quantity")
    row = same.loc["known before"]
    assert (row.high - row.low) / 2 == pytest.approx(1.96 * 0.5 / np.sqrt(32), rel=0.1)
    constant = [trained(name, np.full((32, 3), value)) for name, value in (("a", 0.4), ("b", 0.45), ("c", 0.5))]
    row = seeds_frame(constant).set_index("quantity").loc["recall before"]
    half = t.ppf(0.975, 2) * np.std([0.4, 0.45, 0.5], ddof=1) / np.sqrt(3)
    assert (row["mean"], row.low, row.high) == pytest.approx((0.45, 0.45 - half, 0.45 + half))
    assert [row.a, row.b, row.c] == pytest.approx([0.4, 0.45, 0.5])


def test_an_interval_of_a_share_ends_at_0_and_at_1():
    far = seeds_frame([trained("a", np.full((8, 3), 0.2)), trained("b", np.full((8, 3), 0.7))])
    row = far.set_index("quantity").loc["recall before"]
    assert (row["mean"], row.low, row.high) == pytest.approx((0.45, 0.0, 1.0))


def test_a_share_of_nothing_is_no_number():
    never = np.zeros((8, 3))
    frame = seeds_frame([trained("a", never), trained("b", never)]).set_index("quantity")
    assert np.isnan(frame.loc["of them known at the end", ["a", "b", "mean", "low", "high"]].astype(float)).all()
    assert frame.loc["newly learned", "mean"] == 0


def test_one_seed_and_seeds_asked_otherwise_are_refused():
    one = trained("a", KNOWN[0])
    with pytest.raises(BadPrompt, match="at least 2 of them; got 1"):
        seeds_frame([one])
    other = replace(one, name="b", ledger=Ledger(replace(one.ledger.scores, units=("x", "u1", "u2", "u3"))))
    with pytest.raises(BadPrompt, match="b was asked other units or at other steps than a"):
        seeds_frame([one, other])


def test_the_fall_of_noise_is_seldom_certain_where_other_units_choose_the_best_step():
    rng = np.random.default_rng(0)
    chosen, crossed = [], []
    for _ in range(300):
        noise = rng.normal(size=(1, 40, 10))
        best = int(noise.mean(axis=(0, 1)).argmax())
        chosen.append(mean_over(noise[:, :, -1] - noise[:, :, best]).high < 0)
        crossed.append(mean_over(fall_from_best(noise)).high < 0)
    assert np.mean(chosen) > 0.1, "the greatest of ten noisy means is too great"
    assert np.mean(crossed) < 0.05


def test_a_true_fall_is_told_of_every_unit():
    curves = np.tile([0.1, 0.9, 0.4], (2, 6, 1))
    assert fall_from_best(curves).tolist() == pytest.approx(np.full((2, 6), -0.5))
    found = mean_over(fall_from_best(curves))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((-0.5, -0.5, -0.5, 6))


def test_a_mean_over_seeds_and_units_has_the_error_of_both():
    units = np.array([0.0, 1.0, 0.0, 1.0])
    alone = mean_over(units[None])
    half = t.ppf(0.975, 3) * units.std(ddof=1) / 2
    assert (alone.low, alone.high) == pytest.approx((0.5 - half, 0.5 + half))
    both = mean_over(np.stack([units, units + 0.2]))
    assert both.high - both.value == pytest.approx(np.hypot(half, seeds_reach(np.array([0.5, 0.7]))))
    assert seeds_reach(np.array([0.3])) == 0
