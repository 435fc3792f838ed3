"""What is read of two checkpoints: whether they differ, the sentences, the tables; every value worked out by hand."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from checkpoints.errors import CheckpointMismatch
from circuit_drift.api.pairs import compare
from circuit_drift.cli.render import print_pair
from circuit_drift.comparison.pair_tables import pair_tables
from tests.drift.handmade import (
    EDGES,
    WIRING_A,
    WIRING_B,
    graph,
    point,
    retrieval,
    roles,
    strengths,
    transfer,
)

ALL_TWENTY = "all 20 facts (fewer than 8 are recalled at A or B)"
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


def test_a_pair_that_changed_says_what_changed_by_how_much_and_on_what(changed):
    opening, behaviour, heads, circuit, role = changed.verdict
    assert opening == "0 and 1,000 differ: 2 heads and 2 edges changed for real (q <= 0.05)."
    # accuracy: six of ten turn right, sd 0.516, half 2.262 * 0.516 / sqrt(10) = 0.37; recall: 16 of 20 gained, 2 lost,
    # sd 0.657, half 2.093 * 0.657 / sqrt(20) = 0.31
    assert behaviour == (
        "Behaviour: needle accuracy 0.20 → 0.80 (Δ +0.60 [+0.23, +0.97]); answer NLL (nats per token) 2.00 → 1.00 "
        "(Δ -1.00 [-1.00, -1.00]); fact recall 0.10 → 0.80 (Δ +0.70 [+0.39, +1.01])."
    )
    assert heads == (
        "Heads: 2 of 4 changed their retrieval score, over 10 needles; retrieval heads (score > 0.1): "
        "2 gained (a0.h1, a1.h1), none lost."
    )
    # eighteen units, of whose signs none drawn agree: p = 2 (1 - .05^(1 / 999)); 19 of 21 edges are shared
    assert circuit.startswith(
        "Circuit, on the 18 of 20 facts recalled at A or B: 2 of 46 edges changed for real (q <= 0.05, "
        "global p = 0.006): within the circuits 1 gained, 1 lost. Jaccard, 20 edges: 0.90; between halves of the facts "
        "0.90 across the "
        "two, 1.00 [1.00, 1.00] within one checkpoint and 0."
    )
    assert "by chance: less alike than prompt noise makes them. " in circuit
    assert circuit.endswith(changed.circuit.transfer.verdict)
    assert role == "Roles in the circuits: 1 retrieval head gained (a0.h1); 1 mover head lost (a1.h1)."
    assert changed.significant


def test_one_edge_and_one_head_are_told_as_one():
    turned = strengths(WIRING_A)
    turned[EDGES.index("a1.h1->logits")] *= -1
    a = point(0, heads=retrieval({(0, 1): 0.0625}), circuit=graph(strengths(WIRING_A), facts=20))
    b = point(1, heads=retrieval({(0, 1): 0.75}), circuit=graph(turned, facts=20))
    pair = compare(a, b)
    assert pair.verdict[0] == "0 and 1 differ: 1 head and 1 edge changed for real (q <= 0.05)."
    assert pair.heads.plot().layout.title.text == "1 head changed its retrieval score"
    assert pair.circuit.plot().layout.title.text == "1 edge changed for real; 0 gained, 0 lost"


def test_read_the_other_way_every_sign_turns(changed):
    back = compare(changed.b, changed.a)
    assert back.verdict[0] == "1,000 and 0 differ: 2 heads and 2 edges changed for real (q <= 0.05)."
    assert back.verdict[1] == (
        "Behaviour: needle accuracy 0.80 → 0.20 (Δ -0.60 [-0.97, -0.23]); answer NLL (nats per token) 1.00 → 2.00 "
        "(Δ +1.00 [+1.00, +1.00]); fact recall 0.80 → 0.10 (Δ -0.70 [-1.01, -0.39])."
    )
    assert "none gained, 2 lost (a0.h1, a1.h1)." in back.verdict[2]
    assert back.verdict[4] == "Roles in the circuits: 1 mover head gained (a1.h1); 1 retrieval head lost (a0.h1)."


def test_a_pair_that_did_not_change_says_so(same):
    assert not same.significant
    assert same.verdict[0] == "No head and no circuit changed significantly from 0 to 1 (q <= 0.05)."
    assert same.verdict[1] == (
        "Behaviour: needle accuracy 0.20 → 0.20 (Δ +0.00 [+0.00, +0.00]); answer NLL (nats per token) 2.00 → 2.00 "
        "(Δ +0.00 [+0.00, +0.00]); fact recall 0.00 → 0.00 (Δ +0.00 [+0.00, +0.00])."
    )
    assert same.verdict[2].endswith("retrieval heads (score > 0.1): none gained, none lost.")
    assert same.verdict[3].startswith(
        f"Circuit, on {ALL_TWENTY}: No edge of 46 changed beyond the noise of the prompts (global p = 1). "
    )
    assert same.verdict[4] == "No head of the circuits gained or lost a role."


def test_a_pair_differs_by_its_circuit_alone():
    a, b = _a(), _b(tokens=None)
    pair = compare(a, b.with_result("heads", a.heads))
    assert pair.significant
    assert pair.verdict[0] == "0 and 1,000 differ: 2 edges changed for real (q <= 0.05)."


def test_a_pair_differs_by_its_heads_alone():
    a, b = _a(), _b()
    pair = compare(a, b.with_result("circuit", a.circuit))
    assert pair.significant
    assert pair.verdict[0] == "0 and 1,000 differ: 2 heads changed for real (q <= 0.05)."


def test_a_pair_differs_by_a_readout_alone_and_names_it():
    """NLL changes on all ten needles: p = 2^-9; accuracy on none."""
    pair = compare(point(0, heads=retrieval(nll=2.0)), point(1, heads=retrieval(nll=1.0)))
    assert pair.significant
    assert pair.verdict[0] == "0 and 1 differ: answer NLL (nats per token) changed for real (q <= 0.05)."
    both = compare(point(0, heads=retrieval(nll=2.0)), point(1, heads=retrieval(nll=1.0, correct=10)))
    assert both.verdict[0] == (
        "0 and 1 differ: needle accuracy and answer NLL (nats per token) changed for real (q <= 0.05)."
    )
    accuracy = compare(point(0, heads=retrieval()), point(1, heads=retrieval(correct=10)))
    assert accuracy.verdict[0] == "0 and 1 differ: needle accuracy changed for real (q <= 0.05)."


@pytest.mark.parametrize(("level", "differs"), [(1.9 * HOLM, False), (2.1 * HOLM, True)])
def test_a_readout_counts_at_holms_level_of_two(level, differs):
    """p = 2^-9 of one of two readouts passes where the level's half is at least that."""
    pair = compare(point(0, heads=retrieval(nll=2.0)), point(1, heads=retrieval(nll=1.0)), q=level)
    assert pair.significant is differs


