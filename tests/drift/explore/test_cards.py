"""A card for each head and each fact: which there are, what is said of them, and the numbers behind."""

from dataclasses import replace

import numpy as np
import pytest

from circuit_drift.explore import fact_cards, head_cards
from circuit_drift.explore.on_facts import read_on_facts
from circuits.intervention.edge_check import EdgeCheck
from heads.ablation.ablation import Ablation, Readout
from tests.drift.handmade import WIRING_A, graph, point, retrieval, roles, run_of, strengths

LABELS = ["0", "10", "20"]


@pytest.mark.parametrize(
    ("means", "sentence"),
    [
        ([0.0, 0.75, 0.5], "0.00 at step 0, 0.75 at its best (step 10), 0.50 at step 20; retrieves from step 10 on."),
        (
            [0.0, 0.5, 0.05],
            "0.00 at step 0, 0.50 at its best (step 10), 0.05 at step 20; retrieves at 1 of 3 checkpoints, "
            "not the last.",
        ),
        ([0.0, 0.05, 0.1], "0.00 at step 0, 0.10 at step 20; never above 0.1."),
        ([np.nan, 0.5, np.nan], "0.50 at step 10; retrieves from step 10 on."),
        ([np.nan] * 3, "No score: it does not apply to this layer."),
    ],
)  # fmt: skip
def test_a_head_is_told_in_one_sentence(means, sentence):
    assert head_cards.told(LABELS, np.array(means)) == sentence


@pytest.mark.parametrize(
    ("rank", "sentence"),
    [
        ([3, 0, 0], "Recalled at 2 of 3 checkpoints: learned at step 10."),
        ([0, 0, 7], "Recalled at 2 of 3 checkpoints: known at step 0, lost at step 20."),
        ([0, 4, 0], "Recalled at 2 of 3 checkpoints: known at step 0, lost at step 10, learned at step 20."),
        ([0, 0, 0], "Recalled at all 3 checkpoints."),
        ([9, 4, 6], "Never recalled; rank 5 at best (step 10)."),
    ],
)
def test_a_fact_is_told_in_one_sentence(rank, sentence):
    assert fact_cards.told(LABELS, np.array(rank)) == sentence


def ablation() -> Ablation:
    """a0.h1 and a1.h0 ablated cost 2 nats of the answer on every prompt, their controls half a nat."""

    def readout(heads, nll):
        flat = np.full(10, float(nll))
        return Readout(heads, "off", "all", np.zeros(10), flat, flat)

    return Ablation(
        baseline=readout((), 1),
        tested=readout(("a0.h1", "a1.h0"), 3),
        controls={"random": (readout(("a0.h0", "a1.h1"), 1.5),)},
        retrieving=("a0.h1", "a1.h0"),
        needle=np.arange(10),
    )


def test_heads_stand_by_their_best_score_with_roles_and_effects():
    checked = EdgeCheck(
        ("a0.h1->logits",), np.array([True]), np.array([-2.0]), np.full((4, 1), -1.5), {"metric": "logit"}
    )
    points = [
        point(
            10 * i,
            heads=retrieval({(0, 1): 0.75 * i, (1, 0): 0.25}),
            circuit=graph(strengths(WIRING_A), facts=20, known=20),
            roles=roles(a0_h1="mover"),
        )
        for i in range(2)
    ]
    points[1] = replace(points[1], results={**points[1].results, "ablation": ablation(), "patching": checked})
    (section,) = head_cards.head_cards(run_of(*points))
    data = section.widget.data
    assert [head["name"] for head in data["heads"]] == ["a0.h1", "a1.h0", "a0.h0", "a1.h1"]
    first = data["heads"][0]
    # ten needles that agree: 1 - .025^(1/10) = .3085 of what is left on either side is not excluded
    assert first["score"] == [[0.0, 0.0, 0.3085], [0.75, 0.5186, 0.8271]]
    assert first["beside"] == [0.0, 0.375]
    assert first["roles"] == ["mover at 2 steps, 0 to 10", "retrieval at step 10"]
    assert first["on_facts"] == [
        f"step {step}: writes +100.00 [+100.00, +100.00] logits towards the answer from the subject's tokens, "
        "+1.00 [+1.00, +1.00] from the other tokens (mean of 20 facts)"
        for step in (0, 10)
    ]
    assert first["effects"] == [
        "step 10: ablated with a1.h0, answer NLL +1.50 [+1.50, +1.50] nats per token against as many other heads",
        "step 10: a0.h1->logits patched, logit −1.50 (attributed −2.00)",
    ]
    assert section.caption == (
        "Score: retrieval score, mean over 10 prompts with its 95 % interval over needles; dashed: attention on the "
        "needle while answering. A head retrieves above 0.1."
    )


