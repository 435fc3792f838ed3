"""What results show of themselves, and what they refuse."""

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts

import circuits
from checkpoints.errors import BadPrompt


@pytest.fixture(scope="module")
def model():
    return build("llama_gqa", dtype=torch.float32)


@pytest.fixture(scope="module")
def facts():
    return random_facts(4)


@pytest.fixture(scope="module")
def graph(model, facts):
    return circuits.attribute(model, facts, method="conductance", ig_steps=20)


def test_a_graph_shows_its_completeness_residual(graph):
    cut, total = graph.mean[:, -1].sum(), np.mean(graph.corrupt_metric - graph.clean_metric)
    residual = circuits.completeness(graph)
    assert residual["logits"] == pytest.approx((cut - total) / abs(total))
    assert f"{residual['input']:+.2g} at the input, {residual['logits']:+.2g} at the logits" in graph._repr_html_()


@pytest.mark.parametrize("how", [{"method": "flow"}, {"method": "eap", "ablation": "zero"}])
def test_what_need_not_add_up_has_no_residual(model, facts, how):
    graph = circuits.attribute(model, facts, **how)
    assert np.isnan(list(circuits.completeness(graph).values())).all()
    assert "completeness residual not applicable" in graph._repr_html_()
    segment = circuits.attribute_positions(model, facts, method="eap")["last"]
    assert np.isnan(list(circuits.completeness(segment).values())).all()


def test_arguments_out_of_range_are_refused_by_name(model, facts, graph):
    with pytest.raises(BadPrompt, match=r"whole number of the .* edges, not to 0\.05"):
        graph.prune(0.05)
    with pytest.raises(BadPrompt, match=r"whole number of the .* parts, not to -1"):
        circuits.NodeScores.of(graph).prune(-1)
    with pytest.raises(BadPrompt, match=r"ig_steps must be a whole number of at least 1, got 2\.5"):
        circuits.attribute(model, facts, ig_steps=2.5)
    with pytest.raises(BadPrompt, match="no facts to score"):
        circuits.attribute(model, facts.subset([]))
    with pytest.raises(BadPrompt, match="unknown metric"):
        circuits.attribute(model, facts, metric=["kl"])
