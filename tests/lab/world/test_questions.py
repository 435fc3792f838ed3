"""The benchmark's probes in every kind and form, its strata, and what its exposure classes have in common."""

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import circuits
from checkpoints.errors import BadPrompt
from circuit_drift import knowledge
from circuit_drift.behaviour import Choice, Choices, Knowledge
from circuit_drift.lab import documents
from circuit_drift.lab.questions import FORMS, KINDS, STRATA, in_strata, questions, stratified_documents
from circuit_drift.lab.world import RELATION, by_person, make_world
from circuit_drift.training import Prober, Schedule, unit_scores
from tests.lab.small_models import small_llama


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_llama(tokenizer, max_position_embeddings=128, initializer_range=0.3)


@pytest.fixture(scope="module")
def learned(world):
    return world.batch(1)


def test_every_kind_and_form_is_asked(learned):
    asked = questions(learned)
    labels = [probe.labels for probe in (*asked.facts, *asked.choices)]
    assert {label["kind"] for label in labels} == set(KINDS)
    assert {label["form"] for label in labels} == set(FORMS)
    assert {label["class"] for label in labels} == {"new", "relation", "updated"}
    assert asked == questions(learned) != questions(learned, seed=1)


def test_the_labs_tokenizer_can_pose_all_but_questions(tokenizer, learned):
    asked = questions(learned, tokenizer)
    every = questions(learned)
    assert {fact.labels["form"] for fact in asked.facts} == {"cloze", "paraphrase"}
    assert asked.choices == every.choices
    assert len(asked.refused) == sum(fact.labels["form"] == "question" for fact in every.facts) == len(learned)
    assert all(text.startswith("Question:") and "does not know" in why for text, why in asked.refused)
    assert len(circuits.tokenize_facts(tokenizer, asked.facts).refused) == 0


def test_the_answers_are_those_of_the_world(learned):
    truth = {(fact.person.name, fact.relation): fact for fact in learned}
    asked = questions(learned)
    for probe in asked.facts:
        fact = truth[probe.labels["person"], probe.labels["relation"]]
        assert probe.answer.strip() == fact.value != probe.wrong.strip()
        assert (fact.person.name in probe.clean) != (probe.labels["kind"] == "entity linking")
    for choice in asked.choices:
        fact = truth[choice.labels["person"], choice.labels["relation"]]
        expected = {
            ("factual", "multiple choice"): fact.value,
            ("factual", "reversed"): fact.person.name,
            ("time-sensitive", "multiple choice"): fact.value,
            ("temporal", "multiple choice"): f"{fact.value} after {fact.former}",
        }
        assert choice.options[0].strip() == expected[choice.labels["kind"], choice.labels["form"]]
    changed = [choice for choice in asked.choices if choice.labels["kind"] == "time-sensitive"]
    assert len(changed) == sum(fact.kind == "updated" for fact in learned)


def test_a_person_is_described_only_where_the_description_fits_nobody_else(learned):
    people = {group[0].person: {f.relation: f.value for f in group} for group in by_person(learned)}
    described = Counter((v.get("profession"), v.get("birthplace")) for v in people.values())
    linked = [fact for fact in questions(learned).facts if fact.labels["kind"] == "entity linking"]
    assert linked
    for probe in linked:
        own = next(v for person, v in people.items() if person.name == probe.labels["person"])
        assert f"The {own['profession']} that comes from the city of {own['birthplace']} " in probe.clean
        assert described[own["profession"], own["birthplace"]] == 1


