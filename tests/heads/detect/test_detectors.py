"""Every detector against a brute-force reading of the eager maps."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from families import build
from toys import fake_scores, random_prompts, train_tokenizers

import heads
from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from heads import Scores
from heads.detect.answer_rows import GROUPS, LOCAL_WINDOW, answer_groups, copy_readings
from heads.detect.detectors import DETECTORS, chance_levels
from heads.detect.direct_logit import Writing
from heads.detect.dynamic import dynamics
from heads.detect.generation import contains, generate, recall
from heads.detect.query import calibrated, query_scores
from heads.detect.repeats import repeat_scores
from heads.prompts.pools import default_haystack, default_needles
from heads.rows.rows import RowRequest, capture_rows
from heads.scores.scores import DetectorScores


def maps(model, ids):
    """[L, H, S, S] of one sequence, eager."""
    with torch.no_grad():
        return torch.stack(model(torch.tensor([ids]), output_attentions=True).attentions)[:, 0].double().numpy()


@pytest.fixture(scope="module")
def scored():
    model, prompts = build("llama"), random_prompts(count=3)
    return prompts, heads.score(model, prompts), [maps(model, p.ids) for p in prompts]


def rows_of(attention, prompt):
    return attention[:, :, prompt.answer_start - 1 : -1]


def per_prompt(scored, formula):
    prompts, _, attention = scored
    return np.stack([formula(rows_of(a, p), p) for p, a in zip(prompts, attention, strict=True)])


def check(scored, name, formula, atol=2e-6):
    np.testing.assert_allclose(scored[1].detectors[name], per_prompt(scored, formula), atol=atol)


def test_masses(scored):
    check(scored, "needle_mass", lambda rows, p: rows[..., slice(*p.answer_span)].sum(-1).mean(-1))
    check(scored, "contextual", lambda rows, p: rows[..., slice(*p.needle_span)].sum(-1).mean(-1))
    check(scored, "first_token", lambda rows, p: rows[..., 0].mean(-1))
    check(scored, "sink_mass", lambda rows, p: rows[..., :2].sum(-1).mean(-1))


def test_what_a_model_or_prompt_does_not_have_is_not_applicable(scored):
    assert np.isnan(scored[1].detectors["distractor_mass"]).all()
    assert np.isnan(scored[1].detectors["learned_sink"]).all()
    sinks = heads.score(build("gpt_oss", sliding_window=100), random_prompts(count=1)).detectors["learned_sink"]
    assert (sinks > 0).all()


def test_spatial_contrast(scored):
    def formula(rows, p):
        size = p.answer_span[1] - p.answer_span[0]
        visible = np.arange(p.answer_start, len(p.ids))
        on = rows[..., slice(*p.answer_span)].sum(-1)
        return (on - size / (visible - size) * (rows.sum(-1) - on)).mean(-1)

    check(scored, "spatial", formula)


def test_headkv_counts_the_largest_weights_only(scored):
    def formula(rows, p):
        size = p.answer_span[1] - p.answer_span[0]
        order = np.argsort(-rows, axis=-1)[..., :size]
        on = (order >= p.answer_span[0]) & (order < p.answer_span[1])
        return (np.take_along_axis(rows, order, axis=-1) * on).sum((-1, -2)) / size

    check(scored, "headkv", formula)


def test_reasoning_leaves_out_sink_and_local_window(scored):
    def formula(rows, p):
        total = np.zeros(rows.shape[:2])
        for t in range(rows.shape[2]):
            middle = slice(2, p.answer_start - 1 + t - LOCAL_WINDOW + 1)
            inside = np.zeros(rows.shape[-1])
            inside[slice(*p.answer_span)] = 1
            total += (rows[:, :, t] * inside)[..., middle].sum(-1) / rows[:, :, t, middle].sum(-1)
        return total / rows.shape[2]

    check(scored, "reasoning", formula, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "deepseek_v3"])
def test_frozen_locos_terms_add_up_to_the_layers_direct_effect(name):
    model, (prompt, *_) = build(name), random_prompts(count=1, vocabulary=40, size=20, answer=6)
    parts = anatomy(model)
    ids = torch.tensor([prompt.ids])
    rows = torch.arange(prompt.answer_start - 1, len(prompt.ids) - 1)[None]
    targets = ids[:, rows[0] + 1]
    writing, layers, seen = Writing(model, rows, targets), {}, {}
    request = RowRequest(rows, answer_groups([prompt], ids.shape[1], ids.device), directions=writing.directions)
    with torch.no_grad(), writing.watching(), capture_rows(model, request, layers.__setitem__):
        handles = [
            (b.attention_post_norm.module if b.attention_post_norm else b.o).register_forward_hook(
                lambda module, inputs, out, layer=b.index: seen.__setitem__(layer, out[0])
            )
            for b in parts.blocks
        ]
        handles.append(
            parts.final_norm.module.register_forward_pre_hook(lambda module, x: seen.__setitem__("final", x[0][0]))
        )
        model(ids)
    for handle in handles:
        handle.remove()
    scale = parts.final_norm.normalise(seen["final"][rows[0]])[1]
    unembedding = parts.unembedding.weight[targets[0]]
    for layer, stats in layers.items():
        bias = getattr(parts.blocks[layer].o, "bias", None)
        written = seen[layer][rows[0]] - (0 if bias is None else bias)
        direct = (parts.final_norm.spread(written, scale) * unembedding).sum(-1)
        terms = writing.finish(layer, stats).written[1, 0, :, :, GROUPS.index("all")].sum(0)
        torch.testing.assert_close(terms, direct, atol=1e-4, rtol=1e-4)


def test_locos_comes_with_the_pass_when_asked():
    model, prompts = build("llama"), random_prompts(count=2)
    plain, more = heads.score(model, prompts), heads.score(model, prompts, extra=["locos"])
    assert "locos" not in plain.detectors
    np.testing.assert_array_equal(plain.copy, more.copy)
    assert np.isfinite(more.detectors["locos"]).all()
    assert not np.allclose(more.detectors["locos"], more.detectors["locos_frozen"])
    model.model.layers[1].self_attn.linear_attn = torch.nn.Identity()
    with pytest.raises(UnsupportedArchitecture, match="linear attention"):
        heads.score(model, prompts, extra=["locos"])


def test_question_scores_read_the_needle_with_and_without_a_question():
    tokenizer = train_tokenizers()["words"]
    model = build("llama", vocab_size=2000, max_position_embeddings=512)
    prompts = heads.needle_prompts(
        tokenizer, default_needles(0, count=2), default_haystack(0), length=150, depths=[0.5]
    )
    scores = query_scores(model, tokenizer, prompts)
    for n, prompt in enumerate(prompts):
        rows = slice(*prompt.question_span)
        assert prompt.question_span[1] == prompt.answer_start
        on = maps(model, prompt.ids)[:, :, rows, slice(*prompt.needle_span)].mean(axis=2)
        np.testing.assert_allclose(scores.detectors["qr"][n], on.sum(-1), atol=1e-5)
    assert (scores.detectors["qr_calibrated"] != scores.detectors["qr"]).any()


def test_calibration_drops_outlying_tokens():
    real = np.full((1, 20), 0.1)
    null = np.zeros((1, 20))
    null[0, 3] = 0.9
    assert calibrated(real, null)[0] == pytest.approx(1.9)


def test_repeats_against_the_maps():
    model = build("llama")
    block, repeats = 9, 3
    scores = repeat_scores(model, block=block, repeats=repeats, count=1, seed=3, rows_at_once=5, front=[1])
    tokens = np.random.default_rng(3).choice(64, block, replace=False)
    attention = maps(model, [1, *np.tile(tokens, repeats)])
    size = 1 + block * repeats
    want = dict.fromkeys(("echo", "induction", "previous_token", "duplicate_token"), 0.0)
    rows = range(1 + block, size)
    for i in rows:
        copies = [i - k * block for k in range(1, repeats) if i - k * block >= 1]
        after = [j + 1 for j in range(1, i) if (i - j) % block == 0 and j + 1 < i]
        want["echo"] += attention[:, :, i, copies].sum(-1) / len(rows)
        want["induction"] += attention[:, :, i, after].sum(-1) / len(rows)
        want["previous_token"] += attention[:, :, i, i - 1] / len(rows)
        want["duplicate_token"] += attention[:, :, i, i - block] / len(rows)
    for name, value in want.items():
        np.testing.assert_allclose(scores.detectors[name][0], value, atol=1e-5)


def test_repeats_that_do_not_fit_are_refused():
    with pytest.raises(BadPrompt, match="256 positions"):
        repeat_scores(build("llama"), block=100, repeats=3)
    with pytest.raises(BadPrompt, match="two blocks"):
        repeat_scores(build("llama"), block=10, repeats=1)


def test_generation_is_the_models_own_greedy_decoding():
    model = build("llama")
    prompt = random_prompts(count=1).prompts[0].ids[:60]
    want = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 60), do_sample=False, max_new_tokens=12, pad_token_id=0
    )[0, 60:].tolist()
    assert list(generate(model, prompt, new_tokens=12)) == want
    assert generate(model, prompt, stop_ids=[want[2]], new_tokens=12) == tuple(want[: want.index(want[2]) + 1])


def test_generated_answers_are_scored_and_gated(scored):
    prompts, forced, _ = scored
    scores = heads.score(build("llama"), prompts, mode="generate_then_score")
    np.testing.assert_allclose(scores.nll, forced.nll, atol=1e-5)
    assert scores.answer_ppl == pytest.approx(forced.answer_ppl, rel=1e-4)
    assert scores.meta["mode"] == "generate_then_score"
    assert "answer PPL" in scores.verdict
    assert scores.copy.shape == forced.copy.shape


def test_a_model_that_answers_right_scores_alike_in_both_modes():
    prompts = random_prompts(count=1)
    model = build("llama")
    written = generate(model, prompts.prompts[0].ids[:60], new_tokens=12)
    assert len(written) == 12
    assert recall(written, written) == 1.0
    assert recall([5, 5, 6], [5, 6, 6, 7]) == 0.5
    assert contains([1, 2, 3, 4], [2, 3])
    assert not contains([1, 2, 3, 4], [3, 2])


def test_kv_groups_and_detector_means(scored):
    scores = scored[1]
    assert scores.kv_heads == 2
    grouped = scores.groups("needle_mass")
    np.testing.assert_allclose(grouped[:, :, 0], scores.needle_mass[:, :, :2].mean(-1))
    assert (scores.groups("needle_mass", reduce="max") >= grouped - 1e-9).all()
    assert set(scores.detectors) <= set(DETECTORS)
    best = scores.top(4, by="needle_mass")
    assert all(a.score.value >= b.score.value for a, b in pairwise(best))


def test_head_scores_without_needles_are_saved_too(tmp_path):
    scores = repeat_scores(build("llama"), block=9, repeats=2, count=2)
    back = DetectorScores.load(scores.save(tmp_path / "repeats"))
    np.testing.assert_array_equal(back.detectors["echo"], scores.detectors["echo"])
    assert "echo" in back.verdict
    assert list(back.to_frame().columns)[:3] == ["name", "layer", "head"]
    assert "echo" in back.plot().layout.title.text
    assert "<table>" in back._repr_html_()


def test_steps_add_up_to_the_count_and_are_saved(scored, tmp_path):
    scores = scored[1]
    np.testing.assert_allclose((scores.steps == 1).sum(-1) / 12, scores.detectors["copy_count"], atol=1e-6)
    back = Scores.load(scores.save(tmp_path / "scores"))
    np.testing.assert_array_equal(back.steps, scores.steps)


def test_heads_that_take_turns_and_heads_that_do_not():
    turns, same = np.zeros((2, 6, 1, 4, 8), dtype=np.int8)
    turns[:, 0, 0, ::2] = turns[:, 0, 1, 1::2] = 1
    same[:, 0, :2] = 1
    same[:, :, :, 6:] = -1
    copy = np.zeros((6, 1, 4))
    copy[:, 0, :2] = 0.5
    alternating, constant = (dynamics(replace(fake_scores(copy), steps=steps), top_k=2) for steps in (turns, same))
    assert (alternating.size.value, alternating.with_static.value, alternating.adjacent.value) == (1.0, 0.5, 0.0)
    assert (constant.size.value, constant.with_static.value, constant.adjacent.value) == (2.0, 1.0, 1.0)
    assert "2 heads copy" in str(constant).replace("2 [2, 2]", "2")
    with pytest.raises(BadPrompt, match="holds no steps"):
        dynamics(fake_scores(copy))


def test_a_head_that_attends_to_all_alike_scores_at_the_chance_level():
    model, prompts = build("llama", vocab_size=2000), random_prompts(count=2, vocabulary=40, depths=(0.2, 0.6))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    asked = query_scores(model, train_tokenizers()["words"], prompts, null="the")
    repeated = repeat_scores(model, block=9, repeats=3, count=1)
    for found in (asked, repeated):
        for name in found.detectors:
            table = found.statistics(name)
            np.testing.assert_allclose(table["mean"], table.chance, atol=1e-5, err_msg=name)
    scores = heads.score(model, prompts)
    for name in ("needle_mass", "contextual", "sink_mass", "first_token", "entropy", "reasoning", "spatial"):
        table = scores.statistics(name)
        np.testing.assert_allclose(table["mean"], table.chance, atol=1e-5, err_msg=name)


def test_chance_of_copying_is_that_of_random_argmaxes():
    prompts = random_prompts(count=1, vocabulary=9, size=30, answer=6, depths=(0.5,))
    prompt, draw = prompts.prompts[0], np.random.default_rng(0)
    ids, gold, rows = np.asarray(prompt.ids), np.asarray(prompt.gold), prompt.answer_start - 1 + np.arange(6)
    argmax = np.stack([draw.integers(0, row + 1, 40_000) for row in rows], axis=1)
    readings = copy_readings(argmax, ids, np.asarray(prompt.answer), gold)
    levels = chance_levels(prompt)
    for name, values in readings.items():
        assert levels[name] == pytest.approx(values.mean(), abs=0.005), name
    top = np.stack([[draw.permutation(row + 1)[:6] for _ in range(4000)] for row in rows], axis=1)
    headkv = (np.isin(top, gold).sum(axis=2) / (rows + 1.0) / 6).sum(axis=1)
    assert levels["headkv"] == pytest.approx(headkv.mean(), rel=0.03)


def test_every_detector_comes_with_its_statistics(scored):
    scores = replace(scored[1], accepted=np.arange(len(scored[1])) < 3)
    for name in scores.detectors:
        table = scores.statistics(name)
        values = scores.detectors[name]
        applies = ~np.isnan(table["mean"])
        assert ((table.low <= table["mean"] + 1e-6) & (table["mean"] <= table.high + 1e-6))[applies].all()
        np.testing.assert_allclose(table.accepted_mean[applies], values[:3].mean(axis=0).ravel()[applies], rtol=1e-5)
    assert scores.statistics("needle_mass").chance.between(0.1, 0.3).all()
    repeats = repeat_scores(build("llama"), block=9, repeats=2, count=2).statistics("echo")
    assert repeats.accepted_mean.isna().all() and (repeats.n == 2).all()


def test_a_null_question_that_the_model_cannot_read_is_refused(tokenizers):
    model, prompts = build("llama", vocab_size=41), random_prompts(count=1, vocabulary=40)
    with pytest.raises(BadPrompt, match=r"beyond the model's vocabulary \(41\)"):
        query_scores(model, tokenizers["words"], prompts, null="mentioned in the provided text")
    small = build("llama", vocab_size=2000, max_position_embeddings=len(prompts.prompts[0].ids))
    with pytest.raises(BadPrompt, match="positions"):
        query_scores(small, tokenizers["words"], prompts, null="text " * 60)


def test_kv_groups_have_statistics_of_their_own():
    values = np.random.default_rng(0).uniform(size=(12, 2, 4)).astype(np.float32)
    scores = replace(fake_scores(values), kv_heads=2)
    mean, most = scores.statistics(groups="mean"), scores.statistics(groups="max")
    assert list(mean.name) == ["a0.kv0", "a0.kv1", "a1.kv0", "a1.kv1"]
    np.testing.assert_allclose(mean["mean"], values.mean(axis=0).reshape(2, 2, 2).mean(axis=2).ravel(), rtol=1e-5)
    np.testing.assert_allclose(most["mean"], values.reshape(12, 2, 2, 2).max(axis=3).mean(axis=0).ravel(), rtol=1e-5)
    assert ((most.low < most["mean"]) & (most["mean"] < most.high)).all()
    np.testing.assert_allclose(scores.statistics().sd, values.std(axis=0, ddof=1).ravel(), rtol=1e-5)
    assert most.chance.isna().all()
