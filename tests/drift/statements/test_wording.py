"""Every kind of statement about a pair in words, from numbers written by hand."""

import pytest

from circuit_drift.statements.phrases import p_text, signed, signed_span, span
from circuit_drift.statements.statement import Statement
from circuit_drift.statements.wording import WORDS
from circuit_drift.statements.wording_run import RUN_WORDS

LINES = 2 * 120


def told(kind: str, **numbers: object) -> str:
    text = Statement(kind, numbers).text
    assert len(text) <= LINES, "at most two lines"
    return text


def test_the_smallest_possible_p_is_a_bound():
    assert p_text(0.0059884786, 0.0059884786) == "p ≤ 0.006"
    assert p_text(0.0123, 0.006) == "p = 0.012"
    assert p_text(1.0, 1.0) == "p = 1"
    assert [signed(value) for value in (-0.001, 0.004, -0.126)] == ["+0.00", "+0.00", "-0.13"]


def test_a_difference_leads_with_the_facts_that_changed_sides():
    circuits = [
        {"group": "lost", "stands": [True, True], "strength": 0.37, "strength_interval": (0.24, 0.51)}
        | {"wiring": None, "edges": 26},
        {"group": "learned", "stands": [False, True], "strength": None, "wiring": None, "edges": 112},
        {"group": "old", "stands": [True, False], "strength": None, "wiring": None, "edges": 0},
    ]
    parts = [
        {"what": "facts", "lost": 11, "learned": 37, "of": 64},
        {"what": "circuits", "groups": circuits},
        {"what": "heads", "n": 6, "of": 32},
    ]
    assert told("outcome", a="9,000", b="9,600", outcome="different", floor="", parts=parts) == (
        "9,000 and 9,600 differ: 11 lost, 37 learned of 64 facts; circuits of facts lost: × 0.37 [0.24, 0.51] as "
        "strong, learned: new, old: gone; 6 heads of 32 changed."
    )
    wired = {"group": "kept", "stands": [True, True], "strength": None, "wiring": 0.4, "edges": 3}
    whole = {"group": "new", "stands": [True, True], "strength": None, "wiring": None, "edges": 0}
    parts = [
        {"what": "circuits", "groups": [wired, whole]},
        {"what": "readout", "name": "needle accuracy", "before": 0.98, "after": 0.88},
        {"what": "recall", "name": "recall of old facts"},
        {"what": "more", "n": 2},
    ]
    assert told("outcome", a="A", b="B", outcome="different", floor="within", parts=parts) == (
        "A and B differ, no more than training does anyway: circuits of facts kept: wired otherwise (1 − cosine 0.40), "
        "new: changed as a whole; needle accuracy 0.98 → 0.88; recall of old facts changed; 2 more, below."
    )


def test_equivalent_and_undecided_name_their_margins():
    assert told("outcome", a="A", b="B", outcome="equivalent", deltas={"recall": 0.1, "strength": 0.25}) == (
        "A and B are equivalent: every change lies within its margin (facts that change sides 0.1 of all, strength by "
        "25%)."
    )
    open_ = {"name": "answer NLL", "reach": -0.08, "margin": -0.05, "more": 1, "unit": "needle"}
    assert told("outcome", a="A", b="B", outcome="undecided", open=open_) == (
        "Undecided whether A and B differ: no change is shown, but answer NLL may reach -0.08 (margin -0.05); measure "
        "about 1 more needle."
    )
    assert told("outcome", a="A", b="B", outcome="") == "No difference between A and B is shown."
    assert told("outcome", a="A", b="B", outcome="", untested=False) == "No difference between A and B is shown."
    assert told("outcome", a="A", b="B", outcome="", untested=True) == (
        "Whether A and B differ cannot be told: too few of what was measured for any test."
    )
    classes = {"outcome": "undecided", "open": {**open_, "more": 37, "unit": "class"}}
    assert told("outcome", a="0", b="1", **classes).endswith("measure about 37 more units of one class.")
    one = {"outcome": "undecided", "open": {**open_, "unit": "relation"}}
    assert told("outcome", a="0", b="1", **one).endswith("measure about 1 more unit of one relation.")


def test_the_level_names_its_families_in_one_order():
    assert told("level", level=0.05, families=["readouts", "behaviour"]) == (
        "Level of the pair: at most 0.05 that any difference named is chance (Holm over recall, needle answers)."
    )


def test_recall_with_and_without_turnover():
    numbers = {"before": 0.25, "after": 0.65625, "of": 64, "lost": 11, "learned": 37, "low": 0.626, "high": 0.85}
    assert told("recall", **numbers) == (
        "Recall 0.25 → 0.66 of 64 facts: 11 lost, 37 learned; 0.75 [0.63, 0.85] changed sides."
    )
    still = {**numbers, "after": 0.25, "lost": 0, "learned": 0, "low": 0.0, "high": 0.056}
    assert told("recall", **still) == (
        "Recall 0.25 → 0.25 of 64 facts: none changed sides; at most 0.06 of such facts do."
    )


