"""What results show of themselves, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts

import circuits
from checkpoints.errors import BadPrompt, StoreError
from circuits.attribution.positions import attribute_positions
from circuits.comparison.graph_diff import GraphDiff
from circuits.graph.circuit import Circuit
from circuits.graph.exports import read_eap_json
from circuits.graph.nodes import NodeScores
from circuits.graph.pruning import random_circuits
from circuits.graph.scores import completeness
from circuits.graph.shape import GraphShape
from circuits.intervention.exact import exact_edges
from circuits.intervention.faithfulness import Faithfulness, FaithfulnessCurve
from circuits.intervention.faithfulness_measure import minimal_circuit
from circuits.intervention.transfer import transfer
from circuits.roles.measure import head_roles
from circuits.roles.roles import HeadRoles


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
    residual = completeness(graph)
    assert residual["logits"] == pytest.approx((cut - total) / abs(total))
    assert f"{residual['input']:+.2g} at the input, {residual['logits']:+.2g} at the logits" in graph._repr_html_()


@pytest.mark.parametrize("how", [{"method": "flow"}, {"method": "eap", "ablation": "zero"}])
def test_what_need_not_add_up_has_no_residual(model, facts, how):
    graph = circuits.attribute(model, facts, **how)
    assert np.isnan(list(completeness(graph).values())).all()
    assert "completeness residual not applicable" in graph._repr_html_()
    segment = attribute_positions(model, facts, method="eap")["last"]
    assert np.isnan(list(completeness(segment).values())).all()


def test_arguments_out_of_range_are_refused_by_name(model, facts, graph):
    with pytest.raises(BadPrompt, match=r"whole number of the .* edges, not to 0\.05"):
        graph.prune(0.05)
    with pytest.raises(BadPrompt, match=r"whole number of the .* parts, not to -1"):
        NodeScores.of(graph).prune(-1)
    with pytest.raises(BadPrompt, match=r"ig_steps must be a whole number of at least 1, got 2\.5"):
        circuits.attribute(model, facts, ig_steps=2.5)
    with pytest.raises(BadPrompt, match="no facts to score"):
        circuits.attribute(model, facts.subset([]))
    with pytest.raises(BadPrompt, match="unknown metric"):
        circuits.attribute(model, facts, metric=["kl"])


def test_edges_of_a_shared_head_are_parted_so_that_scores_add_up(graph):
    for circuit in (graph.prune(40), *random_circuits(graph.shape, 9, 5)):
        scored = Circuit(graph.shape, circuit.mask, graph.mean)
        linked = scored.to_networkx()
        total = sum(score for _, _, score in linked.edges(data="score"))
        assert total == pytest.approx(graph.mean[circuit.mask].sum())
        assert set(linked.nodes) == set(circuit.nodes)
    whole = graph.to_networkx()
    nodes = {name: sum(score for _, _, score in whole.out_edges(name, data="score")) for name in graph.writers}
    assert nodes == pytest.approx(graph.nodes())


def test_a_circuit_comes_back_as_it_went(graph, tmp_path):
    circuit = graph.prune(30)
    back = Circuit.load(circuit.save(tmp_path / "circuit"))
    assert back.shape == circuit.shape
    np.testing.assert_array_equal(back.mask, circuit.mask)
    np.testing.assert_array_equal(back.scores, circuit.scores)
    bare = Circuit(circuit.shape, circuit.mask)
    assert Circuit.load(bare.save(tmp_path / "bare")).scores is None


def test_figures_name_what_was_measured(model, facts):
    graph = circuits.attribute(model, facts, metric="log probability")
    assert "log probability" in graph.plot(30).layout.title.subtitle.text
    assert "log probability" in circuits.diff(graph, graph).caption
    flow = circuits.attribute(model, facts, method="flow").plot(30)
    assert "share of what is read" in flow.layout.title.subtitle.text
    assert all("raises" not in str(trace.name) for trace in flow.data)
    routes = circuits.attribute(model, facts, method="flow")
    assert "scores are shares" in circuits.diff(routes, routes).caption
    nodes = NodeScores.of(graph)
    bars = nodes.plot(3)
    assert "positive = corrupting the node raises the log probability" in bars.layout.title.subtitle.text
    assert list(bars.data[0].y) == nodes.to_frame()["score"].head(3).tolist()
    assert list(bars.data[0].error_y.array) == nodes.to_frame()["stderr"].head(3).tolist()


@pytest.fixture(scope="module")
def rewired(model, facts):
    """A diff with all that can be added to it, over two models."""
    other = build("llama_gqa", dtype=torch.float32, seed=1)
    graphs = [circuits.attribute(m, facts, method="eap") for m in (model, other)]
    found = circuits.diff(*graphs, n_edges=30)
    moved = transfer([model, other], [found.circuit_a, found.circuit_b], facts, metric="log probability")
    assert moved.meta["metric"] == "log probability" and "of the log probability in B" in moved.verdict
    before, after = (head_roles(m, facts) for m in (model, other))
    return found.with_transfer(moved).with_roles(before, after)


def test_a_diff_comes_back_as_it_went(rewired, tmp_path):
    back = GraphDiff.load(rewired.save(tmp_path / "diff"))
    assert back.verdict == rewired.verdict
    assert "ead of the circuits" in back.verdict or "Roles in the circuits" in back.verdict
    for frame in ("to_frame", "node_frame", "similarity_frame", "profile_frame"):
        assert getattr(back, frame)().equals(getattr(rewired, frame)())
    assert (back.totals, back.pairing, back.meta, back.roles) == (
        rewired.totals, rewired.pairing, rewired.meta, rewired.roles
    )  # fmt: skip


def test_a_diff_as_a_network_holds_its_table(rewired):
    linked, frame = rewired.to_networkx(), rewired.to_frame().set_index("edge")
    assert {data["edge"] for _, _, data in linked.edges(data=True)} == set(frame.index)
    for start, end, reader, data in linked.edges(keys=True, data=True):
        assert end in rewired.shape.heads_reading(reader)
        row = frame.loc[f"{start}->{reader}"]
        assert (data["delta"], data["status"]) == (row["delta"], row["status"])


def test_edges_that_were_not_patched_have_no_score(model, facts, tmp_path):
    edges = ["input->m0", "m0->logits"]
    part, whole = exact_edges(model, facts, edges=edges), exact_edges(model, facts)
    assert part.to_frame()["score"].notna().sum() == 2 and set(part.to_frame()["edge"].head(2)) == set(edges)
    assert [part[edge] for edge in edges] == pytest.approx([whole[edge] for edge in edges], abs=1e-6)
    assert np.isnan(part["m1->logits"])
    assert "residual not applicable" in part._repr_html_()
    for rule in ("absolute", "lowers", "greedy"):
        assert set(part.prune(10, rule=rule).edges) == set(edges)
    with pytest.raises(BadPrompt, match="edges were not measured; score all"):
        circuits.diff(part, whole)
    with pytest.raises(StoreError, match="was not measured"):
        part.export(tmp_path / "x.eap.json", 10)


def test_roles_of_other_heads_are_refused(rewired, model, facts):
    roles = head_roles(model, facts)
    fewer = HeadRoles(roles.subject[..., :1], roles.relation[..., :1])
    with pytest.raises(BadPrompt, match=r"roles are of \(.*1\) \(layers, heads\)"):
        rewired.with_roles(roles, fewer)


def test_a_circuit_with_shared_heads_runs_the_same_after_it_was_exchanged(model, facts, graph, tmp_path):
    circuit = graph.prune(40)
    back = read_eap_json(circuit.export(tmp_path / "circuit.eap.json"))
    assert (back.shape.n_kv_heads, back.n_edges > circuit.n_edges) == (circuit.shape.n_heads, True)
    ours, theirs = (circuits.faithfulness(model, c, facts, n_random=0) for c in (circuit, back))
    np.testing.assert_allclose(theirs.metric, ours.metric, rtol=1e-5)


def curve_of(values, n_facts=6):
    """A curve whose circuits keep the same share of every fact's metric."""
    clean, corrupt = np.linspace(2, 4, n_facts), np.linspace(-1, 0, n_facts)
    metric = np.stack([corrupt + value * (clean - corrupt) for value in values])
    return FaithfulnessCurve(
        shares=tuple(np.linspace(0, 1, len(values))),
        n_edges=np.arange(len(values)),
        metric=metric,
        random_metric=np.zeros((len(values), 0, n_facts)),
        clean_metric=clean,
        corrupt_metric=corrupt,
        shape=GraphShape(1, 2, 2),
    )


