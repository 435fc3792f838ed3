"""Facts that went opposite ways are never pooled, and what training does anyway is told from what it did here."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.fields import pack
from circuit_drift.api.pairs import compare
from circuit_drift.comparison.floor import converged_before
from circuit_drift.comparison.pair import stored_pair
from circuit_drift.measures.pairs import alike
from circuit_drift.measures.pairs.heads import head_effects
from circuit_drift.record.groups import fact_groups
from circuit_drift.record.questions import Deltas, Effect, units_needed
from circuit_drift.report import run_sections
from circuit_drift.stages.fact_paths import fact_paths
from circuit_drift.stages.stages import track_circuit, track_circuits
from circuits.comparison.diff import similarity
from circuits.graph.membership import membership
from tests.drift.handmade import EDGES, WIRING_A, WIRING_B, graph, point, retrieval, roles, run_of, strengths
from tests.heads.test_read_sentences import comparison

A, B = strengths(WIRING_A), strengths(WIRING_B)


def _known(*parts: tuple[int, bool]) -> list[bool]:
    return [known for count, known in parts for _ in range(count)]


@pytest.fixture(scope="module")
def turned():
    """45 facts gained and 50 lost of 105: the circuit of the gained is rewired one way, of the lost the other way."""
    rows = np.concatenate([np.tile(A, (45, 1)), np.tile(B, (50, 1)), np.tile(A, (10, 1))])
    moved = np.concatenate([np.tile(B, (45, 1)), np.tile(A, (50, 1)), np.tile(A, (10, 1))])
    before = graph(rows, known=_known((45, False), (50, True), (10, True)))
    after = graph(moved, known=_known((45, True), (50, False), (10, True)))
    return compare(point(0, circuit=before), point(1, circuit=after))


def test_as_many_gained_as_lost_differ_and_the_first_sentence_says_so(turned):
    assert turned.significant
    assert turned.verdict[0] == (
        "0 and 1 differ: 50 lost, 45 learned of 105 facts; circuits of facts lost: changed in 2 edges, learned: "
        "changed in 2 edges."
    )
    assert turned.behaviour[0].p > 0.6, "McNemar alone sees nothing"


def test_the_edges_of_each_group_are_named_with_their_sign(turned):
    edges = turned.to_json()["edges"]
    assert [(row["group"], row["edge"], row["status"]) for row in edges] == [
        ("lost", "m1->logits", "lost"),
        ("lost", "a1.h1->logits", "gained"),
        ("learned", "m1->logits", "gained"),
        ("learned", "a1.h1->logits", "lost"),
    ]
    groups = turned.groups.to_frame().set_index("group")
    assert groups["facts"].to_dict() == {"kept": 10, "lost": 50, "learned": 45}
    assert repr(turned.groups) == "<CircuitGroups of facts: kept 10, lost 50, learned 45>"
    assert groups.loc["kept", "edges_changed"] == 0
    assert turned.facts == "the 50 of 105 facts recalled at A alone"


def test_facts_chosen_for_having_changed_are_read_only_where_turnover_is_established():
    """8 of 200 facts lost: their circuit is bound to differ, and no more than a tenth changed sides."""
    rows = np.tile(A, (100, 1))
    moved = np.concatenate([np.tile(B, (16, 1)), np.tile(A, (84, 1))])
    before = graph(rows, known=_known((8, True), (8, False), (84, True)))
    after = graph(moved, known=_known((8, False), (8, True), (84, True)))
    lenient = compare(point(0, circuit=before), point(1, circuit=after), delta={"recall": 0.3})
    gated = {q.name: q for q in lenient.questions if q.after}
    assert set(gated) == {"lost", "learned"}
    assert all(q.p <= 2**-6 < 1 == q.adjusted for q in gated.values()), "16 of 100 is no more than 0.3, 8 against 8"
    assert not lenient.significant


def test_groups_are_the_ways_then_the_classes_and_a_class_that_went_both_ways_is_split():
    labels = [{"class": "old"}] * 4 + [{"class": "new"}] * 4
    before = graph(np.tile(A, (8, 1)), known=_known((4, True), (4, False)), labels=labels)
    after = graph(np.tile(A, (8, 1)), known=_known((2, True), (2, False), (3, True), (1, False)), labels=labels)
    assert [(g.name, g.facts.tolist(), g.chosen) for g in fact_groups(before, after)] == [
        ("kept", [0, 1], False),
        ("lost", [2, 3], True),
        ("learned", [4, 5, 6], True),
        ("neither", [7], False),
        ("old", [0, 1, 2, 3], False),
        ("new", [4, 5, 6, 7], False),
    ]
    both = graph(np.tile(A, (8, 1)), known=[False, True, True, True, True, False, False, True], labels=labels)
    mixed = graph(np.tile(A, (8, 1)), known=[True, False, True, True, False, True, False, True], labels=labels)
    names = [group.name for group in fact_groups(both, mixed)]
    assert names[4:] == ["old, kept", "old, lost", "old, learned", "new, kept", "new, lost", "new, learned"]


def test_a_group_is_its_class_where_they_hold_the_same_facts():
    """All of a class lost: named for the way, and not chosen for it, since the label was there before."""
    labels = [{"class": "old"}] * 4 + [{"class": "new"}] * 4
    before = graph(np.tile(A, (8, 1)), known=_known((4, True), (4, False)), labels=labels)
    after = graph(np.tile(A, (8, 1)), known=0, labels=labels)
    assert [(g.name, g.chosen) for g in fact_groups(before, after)] == [("lost", False), ("neither", False)]


def test_nothing_learned_leaves_nothing_to_read():
    rows = np.random.default_rng(0).normal(size=(20, 46))
    empty = replace(graph(rows), clean_metric=np.zeros(20), corrupt_metric=np.zeros(20))
    pair = compare(point(0, circuit=empty), point(1, circuit=replace(empty, scores=-empty.scores)))
    assert "Nothing learned, no circuit to read: recalled at neither (20)." in pair.verdict
    assert not any(word in sentence for sentence in pair.verdict for word in ("wiring", "edge", "Roles", "keeps"))
    assert not pair.significant


def test_neither_end_is_a_sibling():
    a, b = (point(step, heads=retrieval(nll=2.0), weights=f"hash {step}") for step in (0, 1))
    for end, name in ((a, "A"), (b, "B")):
        copy = replace(end, name="copy", step=7)
        with pytest.raises(CheckpointMismatch, match=f"has the weights of {name} and tells of no training floor: give"):
            compare(a, b, floor=[copy])
    assert compare(a, b, floor=[replace(a, weights="other")]).floor.pairs == 1


def test_a_fact_without_scores_is_refused_in_words():
    whole = replace(graph(np.random.default_rng(0).normal(size=(12, 46))), answer_rank=np.zeros(12, dtype=int))
    scores = whole.scores.copy()
    scores[3] = np.nan
    with pytest.raises(BadPrompt, match="46 of 46 edges were not measured; score all of them to compare"):
        compare(point(0, circuit=whole), point(1, circuit=replace(whole, scores=scores)))


def test_too_few_needles_for_any_test_are_no_finding_of_no_difference():
    pair = compare(*(point(step, heads=retrieval(nll=2.0 - step, prompts=4)) for step in (0, 1)))
    assert not pair.significant
    assert pair.verdict[0] == "Whether 0 and 1 differ cannot be told: too few of what was measured for any test."


def test_margins_are_named_and_must_be_positive():
    assert Deltas.of({"nll": 0.2}) == Deltas(nll=0.2)
    assert Deltas.of(Deltas(edge=0.5)).edge == 0.5
    with pytest.raises(BadPrompt, match="there is no delta 'foo'; set one of recall, heads, nll, wiring"):
        Deltas.of({"foo": 1})
    with pytest.raises(BadPrompt, match="the delta nll must be a number above 0, got 0"):
        Deltas.of({"nll": 0.0})
    with pytest.raises(BadPrompt, match="the delta heads must be a number above 0, got inf"):
        Deltas.of({"heads": float("inf")})


def test_an_effect_is_equivalent_inside_its_margin_and_different_outside():
    def effect(low: float, high: float) -> Effect:
        return Effect("x", (low + high) / 2, low, high, 0.0, (-1.0, 1.0), 10, "fact", 0)

    assert [(effect(*e).equivalent, effect(*e).different) for e in ((-0.5, 0.5), (0.5, 1.5), (1.5, 2.5), (-3, -2))] == [
        (True, False), (False, False), (False, True), (False, True)
    ]  # fmt: skip
    # half 0.5 about 0.75 must shrink to 0.25: four times the units; about 2, an interval of half 4 must clear 0
    assert units_needed(0.75, 0.25, 1.25, 0.0, (-1.0, 1.0), 10) == 40
    assert units_needed(2.0, -2.0, 6.0, 0.0, (-1.0, 1.0), 10) == 40


def test_the_largest_change_of_a_head_needs_so_many_needles_to_lie_inside_the_margin():
    """0.36 with its upper end at 0.5 must come within 0.04 of itself, 3.5 times nearer: 12 needles times 3.5^2."""
    values = np.array([[0.3, -0.36], [0.1, 0.2]])
    change = comparison(delta=values)
    (found,) = head_effects(change, Deltas.of({"heads": 0.4}), np.ones((2, 2), dtype=bool))
    assert (found.value, found.low, found.high) == (0.36, 0.2, 0.5)
    assert (found.n, found.unit, found.needed, found.bounds) == (12, "needle", 147, (-1.0, 0.4))
    (inside,) = head_effects(change, Deltas.of({"heads": 0.6}), np.ones((2, 2), dtype=bool))
    assert (inside.equivalent, inside.needed) == (True, 12)
    lacking = comparison(delta=np.where(values == 0.1, np.nan, values))
    (open_,) = head_effects(lacking, Deltas.of({"heads": 0.6}), np.ones((2, 2), dtype=bool))
    assert (open_.low, open_.high, open_.needed) == (0.2, np.inf, 13)


def _point(step: int, scale: float, nll: float, known: int = 40, **other):
    noise = 1 + 0.01 * np.random.default_rng(step).normal(size=(40, 1))
    return point(
        step,
        heads=retrieval({(0, 1): 0.5}, nll=nll),
        circuit=graph(scale * noise * A, known=known),
        **other,
    )


def test_a_change_is_held_against_the_largest_among_siblings():
    """Strength × 1.2 from A to B; siblings of A at × 1.3 make it ordinary, at × 1.02 exceptional."""
    a, b = _point(0, 1.0, 1.0), _point(1, 1.5, 1.0)
    beyond = compare(a, b, floor=[_point(2, 1.02, 1.0), _point(3, 0.99, 1.0)])
    assert beyond.floor.pairs == 3
    assert beyond.floor.outcome == "beyond"
    assert beyond.exceeds_floor
    strength = next(change for change in beyond.floor.changes if change.name == "strength (kept)")
    assert strength.value == pytest.approx(1.5, rel=0.01)
    assert strength.floor == pytest.approx(1.02 / 0.99, rel=0.01)
    assert beyond.verdict[1].startswith("A → B exceeds what training does anyway: ")
    assert beyond.verdict[1].endswith("(3 pairs of siblings: 2, 3; p = 0.01 for all changes together).")
    # log 1.5 over what A and two siblings scatter by: Student's t, 2 degrees of freedom
    scatter = np.sqrt(np.mean(np.log([1.02, 0.99, 1.02 / 0.99]) ** 2))
    assert strength.p == pytest.approx(2 * t.sf(np.log(1.5) / scatter, 2), rel=0.1)
    undecided = compare(a, b, floor=[_point(2, 1.02, 1.0)])
    assert [change.outcome for change in undecided.floor.changes[:2]] == ["beyond", "beyond"]
    assert (undecided.floor.outcome, undecided.floor.needed) == ("undecided", 2), (
        "two of six changes may well be chance"
    )
    assert not undecided.exceeds_floor
    assert undecided.verdict[1].endswith(
        "2; one more sibling exceeds them in up to 1 of 2; about 2 siblings would tell)."
    )
    within = compare(a, b, floor=[_point(2, 1.7, 1.0)])
    assert within.significant
    assert within.floor.outcome == "within"
    assert not within.exceeds_floor
    assert within.verdict[0].startswith("0 and 1 differ, no more than training does anyway: ")


def test_neighbours_of_a_converged_stage_are_the_floor_of_a_stored_pair(tmp_path):
    points = [_point(i, 1.0 + i / 100, nll, stage="one") for i, nll in enumerate((3.0, 1.05, 1.0, 1.02))]
    run = run_of(*points, _point(9, 2.0, 1.0, stage="two"), store=tmp_path)
    assert [p.step for p in converged_before(run, points[3])] == [1, 2]
    assert [p.step for p in converged_before(run, points[2])] == [1], "the likelihood still fell by 2 nats before"
    assert converged_before(run, points[0]) == []
    pair = run.diff(3, 9)
    assert pair.floor.names == ("1", "2")
    assert run.diff(3, 9, floor=[]).floor is None


def test_no_head_is_named_where_needles_are_too_few_for_the_level_of_the_pair():
    """Five needles: p is 2^-4 at least, times the four heads; at a level of 0.4 q alone would name one."""
    a, b = (point(i, heads=retrieval({(0, 1): i / 2}, prompts=5)) for i in range(2))
    pair = compare(a, b, q=0.4)
    assert pair.heads.n_significant == 0
    assert pair.outcome == "undecided"
    assert compare(a, b, q=0.6).heads.n_significant == 1


def test_a_circuit_is_followed_on_one_group_of_facts(tmp_path):
    """Ten facts learned are rewired at the third checkpoint, ten kept are not."""
    rows = [np.tile(A, (20, 1)), np.tile(A, (20, 1)), np.concatenate([np.tile(B, (10, 1)), np.tile(A, (10, 1))])]
    known = [_known((10, i > 0), (10, True)) for i in range(3)]
    points = [point(10 * i, circuit=graph(rows[i], known=known[i])) for i in range(3)]
    run = run_of(*points, store=tmp_path)
    learned, facts = track_circuit(run, group="learned")
    assert facts == "the 10 of 20 facts learned from 0 to 20"
    kept = run.track_circuit(group="kept")
    assert learned.to_frame()["jaccard_previous"].tolist()[1:] == pytest.approx([1, 19 / 21])
    assert kept.to_frame()["jaccard_previous"].tolist()[1:] == pytest.approx([1, 1])
    with pytest.raises(BadPrompt, match=r"facts 'lost' cannot be followed from 0 to 20: a group needs 8; there"):
        run.track_circuit(group="lost")


def test_facts_that_went_different_ways_are_followed_apart(tmp_path):
    """Over two stages: ten facts known throughout, ten learned in the first, nine lost in the second, three never."""
    known = [_known((10, True), (10, i > 0), (9, i < 2), (3, False)) for i in range(3)]
    points = [
        point(10 * i, stage="one" if i < 2 else "two", circuit=graph(np.tile(A, (32, 1)), known=known[i]))
        for i in range(3)
    ]
    run = run_of(*points, store=tmp_path)
    assert [facts for _, facts in track_circuits(run)] == [
        "the 10 of 32 facts recalled at 0, 10 and 20",
        "the 10 of 32 facts recalled at 10 and 20, not at 0",
        "the 9 of 32 facts recalled at 0 and 10, not at 20",
    ]
    assert [path.words for path in fact_paths(points)][-1] == "recalled at none of 0, 10 and 20"
    fewer = run_of(*(replace(p, results={"circuit": p.circuit.only(np.arange(25))}) for p in points), store=tmp_path)
    assert track_circuits(fewer)[-1][1] == (
        "the 10 of 25 facts recalled at 10 and 20, not at 0 (too few to follow: 5 recalled at 0 and 10, not at 20)"
    )
    assert len([s for s in run_sections(run) if s.slug.startswith("phases")]) == 3
    assert {tuple(track.steps) for track, _ in track_circuits(run, stage="one")} == {(0, 10)}


def _of_relations(scores, relations: int):
    """18 facts known alike, in so many relations."""
    labels = [{"relation": f"r{i % relations}"} for i in range(18)]
    return graph(scores, facts=18, known=18, labels=labels)


def test_facts_of_one_relation_can_be_one_unit():
    """Two facts a relation: tests, intervals and the floor rest on nine units, not on eighteen."""
    a, b = (point(i, circuit=_of_relations(scores, 9)) for i, scores in enumerate((A, B)))
    alone, together = compare(a, b), compare(a, b, cluster=["relation"], floor=[replace(a, step=2, name="step2")])
    kept = together.groups.groups[0]
    assert (kept.units, kept.unit, kept.diff.n, kept.contrast.n) == (9, "relation", 9, 9)
    assert (alone.circuit.n, together.circuit.n) == (18, 9)
    assert together.circuit.global_p > alone.circuit.global_p
    assert [row["units"] for row in together.to_json()["groups"]] == [9]
    told = {statement.kind: statement for statement in together.statements}
    assert told["group"].text.startswith("Facts kept (18 in 9 units): ")
    assert told["scope"].text.startswith("Facts of one relation are one unit (9 of 18 facts)")
    assert told["recall"].basis.startswith("t interval over units of one relation")
    asked = {question.name: question for question in together.questions}
    assert asked["facts that change sides"].effects[0].n == 9
    assert asked["recall of all facts"].least == pytest.approx(2 / 2**9)
    assert "kept" in " ".join(change.name for change in together.floor.changes)
    assert next(each for each in alone.statements if each.kind == "scope").numbers == {
        "by": "relation", "facts": 18, "units": 9, "clustered": False, "needles": False
    }  # fmt: skip


def test_too_few_relations_are_not_compared_and_a_label_that_is_not_there_is_refused():
    a, b = (point(i, circuit=_of_relations(scores, 6)) for i, scores in enumerate((A, B)))
    pair = compare(a, b, cluster=["relation"])
    assert pair.groups.groups[0].diff is None
    assert (
        "Too few facts to show a change of their circuits at the level of the pair: kept (18 in 6 units)."
        in pair.verdict
    )
    with pytest.raises(BadPrompt, match="have no label 'template' to be clustered by; labels: relation"):
        compare(a, b, cluster=["template"])


def test_a_head_that_is_in_the_circuit_by_chance_neither_enters_nor_leaves_it():
    """Of 12 facts a third wires a1.h1 at A, so that its mean ranks just inside the 20 edges, and a quarter at B."""
    twentieth = float(np.abs(A[EDGES.index("a1.h1->logits")]))

    def wired(share: float):
        rows = np.tile(A, (12, 1))
        rows[:, EDGES.index("a1.h1->logits")] = 0.0
        rows[:, EDGES.index("m1->logits")] = -twentieth
        rows[: round(12 * share), EDGES.index("a1.h1->logits")] = -twentieth / 0.3
        return point(int(100 * share), circuit=graph(rows, known=12), roles=roles(a1_h1="mover"))

    a, b = wired(1 / 3), wired(1 / 4)
    inside = [
        ("a1.h1" in pruned.nodes) for pruned in (compare(a, b).circuit.circuit_a, compare(a, b).circuit.circuit_b)
    ]
    assert inside == [True, False]
    shares = [membership(each.circuit)["a1.h1"] for each in (a, b)]
    assert 0.3 < shares[1] < shares[0] < 0.9
    assert compare(a, b).roles == (), "where facts are drawn anew it is in both circuits at times"
    gone = replace(b.circuit, scores=b.circuit.scores * (np.arange(7) != 5)[:, None])
    left = compare(a, replace(b, results={**b.results, "circuit": gone}))
    assert [change.head for change in left.roles] == []


def test_how_alike_circuits_are_is_worked_out_once_for_facts_and_units_and_found_in_the_store(monkeypatch, tmp_path):
    labels = [{"relation": str(fact % 9)} for fact in range(18)]
    points = [
        point(step, circuit=graph(strengths(wiring), facts=18, known=18, labels=labels))
        for step, wiring in enumerate((WIRING_A, WIRING_B))
    ]
    expected = compare(*points).groups.lead.similarity
    asked = []
    monkeypatch.setattr(alike, "alike_of", lambda _, *graphs: asked.append(graphs) or similarity(*graphs))
    run = run_of(*points, store=tmp_path)
    found = [stored_pair(run, 0, 1).groups.lead.similarity for _ in range(2)]
    assert found == [expected, expected] and len(asked) == 1
    assert stored_pair(run, 1, 0).groups.lead.similarity == expected and len(asked) == 2, "each way by itself"
    units = [stored_pair(run, 0, 1, cluster=["relation"]).groups.lead for _ in range(2)]
    assert [lead.n for lead in units] == [9, 9] and len(asked) == 3
    assert units[0].similarity == units[1].similarity != expected


def test_edges_of_a_pair_are_tested_once_and_found_in_the_store_bit_by_bit(monkeypatch, tmp_path):
    points = [
        point(step, circuit=graph(strengths(wiring), facts=18, known=18))
        for step, wiring in enumerate((WIRING_A, WIRING_B))
    ]
    expected, asked = compare(*points).groups, []
    for name in ("tested_of", "ranks_of"):
        drawn = getattr(alike, name)
        monkeypatch.setattr(alike, name, lambda *given, name=name, drawn=drawn: asked.append(name) or drawn(*given))
    run = run_of(*points, store=tmp_path)
    for _ in range(2):
        found = stored_pair(run, 0, 1).groups
        assert found.ranks == expected.ranks
        for one, other in zip(found.groups, expected.groups, strict=True):
            arrays = [{}, {}]
            first, second = (pack(each.diff, "", own) for each, own in zip((one, other), arrays, strict=True))
            assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
            assert {name: array.tobytes() for name, array in arrays[0].items()} == {
                name: array.tobytes() for name, array in arrays[1].items()
            }
    assert sorted(asked) == ["ranks_of", *["tested_of"] * len(expected.groups)]
    assert found.lead.shape is points[0].circuit.shape, "names and mask of a shape are made once"
    assert stored_pair(run, 0, 1, q=0.01).groups.lead.level == 0.01 and len(asked) == 2 + len(expected.groups)


def test_how_far_apart_circuits_are_is_drawn_once_for_a_group_and_found_in_the_store(monkeypatch, tmp_path):
    labels = [{"relation": str(fact % 9)} for fact in range(18)]
    points = [
        point(step, circuit=graph(strengths(wiring), facts=18, known=18, labels=labels))
        for step, wiring in enumerate((WIRING_A, WIRING_B))
    ]
    expected = [each.contrast for each in compare(*points).groups.groups]
    asked, drawn = [], alike.apart_of
    monkeypatch.setattr(alike, "apart_of", lambda group, *graphs: asked.append(group.name) or drawn(group, *graphs))
    run = run_of(*points, store=tmp_path)
    for _ in range(2):
        assert repr([each.contrast for each in stored_pair(run, 0, 1).groups.groups]) == repr(expected)
    times = len(asked)
    assert times == len(set(asked)) == sum(found is not None for found in expected) > 0
    back = stored_pair(run, 1, 0).groups.groups
    assert len(asked) == 2 * times, "each way by itself"
    assert repr([each.contrast for each in back]) == repr(
        [each.contrast for each in compare(*points[::-1]).groups.groups]
    )


def test_circuits_of_other_relations_are_a_floor_of_the_overlap():
    """Facts dealt in turn to two relations have one circuit: an overlap of 1, told where retrieval is not measured."""
    a, b = (point(i, circuit=_of_relations(scores, 2)) for i, scores in enumerate((A, B)))
    overlap = next(each for each in compare(a, b).statements if each.kind == "overlap")
    assert overlap.numbers["relations"] == 1
    assert "by chance, 1.00 between relations at A: " in overlap.text
