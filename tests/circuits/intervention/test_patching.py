"""Exact patches that share passes and skip layers, against whole runs of their own and the published outputs."""

import json

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts
from published import FIXTURES, published_facts, published_model, published_scores

import circuits
from checkpoints.model.anatomy import anatomy
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape
from circuits.intervention import patching
from circuits.intervention.exact import exact_edges, exact_nodes
from circuits.intervention.faithfulness_measure import circuit_metrics, faithfulness_curve

SHAPES = ("llama_gqa", "gpt2", "gpt_neox", "gemma2", "phi3", "granite", "gpt_oss")


@pytest.mark.parametrize("family", SHAPES)
def test_edges_and_nodes_equal_whole_runs_of_their_own(family):
    model, facts = build(family), random_facts(3, ragged=True)
    graph = exact_edges(model, facts)
    pairs = np.argwhere(graph.mask)
    chosen = pairs[np.random.default_rng(0).choice(len(pairs), 12, replace=False)]
    rows = [np.argwhere(graph.mask & (np.arange(len(graph.mask)) == row)[:, None]) for row in range(len(graph.mask))]
    cuts = [without(graph.shape, [pair]) for pair in chosen] + [without(graph.shape, row) for row in rows]
    metrics, clean, corrupt = circuit_metrics(model, cuts, facts)
    scale = np.abs(metrics - clean).max()
    found = graph.scores[:, chosen[:, 0], chosen[:, 1]].T
    np.testing.assert_allclose(found, metrics[:12] - clean, atol=2e-6 * scale)
    nodes = exact_nodes(model, facts)
    np.testing.assert_allclose(list(nodes.values()), metrics[12:] - clean, atol=2e-6 * scale)
    np.testing.assert_array_equal(graph.clean_metric, clean)
    np.testing.assert_array_equal(graph.corrupt_metric, corrupt)


def without(shape, places):
    mask = shape.mask.copy()
    for place in places:
        mask[tuple(place)] = False
    return Circuit(shape, mask)


@pytest.mark.parametrize("kind", ["plain", "padded"])
@pytest.mark.parametrize(("published", "ablation"), [("exact", "corrupt"), ("exact-zero", "zero")])
def test_every_published_edge(kind, published, ablation):
    graph = exact_edges(published_model(), published_facts(kind), ablation=ablation, batch_size=4)
    np.testing.assert_allclose(graph.mean, published_scores()[f"{kind}/edge/{published}/logit_diff"], atol=1e-9)


def test_published_circuits_without_what_is_outside():
    published = json.loads((FIXTURES / "gpt2_circuits.json").read_text())["circuits"]
    cases = [case for case in published.values() if "mean_logit_diff_zero" in case]
    shape = GraphShape(3, 4, 4)
    masks = []
    for case in cases:
        mask = np.zeros_like(shape.mask)
        for edge in case["edges"]:
            writer, reader = edge.split("->")
            mask[shape.writers.index(writer), shape.readers.index(reader)] = True
        masks.append(Circuit(shape, mask))
    metrics, _, _ = circuit_metrics(published_model(), masks, published_facts("plain"), ablation="zero", batch_size=4)
    np.testing.assert_allclose(metrics.mean(1), [case["mean_logit_diff_zero"] for case in cases], atol=1e-9)


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-positional"])
def test_faithfulness_runs_from_0_to_1_under_any_ablation(ablation):
    model, facts = build("gpt2"), random_facts(3)
    graph = circuits.attribute(model, facts, method="eap", ablation=ablation)
    curve = faithfulness_curve(model, graph, facts, shares=(0.3, 1.0), ablation=ablation, n_random=0)
    assert curve.values[1] == 1.0
    nothing = Circuit(graph.shape, np.zeros_like(graph.mask))
    empty = circuits.faithfulness(model, nothing, facts, ablation=ablation, n_random=0)
    assert empty.value == pytest.approx(0, abs=1e-9)
    node = exact_nodes(model, facts, ablation=ablation)["m1"]
    to_logits = exact_edges(model, facts, ablation=ablation, edges=["m1->logits"])
    np.testing.assert_allclose(np.nansum(to_logits.scores, (1, 2)), node, atol=1e-12)


def test_how_many_share_a_pass_changes_nothing(monkeypatch):
    model, facts = build("llama_gqa"), random_facts(3)
    many = exact_edges(model, facts)
    monkeypatch.setattr(patching, "TOKENS", 1)
    np.testing.assert_allclose(exact_edges(model, facts).scores, many.scores, atol=1e-7)


def test_layers_are_put_back():
    model, facts = build("llama_gqa"), random_facts(2)
    before = model(input_ids=torch.tensor([facts.clean[0]])).logits
    exact_edges(model, facts, edges=["m0->logits", "input->a1.h0<q>"])
    with pytest.raises(ZeroDivisionError), patching._skipped(anatomy(model).blocks):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(model(input_ids=torch.tensor([facts.clean[0]])).logits, before, rtol=0, atol=0)
