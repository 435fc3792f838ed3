from dataclasses import replace

import numpy as np
import pytest
import torch
from families import build
from toys import random_prompts

import heads
from checkpoints.errors import BadPrompt
from checkpoints.results.figure import unbroken
from heads.detect.adaptive import adaptive_scores, stability
from heads.niah.grid import NeedleMap
from heads.niah.measure import corpus_nll, interference_map, needle_map
from heads.prompts.pools import default_haystack, default_needles

DEPTHS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def model():
    return build("llama", vocab_size=2000, max_position_embeddings=512)


@pytest.fixture(scope="module")
def needles():
    return [heads.Needle(n.needle, n.answer, n.question) for n in default_needles(0, count=3)]


@pytest.fixture(scope="module")
def drawn(model, tokenizers, needles):
    haystack = default_haystack(0)
    return needle_map(model, tokenizers["words"], needles, haystack, lengths=(120, 200), depths=DEPTHS)


def test_a_cell_is_the_plain_forwards_loss(model, tokenizers, needles, drawn):
    prompts = heads.needle_prompts(tokenizers["words"], needles, default_haystack(0), length=200, depths=DEPTHS).prompts
    losses = []
    for prompt in (p for p in prompts if p.requested_depth == 0.5):
        with torch.no_grad():
            logits = model(torch.tensor([prompt.ids])).logits[0, prompt.answer_start - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(prompt.answer), reduction="none").tolist()
    assert drawn.cell_nll[1, 1] == pytest.approx(np.mean(losses), abs=1e-3)
    assert drawn.cell_ppl[1, 1] == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)
    assert drawn.row_nll.shape == (2,)
    assert drawn.column_nll.shape == (3,)
    assert drawn.to_frame().n.tolist() == [3] * 6


def test_a_map_is_saved_shown_and_drawn(drawn, tmp_path):
    back = NeedleMap.load(drawn.save(tmp_path / "map"))
    np.testing.assert_array_equal(back.cell_nll, drawn.cell_nll)
    assert back.verdict == drawn.verdict
    assert "middle penalty" in unbroken(drawn.plot().layout.title.text)
    assert "<table" in drawn._repr_html_()


def lost_in_the_middle(depth, nll):
    n = len(depth)
    return NeedleMap(
        axes=("length", "depth"),
        rows=(100.0,),
        columns=tuple(sorted(set(depth))),
        row=np.zeros(n, dtype=int),
        column=np.searchsorted(sorted(set(depth)), depth),
        needle=np.arange(n) // 5,
        nll=np.asarray(nll, dtype=np.float32)[:, None],
        correct=np.ones(n, dtype=bool),
        achieved=np.asarray(depth, dtype=np.float32),
    )


def test_the_middle_penalty_is_middle_minus_ends():
    depth = np.tile([0.0, 0.25, 0.5, 0.75, 1.0], 6)
    noise = np.random.default_rng(0).normal(0, 0.01, 30)
    found = lost_in_the_middle(depth, np.where((depth > 0.3) & (depth < 0.8), 2.0, 0.5) + noise).middle_penalty()
    assert found.low < 1.5 < found.high
    assert found.value == pytest.approx(1.5, abs=0.02)
    with pytest.raises(BadPrompt, match="inside and outside"):
        lost_in_the_middle(depth * 0, noise).middle_penalty()


def test_interference_maps_hold_the_distance(model, tokenizers, needles):
    found = interference_map(
        model, tokenizers["words"], needles, default_haystack(0), distances=(10, 60), befores=(5, 50, 100)
    )
    assert found.axes == ("distance", "before")
    assert found.cell_nll.shape == (2, 3)
    assert np.isfinite(found.cell_nll).all()
    with pytest.raises(BadPrompt, match="over depth"):
        found.middle_penalty()
    assert "middle" not in found.verdict


def test_a_needle_that_does_not_fit_a_cell_is_refused_with_the_reason(model, tokenizers, needles):
    with pytest.raises(BadPrompt, match=r"needle 0 cannot stand in every cell.*raise the length of 20"):
        needle_map(model, tokenizers["words"], needles, "A day. ", lengths=(20,), depths=(0.5,))
    with pytest.raises(BadPrompt, match="512 positions"):
        needle_map(model, tokenizers["words"], needles, "A day. ", lengths=(600,), depths=(0.5,))


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_corpus_perplexity_in_chunks_is_that_of_one_pass(tokenizers, name):
    model, tokenizer = build(name, vocab_size=2000), tokenizers["words"]
    texts = [default_haystack(seed, sentences=12) for seed in range(4)]
    whole = corpus_nll(model, tokenizer, texts, length=100, chunk=200)
    cut = corpus_nll(model, tokenizer, texts, length=100, chunk=7)
    assert cut.value == pytest.approx(whole.value, abs=1e-4)
    ids = torch.tensor([[1, *tokenizer.encode(texts[0], add_special_tokens=False)][:100]])
    with torch.no_grad():
        want = model(ids, labels=ids).loss
    assert corpus_nll(model, tokenizer, texts[:1], length=100).value == pytest.approx(float(want), abs=1e-4)
    with pytest.raises(BadPrompt, match="two tokens"):
        corpus_nll(model, tokenizer, [""], length=100)


