"""What probes measure by themselves, and when they are taken."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import circuits
from checkpoints.errors import BadPrompt, DriftError
from checkpoints.model.bridge import build_bridge
from circuit_drift import knowledge
from circuit_drift.behaviour import Arithmetic, Copying, Knowledge, TextPerplexity, answers
from circuit_drift.behaviour.skills import forced
from circuit_drift.lab.paraphrases import paraphrased
from circuit_drift.training import Budget, Schedule, unit_scores
from tests.lab.small_trainings import prober_of, tiny


def test_schedules():
    assert [s for s in range(10) if Schedule(every=4).due(s)] == [0, 4, 8]
    assert [s for s in range(1, 70) if Schedule(per_doubling=1).due(s)] == [1, 2, 4, 8, 16, 32, 64]
    assert [s for s in range(40) if Schedule(per_doubling=2, start=False).due(s)] == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]
    assert not Schedule(epochs=True).due(5)
    with pytest.raises(BadPrompt, match="nothing is probed"):
        Schedule()
    with pytest.raises(BadPrompt, match="forward"):
        Schedule(every=-1)


def test_a_budget_keeps_to_its_share():
    now = [0.0]
    budget = Budget(0.1, clock=lambda: now[0])
    assert budget.training == budget.used == 0.0
    taken = []
    for step in range(100):
        now[0] += 1.0
        if budget.affords():
            taken.append(step)
            with budget.spending():
                now[0] += 2.0 if step < 50 else 4.0
    assert taken[0] == 0 and len(taken) < 10
    assert budget.used <= 0.1
    assert budget.training == pytest.approx(99.0)  # what came before the first probe does not count
    with pytest.raises(BadPrompt, match="share above 0"):
        Budget(0)
    whatever = Budget(float("inf"), clock=lambda: 0.0)
    with whatever.spending():
        pass
    assert whatever.affords()


def test_probes_that_do_not_fit_are_passed_over(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)], share=1e-9)
    model = tiny(tokenizer)
    assert prober.after_step(model, step=0) is not None
    assert prober.after_step(model, step=3) is None
    assert prober.passed_over == [3]
    assert prober.after_step(model, step=4, force=True) is not None
    assert prober.after_step(model, step=4, force=True) is None


@pytest.mark.filterwarnings("ignore")
def test_a_bridge_is_probed_as_the_model_under_it_and_converted_weights_are_refused(tokenizer, facts, tmp_path):
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(facts)])
    model = tiny(tokenizer).eval()
    plain, through = prober.after_step(model, step=0), prober.after_step(build_bridge(model), step=3)
    assert plain is not None and through is not None
    assert (through.point.weights, through.scalars) == (plain.point.weights, plain.scalars)
    hooked = type("HookedTransformer", (torch.nn.Module,), {"__module__": "transformer_lens.HookedTransformer"})
    with pytest.raises(DriftError, match=r"converted copies of the weights.*boot_transformers"):
        prober.after_step(hooked(), step=6)


def test_answers_are_those_of_one_prompt_at_a_time(tokenizer, facts):
    model = tiny(tokenizer).eval()
    fact_set = circuits.tokenize_facts(tokenizer, facts)
    said = answers(model, fact_set, batch_size=3)
    for index, prompt in enumerate(fact_set.clean):
        with torch.no_grad():
            chances = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        value = chances[fact_set.answer_id[index]]
        assert said.rank[index] == int((chances > value).sum())
        assert said.probability[index] == pytest.approx(float(value), rel=1e-4)


class Digits:
    """A tokenizer of single characters."""

    bos_token_id, unk_token_id = 1, None
    words = "0123456789+-= \n"

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=[3 + self.words.index(c) for c in text])


def test_arithmetic_is_right_and_deterministic():
    gauge = Arithmetic(count=50)
    for prompt, answer in gauge.problems():
        *shown, asked = prompt.splitlines()
        assert len(shown) == 4
        for line in [*shown, f"{asked} {answer}"]:
            left, right = line.split("=")
            assert eval(left) == int(right) >= 0
    assert gauge.problems() == Arithmetic(count=50).problems() != Arithmetic(count=50, seed=1).problems()


def test_arithmetic_of_a_random_model(tokenizer):
    model = tiny(tokenizer).eval()
    loaded = SimpleNamespace(model=model, tokenizer=Digits())
    scalars = Arithmetic(count=8).read(loaded).scalars
    assert scalars["arithmetic_accuracy"] < 0.5
    assert scalars["arithmetic_ppl"] == pytest.approx(len(tokenizer), rel=0.5)
    with pytest.raises(BadPrompt, match="does not know digits"):
        Arithmetic().read(SimpleNamespace(model=model, tokenizer=tokenizer))


def test_forced_answers_are_those_of_greedy_decoding(tokenizer):
    model = tiny(tokenizer).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    prompt = [1, 5, 9, 7]
    greedy = list(prompt)
    for _ in range(3):
        with torch.no_grad():
            greedy.append(int(model(torch.tensor([greedy])).logits[0, -1].argmax()))
    wrong = [*greedy[4:6], (greedy[6] + 1) % 50]
    right, nll = forced(model, [(prompt, greedy[4:]), (prompt, wrong), (prompt[:2], [4])])
    assert right.tolist()[:2] == [True, False]
    assert nll[0] < nll[1]


def test_copying_of_a_model_that_copies(tokenizer):
    class Copier(torch.nn.Module):
        """Says the token that followed the last one where it stood before."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, use_cache):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for row, ids in enumerate(input_ids.tolist()):
                for at, token in enumerate(ids):
                    if token in ids[:at]:
                        logits[row, at, ids[ids.index(token) + 1]] = 50.0
            return SimpleNamespace(logits=logits)

    read = Copying(count=3, length=6).read(SimpleNamespace(model=Copier(), tokenizer=tokenizer))
    assert read.scalars["copying_accuracy"] == 1.0
    assert read.scalars["copying_ppl"] == pytest.approx(1.0)
    few = Copying(count=2, length=40, words=("maple", "cedar")).read(
        SimpleNamespace(model=tiny(tokenizer).eval(), tokenizer=tokenizer)
    )
    assert few.scalars["copying_ppl"] > 1.0
    random_model = Copying(count=3, length=6).read(SimpleNamespace(model=tiny(tokenizer).eval(), tokenizer=tokenizer))
    assert random_model.scalars["copying_accuracy"] < 0.3


