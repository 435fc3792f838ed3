from dataclasses import replace

import numpy as np
import pytest
import torch
from families import MOE, SIZES, build
from toys import planted_copier, random_prompts, shared_haystack
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

import heads
from checkpoints.errors import BadPrompt, CorruptWeights, UnsupportedArchitecture
from heads.detect.answer_rows import answer_groups
from heads.detect.retrieval import require_finite
from heads.prompts.needles import NeedleSet
from heads.prompts.pools import default_haystack, default_needles
from heads.rows.prefix import cache_for


def scores_of(model, prompts, **options):
    return heads.score(model, prompts, **options)


def test_a_planted_copying_head_scores_1_and_a_uniform_head_nothing():
    prompts = random_prompts(vocabulary=16, size=50, answer=10, count=1, depths=(0.5,))
    scores = scores_of(planted_copier(prompts.prompts[0]), prompts)
    head = scores["a0.h0"]
    assert head.score.value == 1.0
    assert scores.needle_mass[0, 0, 0] > 0.99
    assert scores["a0.h1"].score.value == 0.0
    rows = np.arange(49, 59)
    assert scores.needle_mass[0, 0, 1] == pytest.approx((10 / (rows + 1)).mean(), abs=1e-6)
    assert scores.detectors["entropy"][0, 0, 1] == pytest.approx(np.log(rows + 1).mean(), abs=1e-4)
    assert [h.name for h in scores.top(1)] == ["a0.h0"]
    assert scores.count() == 1


def test_what_heads_read_is_kept_for_the_first_needle_at_the_middle_depth():
    prompts = random_prompts(vocabulary=16, size=50, answer=10, count=2, depths=(0.0, 0.5, 1.0))
    shown = prompts.prompts[1]
    example = scores_of(planted_copier(shown), prompts).example
    assert (tuple(example.ids), example.answer_start) == (shown.ids, shown.answer_start)
    assert (example.answer_spans, example.needle_spans) == (shown.answer_spans, shown.needle_spans)
    assert example.index[0, 0, :, 0].tolist() == list(shown.gold)
    assert (example.weight[0, 0, :, 0] > 0.99).all()
    rows = np.arange(shown.answer_start - 1, len(shown.ids) - 1)
    np.testing.assert_allclose(example.weight[0, 1], np.repeat(1 / (rows[:, None] + 1), 4, axis=1), atol=1e-6)


