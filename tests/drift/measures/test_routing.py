"""Expert routing as a measure: columns, drift from checkpoint to checkpoint, figures; a tiny HunYuan end to end."""

import numpy as np
import pytest
import torch

import circuit_drift
from checkpoints.results.figure import unbroken
from circuit_drift.measures.figures.routing import routing_figure, shares_figure
from circuit_drift.measures.routing import RoutingMeasure
from circuit_drift.prompts import prompts_for
from heads.niah.routing import ExpertRouting
from tests.drift.conftest import save_prompts, save_tokenizer
from tests.drift.handmade import point, run_of


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

    root = tmp_path_factory.mktemp("mixture") / "hunyuan"
    for seed in range(2):
        torch.manual_seed(seed)
        config = HunYuanMoEV1Config(
            vocab_size=76, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_experts=4, moe_topk=2, max_position_embeddings=256, pad_token_id=1,
            initializer_range=0.2,
        )  # fmt: skip
        folder = root / f"checkpoint-{seed * 10}"
        HunYuanMoEV1ForCausalLM(config).save_pretrained(folder)
        save_tokenizer(folder)
    save_prompts(root)
    return root


def test_a_mixture_is_followed_from_the_run_to_the_report(mixture, store, tmp_path):
    asked = {"prompts": prompts_for(mixture, length=80), "measures": ["routing"], "store": store}
    run = circuit_drift.run(mixture, **asked, device="cpu", progress=False)
    first, last = (point.results["routing"] for point in run)
    assert first.shares.shape[2:] == (2, 4)
    frame = run.to_frame()
    assert np.isnan(frame.routing_drift[0])
    assert frame.routing_drift[1] == pytest.approx(float(last.drift(first).mean()))
    page = run.report(tmp_path / "report.html").read_text()
    assert "Which experts tokens go to" in page
    assert "Routing over training" in page


def test_a_dense_model_fails_by_name_and_the_others_go_on(tiny_series, store):
    asked = {"prompts": prompts_for(tiny_series, length=80), "measures": ["routing", "lens"], "store": store}
    run = circuit_drift.run(tiny_series, **asked, device="cpu", progress=False)
    assert "LlamaForCausalLM has no mixture of experts" in run.points[0].failures["routing"]
    assert "lens" in run.points[0].results


def routing(text, answer):
    shares = np.repeat(np.array([[[text], [text], [answer]]], dtype=float), 6, axis=0)
    return ExpertRouting(shares, np.arange(6), {"length": 64, "experts_a_token": 1})


def test_the_figures_show_shares_and_what_moved():
    run = run_of(
        point(0, routing=routing([0.5, 0.5], [0.5, 0.5])), point(5), point(10, routing=routing([1, 0], [0.75, 0.25]))
    )
    assert RoutingMeasure.along(run)["routing_drift"] == pytest.approx([np.nan, np.nan, 0.5], nan_ok=True)
    figure = shares_figure(run)
    assert unbroken(figure.layout.title.text).startswith(
        "2 experts a layer; evenness 0.00 on text, 0.81 on answers; answers move 25%"
    )
    np.testing.assert_allclose(figure.data[0].z, [[1, 0]])
    np.testing.assert_allclose(figure.data[1].z, [[-0.25, 0.25]])
    assert (figure.data[1].zmin, figure.data[1].zmax) == (-0.25, 0.25)
    read = [RoutingMeasure.reading(p.results["routing"]) if "routing" in p.results else None for p in run]
    lines = routing_figure(run, read, RoutingMeasure.along(run)["routing_drift"])
    assert unbroken(lines.layout.title.text) == (
        "Evenness of the routing 1.00 → 0.00, of answers 1.00 → 0.81; slots that moved since the checkpoint before 0.50"
    )
    assert lines.layout.yaxis.title.text == "share of slots; evenness, 1 = even"
