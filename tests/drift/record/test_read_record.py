"""What continues what, and which facts are known, on points made by hand."""

import numpy as np
import pytest
from scipy import stats

from circuit_drift.record.lineage import nearest_before, parents_of
from circuit_drift.record.recall import recall_by_class, recall_change, recalled, recalled_facts
from tests.drift.handmade import graph, point, retrieval, run_of, strengths


def measured(step, stage=None, **other):
    return point(step, stage=stage, heads=retrieval(), **other)


def test_parents_are_those_stored_and_a_merge_of_which_a_part_is_missing_has_none():
    points = [point(step, stage="one") for step in (10, 20, 30, 40)]
    first, second, third, merged = (each.place for each in points)
    stored = {first: [], second: [first], third: [first], merged: [second, third]}
    assert parents_of(run_of(*points, parents=stored)) == [(), (0,), (0,), (1, 2)]
    assert parents_of(run_of(*points, parents={**stored, merged: [second, "one/35"]})) == [(), (0,), (0,), ()]


def test_parents_are_by_stages_and_branches_where_one_point_has_none_stored():
    points = [point(10, stage="one"), point(20, stage="one"), point(5, stage="two")]
    stored = {points[0].place: [], points[1].place: [], points[2].place: []}
    assert parents_of(run_of(*points, parents=stored)) == [(), (), ()]
    del stored[points[1].place]
    assert parents_of(run_of(*points, parents=stored)) == [(), (0,), (1,)]


def test_the_nearest_before_is_on_the_line_and_has_what_is_asked_for():
    points = [measured(10, "one"), measured(20, "one"), point(30, stage="one"), point(40, stage="one")]
    run = run_of(*points)

    def has(each):
        return each.heads is not None

    assert nearest_before(run, points[3], has) is points[1]
    assert nearest_before(run, points[1], has) is points[0]
    assert nearest_before(run, points[0], has) is None
    assert nearest_before(run_of(*points[2:]), points[3], has) is None
    places = [each.place for each in points]
    merge = {places[0]: [], places[1]: [], places[2]: places[:2], places[3]: [places[2]]}
    assert nearest_before(run_of(*points, parents=merge), points[2], has) is None
    assert nearest_before(run_of(*points, parents=merge), points[3], has) is None, "the merge has nothing to show"


def test_recall_by_class_counts_what_is_the_top_token():
    labels = [{"class": name} for name in ("old", "old", "old", "new", "new")]
    found = recall_by_class(graph(strengths([]), facts=5, known=[True, False, True, True, False], labels=labels))
    assert found == {"old": (2 / 3, 3), "new": (0.5, 2)}
    assert list(found) == ["old", "new"]
    assert recall_by_class(graph(strengths([]), facts=4, known=1)) == {"all": (0.25, 4)}


def test_a_change_of_recall_is_told_by_mcnemar_and_the_paired_interval():
    before = np.array([True, True, False, False, False, False, False, False, False, True])
    after = np.array([False, True, True, True, True, True, True, True, False, True])
    change = recall_change(before, after)
    assert (change.name, change.before, change.after) == ("fact recall", 0.3, 0.8)
    assert change.delta == pytest.approx(0.5)
    assert change.p == pytest.approx(stats.binomtest(1, 7).pvalue)
    ends = [stats.binomtest(known, 10).proportion_ci(method="wilson") for known in (3, 8)]
    down, up = (0.8 - ends[1].low, ends[0].high - 0.3), (ends[1].high - 0.8, 0.3 - ends[0].low)
    phi = (2 * 1 - 1 * 6) / (3 * 7 * 8 * 2) ** 0.5  # known at both 2, at A alone 1, at B alone 6, at neither 1
    reach = [(x**2 - 2 * phi * x * y + y**2) ** 0.5 for x, y in (down, up)]
    assert (change.low, change.high) == pytest.approx((0.5 - reach[0], 0.5 + reach[1]))
    assert recall_change(after, before).delta == pytest.approx(-0.5)
    assert recall_change(before, before).p == 1


@pytest.mark.parametrize(
    ("known", "facts", "words"),
    [
        (8, 8, "the 8 of 10 facts recalled at A or B"),
        (7, 10, "all 10 facts (fewer than 8 are recalled at A or B)"),
    ],
)
def test_graphs_are_over_the_facts_that_are_recalled_where_there_are_eight(known, facts, words):
    early = [place < known // 2 for place in range(10)]
    late = [known // 2 <= place < known for place in range(10)]
    graphs = [graph(strengths([]), known=which) for which in (early, late)]
    chosen, told = recalled(graphs, "at A or B")
    assert told == words
    assert [len(each) for each in chosen] == [facts, facts]
    kept = recalled_facts(graphs)
    assert (kept is None) == (facts == 10)
    assert kept is None or kept.tolist() == list(range(8))


def test_graphs_whose_facts_are_not_kept_apart_are_over_all_of_them():
    first, other = graph(strengths([]), known=10), graph(strengths([]), facts=12, known=12)
    assert recalled_facts([first]).tolist() == list(range(10))
    assert recalled_facts([first, other]) is None
    assert recalled([first, other], "somewhere")[1] == "all 10 facts"
