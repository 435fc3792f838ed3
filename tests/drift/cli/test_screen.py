"""A pair on one screen: verdict, behaviour by group, the strongest real changes of each kind, what to do next."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from circuit_drift.api.pairs import compare
from circuit_drift.cli import render
from circuit_drift.cli.commands import _after_run
from circuit_drift.cli.comparing import _after_diff
from circuit_drift.cli.output.screen import behaviour_frame, interval, screen_tables
from circuit_drift.cli.render import print_screen
from tests.drift.handmade import WIRING_A, WIRING_B, graph, point, retrieval, roles, run_of, strengths


@pytest.fixture(scope="module")
def pair():
    """Two heads gained, an edge gained and one lost, a mover lost; of two classes of facts one is learned."""
    labels = [{"class": "known" if i < 10 else "new"} for i in range(20)]
    a = point(
        0,
        heads=retrieval({(0, 1): 0.0625}, correct=2, nll=2.0),
        circuit=graph(strengths(WIRING_A), facts=20, known=[True] * 10 + [False] * 10, labels=labels),
        roles=roles(a0_h0="mover", a1_h1="mover"),
    )
    b = point(
        1000,
        heads=retrieval({(0, 1): 0.75, (1, 1): 0.5}, correct=8, nll=1.0),
        circuit=graph(strengths(WIRING_B), facts=20, known=20, labels=labels),
        roles=roles(a0_h0="mover"),
    )
    return compare(a, b)


def test_behaviour_stands_by_readout_and_by_class(pair):
    frame = behaviour_frame(pair).set_index("readout")
    assert frame.loc["needle accuracy", ["A", "B"]].tolist() == pytest.approx([0.2, 0.8])
    assert frame.loc["recall of known (10)", ["A", "B", "change"]].tolist() == [1, 1, "+0 [-0.28, +0.28]"]
    assert frame.loc["recall of new (10)", ["A", "B", "change"]].tolist() == [0, 1, "+1 [+0.61, +1]"]
    assert frame.loc["recall of new (10)", "p"] == 0.002, "2 / 2^10"


def test_only_what_changed_stands_there_at_most_so_much_of_each_kind(pair):
    tables = dict(screen_tables(pair, 10))
    heads = tables["Heads that changed"]
    assert list(heads) == ["name", "status", "A", "B", "B - A"]
    assert heads[["name", "A", "B", "B - A"]].values.tolist() == [
        ["a0.h1", 0.062, 0.75, "+0.69 [+0.07, +0.8]"],
        ["a1.h1", 0.0, 0.5, "+0.5 [-0.049, +0.68]"],
    ]
    edges = tables["Edges that changed"]
    assert set(edges["edge"]) == set(WIRING_A) ^ set(WIRING_B)
    sizes = [abs(float(change.split()[0])) for change in edges["B - A"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(edges["group"])) > 1, "largest first, whatever the group"
    assert list(tables) == [
        "Behaviour [95 %]",
        "Heads that changed",
        "Edges that changed",
        "Roles of heads that changed",
    ]
    assert "Heads that changed, 1 of 2" in dict(screen_tables(pair, 1))


def printed(pair, monkeypatch, width, print_it=print_screen):
    out = io.StringIO()
    monkeypatch.setattr(
        render, "_console", lambda: Console(file=out, width=width, force_terminal=True, color_system=None)
    )
    print_it(pair)
    return out.getvalue().splitlines()


def test_eighty_columns_without_colour_hold_it_and_break_no_word(pair, monkeypatch):
    lines = printed(pair, monkeypatch, 80)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "\x1b" in line.replace("\x1b[1m", "").replace("\x1b[0m", "")]
    told = [line for line in lines if line.startswith(("• ", "  "))]
    joined = " ".join(line.strip().removeprefix("• ") for line in told)
    main = [said.text for said in pair.statements if said.kind not in ("few", "overlap", "scope", "transfer", "asked")]
    assert [sentence for sentence in main if sentence not in joined] == []
    assert len(pair.verdict) - len(main) == 1, "this pair's one remark: where the needles stand, or what can be told"
    assert "1 remark more, on what can be told and how: --all." in joined
    assert sum(line.startswith("• ") for line in lines) == len(main) + 1
    headed = [line for line in lines if line.startswith("┃")]
    assert len(headed) == len(dict(screen_tables(pair, 10))), "no table is split"
    whole = " ".join(printed(pair, monkeypatch, 1000, render.print_pair))
    assert [sentence for sentence in pair.verdict if sentence not in whole] == [], "nothing is lost with --all"


def test_the_last_line_offers_what_was_not_asked_for():
    offered = _after_diff(None, everything=False, explained=False)
    assert offered == "--all every table, --explain why, --html FILE figures"
    assert len(f"circuit-drift: next: {offered}") <= 80
    assert _after_diff(None, everything=True, explained=False) == "--explain why, --html FILE figures"
    assert _after_diff(None, everything=True, explained=True) == "--html FILE figures"
    assert _after_diff(Path("p.html"), everything=True, explained=False) == "open p.html in a browser, --explain why"


def test_a_run_ends_with_where_to_look_or_with_what_else_to_ask():
    def run():
        points = (
            point(step, heads=retrieval(correct=correct), circuit=graph(strengths(WIRING_A)))
            for step, correct in ((0, 0), (10, 1))
        )
        return replace(run_of(*points), origins={"needles": "built-in needles", "facts": "built-in facts"})

    look = "circuit-drift report report.html writes the page; circuit-drift diff runs@0 runs@10 compares two"
    assert _after_run("runs", run(), None) == look
    opened = _after_run("my runs", run(), Path("p.html"))
    assert opened == "open p.html in a browser; circuit-drift diff 'my runs'@0 'my runs'@10 compares two"
    silent = replace(run(), points=run().points[:1])
    assert _after_run("runs", silent, None).startswith("none of the built-in facts and needles is answered; ask what")
    own = replace(silent, origins={"needles": "built-in needles", "facts": "mine/facts.jsonl"})
    assert _after_run("runs", own, Path("p.html")) == "open p.html in a browser"


def test_a_change_stands_before_its_lower_and_its_upper_end():
    assert interval(-0.123, -0.2, 0.05) == "-0.12 [-0.2, +0.05]"
    assert interval(0.5, float("nan"), float("nan")) == "+0.5"
