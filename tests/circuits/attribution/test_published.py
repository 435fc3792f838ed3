"""Against the outputs of the published EAP-IG code on a tiny GPT-2 (fixtures/README.md), in float64."""

import json

import numpy as np
import pytest
import torch
from published import FIXTURES, published_model, published_scores
from published import published_facts as facts

import circuits
from checkpoints.errors import BadPrompt
from circuits.graph.circuit import Circuit
from circuits.graph.pruning import prune
from circuits.graph.shape import GraphShape
from circuits.intervention.exact import exact_edges, exact_nodes
from circuits.intervention.faithfulness import ratio
from circuits.intervention.faithfulness_measure import circuit_metrics

SHAPE = GraphShape(3, 4, 4)


@pytest.fixture(scope="module")
def model():
    return published_model()


@pytest.fixture(scope="module")
def reference():
    return published_scores()


@pytest.fixture(scope="module")
def published():
    return json.loads((FIXTURES / "gpt2_circuits.json").read_text())


METHODS = {
    "EAP": {"method": "eap"},
    "EAP-IG-inputs-5": {"method": "eap-ig", "rule": "left", "ig_steps": 5},
    "EAP-IG-inputs-30": {"method": "eap-ig", "rule": "left", "ig_steps": 30},
    "clean-corrupted": {"method": "clean-corrupted"},
}


@pytest.mark.parametrize("kind", ["plain", "padded"])
@pytest.mark.parametrize("method", METHODS)
def test_edge_scores(model, reference, kind, method):
    graph = circuits.attribute(model, facts(kind), batch_size=4, **METHODS[method])
    np.testing.assert_allclose(graph.mean, reference[f"{kind}/edge/{method}/logit_diff"], atol=1e-9)


def test_nodes_and_edges_are_named_and_ordered_alike(reference, published):
    assert list(SHAPE.writers) == published["src_nodes"]
    assert list(SHAPE.readers) == published["dst_nodes"]
    np.testing.assert_array_equal(SHAPE.mask, reference["real_edge_mask"])


@pytest.mark.parametrize("kind", ["plain", "padded"])
@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs-5", "exact"])
@pytest.mark.parametrize("rule", ["absolute", "lowers", "greedy"])
def test_circuits_and_their_faithfulness(model, reference, published, kind, method, rule):
    scores = reference[f"{kind}/edge/{method}/logit_diff"]
    selection = {"absolute": "topn_abs", "lowers": "topn_signed", "greedy": "greedy_abs"}[rule]
    if rule == "lowers":
        scores = -scores  # the published selection takes the largest score, whatever the sign means
    expected = {
        int(name.split("/")[3]): value
        for name, value in published["circuits"].items()
        if name.startswith(f"{kind}/{method}/{selection}/")
    }
    assert len(expected) == 7
    found = {n: prune(SHAPE, scores, n, rule=rule) for n in expected}
    metrics, clean, corrupt = circuit_metrics(model, list(found.values()), facts(kind), batch_size=4)
    for metric, (n, circuit) in zip(metrics, found.items(), strict=True):
        assert set(circuit.edges) == set(expected[n]["edges"])
        np.testing.assert_allclose(metric, expected[n]["logit_diff"], atol=1e-9)
        assert ratio(metric, clean, corrupt) == pytest.approx(expected[n]["faithfulness"], abs=1e-9)
    np.testing.assert_allclose(clean, published[f"{kind}/clean_logit_diff"], atol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "padded"])
def test_leaving_one_edge_out_is_exact_patching(model, reference, kind):
    """metric(all edges but one) - metric(clean) is the fixture's exact score of that edge."""
    exact = reference[f"{kind}/edge/exact/logit_diff"]
    pairs = np.argwhere(SHAPE.mask)[:: 1 if kind == "padded" else 5]
    without = []
    for row, column in pairs:
        mask = SHAPE.mask.copy()
        mask[row, column] = False
        without.append(Circuit(SHAPE, mask))
    metrics, clean, _ = circuit_metrics(model, without, facts(kind))
    np.testing.assert_allclose(metrics.mean(1) - clean.mean(), exact[pairs[:, 0], pairs[:, 1]], atol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "padded"])
def test_exact_edges_and_nodes(model, reference, kind):
    chosen = prune(SHAPE, reference[f"{kind}/edge/EAP/logit_diff"], 30).edges
    graph = exact_edges(model, facts(kind), edges=chosen)
    expected = reference[f"{kind}/edge/exact/logit_diff"]
    for name in chosen:
        writer, reader = name.split("->")
        place = SHAPE.writers.index(writer), SHAPE.readers.index(reader)
        assert graph[name] == pytest.approx(expected[place], abs=1e-9)
    nodes = exact_nodes(model, facts(kind))
    means = [nodes[name].mean() for name in SHAPE.writers]
    np.testing.assert_allclose(means, reference[f"{kind}/node/exact/logit_diff"], atol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "padded"])
def test_kl_scores(model, reference, kind):
    graph = circuits.attribute(model, facts(kind), metric="kl", rule="left", ig_steps=5)
    np.testing.assert_allclose(graph.mean, reference[f"{kind}/edge/EAP-IG-inputs-5/kl"], atol=1e-9)
    assert not graph.clean_metric.any()
    with pytest.raises(BadPrompt, match="no gradient at the clean run"):
        circuits.attribute(model, facts(kind), metric="kl", method="eap")


def test_log_probability_and_functions_of_the_user(model):
    def mine(logits, batch, _clean):
        return logits.log_softmax(-1)[torch.arange(len(logits)), batch.answer]

    own, named = (circuits.attribute(model, facts("padded"), metric=m, method="eap") for m in (mine, "log probability"))
    np.testing.assert_allclose(own.scores, named.scores, atol=1e-12)
    assert (own.meta["metric"], named.meta["metric"]) == ("mine", "log probability")
    assert (named.clean_metric < 0).all()
    with pytest.raises(BadPrompt, match="unknown metric 'accuracy'"):
        circuits.attribute(model, facts("plain"), metric="accuracy")