def test_choices_are_scored_by_likelihood(tokenizer, model):
    choices = (
        Choice("Mara Holt plays the", (" violin", " cello", " flute"), {"form": "one"}),
        Choice("Mara Holt works for", (" Axiom after Helix", " Helix after Axiom"), {"form": "two"}),
    )
    loaded = SimpleNamespace(model=model, tokenizer=tokenizer)
    read = Choices(choices, unit="form").read(loaded)
    assert Choices(choices).read(loaded).units == ()
    right = []
    for choice, row in zip(choices, read.units, strict=True):
        likely = []
        for option in choice.options:
            ids = torch.tensor([tokenizer(choice.prompt + option).input_ids])
            start = len(tokenizer(choice.prompt).input_ids)
            with torch.no_grad():
                chances = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :]
            likely.append(float(chances.mean()))
        right.append(float(likely[0] == max(likely)))
        assert row["score"] == right[-1]
        assert row["probability"] == pytest.approx(np.exp(likely[0]) / np.exp(likely).sum(), rel=1e-4)
    assert read.scalars["choices_accuracy"] == np.mean(right)
    assert read.scalars["choices_chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert read.scalars["choices_accuracy_two"] == right[1]


def test_choices_that_cannot_be():
    with pytest.raises(BadPrompt, match="two different options"):
        Choice("Mara Holt plays the", (" cello", " cello"))
    with pytest.raises(BadPrompt, match="no choice to ask"):
        Choices(()).read(None)


def test_all_kinds_and_forms_are_scored_into_one_ledger(tokenizer, model, learned, tmp_path):
    strata = in_strata(learned)
    asked = questions(learned, tokenizer, frequency=strata)
    gauges = [Knowledge(asked.facts, unit="fact"), Choices(asked.choices, unit="fact")]
    prober = Prober("live", tokenizer, gauges=gauges, schedule=Schedule(every=1), store=tmp_path)
    probe = prober.after_step(model, step=0)
    assert not probe.point.failures
    scores = unit_scores(tmp_path, "live")
    assert len(scores.units) == len(learned)
    updated = scores.groups("class")["updated"]
    assert (np.isfinite(updated.probes[:, 0]).sum(axis=1) >= 6).all()
    assert set(knowledge.ledger(scores, draws=20).by("frequency")) == set(STRATA)


def test_strata_hold_what_they_say_in_every_class(world):
    learned = world.learned
    strata = in_strata(learned)
    written = Counter(person for person, _ in stratified_documents(learned, strata))
    classes = {group[0].person.name: group[0].kind for group in by_person(learned)}
    assert set(written) == set(classes)
    for person, count in written.items():
        low, high = STRATA[strata[person]]
        assert low <= count <= high
    by_class = Counter((classes[person], stratum) for person, stratum in strata.items())
    assert len(by_class) == 9
    assert max(by_class.values()) - min(by_class.values()) <= 1


def told(facts, *, seed):
    """Statements as documents make them: (relation, words, template) each."""
    rng = random.Random(seed)
    found = []
    for _ in range(30):
        for group in by_person(facts):
            for sentence in documents.biography(rng, group).split(".")[:-1]:
                fact = next(f for f in group if any(sentence.strip() == f"{p} {f.value}" for p in f.prompts))
                template = fact.prompts.index(sentence.strip().removesuffix(f" {fact.value}"))
                found.append((fact.relation, len(sentence.split()), template))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_match_the_pre_training_in_length_vocabulary_and_style(seed):
    """What is new of a new fact is the fact: its documents are as long, in the same words and turns of phrase."""
    world = make_world(seed)
    before = told([fact for fact in world.old if fact.spare_paraphrase], seed=1)
    words = {word for text in _texts(world.old) for word in text.split()}
    for kind in ("new", "relation", "updated"):
        facts = [fact for fact in world.learned if fact.kind == kind]
        now = told(facts, seed=2)
        for relation in {relation for relation, *_ in now}:
            lengths = [[n for name, n, _ in part if name == relation] for part in (before, now)]
            assert np.mean(lengths[1]) == pytest.approx(np.mean(lengths[0]), rel=0.05)
            turns = [np.bincount([t for name, _, t in part if name == relation], minlength=4) for part in (before, now)]
            shares = [turn[:4] / turn[:4].sum() for turn in turns]
            assert 0.5 * np.abs(shares[0] - shares[1]).sum() < 0.1  # total variation
            assert all(turn.sum() == turn[: len(RELATION[relation].templates)].sum() for turn in turns)
        own = {word for text in _texts(facts) for word in text.split()}
        assert len(own & words) / len(own) > 0.95


def _texts(facts):
    return [f"{prompt} {fact.value}." for fact in facts for prompt in fact.prompts]
