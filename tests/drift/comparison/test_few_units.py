"""One or two facts and needles: nothing certain is said, nothing crashes, and no NaN is read."""

import re

import heads
from circuit_drift.api.pairs import compare
from tests.drift.handmade import EDGES, graph, point, retrieval, roles, strengths

WIRING = strengths(EDGES[:20])


def pair_of(facts: int, needles: int):
    ends = [
        point(
            step,
            heads=retrieval({(0, 1): 0.75 * step}, prompts=needles, correct=needles * step, nll=2.0 - step),
            circuit=graph(WIRING * (1 + step), facts=facts, known=facts * (1 - step)),
            roles=roles(a0_h1=("relation", "mover")[step]).only(list(range(facts))),
        )
        for step in (0, 1)
    ]
    return compare(*ends)


def test_one_fact_and_one_needle_are_told_without_a_verdict():
    pair = pair_of(1, 1)
    assert not pair.outcome
    assert pair.verdict[0] == "Whether 0 and 1 differ cannot be told: too few of what was measured for any test."
    assert "Not compared: circuit (one fact tells nothing of its noise)." in pair.verdict
    assert not re.search(r"\bnan\b", " ".join(pair.verdict))


def test_two_facts_that_are_both_lost_decide_nothing():
    """Two of two beside a margin of a tenth has p = .01; two facts are no sample of facts."""
    pair = pair_of(2, 2)
    assert not pair.significant
    assert pair.verdict[1].startswith("Recall 1.00 → 0.00 of 2 facts: 2 lost, 0 learned;")
    assert "Not compared: roles (two facts tell no spread)." in pair.verdict
    assert not re.search(r"\bnan\b", " ".join(pair.verdict))


def test_a_track_of_one_needle_has_no_intervals_and_does_not_say_what_it_cannot():
    scores = [(step, None, retrieval({(0, 1): 0.25 * step}, prompts=1, nll=3.0 - step)) for step in range(1, 4)]
    track = heads.track(scores, draws=20)
    assert track.verdict.startswith("retrieval heads (score > 0.1): 1 (no interval: too few needles) at step 1, ")
    assert "whether needle score has saturated cannot be told from so few needles" in track.verdict
    assert "nan" not in track.verdict
    assert "nan" not in track._repr_html_()


def test_a_count_on_which_few_needles_agree_has_no_interval():
    for needles, told in ((12, "1 (no interval: too few needles)"), (40, "1 [1, 1]")):
        scores = [(step, None, retrieval({(0, 1): 0.25 * step}, prompts=needles)) for step in (1, 2)]
        assert heads.track(scores, draws=20).verdict.startswith(f"retrieval heads (score > 0.1): {told} at step 1")
