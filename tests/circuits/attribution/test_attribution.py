"""Identities of the scores, what they do not depend on, and what is refused."""

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts

import circuits
from checkpoints.errors import BadPrompt, CheckpointMismatch, CorruptWeights, UnsupportedArchitecture
from circuits.graph.circuit import Circuit
from circuits.graph.scores import completeness
from circuits.graph.shape import GraphShape
from circuits.intervention.faithfulness import FaithfulnessCurve
from circuits.intervention.faithfulness_measure import faithfulness_curve
from circuits.trace.trace import frozen


@pytest.fixture(scope="module")
def model():
    return build("llama_gqa")


@pytest.fixture(scope="module")
def ragged():
    return random_facts(5, ragged=True)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "clean-corrupted", "conductance"])
def test_batching_padding_order_and_chunks_change_nothing(model, ragged, method):
    whole = circuits.attribute(model, ragged, method=method, batch_size=5)
    single = circuits.attribute(model, ragged, method=method, batch_size=1, chunk_mb=1e-6)
    order = [3, 0, 4, 1, 2]
    turned = circuits.attribute(model, ragged.subset(order), method=method, batch_size=2)
    scale = np.abs(whole.scores).max()
    np.testing.assert_allclose(single.scores, whole.scores, atol=1e-6 * scale)
    np.testing.assert_allclose(turned.scores, whole.scores[order], atol=1e-6 * scale)
    np.testing.assert_allclose(turned.clean_metric, whole.clean_metric[order], rtol=1e-6)


def test_groups_hold_the_means_of_their_facts(model, ragged):
    single = circuits.attribute(model, ragged, method="eap")
    grouped = circuits.attribute(model, ragged, method="eap", groups=2)
    np.testing.assert_allclose(grouped.scores[0], single.scores[[0, 2, 4]].mean(0), atol=1e-9)
    np.testing.assert_allclose(grouped.scores[1], single.scores[[1, 3]].mean(0), atol=1e-9)
    np.testing.assert_allclose(grouped.mean, single.mean, atol=1e-9)


def test_eap_is_one_step_at_the_clean_end(model, ragged):
    eap = circuits.attribute(model, ragged, method="eap")
    one = circuits.attribute(model, ragged, method="eap-ig", ig_steps=1, rule="right")
    np.testing.assert_array_equal(one.scores, eap.scores)


@pytest.mark.parametrize("steps", [1, 3])
def test_midpoints_are_those_of_twice_as_many_left_steps_that_lie_between(model, ragged, steps):
    middle = circuits.attribute(model, ragged, ig_steps=steps)
    left, finer = (circuits.attribute(model, ragged, ig_steps=m, rule="left") for m in (steps, 2 * steps))
    np.testing.assert_allclose(middle.scores, 2 * finer.scores - left.scores, atol=1e-6)


def test_left_and_right_rules_differ_by_the_ends(model, ragged):
    """m left steps and m right steps differ by (clean - corrupt) / m; midpoints lie elsewhere."""
    left, right = (circuits.attribute(model, ragged, ig_steps=3, rule=rule) for rule in ("left", "right"))
    clean = circuits.attribute(model, ragged, method="eap")
    ends = circuits.attribute(model, ragged, method="clean-corrupted")
    corrupt = 2 * ends.mean - clean.mean
    np.testing.assert_allclose(right.mean - left.mean, (clean.mean - corrupt) / 3, atol=1e-6)


def test_sign_positive_means_that_corrupting_raises_the_metric(model, ragged):
    graph = circuits.attribute(model, ragged, method="conductance", ig_steps=100)
    assert graph.mean[0].sum() == pytest.approx((graph.corrupt_metric - graph.clean_metric).mean(), rel=0.02)
    assert max(abs(v) for v in completeness(graph).values()) < 0.02


def test_completeness_improves_with_steps(model, ragged):
    residuals = [abs(completeness(circuits.attribute(model, ragged, ig_steps=steps))["input"]) for steps in (1, 4, 64)]
    assert residuals[2] < residuals[1] < residuals[0]
    assert residuals[2] < 0.01