def test_what_heads_read_is_what_the_model_attends_to_and_is_kept_on_disk(tmp_path):
    model, prompts = build("llama"), random_prompts(answer=2, depths=(0.5,))
    scores = scores_of(model, prompts)
    example, first = scores.example, prompts.prompts[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(torch.tensor([first.ids]), output_attentions=True).attentions
    for layer, attended in enumerate(maps):
        top = attended[0, :, first.answer_start - 1 : -1].topk(4)
        np.testing.assert_allclose(example.weight[layer], top.values, atol=1e-5)
    loaded = heads.Scores.load(scores.save(tmp_path / "scores"))
    np.testing.assert_array_equal(loaded.example.index, example.index)
    assert loaded.example.needle_spans == first.needle_spans
    assert scores_of(model, prompts, mode="generate_then_score").example is None


def test_groups_of_keys_are_remembered_for_the_same_rows_alone():
    prompts = random_prompts(count=2, depths=(0.5,)).prompts
    size = len(prompts[0].ids)
    groups, keys = answer_groups(prompts, size, torch.device("cpu")), torch.arange(size)
    early, late = (torch.tensor([[start, start + 1]] * 2) for start in (40, size - 2))
    first = groups(early, keys)
    assert groups(early.clone(), keys) is first
    for rows, block in ((late, keys), (early, keys[:30]), (early, keys)):
        fresh = answer_groups(prompts, size, torch.device("cpu"))(rows, block)
        assert torch.equal(groups(rows, block), fresh)
    assert not torch.equal(groups(late, keys), first)


def test_indifferent_heads_score_at_chance():
    model = build("llama", vocab_size=4000, max_position_embeddings=512)
    scores = scores_of(model, random_prompts(vocabulary=4000, size=400, count=30, depths=(0.5,)))
    assert scores.chance == pytest.approx(1 / 400)
    assert scores.mean.mean() < 3 * scores.chance


def test_batch_size_changes_nothing():
    model, prompts = build("llama"), random_prompts()
    single, batched = scores_of(model, prompts, batch_size=1), scores_of(model, prompts, batch_size=5)
    np.testing.assert_array_equal(single.copy, batched.copy)
    np.testing.assert_allclose(single.needle_mass, batched.needle_mass, atol=1e-6)
    np.testing.assert_allclose(single.nll, batched.nll, atol=1e-5)


def test_answers_of_different_lengths_share_a_batch():
    model = build("llama")
    mixed = random_prompts(answer=6, count=1).prompts + random_prompts(answer=12, count=1).prompts
    together = scores_of(model, NeedleSet(mixed, (), 60))
    alone = scores_of(model, NeedleSet(mixed[:3], (), 60))
    np.testing.assert_array_equal(together.copy[:3], alone.copy)
    np.testing.assert_allclose(together.nll[:3, :6], alone.nll, atol=1e-5)
    assert np.isnan(together.nll[:3, 6:]).all()


@pytest.mark.parametrize(
    "name", ["qwen3", "gemma2", "gpt2", "gpt_neox", "deepseek_v3", "cohere2", "granite", "hunyuan_moe", "gpt_oss"]
)
def test_nll_and_accuracy_are_those_of_a_plain_forward(name):
    model, prompts = build(name), random_prompts(count=2)
    scores = scores_of(model, prompts)
    for n, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model(torch.tensor([prompt.ids])).logits[0, prompt.answer_start - 1 : -1]
        answer = torch.tensor(prompt.answer)
        loss = torch.nn.functional.cross_entropy(logits, answer, reduction="none")
        np.testing.assert_allclose(scores.nll[n], loss, atol=1e-4)
        assert scores.correct[n] == bool((logits.argmax(-1) == answer).all())


def test_permuting_heads_permutes_scores():
    model, prompts = build("llama"), random_prompts()
    before = scores_of(model, prompts)
    with torch.no_grad():
        attention = model.model.layers[0].self_attn
        for name, order in (("q_proj", [2, 3, 0, 1]), ("k_proj", [1, 0]), ("v_proj", [1, 0])):
            weight = getattr(attention, name).weight
            weight.copy_(weight.view(len(order), 8, -1)[order].reshape(weight.shape))
        out = attention.o_proj.weight
        out.copy_(out.view(-1, 4, 8)[:, [2, 3, 0, 1]].reshape(out.shape))
    after = scores_of(model, prompts)
    np.testing.assert_array_equal(after.copy[:, 0], before.copy[:, 0, [2, 3, 0, 1]])
    np.testing.assert_array_equal(after.copy[:, 1], before.copy[:, 1])


def test_grouped_queries_score_as_repeated_keys():
    prompts = random_prompts()
    grouped, full = build("llama"), build("llama", num_key_value_heads=4)
    state = grouped.state_dict()
    for name, weight in list(state.items()):
        if "k_proj" in name or "v_proj" in name:
            state[name] = weight.view(2, 8, -1).repeat_interleave(2, dim=0).reshape(32, -1)
    full.load_state_dict(state)
    np.testing.assert_array_equal(scores_of(grouped, prompts).copy, scores_of(full, prompts).copy)


def test_a_needle_outside_the_window_is_not_applicable_rather_than_0():
    scores = scores_of(build("mistral"), random_prompts(depths=(0.1,)))
    assert np.isnan(scores.copy).all()
    assert np.isnan(scores.mean).all()
    assert scores.count() == 0
    assert scores.top(3) == ()
    hybrid = scores_of(build("gemma3"), random_prompts(depths=(0.1,)))
    assert np.isnan(hybrid.mean[0]).all()
    assert not np.isnan(hybrid.mean[1]).any()


def test_layers_without_attention_rows_are_not_applicable():
    config = Qwen3NextConfig(**SIZES, **MOE, layer_types=["linear_attention", "full_attention"])
    scores = scores_of(Qwen3NextForCausalLM._from_config(config).eval(), random_prompts(count=1))
    assert scores.meta["layers_without_rows"] == [0]
    assert np.isnan(scores.copy[:, 0]).all()
    assert not np.isnan(scores.copy[:, 1]).any()


def test_what_the_model_cannot_read_is_refused_with_the_reason():
    model = build("llama", max_position_embeddings=64)
    told = "prompts of 60 tokens take 72 with their answers, the model has 64 positions: "
    for least, rest in (
        (0, r"take a length of 52 or less \(length, --length\)$"),
        (52, r"take a length of 52 or less \(length, --length\); needle and question alone take 52$"),
        (53, "no length fits, since needle and question take up to 53 tokens"),
    ):
        with pytest.raises(BadPrompt, match=told + rest):
            scores_of(model, replace(random_prompts(), least=least))
    with pytest.raises(BadPrompt, match="beyond the model's vocabulary"):
        scores_of(build("llama"), random_prompts(vocabulary=500))
    with pytest.raises(BadPrompt, match="all 1 needles were refused, needle 0: "):
        scores_of(model, NeedleSet((), ((0, "no"),), 60))
    with pytest.raises(BadPrompt, match="there is no needle or length"):
        scores_of(model, NeedleSet((), (), 60))
    with pytest.raises(BadPrompt, match="training mode"):
        scores_of(build("llama").train(), random_prompts())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "generate"}, "unknown mode 'generate'; choose from teacher_forced, generate_then_score"),
        ({"extra": ["qr"]}, "unknown extra 'qr'; choose from locos"),
        ({"prefix": "both"}, "unknown prefix 'both'; choose from "),
        ({"batch_size": 0}, "batch_size and key_block count from 1 on: got 0 and 2048"),
        ({"key_block": 0}, "got 8 and 0"),
    ],
)
def test_an_option_of_no_meaning_is_refused(options, reason):
    with pytest.raises(BadPrompt, match=reason):
        heads.score(build("llama"), random_prompts(count=1), **options)


