"""What is read of two checkpoints: whether they differ, the sentences, the tables; every value worked out by hand."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from checkpoints.errors import CheckpointMismatch
from circuit_drift.api.pairs import compare
from circuit_drift.cli.render import print_pair
from circuit_drift.comparison.pair_tables import pair_tables
from circuit_drift.measures.pairs.circuit import CAPTIONS
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.measures.pairs.recall import NET, TURNOVER, recall_statements
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, Effect, PairQuestion
from circuit_drift.report import pair_sections
from circuit_drift.report.verdict_pair import pair_statements
from circuits.graph.shape import GraphShape
from circuits.intervention.transfer import Transfer
from tests.drift.handmade import (
    CLEAN,
    CORRUPT,
    EDGES,
    WIRING_A,
    WIRING_B,
    graph,
    on_shape,
    point,
    retrieval,
    roles,
    strengths,
    transfer,
)

HOLM = 2.0**-9
"""The smallest p of ten units that change alike."""


def _a(**other):
    return point(
        0, heads=retrieval({(0, 1): 0.0625}, correct=2, nll=2.0), circuit=graph(strengths(WIRING_A), facts=20), **other
    )


def _b(**other):
    return point(
        1000,
        heads=retrieval({(0, 1): 0.75, (1, 1): 0.5}, correct=8, nll=1.0),
        circuit=graph(strengths(WIRING_B), facts=20),
        **other,
    )


@pytest.fixture(scope="module")
def changed():
    """A head gained, an edge gained and one lost, 2 then 16 facts recalled, a mover lost."""
    a = point(
        0,
        tokens=0,
        heads=retrieval({(0, 1): 0.0625}, correct=2, nll=2.0),
        circuit=graph(strengths(WIRING_A), facts=20, known=[True] * 2 + [False] * 18),
        roles=roles(a0_h0="mover", a1_h1="mover"),
    )
    learned = [False] * 2 + [True] * 16 + [False] * 2
    b = point(
        1000,
        tokens=4_096_000,
        stage="late",
        heads=retrieval({(0, 1): 0.75, (1, 1): 0.5}, correct=8, nll=1.0),
        circuit=graph(strengths(WIRING_B), facts=20, known=learned, refused=[(20, "two tokens")]),
        roles=roles(a0_h0="mover"),
    )
    return compare(a, b, transfer=transfer(["0", "1000"], [[0.75, 0.25], [0.5, 1.0]]))


@pytest.fixture(scope="module")
def same():
    a = _a(roles=roles(a0_h0="mover"))
    return compare(a, replace(a, name="step1", step=1))


def open_ends(change: float, *, chosen: int) -> tuple[float, float]:
    """What ten needles that changed alike leave open, for so many named of four heads (false coverage rate)."""
    seen, wider = 0.025 ** (1 / 10), t.ppf(1 - 0.05 * chosen / 4 / 2, 9) / t.ppf(0.975, 9)
    low, high = (change + 1) * seen - 1, 1 - (1 - change) * seen
    return change - (change - low) * wider, change + (high - change) * wider


def test_a_pair_that_changed_says_what_changed_by_how_much_and_on_what(changed):
    opening, recall, learned, few, overlap, forth, back, role, needles, heads, level = changed.verdict
    assert opening == (
        "0 and 1,000 differ: 2 lost, 16 learned of 20 facts; circuits of facts learned: changed in 2 edges; 2 heads of "
        "4 changed; needle accuracy 0.20 → 0.80; 1 more, below."
    )
    # 18 of 20: Clopper-Pearson
    assert recall == "Recall 0.10 → 0.80 of 20 facts: 2 lost, 16 learned; 0.90 [0.68, 0.99] changed sides."
    # two of the 20 strongest edges exchange 0.8125 and less: the cosine of the two means is worked out below
    a, b = strengths(WIRING_A), strengths(WIRING_B)
    wiring = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    strength = np.linalg.norm(b) / np.linalg.norm(a)
    assert learned == (
        f"Facts learned (16): same wiring (1 − cosine {wiring:.2f} [{wiring:.2f}, {wiring:.2f}], margin 0.1), "
        f"{strength:.2f} [{strength:.2f}, {strength:.2f}] times as strong; 2 edges changed (1 gained, 1 lost), most "
        "m1->logits, a1.h1->logits."
    )
    assert few == (
        "Too few facts to show a change of their circuits at the level of the pair: lost (2), recalled at neither (2)."
    )
    # 19 of 21 edges are shared, in any halves of facts that are alike
    assert overlap.startswith(
        "Ranks of edges are reliable for all edges. Jaccard, 20 edges: 0.90; halves of the facts 0.90 across A and B, "
        "1.00 within one, 0."
    )
    assert overlap.endswith(" by chance: no less alike than halves are.")
    where = "On all facts asked, whatever their way: "  # two facts, which are not those that were learned
    assert (forth, back) == tuple(where + sentence for sentence in changed.circuit.transfer.sentences)
    assert role == "Roles in the circuits: 1 retrieval head gained (a0.h1); 1 mover head lost (a1.h1)."
    # accuracy: six of ten turn right, sd 0.516, half 2.262 * 0.516 / sqrt(10) = 0.37; e^2, e and e^-1
    assert needles == (
        "Needles: all words right 0.20 → 0.80 (change +0.60 [+0.23, +0.97]); answer perplexity 7.39 → 2.72 "
        "(× 0.37 [0.37, 0.37])."
    )
    low, high = open_ends(0.6875, chosen=2)
    assert heads == (
        f"Heads: 2 of 4 changed, most a0.h1 +0.69 [+{low:.2f}, +{high:.2f}], over 10 needles; retrieval heads "
        "(score > 0.1): gained a0.h1, a1.h1."
    )
    assert level == (
        "Level of the pair: at most 0.05 that any difference named is chance "
        "(Holm over recall, circuits, heads, needle answers)."
    )
    assert changed.significant
    assert changed.outcome == "different"


def test_what_each_statement_of_a_pair_rests_on(changed):
    told = {statement.kind: statement for statement in pair_statements(changed)}
    assert {kind: statement.basis for kind, statement in told.items() if statement.basis} == {
        "outcome": "level 0.05 for the pair; margins as in docs/comparing.md",
        "recall": "exact binomial interval of the share that changed sides; exact McNemar",
        "group": "products between different facts; sign flips of facts, of single edges facts drawn anew as well; "
        "Holm over the pair",
        "few": "fewer than 8 facts, or so few that even their smallest possible p would not hold for the pair",
        "overlap": "ranked on a third of the facts, correlated between the two others",
        "needles": "95 % t intervals over 10 needles",
        "heads": "paired over 10 needles; q ≤ 0.05; false coverage rate",
        "level": "Holm over families",
    }
    recall = told["recall"].numbers
    assert {name: recall[name] for name in ("before", "after", "of", "kept", "lost", "learned", "neither")} == {
        "before": 0.1, "after": 0.8, "of": 20, "kept": 0, "lost": 2, "learned": 16, "neither": 2
    }  # fmt: skip
    # 2 of 18 went one way: twice the sum of C(18, k) for k = 0, 1, 2, over 2^18
    assert recall["p"] == pytest.approx(2 * (1 + 18 + 153) / 2**18)
    assert (recall["margin"], recall["outcome"]) == (changed.deltas.recall, "different")
    heads = told["heads"].numbers
    assert (heads["n"], heads["unit"], heads["threshold"], heads["margin"]) == (10, "needle", 0.1, changed.deltas.heads)
    low, high = (pytest.approx(end) for end in open_ends(0.6875, chosen=2))
    assert heads["largest"] == {"name": "a0.h1", "delta": 0.6875, "low": low, "high": high}
    assert told["level"].numbers["level"] == 0.05
    assert sorted(told["level"].numbers["families"]) == ["behaviour", "circuit", "heads", "readouts"]


def test_one_edge_and_one_head_are_told_as_one():
    turned = strengths(WIRING_A)
    turned[EDGES.index("a1.h1->logits")] *= -1
    a = point(0, heads=retrieval({(0, 1): 0.0625}), circuit=graph(strengths(WIRING_A), facts=20))
    b = point(1, heads=retrieval({(0, 1): 0.75}), circuit=graph(turned, facts=20))
    pair = compare(a, b)
    assert pair.verdict[0] == (
        "0 and 1 differ: circuits of facts recalled at neither: changed in 1 edge; 1 head of 4 changed."
    )
    assert pair.heads.plot().layout.title.text == "1 head changed its retrieval score"
    assert pair.circuit.plot().layout.title.text == "1 edge changed for real; 0 gained, 0 lost"


def test_read_the_other_way_every_sign_turns(changed):
    back = compare(changed.b, changed.a)
    opening, recall, lost, _, _, role, needles, heads, *_ = back.verdict
    assert opening == (
        "1,000 and 0 differ: 16 lost, 2 learned of 20 facts; circuits of facts lost: changed in 2 edges; 2 heads of 4 "
        "changed; needle accuracy 0.80 → 0.20; 1 more, below."
    )
    assert recall == "Recall 0.80 → 0.10 of 20 facts: 16 lost, 2 learned; 0.90 [0.68, 0.99] changed sides."
    assert lost.startswith("Facts lost (16): same wiring ")
    assert lost.endswith("2 edges changed (1 gained, 1 lost), most m1->logits, a1.h1->logits.")
    assert role == "Roles in the circuits: 1 mover head gained (a1.h1); 1 retrieval head lost (a0.h1)."
    assert needles == (
        "Needles: all words right 0.80 → 0.20 (change -0.60 [-0.97, -0.23]); answer perplexity 2.72 → 7.39 "
        "(× 2.72 [2.72, 2.72])."
    )
    assert heads.endswith("retrieval heads (score > 0.1): lost a0.h1, a1.h1.")


def test_a_pair_that_did_not_change_is_undecided_where_facts_are_too_few_to_bound_their_turnover(same):
    """None of 20 facts turned: at most 1 - .025^(1 / 20) = 0.17 do; from 36 facts on it is below 0.1."""
    assert not same.significant
    overlap = same.verdict[3]
    assert overlap.startswith(
        "Ranks of edges are reliable for all edges. Jaccard, 20 edges: 1.00; halves of the facts 1.00"
    )
    assert overlap.endswith(" by chance: no less alike than halves are.")
    assert same.verdict == (
        "Undecided whether 0 and 1 differ: no change is shown, but facts that change sides may reach 0.17 (margin 0.1)"
        "; measure about 16 more facts.",
        "Recall 0.00 → 0.00 of 20 facts: none changed sides; at most 0.17 of such facts do.",
        "Facts recalled at neither (20): same wiring (1 − cosine 0.00 [0.00, 0.00], margin 0.1), 1.00 [1.00, 1.00] "
        "times as strong; no edge changed beyond the noise (p = 1).",
        overlap,
        "No head of the circuits gained or lost a role.",
        "Needles: all words right 0.20 → 0.20 (change +0.00 [-0.31, +0.31]); answer perplexity 7.39 → 7.39 "
        "(× 1.00 [1.00, 1.00]).",
        "Heads: 0 of 4 changed, no score differs on any prompt, over 10 needles; retrieval heads (score > 0.1): the "
        "same.",
        "Level of the pair: at most 0.05 that any difference named is chance "
        "(Holm over recall, circuits, heads, needle answers).",
    )


def test_a_pair_that_did_not_change_is_equivalent_where_facts_are_enough():
    a = point(0, heads=retrieval(nll=2.0), circuit=graph(strengths(WIRING_A), facts=36, known=36))
    pair = compare(a, replace(a, name="step1", step=1))
    assert (pair.outcome, pair.significant) == ("equivalent", False)
    assert pair.verdict[0] == (
        "0 and 1 are equivalent: every change lies within its margin (facts that change sides 0.1 of all, a head's "
        "score 0.1, answer NLL 0.05, 1 − cosine 0.1, strength by 25%, an edge 0.1 of the circuit)."
    )
    tighter = compare(a, replace(a, name="step1", step=1), delta={"recall": 0.05})
    assert tighter.outcome == "undecided"
    assert "may reach 0.097 (margin 0.05)" in tighter.verdict[0]


def test_a_pair_differs_by_its_circuit_alone():
    a, b = _a(), _b(tokens=None)
    pair = compare(a, b.with_result("heads", a.heads))
    assert pair.significant
    assert pair.verdict[0] == "0 and 1,000 differ: circuits of facts recalled at neither: changed in 2 edges."


def test_what_one_end_lacks_is_no_equivalence():
    """A head that A has no score of, and an answer without a finite likelihood, may have changed at will."""
    a, b = (point(i, heads=retrieval({(0, 1): 0.5}, prompts=10)) for i in range(2))
    assert compare(a, b).outcome == "equivalent"
    blind = compare(replace(a, results={"heads": retrieval({(0, 1): [np.nan] * 10}, prompts=10)}), b)
    assert blind.outcome == "undecided"
    assert "the largest change of a head's score may reach inf (margin 0.1)" in blind.verdict[0]
    endless = compare(replace(a, results={"heads": retrieval({(0, 1): 0.5}, prompts=10, nll=[np.inf, *[1.0] * 9])}), b)
    assert endless.outcome == "undecided"
    assert "answer NLL may reach " in endless.verdict[0]
    json.dumps(endless.to_json(), allow_nan=False)


def test_a_pair_differs_by_its_heads_alone():
    """Accuracy is not called: six of ten needles gained and none lost is p = 1/32, by exchanging A and B."""
    a, b = _a(), _b()
    pair = compare(a, b.with_result("circuit", a.circuit))
    assert pair.significant
    assert pair.verdict[0] == ("0 and 1,000 differ: 2 heads of 4 changed; answer NLL (nats per token) 2.00 → 1.00.")
    assert pair.heads.accuracy.p == 1 / 32


def test_a_pair_differs_by_a_readout_alone_and_names_it():
    """NLL changes on all ten needles: p = 2^-9; accuracy on none."""
    pair = compare(point(0, heads=retrieval(nll=2.0)), point(1, heads=retrieval(nll=1.0)))
    assert pair.significant
    assert pair.verdict[0] == "0 and 1 differ: answer NLL (nats per token) 2.00 → 1.00."
    both = compare(point(0, heads=retrieval(nll=2.0)), point(1, heads=retrieval(nll=1.0, correct=10)))
    assert both.verdict[0] == ("0 and 1 differ: needle accuracy 0.00 → 1.00; answer NLL (nats per token) 2.00 → 1.00.")
    accuracy = compare(point(0, heads=retrieval()), point(1, heads=retrieval(correct=10)))
    assert accuracy.verdict[0] == "0 and 1 differ: needle accuracy 0.00 → 1.00."


@pytest.mark.parametrize(("level", "differs"), [(3.9 * HOLM, False), (4.1 * HOLM, True)])
def test_a_readout_counts_at_holms_level_of_two_families_of_one_and_two(level, differs):
    """p = 2^-9 of one of two readouts, beside the heads: it passes where a quarter of the level is at least that."""
    pair = compare(point(0, heads=retrieval(nll=2.0)), point(1, heads=retrieval(nll=1.0)), q=level)
    assert pair.significant is differs


def test_a_graph_may_change_as_a_whole_without_an_edge_that_can_be_named():
    pair = compare(point(0, circuit=graph(strengths(WIRING_A))), point(1, circuit=graph(strengths(WIRING_B))))
    (group,) = pair.groups.groups
    none = replace(group, diff=replace(group.diff, tests=replace(group.diff.tests, q=np.ones(46))))
    alone = pair.with_change("circuit", replace(pair.groups, groups=(none,)))
    assert alone.significant
    assert alone.verdict[0] == "0 and 1 differ: circuits of facts recalled at neither: changed as a whole."
    assert alone.verdict[2].endswith("it changed as a whole (p ≤ 0.0078), no single edge can be named.")


def test_what_was_not_measured_is_not_compared_and_the_reason_is_told():
    a = point(0, heads=retrieval())
    b = point(1, heads=retrieval(), circuit=graph(strengths(WIRING_A)))
    pair = compare(replace(a, failures={"circuit": "no fact fits"}), b)
    assert pair.verdict[0] == (
        "0 and 1 are equivalent: every change lies within its margin (a head's score 0.1, answer NLL 0.05)."
    )
    assert pair.verdict[-1] == "Not compared: circuit (step0: no fact fits)."
    assert len(pair.verdict) == 5
    other = compare(point(0, circuit=b.circuit), point(1, circuit=b.circuit))
    assert other.verdict[0].startswith("Undecided whether 0 and 1 differ: ")
    assert other.verdict[-1] == "Not compared: heads (step0: not measured; step1: not measured)."
    with pytest.raises(
        CheckpointMismatch, match=r"nothing to compare\. heads: step0: not measured; step0: not measured"
    ):
        compare(point(0), point(0))
    with pytest.raises(CheckpointMismatch, match="no circuits were compared: step0: no fact fits"):
        pair.to_frame()


def test_two_checkpoints_of_one_label_are_told_apart_by_their_place():
    pair = compare(point(5, stage="one", heads=retrieval()), point(5, stage="two", heads=retrieval()))
    assert pair.verdict[0].startswith("one/5 and two/5 are equivalent: ")


def test_the_level_is_the_one_asked_for(changed):
    strict = compare(changed.a, changed.b, q=0.001)
    # p of ten needles is 2^-9 at least, that of sixteen facts 2^-14
    assert strict.verdict[0] == (
        "0 and 1,000 differ: 2 lost, 16 learned of 20 facts; circuits of facts learned: changed as a whole."
    )
    assert "Heads: 0 of 4 changed" in strict.verdict[-2]
    alone = compare(point(0, heads=changed.a.heads), point(1, heads=changed.b.heads), q=0.001)
    assert not alone.significant


def test_more_than_five_heads_are_counted_and_five_are_named():
    before = retrieval(shape=(3, 2))
    after = retrieval({(i, j): 1 - (2 * i + j) / 16 for i in range(3) for j in range(2)}, shape=(3, 2))
    gained = compare(point(0, heads=before), point(1, heads=after))
    assert gained.verdict[2].startswith("Heads: 6 of 6 changed")
    assert gained.verdict[2].endswith("gained a0.h0, a0.h1, a1.h0, a1.h1, a2.h0 and 1 more.")
    five = retrieval(
        {(i, j): 1 - (2 * i + j) / 16 for i in range(3) for j in range(2) if (i, j) != (2, 1)}, shape=(3, 2)
    )
    assert (
        "gained a0.h0, a0.h1, a1.h0, a1.h1, a2.h0." in compare(point(0, heads=before), point(1, heads=five)).verdict[2]
    )


def _tables(pair):
    return {table.name: table for table in pair_tables(pair)}


def test_the_tables_of_a_pair_have_their_titles_in_their_order(changed):
    assert [(table.name, table.title) for table in pair_tables(changed)] == [
        ("heads", "Retrieval heads, strongest changes"),
        ("groups", "Wiring and strength by group of facts"),
        ("edges", "Edges that changed, by group of facts"),
        ("nodes", "Nodes, strongest real changes"),
        ("ranks", "Reliability by rank"),
        ("similarity", "Similarity of the two circuits"),
        ("profile", "Depth and spread of the graph"),
        ("transfer", "Each circuit in each model"),
        ("roles", "Roles gained and lost by heads of the circuits"),
    ]
    alone = compare(point(0, heads=changed.a.heads), point(1, heads=changed.b.heads))
    assert [table.name for table in pair_tables(alone)] == ["heads"]
    bare = compare(point(0, circuit=changed.a.circuit), point(1, circuit=changed.b.circuit))
    assert [table.name for table in pair_tables(bare)] == [
        "groups", "edges", "nodes", "ranks", "similarity", "profile"
    ]  # fmt: skip


def test_the_sections_of_a_pair_have_their_titles_and_captions_in_their_order(changed):
    told = {statement.kind: statement.text for statement in pair_statements(changed)}
    learned, everything = "On the 16 of 20 facts recalled at B alone. ", "On all facts asked, whatever their way. "
    sections = list(pair_sections(changed))
    assert [(each.slug, each.title.removesuffix(" 0 → 1,000"), each.caption) for each in sections[1:]] == [
        ("groups-pair", "Facts and their circuits", CAPTIONS["groups"]),
        ("circuit-pair", "Circuit", f"Measured {learned[0].lower()}{learned[1:]}{changed.circuit.caption}"),
        ("edges-pair", "Edges that changed", CAPTIONS["edges"]),
        ("nodes-pair", "Nodes", learned + CAPTIONS["nodes"]),
        ("ranks-pair", "Reliability by rank", learned + CAPTIONS["ranks"]),
        ("similarity-pair", "Similarity", learned + CAPTIONS["similarity"]),
        ("profile-pair", "Depth and spread", learned + CAPTIONS["profile"]),
        ("transfer-pair", "Functional transfer", everything + CAPTIONS["transfer"]),
        ("roles-pair", "Roles of heads", sections[-2].caption),
        ("heads-pair", "Retrieval heads", ""),
    ]
    assert {each.title[-10:] for each in sections} == {" 0 → 1,000"}
    assert [each.slug for each in sections if each.figure is not None] == [
        "groups-pair", "circuit-pair", "transfer-pair", "heads-pair"
    ]  # fmt: skip
    said = {each.slug: each.text for each in sections if each.text}
    assert said["transfer-pair"] == changed.circuit.transfer.verdict
    assert said["heads-pair"] == f"{told['needles']} {told['heads']}"
    assert list(sections[1].points) == list(changed.verdict[1:5])
    ranks, similarity, everywhere = (sections[place].frame for place in (5, 6, 2))
    assert list(ranks) == ["from_rank", "to_rank", "reliability"]
    assert list(similarity) == [
        "measure", "value", "within", "within_low", "within_high", "across", "across_low", "across_high", "random",
        "excess", "p", "beyond_noise",
    ]  # fmt: skip
    assert list(everywhere) == [
        "edge", "writer", "reader", "a", "b", "delta", "low", "high", "p", "q", "status", "changed"
    ]  # fmt: skip
    assert list(sections[1].frame) == [
        "group", "facts", "wiring", "wiring_low", "wiring_high", "strength", "strength_low", "strength_high",
        "reliability_a", "reliability_b", "edges_changed", "p",
    ]  # fmt: skip
    assert list(sections[-1].frame) == [
        "name", "layer", "head", "before", "after", "delta", "low", "high", "p", "q", "status"
    ]  # fmt: skip


def test_from_eight_layers_on_changes_are_shown_layer_by_layer():
    def section(layers):
        shape = GraphShape(layers, 1, 1)
        scores = np.linspace(1, 2, int(shape.mask.sum()))
        first, second = (on_shape(shape, np.tile(each, (10, 1)), known=10) for each in (scores, 2 * scores))
        pair = compare(point(0, circuit=first), point(1, circuit=second))
        assert pair.circuit.n_significant
        return [(each.slug, each.title, each.caption) for each in pair_sections(pair) if each.slug.startswith("layers")]

    told = (
        "On the 10 of 10 facts recalled at A and B. Rows read, columns write; hover shows the strongest changes of a "
        "cell."
    )
    assert section(7) == []
    assert section(8) == [("layers-pair", "Where edges changed 0 → 1", told)]


def test_what_did_not_change_has_empty_tables_of_the_same_columns(changed, same):
    empty = _tables(same)
    assert [name for name, table in empty.items() if not len(table.frame)] == ["edges", "nodes", "roles"]
    assert {name: list(table.frame) for name, table in empty.items()} == {
        name: list(table.frame) for name, table in _tables(changed).items() if name != "transfer"
    }


def test_the_overlap_of_circuits_is_told_beside_those_of_other_relations_and_of_retrieval():
    """Of 20 edges each, 19 are those of the other relation, and 18 those of retrieval."""
    wirings = np.repeat([strengths(WIRING_A), strengths(WIRING_B)], 10, axis=0)
    labels = [{"relation": "one"}] * 10 + [{"relation": "other"}] * 10
    a = point(0, circuit=graph(wirings, known=20, labels=labels))
    plain = compare(a, replace(a, name="step1", step=1))
    other_task = (*WIRING_A[:18], "m1->logits", "a1.h1->m1")
    beside = compare(a.with_result("retrieval-circuit", graph(strengths(other_task))), plain.b)
    (before,), (after,) = (
        [statement for statement in pair.statements if statement.kind == "overlap"] for pair in (plain, beside)
    )
    assert before.numbers["relations"] == pytest.approx(19 / 21)
    assert after.numbers == {**before.numbers, "other_task": pytest.approx(18 / 22)}
    told = "by chance, 0.90 between relations at A: no less alike than halves are."
    assert before.text.endswith(told)
    assert after.text == before.text.replace("0.90 between relations", "0.82 with the circuit of retrieval")


def test_the_largest_of_no_number_is_the_first_head():
    lacking = retrieval({(layer, head): np.nan for layer in range(2) for head in range(2)})
    pair = compare(point(0, heads=lacking), point(1, heads=lacking))
    (told,) = (statement.numbers for statement in pair.statements if statement.kind == "heads")
    largest = told["largest"]
    assert largest.pop("name") == "a0.h0"
    assert np.isnan(list(largest.values())).all() and list(largest) == ["delta", "low", "high"]
    assert (told["changed"], told["moved"], told["of"], told["outcome"]) == (0, 0, 4, "")


def test_the_table_of_heads(changed):
    frame = _tables(changed)["heads"].frame
    assert list(frame) == ["name", "before", "after", "delta", "low", "high", "q", "status"]
    ends = [pytest.approx(end) for end in open_ends(0.6875, chosen=2)]
    assert frame.iloc[0].tolist() == ["a0.h1", 0.0625, 0.75, 0.6875, *ends, 4 / 2 / 2**9, "gained"]
    assert frame["delta"].tolist()[1:] == [0.5, 0, 0]
    assert frame["q"].tolist()[1:] == [4 / 2 / 2**9, 1, 1]


def test_the_table_of_edges_and_nodes_holds_those_that_changed(changed):
    """The 20th edge of a wiring scores -(2 - 19 / 16); where it is not wired, its place in 1 / 1024."""
    edges = _tables(changed)["edges"].frame
    strong = -(2 - 19 / 16)
    assert list(edges) == ["group", "edge", "a", "b", "delta", "low", "high", "q", "status"]
    assert edges["group"].tolist() == ["learned", "learned"]
    assert edges["edge"].tolist() == ["m1->logits", "a1.h1->logits"]
    assert edges["a"].tolist() == [46 / 1024, strong]
    assert edges["b"].tolist() == [strong, 45 / 1024]
    assert edges["delta"].tolist() == [strong - 46 / 1024, 45 / 1024 - strong]
    assert edges["low"].tolist() == edges["high"].tolist() == edges["delta"].tolist()
    assert edges["q"].tolist() == pytest.approx([0.001 * 46 / 2] * 2), (
        "the share of statistics under 999 flips and none"
    )
    assert edges["status"].tolist() == ["gained", "lost"]
    nodes = _tables(changed)["nodes"].frame
    assert list(nodes) == ["node", "a", "b", "delta", "low", "high", "q", "in_a", "in_b"]
    # a1.h1 also feeds m1 (44 / 1024), which changes on neither side
    assert nodes.values.tolist() == [
        ["m1", 46 / 1024, strong, *[strong - 46 / 1024] * 3, pytest.approx(0.001 * 7 / 2), False, True],
        ["a1.h1", strong + 44 / 1024, 89 / 1024, *[45 / 1024 - strong] * 3, pytest.approx(0.001 * 7 / 2), True, False],
    ]


def test_the_table_of_roles_and_of_similarity(changed):
    assert _tables(changed)["roles"].frame.values.tolist() == [
        ["a1.h1", "mover", "lost", 1, 0, False],
        ["a0.h1", "retrieval", "gained", 0, 1, False],
    ]
    assert list(_tables(changed)["roles"].frame) == ["head", "role", "change", "before", "after", "moved"]
    overlap = _tables(changed)["similarity"].frame.set_index("measure").loc["Jaccard, 20 edges"]
    assert [overlap["value"], overlap["across"]] == pytest.approx([19 / 21] * 2)
    assert overlap["within"] == 1
    assert overlap["excess"] == pytest.approx(2 / 21)
    assert overlap["across"] < overlap["within_low"]
    assert overlap["p"] > 0.05, "ten facts and two edges: mixtures of both checkpoints are often as far apart"
    assert not overlap["beyond_noise"]


def test_the_table_of_the_profile_and_of_the_transfer(changed):
    """The 20 wired edges sum to 40 - 190 / 16, every other one is its place in 1 / 1024."""
    profile = _tables(changed)["profile"].frame
    assert list(profile) == ["name", "a", "b", "delta", "low", "high"]
    total = profile.set_index("name").loc["total |score|"]
    wired = 40 - 190 / 16
    places = sum(range(1, 47))
    taken = [1 + EDGES.index(edge) for edge in WIRING_A], [1 + EDGES.index(edge) for edge in WIRING_B]
    assert total["a"] == pytest.approx(wired + (places - sum(taken[0])) / 1024)
    assert total["b"] == pytest.approx(wired + (places - sum(taken[1])) / 1024)
    assert total["delta"] == pytest.approx(-1 / 1024)
    frame = _tables(changed)["transfer"].frame
    assert list(frame) == ["circuit", "model", "n_edges", "faithfulness", "low", "high"]
    assert frame.iloc[:, :4].values.tolist() == [
        ["0", "0", 20, 0.75],
        ["0", "1000", 20, 0.25],
        ["1000", "0", 21, 0.5],
        ["1000", "1000", 21, 1],
    ]
    assert frame[["low", "high"]].isna().all(axis=None), "two facts tell no spread"


def test_a_pair_is_printed_with_who_it_is_its_verdict_and_its_tables(changed, same, capsys):
    print_pair(changed)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        "A  step0 · step 0 · 0 tokens",
        "B  step1000 · step 1,000 · 4,096,000 tokens · late",
        "",
    ]
    assert lines[3:14] == [f"• {sentence}" for sentence in changed.verdict]
    titles = [table.title for table in pair_tables(changed)]
    assert [line for line in lines if line in titles] == titles
    head = next(line for line in lines if "a0.h1" in line and "│" in line and "0.688" in line)
    assert [cell.strip() for cell in head.strip("│ ").split("│")] == [
        "a0.h1", "0.0625", "0.75", "0.688", "0.0696", "0.802", "0.00391", "gained"
    ]  # fmt: skip
    overlap = next(line for line in lines if "│ Jaccard, 20 edges" in line)
    cells = [cell.strip() for cell in overlap.strip("│ ").split("│")]
    assert (cells[1:8], cells[-1]) == (["0.905", "1", "1", "1", "0.905", "0.905", "0.905"], "no")
    print_pair(same)
    told = capsys.readouterr().out
    assert "Edges that changed" not in told, "an empty table is left out"
    assert "Retrieval heads, strongest changes" in told


def test_the_ten_strongest_changes_are_shown(capsys):
    after = retrieval({(i, j): 1 - (2 * i + j) / 16 for i in range(6) for j in range(2)}, shape=(6, 2))
    pair = compare(point(0, heads=retrieval(shape=(6, 2))), point(1, heads=after))
    print_pair(pair)
    shown = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert shown == [f"a{i}.h{j}" for i in range(5) for j in range(2)]
    assert pair._repr_html_().count("<tr") == 1 + 10


def test_a_pair_as_json(changed):
    document = json.loads(json.dumps(changed.to_json(), allow_nan=False))
    assert document["a"] == {
        "checkpoint": "step0",
        "step": 0,
        "tokens": 0,
        "stage": None,
        "branch": None,
        "results": {m: f"{m}-None-step0" for m in ("heads", "circuit", "roles")},
        "settings": {"heads": {"version": 1}, "circuit": {"version": 1}},
    }
    assert document["b"]["step"] == 1000
    assert document["b"]["stage"] == "late"
    assert (document["q"], document["significant"]) == (0.05, True)
    assert document["verdict"] == list(changed.verdict)
    assert [change["name"] for change in document["behaviour"]] == [
        "needle accuracy", "answer NLL (nats per token)", "fact recall"
    ]  # fmt: skip
    recall = document["behaviour"][2]
    # exact McNemar: 2 of 18 that changed went the other way
    assert recall["p"] == pytest.approx(2 * (1 + 18 + 153) / 2**18)
    assert (recall["before"], recall["after"]) == (0.1, 0.8)
    assert document["heads"][0]["name"] == "a0.h1"
    assert [row["edge"] for row in document["edges"]] == ["m1->logits", "a1.h1->logits"]
    assert document["facts"] == "the 16 of 20 facts recalled at B alone"
    assert [group["group"] for group in document["groups"]] == ["lost", "learned", "neither"]
    assert document["outcome"] == "different"
    assert [statement["text"] for statement in document["statements"]] == document["verdict"]
    recall_value = document["statements"][1]
    assert recall_value["kind"] == "recall"
    assert [recall_value[way] for way in ("kept", "lost", "learned", "neither")] == [0, 2, 16, 2]
    turnover = next(q for q in document["questions"] if q["name"] == "facts that change sides")
    assert (turnover["outcome"], turnover["effects"][0]["bounds"]) == ("different", [-1.0, 0.1])
    assert document["not_compared"] == {}
    assert document["refused_facts"] == []
    alone = compare(point(0, heads=changed.a.heads), point(1, heads=changed.a.heads)).to_json()
    assert not alone["significant"]
    assert [alone[name] for name in ("groups", "edges", "nodes", "similarity", "profile", "transfer")] == [None] * 6
    assert alone["not_compared"] == {"circuit": "step0: not measured; step1: not measured"}


def test_json_names_the_facts_that_were_refused_and_holds_null_for_what_is_no_number():
    a = point(0, circuit=graph(strengths(WIRING_A), refused=[(10, "two tokens")]))
    pair = compare(a, replace(a, step=1))
    assert pair.to_json()["refused_facts"] == [{"index": 10, "reason": "two tokens"}]
    half = compare(
        point(0, heads=retrieval()), replace(a, step=1, results={**a.results, "heads": retrieval()})
    ).to_json()
    assert half["refused_needles"] == []
    assert half["refused_facts"] == [{"index": 10, "reason": "two tokens"}]
    needles = retrieval(refused=[(3, "no such answer")])
    assert compare(point(0, heads=needles), point(1, heads=needles)).to_json()["refused_needles"] == [
        {"index": 3, "reason": "no such answer"}
    ]
    few = compare(point(0, heads=retrieval(prompts=2)), point(1, heads=retrieval(prompts=2, nll=2.0)))
    assert [change["p"] for change in few.to_json()["behaviour"]] == [None, None]


def test_a_notebook_shows_a_pair(changed):
    html = changed._repr_html_()
    assert html.startswith("<p><b>0 → 1,000</b></p><ul><li>0 and 1,000 differ: 2 lost, 16 learned of 20 facts;")
    assert html.count("<li>") == 11
    assert html.count("<table") == 9
    assert "m1-&gt;logits" in html
    assert re.search(r"<td>a0.h1</td>\s*<td>0.0625</td>\s*<td>0.75</td>\s*<td>0.688</td>", html)


def test_what_was_named_for_being_large_has_an_interval_that_allows_for_it():
    """One of 46 edges, one of 7 writers and one of 4 heads are named: each at 5 % of its share of what was asked."""
    from scipy.stats import t

    noise = np.random.default_rng(0).normal(size=(16, len(EDGES))) / 64
    before, after = strengths(WIRING_A) + noise, strengths(WIRING_A) + noise[::-1]
    after[:, EDGES.index("a1.h1->logits")] += 1.0
    scores = [0.5 + 0.25 * (i % 2) for i in range(16)]
    a = point(0, heads=retrieval({(0, 1): 0.0}, prompts=16), circuit=graph(before, known=16))
    b = point(1, heads=retrieval({(0, 1): scores}, prompts=16), circuit=graph(after, known=16))
    pair = compare(a, b)
    tables = _tables(pair)
    (edge,), (node,) = (tables[name].frame.to_dict("records") for name in ("edges", "nodes"))
    assert (edge["edge"], node["node"]) == ("a1.h1->logits", "a1.h1")
    diff = pair.circuit
    plain = diff.to_frame().iloc[0]
    heads = diff.node_frame().iloc[0]
    for row, usual, asked in ((edge, plain, 46), (node, heads, int(np.isfinite(diff.node_tests.p).sum()))):
        wider = t.ppf(1 - 0.05 / asked / 2, 15) / t.ppf(0.975, 15)
        assert row["high"] - row["low"] == pytest.approx(wider * (usual["high"] - usual["low"]))
    told = next(statement for statement in pair.statements if statement.kind == "heads").numbers["largest"]
    head = pair.heads.to_frame().iloc[0]
    asked = int(np.isfinite(pair.heads.p).sum())
    wider = t.ppf(1 - 0.05 / asked / 2, 15) / t.ppf(0.975, 15)
    assert told["high"] - told["low"] == pytest.approx(wider * (head["high"] - head["low"]))
    assert tables["heads"].frame.iloc[0]["low"] == told["low"]


def test_transfer_is_told_on_the_facts_that_lead():
    """A's circuit keeps nothing of what was learned and all of what was lost; over both it would keep a part."""
    lost, learned = np.arange(20) < 8, np.arange(20) >= 8
    a = point(0, circuit=graph(strengths(WIRING_A), facts=20, known=lost))
    b = point(1, circuit=graph(strengths(WIRING_B), facts=20, known=learned))
    kept = np.where(learned, CORRUPT, CLEAN)
    whole = np.full((2, 20), CLEAN)
    metric = np.stack([np.stack([whole[0], kept]), np.stack([kept[::-1], whole[0]])])
    found = Transfer(("0", "1"), ("0", "1"), metric, whole, np.full((2, 20), CORRUPT), np.array([20, 20]))
    pair = compare(a, b, transfer=found)
    told = [statement for statement in pair.statements if statement.kind == "transfer"]
    assert told[0].numbers == {"of": "the 12 of 20 facts recalled at B alone"}
    assert told[0].text.startswith(
        "On the 12 of 20 facts recalled at B alone: The circuit of 0 keeps 0.00 [0.00, 0.00] "
    )
    assert found.values[0, 1] == pytest.approx(0.4)


