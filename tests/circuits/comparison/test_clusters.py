"""Facts of one relation as one unit of a diff."""

from dataclasses import replace

import numpy as np
import pytest

import circuits
from checkpoints.errors import BadPrompt
from circuits.comparison.clusters import clustered
from tests.circuits.comparison.test_comparison import graph, samples

RELATIONS, EACH = 10, 3


def labelled(scores, **meta):
    """Facts of ten relations, three of each in a row, and two templates in turn."""
    made = graph(scores, **meta)
    labels = tuple({"relation": f"r{i // EACH}", "template": i % 2} for i in range(len(made)))
    return replace(made, labels=labels)


@pytest.fixture(scope="module")
def scores():
    before = samples(1, RELATIONS)
    shift = np.random.default_rng(5).standard_normal((RELATIONS, before.shape[1]))
    return before, before + shift


def test_copies_of_a_fact_within_its_relation_add_nothing(scores):
    """Three copies of each fact: clustered, the diff is that of one copy; pooled, intervals are far too narrow."""
    one = circuits.diff(*(graph(each) for each in scores))
    copies = [labelled(np.repeat(each, EACH, axis=0)) for each in scores]
    found = circuits.diff(*copies, cluster="relation")
    assert found.n == one.n == RELATIONS
    np.testing.assert_allclose(found.tests.low, one.tests.low, atol=1e-9)
    np.testing.assert_allclose(found.tests.high, one.tests.high, atol=1e-9)
    pooled = circuits.diff(*copies)
    assert pooled.n == RELATIONS * EACH
    width, narrow = (np.median(each.tests.high - each.tests.low) for each in (found, pooled))
    assert narrow < 0.6 * width


def test_each_unit_counts_once_however_many_facts_it_has():
    scores = np.arange(5.0)[:, None] * np.ones((1, samples(0).shape[1]))
    labels = tuple({"relation": name} for name in ("a", "b", "b", "b", "b"))
    made = clustered(replace(graph(scores), labels=labels), "relation")
    assert made.edge_scores[:, 0].tolist() == [0, 2.5]
    assert made.group.tolist() == [0, 1, 1, 1, 1]
    assert (made.units, len(made)) == (2, 5)


def test_of_two_labels_facts_agree_in_both(scores):
    made = labelled(np.repeat(scores[0], EACH, axis=0))
    assert clustered(made, ("relation", "template")).units == 2 * RELATIONS
    assert clustered(made, "template").units == 2


def test_it_stays_antisymmetric_and_says_its_scope(scores):
    a, b = (labelled(np.repeat(each, EACH, axis=0)) for each in scores)
    there, back = circuits.diff(a, b, cluster="relation"), circuits.diff(b, a, cluster="relation")
    np.testing.assert_array_equal(there.tests.delta, -back.tests.delta)
    assert there.global_p == back.global_p
    assert (
        "Tested over 10 groups of facts, the same at A and B, where those of one relation are one group: changes "
        "hold for another relation, not only for other facts;" in there.caption
    )
    assert "one unit" not in circuits.diff(a, b).caption


def test_what_cannot_be_clustered_is_refused(scores):
    made = labelled(np.repeat(scores[0], EACH, axis=0))
    with pytest.raises(BadPrompt, match="30 of 30 facts have no label 'city' to be clustered by; labels: relation, t"):
        clustered(made, "city")
    same = replace(made, labels=tuple({"relation": "r"} for _ in made.labels))
    with pytest.raises(BadPrompt, match="all 30 facts have the same relation, and one unit tells no noise"):
        clustered(same, "relation")
    with pytest.raises(BadPrompt, match="30 facts were scored in 10 groups"):
        clustered(clustered(made, "relation"), "relation")