def test_results_are_short_at_a_prompt():
    prompts = random_prompts(count=1)
    scores = heads.score(build("llama"), prompts)
    assert repr(scores) == f"<Scores: {scores.verdict}>"
    assert repr(prompts) == "<NeedleSet: 3 prompts of 60 tokens, 0 needles refused>"


def test_the_model_is_left_as_it_was():
    model = build("llama")
    scores_of(model, random_prompts(count=1))
    assert model.config._attn_implementation == "eager"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_built_in_probe_runs_on_any_tokenizer(tokenizers):
    model = build("llama", vocab_size=2000, max_position_embeddings=1024)
    prompts = heads.needle_prompts(
        tokenizers["words"], default_needles(0, count=2), default_haystack(0), length=300, depths=[0.2, 0.8]
    )
    scores = scores_of(model, prompts)
    assert scores.copy.shape == (4, 2, 4)
    assert scores.meta["prompts"] == prompts.hash


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3"])
def test_shared_prefixes_change_cost_and_not_results(name):
    model = build(name)
    prompts = shared_haystack(count=2)
    separate = scores_of(model, prompts)
    shared = scores_of(model, prompts, prefix="shared")
    np.testing.assert_array_equal(shared.copy, separate.copy)
    np.testing.assert_array_equal(shared.correct, separate.correct)
    for detector, values in separate.detectors.items():
        np.testing.assert_allclose(shared.detectors[detector], values, atol=1e-4)
    np.testing.assert_allclose(shared.nll, separate.nll, atol=1e-4)


def test_shared_prefixes_run_fewer_tokens():
    model, prompts, ran = build("llama"), shared_haystack(count=1), []
    handle = model.register_forward_pre_hook(lambda module, inputs: ran.append(inputs[0].shape[1]))
    scores_of(model, prompts, prefix="shared")
    handle.remove()
    assert ran == [70, 70 - 22, 70 - 5]


def test_prefixes_are_shared_where_that_pays_and_nowhere_else(monkeypatch):
    model, prompts, ran = build("llama"), shared_haystack(count=1), []
    model.register_forward_pre_hook(lambda module, inputs: ran.append(tuple(inputs[0].shape)))
    whole, parts = [(3, 70)], [(1, 70), (1, 70 - 22), (1, 70 - 5)]

    def runs(asked, **how):
        ran.clear()
        scores_of(model.to(how.get("dtype", torch.float32)), asked, prefix="auto")
        return list(ran)

    assert runs(prompts) == whole, "prompts are short"
    monkeypatch.setattr("heads.rows.prefix.LEAST_TOKENS", 71)
    assert runs(prompts) == whole, "prompts of 70 tokens are shorter than 71"
    monkeypatch.setattr("heads.rows.prefix.LEAST_TOKENS", 70)
    monkeypatch.setattr("heads.rows.prefix.LEAST_SHARE", 27.5 / 210)
    assert runs(prompts) == whole, "27 of 210 tokens are shared"
    monkeypatch.setattr("heads.rows.prefix.LEAST_SHARE", 27 / 210)
    assert runs(prompts) == parts
    assert runs(prompts, dtype=torch.bfloat16) == whole, "narrow floats round where parts are joined"


def test_a_state_that_cannot_be_cut_back_leaves_prompts_whole_where_sharing_was_not_asked_for(monkeypatch):
    monkeypatch.setattr("heads.rows.prefix.LEAST_TOKENS", 1)
    config = Qwen3NextConfig(**SIZES, **MOE, layer_types=["linear_attention", "full_attention"])
    model, prompts = Qwen3NextForCausalLM._from_config(config).eval(), shared_haystack(count=1)
    assert cache_for(model, "auto", [prompt.ids for prompt in prompts]) is None


def test_shared_prefixes_with_direct_writes():
    model, prompts = build("llama"), shared_haystack(count=1)
    want = scores_of(model, prompts, extra=["locos"]).detectors["locos_frozen"]
    found = scores_of(model, prompts, extra=["locos"], prefix="shared").detectors["locos_frozen"]
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_states_that_cannot_be_cut_back_are_refused():
    config = Qwen3NextConfig(**SIZES, **MOE, layer_types=["linear_attention", "full_attention"])
    with pytest.raises(UnsupportedArchitecture, match="linear_attention"):
        scores_of(Qwen3NextForCausalLM._from_config(config).eval(), random_prompts(count=1), prefix="shared")


def test_answers_without_a_finite_likelihood_are_refused():
    fine = np.array([1.0, 2.0], dtype=np.float32)
    require_finite([fine, fine[:1]])
    with pytest.raises(CorruptWeights, match="likelihood is not finite on 2 of 3 prompts; try dtype float32"):
        require_finite([fine, fine * np.nan, np.array([np.inf])])