def test_a_turnover_without_an_interval_is_told_without_its_ends():
    asked = (PairQuestion("behaviour", TURNOVER, 0.5), PairQuestion("behaviour", NET, 0.25))
    told = next(recall_statements(PairRecord(_a(), _b(), 0.05, questions=asked)))
    assert np.isnan([told.numbers["low"], told.numbers["high"]]).all()
    assert told.numbers["p"] == 0.25


class _Norms(Pairing):
    noun = "norm"

    def compare(self, a, b, *, q, earlier):
        return Compared(None)


class _ToldNorms(_Norms):
    def sentences(self, pair):
        return ("It grew.", "It fell.")

    def frames(self, pair):
        return [PairTable(name, title, pd.DataFrame({"x": [1]})) for name, title in (("n", "Norms"), ("m", "Means"))]


def test_a_measure_that_only_compares_says_nothing_of_a_pair():
    pair, own = PairRecord(_a(), _b(), 0.05), _Norms()
    assert [list(found) for found in (own.sentences(pair), own.statements(pair), own.frames(pair))] == [[], [], []]
    assert list(own.sections(pair, anchor="pair")) == []
    assert list(own.questions(pair.a, pair.b, "change", deltas=Deltas())) == []
    assert own.held("change", ()) == "change"
    assert own.parts("change") == []