def test_classes_are_named_four_at_most():
    rows = [{"name": f"c{i}", "before": 1.0, "after": 0.5, "p": 0.01 * (i + 1), "least": 0.01} for i in range(5)]
    assert told("classes", classes=rows[:1]) == "Recall by class: c0 1.00 → 0.50 (p ≤ 0.01)."
    assert told("classes", classes=rows).endswith("c3 1.00 → 0.50 (p = 0.04); 1 more.")


GROUP = {
    "group": "known",
    "facts": 16,
    "stands": (True, True),
    "wiring": 0.022,
    "wiring_interval": (0.0, 0.069),
    "margin": 0.1,
    "strength": 0.389,
    "strength_interval": (0.306, 0.493),
    "equivalent": False,
    "gated": False,
    "p": 0.006,
    "smallest": 0.006,
    "significant": True,
    "changed": 39,
    "statuses": {"gained": 0, "lost": 8, "weakened": 25},
    "edges": ["m3->logits", "m2->logits", "m1->logits", "m0->logits"],
}


def test_a_group_leads_with_wiring_and_strength():
    assert told("group", **GROUP) == (
        "Known facts (16): same wiring (1 − cosine 0.02 [0.00, 0.07], margin 0.1), 0.39 [0.31, 0.49] times as strong; "
        "39 edges changed (8 lost, 25 weakened), most m3->logits, m2->logits, m1->logits."
    )
    other = {**GROUP, "group": "kept", "wiring": 0.5, "wiring_interval": (0.2, 0.8), "equivalent": True}
    assert told("group", **other).startswith("Facts kept (16): other wiring (1 − cosine 0.50 [0.20, 0.80], margin 0.1)")
    assert "39 edges changed, all within the margins (" in told("group", **other)
    between = {**GROUP, "wiring_interval": (0.0, 0.2), "changed": 0}
    assert "wiring undecided (" in told("group", **between)
    assert told("group", **between).endswith("; it changed as a whole (p ≤ 0.006), no single edge can be named.")


@pytest.mark.parametrize(
    ("stands", "words"),
    [
        ((False, True), "a circuit where none stood out of the noise"),
        ((True, False), "a circuit that no longer stands out of the noise"),
        ((False, False), "no circuit stands out of the noise at A or B"),
    ],
)
def test_a_circuit_that_does_not_stand_out_has_no_strength(stands, words):
    quiet = {**GROUP, "group": "neither", "stands": stands, "significant": False, "p": 0.2}
    assert told("group", **quiet) == (
        f"Facts recalled at neither (16): {words}; no edge changed beyond the noise (p = 0.2)."
    )
    gated = {**quiet, "group": "lost", "gated": True}
    assert told("group", **gated).endswith("(p = 0.2; their turnover is not established).")


def test_groups_that_cannot_be_read_are_listed_together():
    rows = [{"group": "neither", "facts": 23}, {"group": "new 2", "facts": 8}]
    assert told("unlearned", groups=rows) == (
        "Nothing learned, no circuit to read: recalled at neither (23), new 2 (8)."
    )
    assert told("few", groups=[*rows, *rows, *rows, *rows]).endswith("recalled at neither (23), new 2 (8) and 2 more.")


def test_needles_and_heads():
    accuracy = {"before": 0.979, "after": 0.946, "delta": -0.033, "low": -0.07, "high": -0.001}
    ppl = {"before": 1162.4, "after": 1.123, "ratio": 0.000966, "low": 0.00087, "high": 0.0011}
    assert told("needles", accuracy=accuracy, ppl=ppl) == (
        "Needles: all words right 0.98 → 0.95 (change -0.03 [-0.07, +0.00]); answer perplexity 1,162 → 1.12 "
        "(× 0.00097 [0.00087, 0.0011])."
    )
    traded = told("needles", accuracy={**accuracy, "lost": 12, "learned": 4}, ppl=ppl)
    assert "[-0.07, +0.00], 12 prompts lost and 4 learned); answer" in traded
    numbers = {
        "changed": 2, "moved": 9, "of": 32,
        "largest": {"name": "a2.h6", "delta": -0.088, "low": -0.112, "high": -0.064},
        "gained": [], "lost": ["a2.h6"], "threshold": 0.1, "margin": 0.1, "n": 48, "unit": "needle",
    }  # fmt: skip
    assert told("heads", **numbers, outcome="different") == (
        "Heads: 2 of 32 changed, most a2.h6 -0.09 [-0.11, -0.06], over 48 needles; retrieval heads (score > 0.1): lost "
        "a2.h6."
    )
    assert told("heads", **numbers, outcome="equivalent").startswith("Heads: 2 of 32 changed by less than 0.1, most")
    still = {**numbers, "changed": 0, "moved": 0, "largest": {"name": "a0.h0", "delta": 0.0, "low": -0.1, "high": 0.1}}
    assert told("heads", **still, outcome="equivalent").startswith(
        "Heads: 0 of 32 changed, no score differs on any prompt, over 48 needles; retrieval heads"
    )


