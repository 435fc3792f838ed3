"""How edges are scored is asked for at a terminal, kept with every result, and part of its key."""

import json

import pytest
import torch
from typer.testing import CliRunner

import circuit_drift
from checkpoints.errors import BadPrompt
from circuit_drift.cli.commands import app
from circuit_drift.prompts import EdgeScoring, prompts_for
from circuits.facts.metrics import find_metric, require_gradient
from tests.drift.handmade import graph, strengths

PUBLISHED = ["--ig-steps", "30", "--rule", "left", "--edges", "12"]


def shell(*arguments: str):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in (0, 1), result.output
    return result.output


def test_the_published_setting_is_asked_for_at_a_terminal_and_kept(tiny_series, store):
    asked = [tiny_series, "--steps", "last", "--store", store, "--device", "cpu"]
    shown = shell("run", *asked, "--measures", "faithfulness:hit@10", *PUBLISHED)
    assert "Edges are scored by EAP-IG in the logit difference, 30 gradients at the left" in " ".join(shown.split())
    (point,) = circuit_drift.load_run(store).points
    told = {name: point.circuit.meta[name] for name in ("method", "ig_steps", "rule", "metric", "circuit_edges")}
    assert told == {
        "method": "eap-ig", "ig_steps": 30, "rule": "left", "metric": "logit difference", "circuit_edges": 12
    }  # fmt: skip
    assert point.circuit.meta["provenance"]["parameters"]["edges"] == 12
    assert point.circuit.prune().n_edges <= 12
    curve = point.faithfulness
    assert round(curve.shares[curve.drawn] * curve.meta["edges"] - 0.5) == 12
    assert curve.clean_metric.tolist() == (point.circuit.answer_rank < 10).astype(float).tolist()
    shell("run", *asked, "--measures", "circuit")
    (usual,) = circuit_drift.load_run(store).points
    assert usual.keys["circuit"] != point.keys["circuit"]
    assert "circuit_edges" not in usual.circuit.meta


def test_a_diff_compares_circuits_of_the_size_asked_for(tiny_series, store):
    pair = [f"{tiny_series}@0", f"{tiny_series}@10", "--store", store, "--device", "cpu", "--measures", "circuit"]
    how = ["--method", "eap", "--metric", "log-probability", "--edges", "16"]
    found = json.loads(shell("diff", *pair, "--json", *how))
    assert {row["measure"] for row in found["similarity"]} >= {"Jaccard, 16 edges", "Jaccard, 4 edges"}


def test_a_graph_is_pruned_to_the_size_that_it_was_asked_for():
    scores = strengths(["input->m0"])
    assert graph(scores).circuit_edges == 20
    assert graph(scores, circuit_edges=7).circuit_edges == 7
    assert graph(scores, circuit_edges=50_000).circuit_edges == 46


@pytest.mark.parametrize(
    ("scoring", "reason"),
    [
        (EdgeScoring(method="eap-gp"), "method"),
        (EdgeScoring(rule="trapezoid"), "rule"),
        (EdgeScoring(metric="surprise"), "metric"),
        (EdgeScoring(metric="hit@10"), "has no gradient, so that no edge can be scored by it"),
        (EdgeScoring(metric="rank"), "read the circuit's rank with faithfulness"),
        (EdgeScoring(method="eap", metric="kl"), "KL has no gradient"),
        (EdgeScoring(backward="lrp"), "backward"),
        (EdgeScoring(edges=0), "0 edges"),
        (EdgeScoring(method="eap", ig_steps=30), "eap takes its gradients at the ends .* ig_steps 30 has no meaning"),
        (EdgeScoring(method="clean-corrupted", rule="left"), "rule 'left' has no meaning for it; leave rule out"),
        (EdgeScoring(method="conductance", rule="left"), "conductance always follows the midpoint rule"),
        (EdgeScoring(method="activations-eapig", rule="left"), "always follows the right rule"),
        (EdgeScoring(method="flow", ig_steps=30), "flow takes no gradient, so ig_steps 30"),
        (EdgeScoring(method="flow", backward="gim"), "flow takes no gradient, so backward 'gim'"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_model_is_loaded(tiny_series, scoring, reason):
    with pytest.raises(BadPrompt, match=reason):
        prompts_for(tiny_series, scoring=scoring)


def test_settings_that_a_method_follows_anyway_are_taken(tiny_series):
    for scoring in (EdgeScoring(method="activations-eapig", rule="right"), EdgeScoring(method="flow", metric="rank")):
        assert prompts_for(tiny_series, scoring=scoring).scoring == scoring


def test_the_usual_setting_is_not_spelled_out_in_keys(tiny_series):
    from circuit_drift.measures.registry import build_measures

    usual = build_measures(prompts_for(tiny_series), ["circuit"])[0].params()
    assert usual.keys() == {"prompts", "ig_steps", "rule"}
    other = prompts_for(tiny_series, scoring=EdgeScoring(method="conductance", edges=9, backward="plain"))
    assert build_measures(other, ["circuit"])[0].params() == {**usual, "method": "conductance", "edges": 9}


class _Two:
    """Two facts of one token each, in a vocabulary of five."""

    indices, row, answer = (0, 1), torch.tensor([0, 1]), torch.tensor([2, 0])


def test_ranks_and_hits_are_those_of_the_whole_vocabulary():
    logits = torch.tensor([[0.0, 3.0, 2.0, 4.0, 1.0], [9.0, 1.0, 2.0, 3.0, 4.0]])
    found = {name: find_metric(name, None)[1](logits, _Two, logits).tolist() for name in ("rank", "hit@1", "hit@3")}
    assert found == {"rank": [3.0, 1.0], "hit@1": [0.0, 1.0], "hit@3": [1.0, 1.0]}
    require_gradient("rank", "flow")
    with pytest.raises(BadPrompt, match="say what k is"):
        find_metric("hit@k", None)