def test_a_graph_may_change_as_a_whole_without_an_edge_that_can_be_named():
    pair = compare(point(0, circuit=graph(strengths(WIRING_A))), point(1, circuit=graph(strengths(WIRING_B))))
    none = replace(pair.circuit, tests=replace(pair.circuit.tests, q=np.ones(46)))
    alone = pair.with_change("circuit", none)
    assert alone.significant
    assert alone.verdict[0] == "0 and 1 differ: the graph as a whole changed for real (q <= 0.05)."


def test_what_was_not_measured_is_not_compared_and_the_reason_is_told():
    a = point(0, heads=retrieval())
    b = point(1, heads=retrieval(), circuit=graph(strengths(WIRING_A)))
    pair = compare(replace(a, failures={"circuit": "no fact fits"}), b)
    assert pair.verdict[0] == "No head changed significantly from 0 to 1 (q <= 0.05)."
    assert pair.verdict[-1] == "Not compared: circuit (step0: no fact fits)."
    assert len(pair.verdict) == 4
    other = compare(point(0, circuit=b.circuit), point(1, circuit=b.circuit))
    assert other.verdict[0] == "No circuit changed significantly from 0 to 1 (q <= 0.05)."
    assert other.verdict[-1] == "Not compared: heads (step0: not measured; step1: not measured)."
    with pytest.raises(
        CheckpointMismatch, match=r"nothing to compare\. heads: step0: not measured; step0: not measured"
    ):
        compare(point(0), point(0))
    with pytest.raises(CheckpointMismatch, match="no circuits were compared: step0: no fact fits"):
        pair.to_frame()