def test_paraphrases_are_probes_of_one_unit(tokenizer, world, tmp_path):
    asked = paraphrased(world.batch(1)[:20])
    assert len(asked) == 5 * len({fact.labels["fact"] for fact in asked})
    assert {fact.labels["form"] for fact in asked} == {"told", "held out"}
    assert len(circuits.tokenize_facts(tokenizer, asked).refused) == 0
    prober = prober_of(tokenizer, tmp_path, gauges=[Knowledge(asked, unit="fact")])
    prober.after_step(tiny(tokenizer), step=0)
    prober.after_step(tiny(tokenizer, seed=1), step=3)
    scores = unit_scores(tmp_path / "store", "live")
    assert scores.probes.shape == (len(asked) // 5, 2, 5)
    assert set(scores.labels) == {"fact", "person", "relation", "class", "batch"}
    assert knowledge.ledger(scores, draws=20).resampled is not None


def test_perplexity_of_texts(tokenizer):
    loaded = SimpleNamespace(model=tiny(tokenizer).eval(), tokenizer=tokenizer)
    texts = ("Mara Holt was born in Lisbon.", "No boat watched the gull.")
    found = TextPerplexity(texts).read(loaded).scalars["text_ppl"]
    losses = []
    for text in texts:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
    assert found == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    with pytest.raises(BadPrompt, match="two tokens"):
        TextPerplexity(("",)).read(loaded)