def test_an_overlap_is_told_at_a_size_whose_ranks_are_reliable_or_not_at_all():
    found = {"measure": "Jaccard, 53 edges", "value": 0.68, "across": 0.6, "within": 0.87, "random": 0.03}
    assert told("overlap", rank=100, edges=1055, beyond_noise=True, **found) == (
        "Ranks of edges are reliable to about rank 100 of 1,055. Jaccard, 53 edges: 0.68; halves of the facts 0.60 "
        "across A and B, 0.87 within one, 0.03 by chance: less alike than the facts' noise makes them."
    )
    beside = told("overlap", rank=100, edges=1055, beyond_noise=True, other_task=0.11, **found)
    assert ", 0.03 by chance, 0.11 with the circuit of retrieval at A: less alike" in beside
    relations = told("overlap", rank=100, edges=1055, beyond_noise=True, relations=0.42, **found)
    assert ", 0.03 by chance, 0.42 between relations at A: less alike" in relations
    both = told("overlap", rank=100, edges=1055, beyond_noise=True, relations=0.42, other_task=0.11, **found)
    assert both == beside, "another task is the lower floor"
    assert told("overlap", rank=0, edges=1055) == (
        "The ranks of single edges are not reliable on these facts: overlaps of circuits can neither show nor rule out "
        "a change."
    )


def test_the_floor():
    row = {"name": "wiring (kept)", "value": 0.051, "floor": 0.002, "outcome": "beyond"}
    other = {"name": "answer NLL", "value": 0.01, "floor": 0.02, "outcome": "within"}
    numbers = {"pairs": 3, "names": ("6,500", "7,500"), "changes": [row, other], "p": 0.0042, "needed": 2}
    ending = "wiring (kept) 0.051 against at most 0.002 (3 pairs of siblings: 6,500, 7,500"
    assert told("floor", **numbers, outcome="beyond") == (
        f"A → B exceeds what training does anyway: {ending}; p = 0.0042 for all changes together)."
    )
    open_ = numbers | {"needed": 4, "outcome": "undecided"}
    assert told("floor", **open_) == (
        f"Whether A → B exceeds what training does anyway is undecided: {ending}; one more sibling exceeds them in "
        "up to 1 of 3; about 4 siblings would tell)."
    )
    assert told("floor", **open_ | {"needed": 0}).endswith("in up to 1 of 3; more siblings like them would not tell).")
    assert told("floor", **numbers | {"changes": [other]}, outcome="within") == (
        "A → B is no more than training does anyway, or within its margins: answer NLL 0.01 against at most 0.02 "
        "(3 pairs of siblings: 6,500, 7,500)."
    )
    assert told("floor", outcome="", pairs=0, why="C shares no measure") == "No training floor: C shares no measure."


def test_what_counts_as_independent_is_said():
    numbers = {"by": "relation", "facts": 64, "units": 12}
    assert told("scope", **numbers, clustered=True, needles=False) == (
        "Facts of one relation are one unit (12 of 64 facts): what is said of recall and circuits holds for another "
        "relation."
    )
    assert told("scope", **numbers, clustered=True, needles=True).endswith(
        "another relation; each needle counts by itself."
    )
    assert told("scope", **numbers, clustered=False) == (
        "Facts count as independent, though 64 share 12 relations: what is said of them holds for other facts of "
        "these; to ask whether it holds for another relation, cluster by relation."
    )
    rows = [{"group": "kept", "facts": 9, "units": 1, "unit": "relation and template"}]
    assert told("few", groups=rows, least=8).endswith("at the level of the pair: kept (9 in 1 unit).")


def test_every_kind_has_a_test_and_reads_alike_as_a_value():
    tested = {
        "outcome",
        "level",
        "recall",
        "classes",
        "group",
        "few",
        "unlearned",
        "overlap",
        "needles",
        "heads",
        "floor",
        "scope",
    }
    assert tested | RUN_WORDS.keys() == WORDS.keys()
    statement = Statement("level", {"level": 0.05, "families": ["heads"]}, basis="Holm over families")
    assert statement.to_json() == {
        "kind": "level", "level": 0.05, "families": ["heads"], "basis": "Holm over families", "text": statement.text
    }  # fmt: skip
    assert Statement("norm", told="The norm grew.").text == "The norm grew."


def test_one_unit_has_no_interval():
    nothing = float("nan")
    assert span(nothing, nothing) == signed_span(nothing, nothing) == "[no interval]"
    assert span(0.1, 0.25) == "[0.10, 0.25]"
    assert signed_span(-0.001, 0.25) == "[+0.00, +0.25]"