def test_a_measure_is_told_by_its_noun_its_sentences_and_its_tables():
    pair, own = PairRecord(_a(), _b(), 0.05), _ToldNorms()
    assert own.parts(PairQuestion(None, "norm", 0.5)) == []
    assert own.parts(type("Change", (), {"significant": True})) == ["the norm"]
    assert [(said.kind, said.text) for said in own.statements(pair)] == [("norm", "It grew."), ("norm", "It fell.")]
    sections = list(own.sections(pair, anchor="pair"))
    assert [(s.slug, s.title, s.text) for s in sections] == [
        ("n-pair", f"Norms {pair.span}", "It grew. It fell."), ("m-pair", f"Means {pair.span}", "It grew. It fell.")
    ]  # fmt: skip
    assert [s.frame["x"].tolist() for s in sections] == [[1], [1]]


def test_what_is_left_open_is_told_by_the_end_that_reaches_furthest_beyond_its_margin():
    def told(low, high):
        effect = Effect("answer NLL", 0.0, low, high, 0.0, (-0.25, 0.5), 10, "needle", 14)
        question = PairQuestion("readouts", "answer NLL", 0.5, (effect,), outcome="undecided")
        return pair_statements(PairRecord(_a(), _b(), 0.05, questions=(question,)))[0].numbers["open"]

    rest = {"name": "answer NLL", "more": 4, "unit": "needle"}
    assert told(-0.5, 0.75) == {**rest, "reach": 0.75, "margin": 0.5}
    assert told(-0.5, 0.625) == {**rest, "reach": -0.5, "margin": -0.25}


def test_how_many_units_more_an_undecided_question_needs():
    def effect(needed: int, high: float = 2.0, n: int = 10) -> Effect:
        return Effect("x", 0.0, -0.5, high, 0.0, (-1.0, 1.0), n, "fact", needed)

    def question(*effects: Effect, outcome: str = "undecided") -> PairQuestion:
        return PairQuestion(None, "x", 0.5, effects, outcome=outcome)

    assert question(effect(40), effect(25), effect(90, high=0.5)).more == 30, "the last is equivalent already"
    assert question(effect(40), outcome="different").more == 0
    assert question(effect(40, high=0.5)).more == 0
    assert question().more == 0