def test_two_checkpoints_of_one_label_are_told_apart_by_their_place():
    pair = compare(point(5, stage="one", heads=retrieval()), point(5, stage="two", heads=retrieval()))
    assert pair.verdict[0] == "No head changed significantly from one/5 to two/5 (q <= 0.05)."


def test_the_level_is_the_one_asked_for(changed):
    strict = compare(changed.a, changed.b, q=0.001)
    assert strict.verdict[0] == "No head and no circuit changed significantly from 0 to 1,000 (q <= 0.001)."
    assert not strict.significant


def test_more_than_five_heads_are_counted_and_five_are_named():
    before = retrieval(shape=(3, 2))
    after = retrieval({(i, j): 1 - (2 * i + j) / 16 for i in range(3) for j in range(2)}, shape=(3, 2))
    gained = compare(point(0, heads=before), point(1, heads=after))
    assert "6 gained (a0.h0, a0.h1, a1.h0, a1.h1, a2.h0, …), none lost." in gained.verdict[2]
    assert gained.verdict[2].startswith("Heads: 6 of 6 changed")
    five = retrieval(
        {(i, j): 1 - (2 * i + j) / 16 for i in range(3) for j in range(2) if (i, j) != (2, 1)}, shape=(3, 2)
    )
    assert (
        "5 gained (a0.h0, a0.h1, a1.h0, a1.h1, a2.h0), none lost."
        in compare(point(0, heads=before), point(1, heads=five)).verdict[2]
    )


def _tables(pair):
    return {table.name: table for table in pair_tables(pair)}


def test_the_tables_of_a_pair_have_their_titles_in_their_order(changed):
    assert [(table.name, table.title) for table in pair_tables(changed)] == [
        ("heads", "Retrieval heads, strongest changes"),
        ("edges", "Edges, strongest real changes"),
        ("nodes", "Nodes, strongest real changes"),
        ("similarity", "Similarity of the two circuits"),
        ("profile", "Depth and spread of the graph"),
        ("transfer", "Each circuit in each model"),
        ("roles", "Roles gained and lost by heads of the circuits"),
    ]
    alone = compare(point(0, heads=changed.a.heads), point(1, heads=changed.b.heads))
    assert [table.name for table in pair_tables(alone)] == ["heads"]
    bare = compare(point(0, circuit=changed.a.circuit), point(1, circuit=changed.b.circuit))
    assert [table.name for table in pair_tables(bare)] == ["edges", "nodes", "similarity", "profile"]


def test_the_table_of_heads(changed):
    frame = _tables(changed)["heads"].frame
    assert list(frame) == ["name", "before", "after", "delta", "low", "high", "q", "status"]
    assert frame.iloc[0].tolist() == ["a0.h1", 0.0625, 0.75, 0.6875, 0.6875, 0.6875, 4 / 2 / 2**9, "gained"]
    assert frame["delta"].tolist()[1:] == [0.5, 0, 0]
    assert frame["q"].tolist()[1:] == [4 / 2 / 2**9, 1, 1]


