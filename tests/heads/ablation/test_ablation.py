from dataclasses import replace

import numpy as np
import pytest
import torch
from families import build
from toys import fake_scores, planted_retriever, random_prompts

import heads
from checkpoints.errors import BadPrompt, DriftError, UnsupportedArchitecture
from heads.ablation.ablation import Ablation
from heads.ablation.controls import draw_controls
from heads.ablation.interventions import EditPositions, Means, ablated
from heads.scores.names import expand_heads


def sequences(batch=2, size=40):
    return torch.randint(3, 64, (batch, size), generator=torch.Generator().manual_seed(0))


def where(scope="both", *, first=30, batch=2, size=40, needle=(8, 14)):
    hidden = torch.zeros(batch, size, dtype=torch.bool)
    hidden[:, slice(*needle)] = True
    return EditPositions(torch.full((batch,), first), hidden, scope)


def logits_of(model, ids, targets=None, *, kind="off", scope="both", means=None):
    with torch.no_grad():
        if targets is None:
            return model(ids).logits
        with ablated(model, targets, where(scope), kind=kind, means=means):
            return model(ids).logits


def test_off_is_a_silent_head():
    model, ids = build("llama"), sequences()
    found = logits_of(model, ids, {1: [2]})
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 16:24] = 0
    torch.testing.assert_close(found, logits_of(model, ids), atol=1e-4, rtol=0)


