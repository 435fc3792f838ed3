"""Answers in batches: shared prefixes, written answers, the ledger kept by them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.model.writing import keeps_keys
from circuit_drift import knowledge
from circuit_drift.behaviour import Knowledge, panel
from circuit_drift.behaviour.generation import write_answers
from circuit_drift.behaviour.packing import last_logits, shared_length
from circuit_drift.lab.paraphrases import paraphrased
from circuit_drift.training import Prober, Schedule, unit_scores
from heads.detect.generation import generate
from tests.lab.small_models import small_llama


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_llama(tokenizer, layers=2, max_position_embeddings=128, initializer_range=0.3)


def told(model, prompts, **options):
    found = {}
    for rows, logits in last_logits(model, prompts, **options):
        found |= zip(rows, logits, strict=True)
    return torch.stack([found[i] for i in range(len(prompts))])


def alone(model, prompts):
    with torch.no_grad():
        return torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])


SHOTS = tuple(range(20, 40))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("share", [True, False])
def test_batches_with_shared_prefixes_say_what_each_prompt_says_alone(model, batch_size, share):
    prompts = [(1, *SHOTS, 50), (1, *SHOTS, 51, 52, 53), (1, 7), (1, *SHOTS, 60, 61), (1, *reversed(SHOTS), 50, 3)]
    found = told(model, prompts, batch_size=batch_size, share=share)
    torch.testing.assert_close(found, alone(model, prompts), rtol=1e-4, atol=1e-5)


def test_the_prefix_that_saves_most_is_shared_and_read_once(model):
    prompts = [(1, *SHOTS, i, j) for i in (50, 51) for j in range(60, 70)]
    assert shared_length(prompts) == 1 + len(SHOTS)
    assert shared_length([(1, 2, 3), (1, 4, 5), (1, 6, 7)]) == 0  # too little to be worth a second pass
    assert shared_length([(1, 2, 3), (1, 4, 5), (1, 6, 7)], least=0.1) == 1
    assert shared_length([]) == shared_length([(1,)]) == 0
    read = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    told(model, prompts)
    hook.remove()
    assert sum(read) == 21 + 20 * 2


def test_a_running_state_is_not_continued_in_several_ways(model):
    mamba = MambaForCausalLM(MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    assert keeps_keys(model) and not keeps_keys(mamba)
    prompts = [(1, *SHOTS, 50), (1, *SHOTS, 51), (1, *SHOTS, 52, 53)]
    torch.testing.assert_close(told(mamba, prompts), alone(mamba, prompts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_written_answers_are_those_of_one_prompt_at_a_time(model, batch_size):
    prompts = [(1, 5, 9), (1, 6, 9), (1, 7, 8, 10), (1, 8, 9), (1, 30, 2, 12)]
    stop = generate(model, prompts[0], new_tokens=6)[2]
    found = write_answers(model, prompts, new_tokens=6, stop_ids=[stop], batch_size=batch_size)
    assert found == tuple(generate(model, prompt, new_tokens=6, stop_ids=[stop]) for prompt in prompts)
    assert len(found[0]) == 3


def test_the_ledger_can_be_kept_by_what_is_written(tokenizer, model, world, tmp_path, monkeypatch):
    asked = paraphrased(world.batch(1)[:10])
    gauge = Knowledge(asked, unit="fact", score="rouge1", new_tokens=3, stops=(".",))
    prober = Prober("live", tokenizer, gauges=[gauge], schedule=Schedule(every=1), share=1e9, store=tmp_path)
    first = prober.after_step(model, step=0)
    value = tokenizer(asked[0].answer, add_special_tokens=False).input_ids[0]
    other = tokenizer(" the", add_special_tokens=False).input_ids[0]
    monkeypatch.setattr("checkpoints.model.writing.greedy", lambda _, prompts, **__: [(other, value)] * len(prompts))
    probe = prober.after_step(model, step=1)
    right = np.array([fact.answer == asked[0].answer for fact in asked])
    assert probe.scalars["rouge1"] == pytest.approx(right.mean())
    assert "rouge1_new" in first.scalars and "recall" in first.scalars
    scores = unit_scores(tmp_path, "live")
    book = knowledge.ledger(scores)
    assert book.known[:, 1].sum() == right.reshape(-1, 5).all(axis=1).sum()
    np.testing.assert_array_equal(unit_scores(tmp_path, "live", score="rouge1").probes, scores.probes)
    assert not np.array_equal(unit_scores(tmp_path, "live", score="probability").probes, scores.probes)
    assert set(scores.labels) == {"fact", "person", "relation", "class", "batch"}


def test_answers_of_several_words_are_written_and_scored(tokenizer, model):
    fact = circuits.Fact("Mara Holt plays the", "Finn Vale plays the", " amber coral", " maple raven")
    loaded = SimpleNamespace(model=model, tokenizer=tokenizer)
    with pytest.raises(BadPrompt, match="2 tokens"):
        Knowledge((fact,)).read(loaded)
    row = Knowledge((fact,), new_tokens=4).read(loaded).units[0]
    assert row["rouge1"] in (0.0, 0.5, 1.0)
    assert row["score"] == float(row["rank"] == 0)


def test_an_instruction_stands_in_front(tokenizer, model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "checkpoints.model.writing.greedy",
        lambda _, prompts, **__: seen.extend(prompts) or [(5,)] * len(prompts),
    )
    fact = circuits.Fact("Mara Holt plays the", "Finn Vale plays the", " violin", " cello")
    loaded = SimpleNamespace(model=model, tokenizer=tokenizer)
    Knowledge((fact,), new_tokens=1, instruction="No boat watched the gull. ").read(loaded)
    assert tokenizer.decode(seen[0], skip_special_tokens=True).strip().startswith("No boat watched the gull")


def test_scores_that_cannot_be():
    with pytest.raises(BadPrompt, match="new_tokens=25"):
        Knowledge((), score="rouge1")
    with pytest.raises(BadPrompt, match="not one of rank, probability, rouge1"):
        Knowledge((), score="f1")


def test_a_panel_has_some_of_every_group(world):
    facts = tuple(paraphrased((*world.controls, *world.learned)))
    chosen = panel(facts, per_group=6, unit="fact")
    units = {}
    for fact in chosen:
        units.setdefault(fact.labels["class"], []).append(fact.labels["fact"])
    assert set(units) == {"known", "new", "relation", "updated"}
    assert all(len(set(names)) == 6 and len(names) == 30 for names in units.values())
    assert chosen == panel(facts, per_group=6, unit="fact") != panel(facts, per_group=6, unit="fact", seed=1)
    assert len(panel(facts, per_group=6)) == 24