def test_areas_have_intervals_that_rest_on_the_facts():
    even = curve_of([0.0, 0.5, 1.5])
    assert even.cpr == pytest.approx(0.625)
    assert even.cpr_interval == pytest.approx((0.625, 0.625))
    assert even.cmd == pytest.approx(0.625)
    assert even.cmd_interval == pytest.approx((0.625, 0.625))
    uneven = curve_of([0.0, 0.5, 1.0])
    uneven.metric[1, :3] += 1.0
    low, high = uneven.cpr_interval
    assert low < uneven.cpr < high


def test_one_circuits_faithfulness_is_shown_and_survives_the_disk(model, facts, graph, tmp_path):
    found = circuits.faithfulness(model, graph.prune(40), facts, n_random=2, metric="log probability")
    frame = found.to_frame()
    assert list(frame["circuit"]) == ["circuit", "random 1", "random 2"]
    assert tuple(frame["faithfulness"]) == (found.value, *found.random)
    assert found.plot().layout.title.text.startswith(f"{found.n_edges} edges keep")
    assert "log probability" in found.plot().layout.title.text
    told = replace(found, clean_metric=found.corrupt_metric + np.linspace(1, 2, len(facts)))  # twins that differ
    assert f"({min(told.random):.2f} to {max(told.random):.2f})" in str(told)
    back = Faithfulness.load(found.save(tmp_path / "one"))
    assert str(back) == str(found)
    assert back.to_frame().equals(frame)
    assert back.meta == found.meta
    with pytest.raises(StoreError, match="holds a result of kind"):
        FaithfulnessCurve.load(tmp_path / "one")


def test_no_circuit_is_minimal_where_there_is_nothing_to_keep(model, facts, graph):
    with pytest.raises(BadPrompt, match="no difference to keep a share of"):
        minimal_circuit(model, graph, facts, metric=lambda logits, batch, _clean: batch.per_fact(logits[:, 0] * 0))


def test_batches_of_no_facts_are_refused(model, facts):
    with pytest.raises(BadPrompt, match="batch_size must be at least 1, got 0"):
        circuits.attribute(model, facts, batch_size=0)