def test_uniform_is_a_zero_query():
    model, ids = build("llama"), sequences()
    found = logits_of(model, ids, {0: [1, 3]}, kind="uniform")
    with torch.no_grad():
        weight = model.model.layers[0].self_attn.q_proj.weight.view(4, 8, -1)
        weight[[1, 3]] = 0
    torch.testing.assert_close(found, logits_of(model, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3"])
def test_knocking_out_every_head_hides_the_needle(name):
    model, ids = build(name), sequences()
    every = {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}
    other = ids.clone()
    other[:, 8:14] = (ids[:, 8:14] + 7) % 61 + 3
    a, b = (logits_of(model, x, every, kind="knockout")[:, 14:] for x in (ids, other))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert (logits_of(model, ids)[:, 14:] - a).abs().max() > 0.01


@pytest.mark.parametrize(("kind", "projection"), [("mean_output", "o_proj"), ("mean_query", "q_proj")])
def test_mean_ablations_put_the_mean_in_place(kind, projection):
    model, ids = build("llama"), sequences()
    mean = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    means = Means({1: mean}, {1: mean})
    found = logits_of(model, ids, {1: [2]}, kind=kind, means=means)
    module = getattr(model.model.layers[1].self_attn, projection)

    def replace(_, inputs, out=None):
        x = (inputs[0] if out is None else out).clone()
        x[..., 16:24] = mean[2]
        return (x,) if out is None else x

    hook = module.register_forward_pre_hook if kind == "mean_output" else module.register_forward_hook
    handle = hook(replace)
    want = logits_of(model, ids)
    handle.remove()
    torch.testing.assert_close(found, want, atol=1e-4, rtol=0)


def test_scopes_split_the_positions():
    model, ids = build("llama", num_hidden_layers=1), sequences()
    plain = logits_of(model, ids)
    decode, prefill = (logits_of(model, ids, {0: [0]}, scope=scope) for scope in ("decode", "prefill"))
    both = logits_of(model, ids, {0: [0]})
    torch.testing.assert_close(decode[:, :30], plain[:, :30], atol=1e-5, rtol=0)
    torch.testing.assert_close(prefill[:, 30:], plain[:, 30:], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([prefill[:, :30], decode[:, 30:]], dim=1), both, atol=1e-5, rtol=0)


def test_the_model_is_left_as_it_was_after_an_error():
    model = build("llama")
    before = logits_of(model, sequences())
    for kind in ("off", "mean_query"):
        with (
            pytest.raises(RuntimeError, match="stop"),
            ablated(model, {0: [0]}, where(), kind=kind, means=Means({}, {0: torch.zeros(4, 8)})),
        ):
            raise RuntimeError("stop")
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(logits_of(model, sequences()), before)


@pytest.fixture(scope="module")
def planted():
    prompts = random_prompts(vocabulary=16, size=50, answer=10, count=8, depths=(0.5,))
    return planted_retriever(prompts.prompts), prompts


def alone(model, prompts, names, **options):
    """What the model does with these heads ablated, no others beside."""
    return heads.ablate(model, prompts, names, against=(), **options).tested


@pytest.mark.parametrize("kind", ["off", "mean_output", "mean_query", "uniform", "knockout"])
def test_a_planted_retrieval_head_is_causal_by_every_kind(planted, kind):
    model, prompts = planted
    assert alone(model, prompts, []).accuracy == 1.0
    assert alone(model, prompts, ["a0.h1"], kind=kind).accuracy == 1.0
    assert alone(model, prompts, ["a0.h0"], kind=kind).accuracy == 0.0
    assert alone(model, prompts, ["a0.h0"], kind=kind, scope="prefill").accuracy == 1.0
    assert alone(model, prompts, ["a0.h0"], kind=kind, scope="decode").accuracy == 0.0


def test_validation_tells_causal_heads_from_their_controls(planted, tmp_path):
    model, prompts = planted
    found = heads.ablate(model, prompts, top_k=1, controls=2)
    assert found.tested.heads == ("a0.h0",)
    assert {kind: [c.heads for c in runs] for kind, runs in found.controls.items()} == {
        "layer_matched": [("a0.h1",)],
        "non_retrieving": [("a0.h1",)],
    }
    assert found.causal
    assert "a0.h0 are causal for retrieval here" in found.verdict
    assert "needle score goes from 100% [63, 100] to 0% [0, 37]" in found.verdict
    assert "layer-matched controls (1, clean, no head of theirs retrieves): needle score 100%" in found.verdict
    assert list(found.to_frame().ablation) == ["baseline", "tested", "layer-matched 1", "non-retrieving 1"]
    assert list(found.to_frame().retrieving) == [0, 1, 0, 0]
    for name in ("needle_score", "needle_accuracy", "answer_nll", "text_nll"):
        value, low, high = (found.to_frame()[name + end] for end in ("", "_low", "_high"))
        assert ((low <= value) & (value <= high) & (low < high)).all(), name
    assert "1 [0.631, 1]" in found._repr_html_()
    np.testing.assert_allclose(found.plot().data[0].error_y.arrayminus, [1 - 0.025**0.125, 0, *[1 - 0.025**0.125] * 2])
    assert "causal" in found.plot().layout.title.text
    assert "<table" in found._repr_html_()
    back = Ablation.load(found.save(tmp_path / "validation"))
    assert back.verdict == found.verdict


def test_an_ablation_without_controls_is_shown_and_saved_and_says_nothing_of_causes(planted, tmp_path):
    model, prompts = planted
    found = heads.ablate(model, prompts, ["a0.h0"], against=())
    assert found.causal is None
    assert found.controls == {}
    assert "a0.h0 ablated (off, both), needle score goes from 100% [63, 100] to 0% [0, 37]" in found._repr_html_()
    assert found.verdict.endswith("nats per token; no controls, so nothing is said of causes")
    assert str(found.tested).startswith("a0.h0 ablated (off, both): needle score 0.0%, accuracy 0.0%")
    assert len(found.tested.to_frame()) == len(prompts)
    assert found.plot().layout.title.text == "1 head ablated: needle score 0%"
    assert list(found.to_frame().ablation) == ["baseline", "tested"]
    assert Ablation.load(found.save(tmp_path / "ablation")).verdict == found.verdict
    nothing = heads.ablate(model, prompts, [])
    assert nothing.verdict == str(nothing.baseline)
    assert nothing.verdict.startswith("nothing ablated: needle score 100.0%")


def test_heads_that_are_named_have_controls_as_the_best_ones_have(planted):
    model, prompts = planted
    best, named = heads.ablate(model, prompts, top_k=1, controls=2), heads.ablate(model, prompts, ["a0.h0"], controls=2)
    assert named.verdict == best.verdict
    other = heads.ablate(model, prompts, ["a0.h1"], against=["layer_matched"])
    assert not other.causal
    assert "a0.h1 are not shown to be causal" in other.verdict
    assert [run.heads for run in other.controls["layer_matched"]] == [("a0.h0",)]


def test_indifferent_heads_are_not_called_causal():
    found = heads.ablate(build("llama"), random_prompts(count=4), top_k=2, controls=3)
    assert not found.causal
    assert "are not shown to be causal" in found.verdict


def ranked(scores, locos=None):
    """Stored scores of 4 layers x 4 heads, by name; the others score 0."""
    found = fake_scores(np.zeros((3, 4, 4)))
    for name, value in scores.items():
        found.detectors["copy"][:, int(name[1]), int(name[4])] = value
    written = np.zeros((3, 4, 4)) if locos is None else np.broadcast_to(locos, (3, 4, 4))
    return replace(found, detectors={**found.detectors, "locos": written})


def test_controls_match_the_layers_and_hold_no_tested_head():
    draw = np.random.default_rng(0)
    sets = draw_controls("layer_matched", ["a2.h0", "a1.h1"], ranked({}), count=50, draw=draw)
    assert set(sets) == {(f"a1.h{x}", f"a2.h{y}") for x in (0, 2, 3) for y in (1, 2, 3)}
    with pytest.raises(BadPrompt, match="layer 0 has 4 heads and 3 of them are tested, which leaves 1"):
        draw_controls("layer_matched", ["a0.h0", "a0.h1", "a0.h2"], ranked({}), count=1, draw=draw)
    with pytest.raises(BadPrompt, match="no control is called"):
        draw_controls("lucky", ["a0.h0"], ranked({}), count=1, draw=draw)


def test_non_retrieving_controls_hold_no_retrieval_head():
    scores, draw = ranked({f"a{i}.h{j}": 0.5 for i in (1, 2, 3) for j in range(4)}), np.random.default_rng(0)
    assert set(draw_controls("non_retrieving", ["a2.h0", "a3.h1"], scores, count=80, draw=draw)) == {
        (f"a0.h{x}", f"a0.h{y}") for x in range(4) for y in range(x + 1, 4)
    }
    with pytest.raises(BadPrompt, match="4 of 16 heads do not retrieve, too few to control 5"):
        draw_controls(
            "non_retrieving", [f"a{i}.h0" for i in (1, 2, 3)] + ["a1.h1", "a1.h2"], scores, count=1, draw=draw
        )


def test_equal_write_controls_are_the_nearest_in_size():
    written = np.zeros((4, 4))
    written[3, 0], written[0, 2], written[1, 3], written[2, 2] = 2.0, -1.9, 0.9, 5.0
    scores, draw = ranked({"a3.h0": 0.9, "a2.h2": 0.8}, written), np.random.default_rng(0)
    assert draw_controls("equal_write", ["a3.h0", "a2.h2"], scores, count=3, draw=draw) == (("a0.h2", "a1.h3"),)


def test_controls_that_retrieve_are_called_unclean(planted):
    model, prompts = planted
    scores = heads.score(model, prompts)
    everywhere = replace(scores, detectors={**scores.detectors, "copy": np.maximum(scores.copy, 0.2)})
    found = heads.ablate(model, prompts, top_k=1, scores=everywhere, controls=1)
    assert "layer-matched controls (1, not clean, 1.0 of each 1 heads retrieve too)" in found.verdict
    assert "no non_retrieving control: 0 of 2 heads do not retrieve" in found.verdict
    assert list(found.controls) == ["layer_matched"]
    written = heads.ablate(model, prompts, top_k=1, against=["equal_write"])
    assert [c.heads for c in written.controls["equal_write"]] == [("a0.h1",)]


def test_groups_are_their_query_heads():
    assert expand_heads(["a1.kv1", "a1.h2", "a0.h0"], (2, 4), 2) == ("a1.h2", "a1.h3", "a0.h0")
    with pytest.raises(DriftError, match=r"there is no group a0\.kv2"):
        expand_heads(["a0.kv2"], (2, 4), 2)
    model, prompts = build("llama"), random_prompts(count=1)
    grouped = alone(model, prompts, ["a1.kv1"])
    assert grouped.heads == ("a1.h2", "a1.h3")
    np.testing.assert_allclose(grouped.nll, alone(model, prompts, ["a1.h2", "a1.h3"]).nll)


def test_what_cannot_be_ablated_is_refused():
    model, prompts = build("llama"), random_prompts(count=1)
    with pytest.raises(BadPrompt, match="no ablation is called"):
        heads.ablate(model, prompts, ["a0.h0"], kind="blocked")
    with pytest.raises(BadPrompt, match="no ablation is called"):
        heads.ablate(model, prompts, [], kind="blocked")
    with pytest.raises(BadPrompt, match=r"unknown scope 'decoding'; choose from prefill, decode, both"):
        heads.ablate(model, prompts, ["a0.h0"], scope="decoding")
    with pytest.raises(BadPrompt, match="controls = 0"):
        heads.ablate(model, prompts, controls=0)
    with pytest.raises(DriftError, match=r"there is no head a7\.h0"):
        heads.ablate(model, prompts, ["a7.h0"])
    with pytest.raises(BadPrompt, match="test fewer heads"):
        heads.ablate(model, prompts, top_k=7)
    with pytest.raises(BadPrompt, match=r"one head at least, .* or pass against=\(\) for no controls"):
        heads.ablate(model, prompts, top_k=0)
    with pytest.raises(BadPrompt, match=r"heads = \['a0.h0'\] and top_k = 2: name the heads, or how many of the best"):
        heads.ablate(model, prompts, ["a0.h0"], top_k=2)
    with pytest.raises(UnsupportedArchitecture, match="attention interface"):
        heads.ablate(build("bloom"), prompts, ["a0.h0"])


def test_scores_of_other_prompts_only_rank(planted):
    """The verdict pairs the needles that were asked, not those on which the heads were ranked."""
    model, prompts = planted
    ranked_on = replace(heads.score(model, prompts), needle=np.zeros(len(prompts), dtype=int))
    found = heads.ablate(model, prompts, top_k=1, scores=ranked_on, controls=1)
    assert list(found.needle) == [p.needle for p in prompts]
    assert found.verdict == heads.ablate(model, prompts, top_k=1, controls=1).verdict
