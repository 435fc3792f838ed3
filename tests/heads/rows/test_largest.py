"""The largest entries of a row: what topk gives, and among equals the first."""

import pytest
import torch

from heads.rows.largest import FEW, largest


@pytest.mark.parametrize(("keys", "top"), [(1, 1), (7, 7), (40, 3), (300, FEW), (300, FEW + 1)])
def test_the_largest_are_those_of_topk_and_the_scores_are_left_alone(keys, top):
    scores = torch.randn(2, 3, 4, keys, generator=torch.Generator().manual_seed(keys))
    before = scores.clone()
    values, places = largest(scores, top)
    expected = scores.topk(top, dim=-1)
    assert torch.equal(values, expected.values) and torch.equal(places, expected.indices)
    assert torch.equal(scores, before)


def test_hidden_keys_come_last_and_of_equal_scores_the_first_comes_first():
    row = torch.tensor([[2.0, -torch.inf, 5.0, 5.0, -torch.inf, 2.0]])
    values, places = largest(row.expand(3, 6), 5)
    assert values.tolist() == [[5.0, 5.0, 2.0, 2.0, -torch.inf]] * 3
    assert places[:, :4].tolist() == [[2, 3, 0, 5]] * 3