def test_a_page_holds_so_many_heads_and_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(head_cards, "FEWEST_HEADS", 1)
    monkeypatch.setattr(head_cards, "NUMBERS", 2)
    (section,) = head_cards.head_cards(run_of(point(0, heads=retrieval({(1, 1): 0.5}))))
    assert [head["name"] for head in section.widget.data["heads"]] == ["a1.h1", "a0.h0"]
    assert section.caption.endswith("The 2 strongest of 4 heads are on this page.")


def test_facts_are_named_by_what_is_asked_and_else_by_their_labels():
    labels = [{"class": "old", "person": "Ada"}] * 8 + [{"class": "new"}] * 2
    asked = [[f"{i} plus one is", f" {i + 1}", " 0"] for i in range(10)]
    ranks = [graph(strengths(WIRING_A), known=known, labels=labels) for known in (0, 9)]
    (section,) = fact_cards.fact_cards(run_of(*(point(10 * i, circuit=each) for i, each in enumerate(ranks))))
    facts = section.widget.data["facts"]
    assert [fact["name"] for fact in facts[7:]] == ["person Ada", "fact 8", "fact 9"]
    assert (facts[0]["group"], facts[9]["group"]) == ("old", "new")
    assert (facts[0]["rank"], facts[9]["rank"], facts[0]["metric"]) == ([4, 1], [4, 4], [3.0, 3.0])
    assert facts[0]["told"] == "Recalled at 1 of 2 checkpoints: learned at step 10."
    told = [point(10 * i, circuit=replace(each, meta={**each.meta, "asked": asked})) for i, each in enumerate(ranks)]
    (section,) = fact_cards.fact_cards(run_of(*told))
    assert section.widget.data["facts"][2]["name"] == "2 plus one is … 3"


def test_a_fact_names_the_heads_that_write_most_about_it_where_roles_are_of_the_same_facts():
    measured = graph(strengths(WIRING_A), facts=20, known=20)
    told = roles(a0_h1="mover", a1_h0="relation")
    told.subject[3, 1, 0] = -300.0
    same = replace(told, meta={"prompts": measured.meta.get("prompts")})
    (section,) = fact_cards.fact_cards(run_of(point(0, circuit=measured, roles=same)))
    facts = section.widget.data["facts"]
    assert facts[0]["heads"][0] == (
        "step 0: a0.h1 writes +100.00 logits from the subject's tokens, +1.00 from the other tokens"
    )
    assert [line.split()[2] for line in facts[3]["heads"]] == ["a1.h0", "a0.h1", "a0.h0", "a1.h1"]
    other = replace(told, meta={"prompts": "others"})
    (section,) = fact_cards.fact_cards(run_of(point(0, circuit=measured, roles=other)))
    assert section.widget.data["facts"][0]["heads"] == []


def test_there_are_no_cards_where_nothing_was_measured_and_none_of_facts_that_differ():
    bare = run_of(point(0), point(1))
    assert [*head_cards.head_cards(bare), *fact_cards.fact_cards(bare)] == []
    other = [point(i, circuit=graph(strengths(WIRING_A), facts=10 + i)) for i in range(2)]
    assert list(fact_cards.fact_cards(run_of(*other))) == []


def test_a_layer_without_heads_is_no_strongest_head_of_a_fact():
    own = roles()
    subject = np.full((1, 2, 2), np.nan)
    subject[0, 1] = [0.5, -2.0]
    facts = graph(strengths(WIRING_A), facts=1, known=1)
    found = replace(own, subject=subject, relation=np.zeros((1, 2, 2)), scores={}, thresholds={}, meta=facts.meta)
    (told,) = read_on_facts([point(10, circuit=facts, roles=found)])
    assert [each.split(" writes ")[0] for each in told] == ["step 10: a1.h1", "step 10: a1.h0"]
    assert told[0].endswith("writes −2.00 logits from the subject's tokens, +0.00 from the other tokens")