def test_restores_mode_and_gradient_flags(ragged):
    model = build("llama_gqa").train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    circuits.attribute(model, ragged, method="eap")
    assert all(m.training for m in model.modules())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert model.training
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_half_precision_models_are_scored_in_float32(ragged):
    full = circuits.attribute(build("llama_gqa", dtype=torch.float32), ragged)
    half = circuits.attribute(build("llama_gqa", dtype=torch.bfloat16), ragged)
    assert half.scores.dtype == np.float32
    assert np.corrcoef(half.mean.ravel(), full.mean.ravel())[0, 1] > 0.95


def test_a_stream_that_does_not_add_up_is_refused(ragged):
    model = build("llama_gqa")
    layer = model.model.layers[1]
    handle = layer.register_forward_hook(lambda _m, _a, out: out * 1.5)
    with pytest.raises(UnsupportedArchitecture, match="output of layer 1 is not the sum"):
        circuits.attribute(model, ragged)
    handle.remove()
    circuits.attribute(model, ragged, method="eap")


def test_weights_that_are_not_finite_are_refused(ragged):
    model = build("llama_gqa")
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(CorruptWeights, match="not finite"):
        circuits.attribute(model, ragged)


@pytest.mark.parametrize("bad", [{"method": "acdc"}, {"rule": "simpson"}, {"ig_steps": 0}, {"groups": 9}])
def test_arguments_out_of_range_are_refused(model, ragged, bad):
    with pytest.raises(BadPrompt):
        circuits.attribute(model, ragged, **bad)


def test_save_and_load_keep_everything(model, ragged, tmp_path):
    graph = circuits.attribute(model, ragged, method="eap")
    back = circuits.AttributionGraph.load(graph.save(tmp_path / "graph"))
    np.testing.assert_array_equal(back.scores, graph.scores)
    np.testing.assert_array_equal(back.answer_rank, graph.answer_rank)
    assert back.shape == graph.shape
    assert back.meta == graph.meta
    assert back.labels == graph.labels


def test_answer_rank_counts_the_tokens_above(model, ragged):
    graph = circuits.attribute(model, ragged, method="eap")
    for i, prompt in enumerate(ragged.clean):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert graph.answer_rank[i] == int((logits > logits[ragged.answer_id[i]]).sum())
        assert graph.clean_metric[i] == pytest.approx(
            float(logits[ragged.answer_id[i]] - logits[ragged.wrong_id[i]]), rel=1e-6
        )


def test_faithfulness_of_a_foreign_circuit_is_refused(model, ragged):
    shape = GraphShape(3, 4, 4)
    with pytest.raises(CheckpointMismatch, match="different shapes"):
        circuits.faithfulness(model, Circuit(shape, shape.mask), ragged)


def test_faithfulness_reports_interval_and_random_circuits(model, ragged):
    graph = circuits.attribute(model, ragged)
    result = circuits.faithfulness(model, graph.prune(80), ragged, n_random=2)
    assert result.low <= result.value <= result.high
    assert len(result.random) == 2
    curve = faithfulness_curve(model, graph, ragged, shares=(0.1, 0.5, 1.0))
    assert curve.values[-1] == 1.0
    assert list(curve.to_frame().columns) == [
        *("share", "n_edges", "faithfulness", "low", "high", "random"), *("cross_fitted", "cross_low", "cross_high"),
    ]  # fmt: skip


def test_curve_survives_the_disk(model, ragged, tmp_path):
    curve = faithfulness_curve(model, circuits.attribute(model, ragged, method="eap"), ragged, shares=(0.2,))
    back = FaithfulnessCurve.load(curve.save(tmp_path / "curve"))
    assert back.values == curve.values
    assert back.shares == curve.shares


def test_nothing_is_kept_for_each_step(model, ragged, monkeypatch):
    """What is waiting to be contracted is of one step, however many there are."""
    from circuits.contraction.gradients import Gradients

    waiting = []
    add = Gradients.add

    def watched(gradients, *arguments):
        add(gradients, *arguments)
        waiting.append(max(len(layer.along) for layer in gradients.layers))

    monkeypatch.setattr(Gradients, "add", watched)
    circuits.attribute(model, ragged, ig_steps=6, batch_size=len(ragged))
    assert waiting == [1] * 6
