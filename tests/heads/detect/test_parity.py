"""The published detector's own outputs (nightdessert/Retrieval_Head, commit 3ac171a) on a random tiny Llama."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build
from tokenizers.processors import TemplateProcessing
from toys import train_tokenizers
from transformers import LlamaForCausalLM

import heads
from checkpoints.errors import BadPrompt, CheckpointMismatch
from heads.detect.answer_rows import copy_readings
from heads.detect.rouge import published_recall, rouge1_recall
from heads.detect.wu2024 import (
    DEFECTS,
    defect_table,
    published_prompt,
    published_scores,
    published_trial,
)
from heads.prompts.pools import default_haystack, default_needles
from heads.rows.rows import RowRequest, capture_rows

FIXTURE = Path(__file__).parents[1] / "fixtures" / "random_tiny"
TRIALS = json.loads((FIXTURE / "reference.json").read_text())["trials"]


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM.from_pretrained(FIXTURE, dtype=torch.float32).eval()


@pytest.mark.parametrize("trial", TRIALS[::3], ids=lambda t: str(len(t["prompt_ids"])))
def test_the_published_trial_is_reproduced_from_its_prompt(model, trial):
    stops = () if trial["newline_id"] is None else (trial["newline_id"],)
    span = (trial["needle_start"], trial["needle_end"])
    written, scores = published_trial(model, trial["prompt_ids"], span, stop_ids=stops)
    assert list(written) == trial["generated_ids"]
    np.testing.assert_allclose(scores, trial["retrieval_score"], atol=1e-6)
    _, distinct = published_trial(model, trial["prompt_ids"], span, stop_ids=stops, counting=False)
    assert (distinct <= scores).all()
    _, lost = published_trial(model, trial["prompt_ids"], None, stop_ids=stops)
    assert (lost == 0).all()


LENGTH = 320
NEEDLES = [heads.Needle(n.needle, n.answer, n.question) for n in default_needles(0, count=1)]


def prompt_of(tokenizer, depth, defects):
    return published_prompt(tokenizer, NEEDLES[0], default_haystack(0), LENGTH, depth, defects=defects)


def test_foreign_full_stops_collapse_every_depth_but_the_last(tokenizers):
    tokenizer = tokenizers["words"]
    depths = (0.0, 0.3, 0.6, 1.0)
    assert [prompt_of(tokenizer, d, {"period_ids"})[2] for d in depths] == [0, 0, 0, 1]
    mended = [prompt_of(tokenizer, d, ())[2] for d in depths]
    assert mended == sorted(set(mended))


def test_encoding_again_and_again_puts_bos_into_the_text():
    tokenizer = with_template()
    bos = tokenizer.bos_token_id
    assert prompt_of(tokenizer, 0.5, {"extra_bos", "span_search"})[0].count(bos) >= 3
    assert prompt_of(tokenizer, 0.5, ())[0].count(bos) == 1


def with_template():
    tokenizer = train_tokenizers()["bpe"]
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    return tokenizer


@pytest.mark.parametrize("name", ["words", "bpe", "characters"])
def test_the_mended_span_is_the_answer(tokenizers, name):
    ids, span, _ = published_prompt(tokenizers[name], NEEDLES[0], default_haystack(0), 900, 0.5, defects=())
    found = tokenizers[name].decode(ids[slice(*span)])
    assert "".join(found.split()) == "".join(NEEDLES[0].answer.split())


def test_the_defect_table_names_every_defect(tokenizers):
    tokenizer = tokenizers["words"]
    model = build("llama", vocab_size=2000, max_position_embeddings=512)
    options = {"lengths": [LENGTH], "depths": [0.0, 0.5]}
    defects = set(DEFECTS) - {"successes_only"}
    scores = published_scores(model, tokenizer, NEEDLES, default_haystack(0), defects=defects, **options)
    assert scores.meta["trials"] == len(scores) == 2
    assert len(np.unique(scores.depth)) == 1
    again = published_scores(model, tokenizer, NEEDLES, default_haystack(0), defects=defects, **options)
    assert heads.diff(scores, again).n_significant == 0
    shorter = {**options, "lengths": [n - 40 for n in options["lengths"]]}
    other = published_scores(model, tokenizer, NEEDLES, default_haystack(0), defects=defects, **shorter)
    with pytest.raises(CheckpointMismatch, match="different prompts"):
        heads.diff(scores, other)
    table = defect_table(model, tokenizer, NEEDLES, default_haystack(0), **options).set_index("procedure")
    assert list(table.index) == ["as published", *(f"without {name}" for name in DEFECTS), "all mended"]
    assert table.trials["as published"] == 0
    assert table.depths_tested["without successes_only"] == 1
    assert table.depths_tested["all mended"] > 1
    with pytest.raises(BadPrompt, match="answered no trial right"):
        published_scores(model, tokenizer, NEEDLES, default_haystack(0), **options)
    with pytest.raises(BadPrompt, match="unknown defect 'luck'; choose from "):
        published_scores(model, tokenizer, NEEDLES, "text", defects=["luck"], **options)
    with pytest.raises(BadPrompt, match="leaves no context"):
        prompt = published_prompt(tokenizer, NEEDLES[0], "A day.", 210, 0.5, defects=())
        assert not prompt


def test_the_gate_counts_words():
    assert rouge1_recall("red green blue blue", "Green, and blue!") == 0.5
    assert published_recall("red green blue blue", "Green, and blue!") == 0.5
    assert (rouge1_recall("running late", "he runs late"), published_recall("running late", "he runs late")) == (
        0.5,
        1.0,
    )
    # words of any script count; the published scorer knows ASCII alone
    assert (rouge1_recall("北京", "在 北京"), published_recall("北京", "在 北京")) == (1.0, 0.0)
    assert (rouge1_recall("Ω-1", "1"), published_recall("Ω-1", "1")) == (0.5, 1.0)
    with pytest.raises(BadPrompt, match="no word to recall"):
        rouge1_recall("…", "yes")


@pytest.mark.parametrize("trial", TRIALS, ids=lambda t: str(len(t["prompt_ids"])))
def test_one_forward_reproduces_the_published_detector(model, trial):
    prompt, generated = trial["prompt_ids"], trial["generated_ids"]
    span = (trial["needle_start"], trial["needle_end"])
    ids = torch.tensor([prompt + generated])
    rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)[None]

    def needle(rows, keys):
        return ((keys >= span[0]) & (keys < span[1]))[None, None, :, None]

    layers = {}
    with torch.no_grad(), capture_rows(model, RowRequest(rows, needle), layers.__setitem__):
        logits = model(ids, use_cache=False).logits[0]
    assert logits[rows[0]].argmax(-1).tolist() == generated
    for layer, stats in layers.items():
        assert stats.argmax[0].T.tolist() == [step["argmax"][layer] for step in trial["steps"]]
        masses = np.array([step["needle_mass"][layer] for step in trial["steps"]])
        np.testing.assert_allclose(stats.mass[0, :, :, 0].T, masses, atol=1e-4)
        scores = copy_readings(stats.argmax[0].numpy(), ids[0].numpy(), np.array(generated), np.arange(*span))
        np.testing.assert_allclose(scores["copy_count"], trial["retrieval_score"][layer], atol=1e-12)


def test_the_needle_is_put_in_verbatim():
    """Token for token what the published code does with its own full stops and a needle that begins with a newline."""
    tokenizer, haystack, depth = with_template(), default_haystack(0), 0.5
    needle = heads.Needle("\nThe code of the mill is oak.\n", "oak", "Question: what is it?\nAnswer:")
    bos, dot = tokenizer.bos_token_id, tokenizer.encode("noon.", add_special_tokens=False)[-1]
    text = tokenizer.decode(tokenizer.encode(" ".join([haystack] * (LENGTH // len(haystack.split()) + 1)))[:LENGTH])
    inserted = tokenizer.encode(needle.needle)
    ids = tokenizer.encode(text)[: LENGTH - 200 - len(inserted)]
    at = int(len(ids) * depth)
    while at and ids[at - 1] not in (bos, dot):
        at -= 1
    expected = tokenizer.encode(tokenizer.decode([*ids[:at], *inserted, *ids[at:]]) + needle.question)
    found, _, achieved = published_prompt(
        tokenizer, needle, haystack, LENGTH, depth, defects=tuple(DEFECTS), provider="other"
    )
    assert list(found) == expected
    assert achieved == pytest.approx(at / len(ids))
    assert at > 1
    mended, span, _ = published_prompt(tokenizer, needle, haystack, LENGTH, depth, defects=())
    assert "\nThe code of the mill is oak.\n" in tokenizer.decode(mended)
    assert tokenizer.decode(mended[slice(*span)]).strip() == "oak"


def test_full_stops_are_those_of_the_provider():
    """Of another provider "." is encoded with BOS, so that the search back ends at a BOS in the text at the latest."""
    tokenizer = with_template()
    options = {"defects": ("period_ids", "extra_bos")}
    text = "no stop in it " * 200

    def place(provider):
        return published_prompt(tokenizer, NEEDLES[0], text, LENGTH, 0.6, provider=provider, **options)[2]

    assert [place(provider) for provider in ("LLaMA", "Mistral", "GLM")] == [0, 0, 0]
    assert 0 < place("other") < 0.1
    with pytest.raises(BadPrompt, match="provider"):
        place("OpenAI")


def test_the_published_gate_stems_words():
    assert published_recall("walked happily by oxen", "walking happy by ox") == 0.5
    assert rouge1_recall("walked happily by oxen", "walking happy by ox") == 0.25
