"""Circuits to other tools and back; curves and minimal circuits."""

import json
import sys

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from circuit_families import build, random_facts

import circuits
from checkpoints.errors import BadPrompt, StoreError
from circuits.graph.circuit import Circuit
from circuits.graph.exports import (
    node_link,
    read_eap_json,
    read_parquet,
    write_eap_json,
    write_graphml,
    write_neuronpedia,
)
from circuits.intervention.faithfulness_measure import faithfulness_curve, minimal_circuit


@pytest.fixture(scope="module")
def model():
    return build("llama_mha", dtype=torch.float32)


@pytest.fixture(scope="module")
def graph(model):
    return circuits.attribute(model, random_facts(4), method="eap")


def test_graphml_and_node_link_keep_nodes_edges_and_scores(graph, tmp_path):
    circuit = graph.prune(40)
    ours = circuit.to_networkx()
    back = nx.read_graphml(write_graphml(circuit, tmp_path / "circuit.graphml"))
    assert set(back.nodes) == set(ours.nodes)
    assert set(back.edges) == set(ours.edges)
    linked = nx.node_link_graph(json.loads(json.dumps(node_link(circuit))), edges="edges")
    for start, end, data in ours.edges(data=True):
        assert back.edges[start, end]["score"] == pytest.approx(data["score"])
        assert linked.edges[start, end]["score"] == pytest.approx(data["score"])


def test_eap_json_comes_back_as_it_went(graph, tmp_path):
    circuit = graph.prune(40)
    path = write_eap_json(circuit, tmp_path / "circuit.json")
    back = read_eap_json(path)
    np.testing.assert_array_equal(back.mask, circuit.mask)
    np.testing.assert_allclose(back.scores, circuit.scores)
    document = json.loads(path.read_text())
    edge, score = graph.top(1)[0]
    assert document["edges"][edge]["score"] == pytest.approx(-score)


def test_shared_heads_are_shared_out_in_eap_json(tmp_path):
    graph = circuits.attribute(build("llama_gqa", dtype=torch.float32), random_facts(2), method="eap")
    path = write_eap_json(graph.prune(60), tmp_path / "circuit.json")
    back = read_eap_json(path)
    both = back.scores[0, [back.shape.readers.index(f"a0.h{h}<v>") for h in (2, 3)]].sum()
    assert both == pytest.approx(graph["input->a0.kv1<v>"])