def test_scoring_stops_when_the_answer_is_known():
    prompts = random_prompts(vocabulary=9, count=30)
    loose = adaptive_scores(build("llama"), prompts, overlap=0.2, count_width=9.0, first=8, step=4)
    assert len(loose) == 8
    assert loose.meta["adaptive"]["tight"]
    strict = adaptive_scores(build("llama"), prompts, overlap=1.0, first=40, step=20)
    assert len(strict) == 90
    assert sorted(strict.meta["adaptive"]["order"]) == list(range(90))
    whole = heads.score(build("llama"), prompts)
    np.testing.assert_allclose(strict.mean, whole.mean, atol=1e-6)
    np.testing.assert_array_equal(strict.steps, whole.steps[strict.meta["adaptive"]["order"]])
    assert strict.meta["chances"] == pytest.approx(whole.meta["chances"])
    with pytest.raises(BadPrompt, match="overlap"):
        adaptive_scores(build("llama"), prompts, overlap=2)


def test_stability_of_a_clear_list_and_of_noise():
    draw = np.random.default_rng(0)
    clear = np.zeros((20, 8, 8))
    clear[:, 0, :4] = 0.8 + 0.05 * draw.normal(size=(20, 4))
    assert stability(clear, top_k=4, draws=200, seed=0) == (1.0, 0.0)
    noise = draw.uniform(0, 0.2, (20, 8, 8))
    kept, width = stability(noise, top_k=4, draws=200, seed=0)
    assert kept < 0.8
    assert width > 0.2
    same = np.repeat(noise[:10], 5, axis=0)
    by_needle = stability(same, np.repeat(np.arange(10), 5), top_k=4, draws=200, seed=0)
    assert by_needle == stability(noise[:10], top_k=4, draws=200, seed=0)
    assert by_needle[0] < stability(same, top_k=4, draws=200, seed=0)[0]


def test_interference_costs_what_the_text_before_adds():
    before, nll = np.array([0, 64, 128] * 6), np.array([1.0, 1.2, 1.9] * 6)
    found = NeedleMap(
        axes=("distance", "before"),
        rows=(32.0, 96.0),
        columns=(0.0, 64.0, 128.0),
        row=np.repeat([0, 1], 9),
        column=before // 64,
        needle=np.tile(np.repeat([0, 1, 2], 3), 2),
        nll=nll[:, None].astype(np.float32),
        correct=np.ones(18, dtype=bool),
        achieved=np.zeros(18, dtype=np.float32),
    )
    cost = found.interference_cost()
    assert (cost.value, cost.low, cost.high) == pytest.approx((0.9, 0.9, 0.9), abs=1e-6)
    half = found.part([96.0])
    assert (half.rows, len(half.row), set(half.row.tolist())) == ((96.0,), 9, {0})
    assert half.interference_cost().value == pytest.approx(0.9, abs=1e-6)
    with pytest.raises(BadPrompt, match=r"no distance \[7"):
        found.part([7])
    with pytest.raises(BadPrompt, match="several lengths of text before"):
        lost_in_the_middle([0.1, 0.5], [1, 1]).interference_cost()


def test_a_cell_comes_with_its_interval_and_its_depth(drawn):
    frame = drawn.to_frame()
    assert ((frame.ppl_low < frame.answer_ppl) & (frame.answer_ppl < frame.ppl_high)).all()
    np.testing.assert_allclose(frame.achieved_depth[frame.depth == 0], 0)
    assert (abs(frame.achieved_depth - frame.depth) < 0.1).all()
    cell = (drawn.row == 0) & (drawn.column == 1)
    per_prompt = np.exp(np.nanmean(drawn.nll[cell], axis=1))
    assert per_prompt.min() * (1 - 1e-5) <= frame.ppl_low[1] < frame.ppl_high[1] <= per_prompt.max() * (1 + 1e-5)


def test_one_needle_has_no_interval():
    """Resampling one needle gives the same value every time: that is no certainty."""
    depths = np.linspace(0, 1, 10)
    found = lost_in_the_middle(depths, np.random.default_rng(0).normal(1, 0.3, 10))
    alone = replace(found, needle=np.zeros_like(found.needle))
    penalty = alone.middle_penalty()
    assert penalty.value == pytest.approx(found.middle_penalty().value)
    assert np.isnan([penalty.low, penalty.high]).all()
    assert alone.margin("depth").low.isna().all()


def test_axes_may_be_arrays(model, tokenizers, needles, drawn):
    haystack = default_haystack(0)
    lengths, depths = np.array([120, 200]), np.linspace(0, 1, 3)
    found = needle_map(model, tokenizers["words"], needles, haystack, lengths=lengths, depths=depths)
    np.testing.assert_array_equal(found.nll, drawn.nll)
    assert found.columns == drawn.columns


def test_margins_come_with_their_intervals():
    depth = np.tile([0.0, 0.5, 1.0], 10)
    hardness = np.repeat(np.random.default_rng(0).normal(0, 0.1, 10), 3)
    found = replace(lost_in_the_middle(depth, 1 + depth + hardness), needle=np.repeat(np.arange(10), 3))
    margin = found.margin("depth")
    np.testing.assert_allclose(margin.answer_nll, 1 + np.array([0, 0.5, 1.0]) + hardness.mean(), atol=1e-6)
    np.testing.assert_allclose(margin.answer_nll, found.column_nll, atol=1e-6)
    assert ((margin.low < margin.answer_nll) & (margin.answer_nll < margin.high)).all()
    np.testing.assert_allclose(margin.high - margin.low, (margin.high - margin.low)[0], atol=1e-6)
    assert found.margin("length").n.tolist() == [30]
    with pytest.raises(BadPrompt, match=r"no axis 'distance'; it has \['length', 'depth'\]"):
        found.margin("distance")
