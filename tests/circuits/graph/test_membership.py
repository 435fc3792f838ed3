"""How surely a node is in a circuit, against the share of draws that can be counted by hand."""

import numpy as np
import pytest

from circuits.graph.membership import membership
from tests.drift.handmade import EDGES, WIRING_A, WIRING_B, graph, strengths


def test_where_facts_are_alike_a_node_is_in_or_out():
    found = membership(graph(strengths(WIRING_A)))
    assert found == pytest.approx(dict.fromkeys(graph(strengths(WIRING_A)).prune().nodes, 1.0))
    assert "m1" not in found


def test_of_two_facts_that_wire_otherwise_each_draw_takes_its_majority():
    """Half of the draws of two hold one of each, where both edges have half their score; a quarter each one alone."""
    both = graph([strengths(WIRING_A), strengths(WIRING_B)])
    found = membership(both, draws=4000)
    assert found["a0.h0"] == pytest.approx(1.0)
    halves = np.abs((strengths(WIRING_A) + strengths(WIRING_B)) / 2)
    inside = {name: EDGES.index(name) in np.argsort(-halves)[:20] for name in ("a1.h1->logits", "m1->logits")}
    for name, node in (("a1.h1->logits", "a1.h1"), ("m1->logits", "m1")):
        assert found[node] == pytest.approx(0.25 + 0.5 * inside[name], abs=0.03)