def test_files_that_are_no_graphs_are_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot read"):
        read_eap_json(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text('{"edges": {}}')
    with pytest.raises(StoreError, match="cfg"):
        read_eap_json(tmp_path / "other.json")
    with pytest.raises(StoreError, match="cannot read"):
        read_parquet(tmp_path / "nothing.parquet")
    pd.DataFrame({"score": [1.0]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="shape"):
        read_parquet(tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="not a table of edges"):
        read_parquet(tmp_path / "other.json")


def test_a_table_of_edges_comes_back_as_it_went(graph, tmp_path):
    circuit = graph.prune(40)
    back = read_parquet(circuit.export(tmp_path / "circuit.parquet"))
    assert back.shape == circuit.shape
    np.testing.assert_array_equal(back.mask, circuit.mask)
    np.testing.assert_array_equal(back.scores, circuit.scores)
    bare = Circuit(circuit.shape, circuit.mask)
    assert read_parquet(bare.export(tmp_path / "bare.parquet")).scores is None
    frame = pd.read_parquet(graph.export(tmp_path / "graph.parquet"))
    expected = graph.to_frame().set_index(["writer", "reader"])["score"]
    assert len(frame) == graph.mask.sum()
    assert frame["in_circuit"].all()
    found = frame.astype({"writer": str, "reader": str}).set_index(["writer", "reader"])["score"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_index_type=False)


NEURONPEDIA = {  # the required fields of circuit-tracer's schema, version 1
    "metadata": {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str},
    "qParams": {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str},
}
NODE = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "jsNodeId": str}


def take_apart(paired):
    """Layer and number from Cantor's pairing."""
    total = int(((8 * paired + 1) ** 0.5 - 1) // 2)
    number = paired - total * (total + 1) // 2
    return total - number, number


def test_neuronpedia_json_has_the_schemas_fields_and_the_circuits_links(graph, tmp_path):
    circuit = graph.prune(40)
    path = write_neuronpedia(circuit, tmp_path / "capital.neuronpedia.json", prompt="The capital", model="tiny")
    document = json.loads(path.read_text())
    for part, fields in NEURONPEDIA.items():
        assert {key: type(document[part][key]) for key in fields} == fields
    assert (document["metadata"]["slug"], document["metadata"]["scan"]) == ("capital", "tiny")
    names = {node["node_id"]: node["clerp"] for node in document["nodes"]}
    for node in document["nodes"]:
        assert {key: type(node[key]) for key in NODE} == NODE
        if node["feature_type"] == "cross layer transcoder":
            layer, number = take_apart(node["feature"])
            assert node["clerp"] == (f"m{layer}" if number == circuit.shape.n_heads else f"a{layer}.h{number}")
            assert node["jsNodeId"] == f"{layer}_{number}-0"
    assert len(names) == len({node["jsNodeId"] for node in document["nodes"]}) == len(circuit.nodes)
    assert [node["clerp"] for node in document["nodes"] if node["is_target_logit"]] == ["logits"]
    found = {(names[link["source"]], names[link["target"]]): -link["weight"] for link in document["links"]}
    expected = {(start, end): data["score"] for start, end, data in circuit.to_networkx().edges(data=True)}
    assert found == pytest.approx(expected)
    with pytest.raises(StoreError, match="without scores"):
        write_neuronpedia(Circuit(circuit.shape, circuit.mask), tmp_path / "x.json")


def test_the_ending_of_the_files_name_chooses_the_format(graph, tmp_path):
    circuit = graph.prune(20)
    np.testing.assert_array_equal(read_eap_json(graph.export(tmp_path / "a.eap.json", 20)).mask, circuit.mask)
    assert "qParams" in json.loads(circuit.export(tmp_path / "a.neuronpedia.json").read_text())
    assert set(json.loads(circuit.export(tmp_path / "a.json").read_text())) >= {"nodes", "edges", "directed"}
    assert set(nx.read_graphml(circuit.export(tmp_path / "a.graphml")).nodes) == set(circuit.nodes)
    with pytest.raises(BadPrompt, match=r"'a.csv' ends in no format.*\.parquet"):
        circuit.export(tmp_path / "a.csv")
    with pytest.raises(StoreError, match="cannot be written"):
        circuit.export(tmp_path / "a.json" / "below a file.json")
    assert circuit.export(tmp_path / "new folder" / "a.json").read_text() == (tmp_path / "a.json").read_text()
    bare = Circuit(circuit.shape, circuit.mask)
    assert "score" not in json.loads(bare.export(tmp_path / "bare.json").read_text())["edges"][0]


def test_without_pyarrow_parquet_names_the_extra(graph, tmp_path, monkeypatch):
    path = graph.export(tmp_path / "graph.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for ask in (lambda: graph.export(tmp_path / "b.parquet"), lambda: read_parquet(path)):
        with pytest.raises(StoreError, match=r"pip install 'circuit-drift\[parquet\]'"):
            ask()


def test_cpr_and_cmd_are_the_areas(model, graph):
    curve = faithfulness_curve(model, graph, random_facts(4), shares=(0.2, 0.6, 1.0))
    low, middle, high = curve.values
    assert curve.cpr == pytest.approx(0.4 * ((low + middle) / 2 + (middle + high) / 2))
    assert curve.cmd == pytest.approx(0.4 * ((abs(1 - low) + abs(1 - middle)) / 2 + abs(1 - middle) / 2))


def test_minimal_circuit_reaches_its_faithfulness_and_one_edge_less_does_not(model, graph):
    facts = random_facts(4)
    small = minimal_circuit(model, graph, facts, least=0.7)
    assert circuits.faithfulness(model, small, facts, n_random=0).value >= 0.7
    assert small.n_edges < graph.mask.sum()
    with pytest.raises(BadPrompt, match="least"):
        minimal_circuit(model, graph, facts, least=1.5)


def test_threshold_keeps_what_reaches_it(graph):
    least = abs(graph.top(30)[-1][1])
    np.testing.assert_array_equal(graph.threshold(least).mask, graph.prune(30).mask)
    with pytest.raises(BadPrompt, match="unknown rule"):
        graph.prune(3, rule="random")
