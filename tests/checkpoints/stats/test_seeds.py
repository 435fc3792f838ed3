"""What is drawn without a seed is drawn with the seed 0, of every statistic that draws."""

from dataclasses import astuple, is_dataclass
from functools import partial

import numpy as np
import pytest

from checkpoints.stats import bootstrap, changes, energy, permutation

FIRST, SECOND = np.random.default_rng(0).normal(0.1, 1, (2, 24, 12))
STATISTICS = {
    "energy_p": partial(energy.energy_p, FIRST),
    "resampling": partial(bootstrap.resampling, 5, draws=9),
    "sign_flip_test": partial(permutation.sign_flip_test, FIRST),
    "sign_flip_p": partial(permutation.sign_flip_p, FIRST),
    "label_test": partial(permutation.label_test, FIRST, SECOND),
    "label_p": partial(permutation.label_p, FIRST, SECOND),
    "order_p": partial(permutation.order_p, FIRST[:, 0], FIRST[:, 1]),
    "change_test": partial(changes.change_test, FIRST),
    "change_p": partial(changes.change_p, FIRST),
    "moderated_test": partial(changes.moderated_test, FIRST),
    "mean_change_p": partial(changes.mean_change_p, FIRST[:, 0]),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_without_a_seed_it_is_0(name):
    drawn = STATISTICS[name]
    assert values(drawn()) == values(drawn(seed=0)) != values(drawn(seed=1))


def values(found) -> list[float]:
    parts = astuple(found) if is_dataclass(found) else (found,)
    return np.concatenate([np.ravel(part) for part in parts]).tolist()
