"""Circuits to other tools and back; curves and minimal circuits."""

import json

import networkx as nx
import numpy as np
import pytest
import torch
from circuit_families import build, random_facts

import circuits
from checkpoints.errors import BadPrompt, StoreError


@pytest.fixture(scope="module")
def model():
    return build("llama_mha", dtype=torch.float32)


@pytest.fixture(scope="module")
def graph(model):
    return circuits.attribute(model, random_facts(4), method="eap")


def test_graphml_and_node_link_keep_nodes_edges_and_scores(graph, tmp_path):
    circuit = graph.prune(40)
    ours = circuit.to_networkx()
    back = nx.read_graphml(circuits.write_graphml(circuit, tmp_path / "circuit.graphml"))
    assert set(back.nodes) == set(ours.nodes)
    assert set(back.edges) == set(ours.edges)
    linked = nx.node_link_graph(json.loads(json.dumps(circuits.node_link(circuit))), edges="edges")
    for start, end, data in ours.edges(data=True):
        assert back.edges[start, end]["score"] == pytest.approx(data["score"])
        assert linked.edges[start, end]["score"] == pytest.approx(data["score"])


def test_eap_json_comes_back_as_it_went(graph, tmp_path):
    circuit = graph.prune(40)
    path = circuits.write_eap_json(circuit, tmp_path / "circuit.json")
    back = circuits.read_eap_json(path)
    np.testing.assert_array_equal(back.mask, circuit.mask)
    np.testing.assert_allclose(back.scores, circuit.scores)
    document = json.loads(path.read_text())
    edge, score = graph.top(1)[0]
    assert document["edges"][edge]["score"] == pytest.approx(-score)


def test_shared_heads_are_shared_out_in_eap_json(tmp_path):
    graph = circuits.attribute(build("llama_gqa", dtype=torch.float32), random_facts(2), method="eap")
    path = circuits.write_eap_json(graph.prune(60), tmp_path / "circuit.json")
    back = circuits.read_eap_json(path)
    both = back.scores[0, [back.shape.readers.index(f"a0.h{h}<v>") for h in (2, 3)]].sum()
    assert both == pytest.approx(graph["input->a0.kv1<v>"])


def test_files_that_are_no_graphs_are_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot read"):
        circuits.read_eap_json(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text('{"edges": {}}')
    with pytest.raises(StoreError, match="cfg"):
        circuits.read_eap_json(tmp_path / "other.json")


def test_cpr_and_cmd_are_the_areas(model, graph):
    curve = circuits.faithfulness_curve(model, graph, random_facts(4), shares=(0.2, 0.6, 1.0))
    low, middle, high = curve.values
    assert curve.cpr == pytest.approx(0.4 * ((low + middle) / 2 + (middle + high) / 2))
    assert curve.cmd == pytest.approx(0.4 * ((abs(1 - low) + abs(1 - middle)) / 2 + abs(1 - middle) / 2))


def test_minimal_circuit_reaches_its_faithfulness_and_one_edge_less_does_not(model, graph):
    facts = random_facts(4)
    small = circuits.minimal_circuit(model, graph, facts, least=0.7)
    assert circuits.faithfulness(model, small, facts, n_random=0).value >= 0.7
    assert small.n_edges < graph.mask.sum()
    with pytest.raises(BadPrompt, match="least"):
        circuits.minimal_circuit(model, graph, facts, least=1.5)


def test_threshold_keeps_what_reaches_it(graph):
    least = abs(graph.top(30)[-1][1])
    np.testing.assert_array_equal(graph.threshold(least).mask, graph.prune(30).mask)
    with pytest.raises(BadPrompt, match="unknown rule"):
        graph.prune(3, rule="random")