def test_the_table_of_edges_and_nodes_holds_those_that_changed(changed):
    """The 20th edge of a wiring scores -(2 - 19 / 16); where it is not wired, its place in 1 / 1024."""
    edges = _tables(changed)["edges"].frame
    strong = -(2 - 19 / 16)
    assert list(edges) == ["edge", "a", "b", "delta", "low", "high", "q", "status"]
    assert edges["edge"].tolist() == ["m1->logits", "a1.h1->logits"]
    assert edges["a"].tolist() == [46 / 1024, strong]
    assert edges["b"].tolist() == [strong, 45 / 1024]
    assert edges["delta"].tolist() == [strong - 46 / 1024, 45 / 1024 - strong]
    assert edges["low"].tolist() == edges["high"].tolist() == edges["delta"].tolist()
    assert edges["q"].tolist() == [46 / 2 / 2**17] * 2, "no surer than eighteen signs alike"
    assert edges["status"].tolist() == ["gained", "lost"]
    nodes = _tables(changed)["nodes"].frame
    assert list(nodes) == ["node", "a", "b", "delta", "low", "high", "q", "in_a", "in_b"]
    # a1.h1 also feeds m1 (44 / 1024), which changes on neither side
    assert nodes.values.tolist() == [
        ["m1", 46 / 1024, strong, *[strong - 46 / 1024] * 3, 7 / 2 / 2**17, False, True],
        ["a1.h1", strong + 44 / 1024, 89 / 1024, *[45 / 1024 - strong] * 3, 7 / 2 / 2**17, True, False],
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
    assert bool(overlap["beyond_noise"])


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
    assert frame.values.tolist() == [
        ["0", "0", 20, 0.75, 0.75, 0.75],
        ["0", "1000", 20, 0.25, 0.25, 0.25],
        ["1000", "0", 21, 0.5, 0.5, 0.5],
        ["1000", "1000", 21, 1, 1, 1],
    ]


def test_a_pair_is_printed_with_who_it_is_its_verdict_and_its_tables(changed, same, capsys):
    print_pair(changed)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        "A  step0 · step 0 · 0 tokens",
        "B  step1000 · step 1,000 · 4,096,000 tokens · late",
        "",
    ]
    assert lines[3:8] == [f"• {sentence}" for sentence in changed.verdict]
    titles = [table.title for table in pair_tables(changed)]
    assert [line for line in lines if line in titles] == titles
    head = next(line for line in lines if "a0.h1" in line and "│" in line and "0.688" in line)
    assert [cell.strip() for cell in head.strip("│ ").split("│")] == [
        "a0.h1", "0.0625", "0.75", "0.688", "0.688", "0.688", "0.00391", "gained"
    ]  # fmt: skip
    overlap = next(line for line in lines if "│ Jaccard, 20 edges" in line)
    cells = [cell.strip() for cell in overlap.strip("│ ").split("│")]
    assert (cells[1:8], cells[-1]) == (["0.905", "1", "1", "1", "0.905", "0.905", "0.905"], "yes")
    print_pair(same)
    told = capsys.readouterr().out
    assert "Edges, strongest real changes" not in told, "an empty table is left out"
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
    assert document["facts"] == "the 18 of 20 facts recalled at A or B"
    assert document["not_compared"] == {}
    assert document["refused_facts"] == []
    alone = compare(point(0, heads=changed.a.heads), point(1, heads=changed.a.heads)).to_json()
    assert not alone["significant"]
    assert [alone[name] for name in ("edges", "nodes", "similarity", "profile", "transfer", "roles")] == [None] * 6
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
    assert html.startswith("<p><b>0 → 1,000</b></p><ul><li>0 and 1,000 differ: 2 heads and 2 edges changed")
    assert html.count("<li>") == 5
    assert html.count("<table") == 7
    assert "q &lt;= 0.05" in html
    assert re.search(r"<td>a0.h1</td>\s*<td>0.0625</td>\s*<td>0.75</td>\s*<td>0.688</td>", html)
