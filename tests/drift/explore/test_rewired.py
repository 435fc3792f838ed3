"""The section where a reader chooses two checkpoints: which there are, on which facts, and what is said of it."""

from dataclasses import replace

import pytest

from circuit_drift.api.pairs import PairDiff
from circuit_drift.comparison.pair import stored_pair
from circuit_drift.explore import rewired
from circuit_drift.explore.atlas import atlas_of
from circuit_drift.explore.rewired import pair_rewired, run_rewired
from circuit_drift.store.store import Store
from circuit_drift.store.upkeep import inventory
from tests.drift.handmade import WIRING_A, WIRING_B, graph, point, retrieval, run_of, strengths

TOLD = (
    "Scores: positive = corrupting the edge raises the metric. Changes: sign flips of facts, Benjamini-Hochberg over "
    "all 46 edges, named only where the graph changed as a whole (p ≤ 0.05). Circuits: the strongest edges of each "
    "checkpoint, without dead ends; 40 edges are on this page."
)
LABELS = [{"class": "old"}] * 10 + [{"class": "new"}] * 8 + [{"class": "few"}] * 2


def measured(step, wiring, known=20, stage=None, **meta):
    return point(step, stage=stage, circuit=graph(strengths(wiring), facts=20, known=known, labels=LABELS, **meta))


def test_any_two_checkpoints_can_be_chosen_and_the_last_stage_is_shown_first():
    run = run_of(measured(0, WIRING_A, stage="pretrain"), measured(10, WIRING_A, stage="pretrain"), point(15), *(
        measured(step, WIRING_B, stage="cpt") for step in (20, 30)
    ))  # fmt: skip
    (section,) = run_rewired(run)
    data = section.widget.data
    assert (section.slug, section.widget.kind) == ("any-two", "rewired")
    assert (data["labels"], data["start"]) == (["0", "10", "20", "30"], [1, 3])
    assert [group["name"] for group in data["groups"]] == ["all 20 facts", "old (10 facts)", "new (8 facts)"]
    assert section.caption == TOLD


def test_facts_that_no_checkpoint_recalls_are_left_out():
    (section,) = run_rewired(run_of(measured(0, WIRING_A, known=0), measured(1, WIRING_B, known=12)))
    assert [(group["name"], group["facts"]) for group in section.widget.data["groups"]] == [
        ("the 12 facts recalled at some checkpoint", 12),
        ("old (10 facts)", 10),
    ]


def test_a_run_with_one_circuit_has_nothing_to_choose():
    assert list(run_rewired(run_of(measured(0, WIRING_A), point(1, heads=retrieval())))) == []


def test_what_cannot_be_compared_says_why():
    (section,) = run_rewired(run_of(measured(0, WIRING_A), measured(1, WIRING_A, metric="log probability")))
    assert section.widget is None
    assert section.text.startswith("Not applicable: the graphs were made with different metric")


def test_of_a_long_run_so_many_can_be_chosen_and_the_ends_of_its_stages_among_them(monkeypatch):
    monkeypatch.setattr(rewired, "WORK", 3 * 46)
    stages = ["a"] * 4 + ["b"] * 5
    points = [measured(step, WIRING_A, stage=stage) for step, stage in enumerate(stages)]
    (section,) = run_rewired(run_of(*points))
    assert section.widget.data["labels"] == ["0", "3", "4", "8"]
    assert section.caption.endswith(" 4 of 9 checkpoints can be chosen here.")


def test_pairs_are_tested_once_and_found_in_the_store_again(monkeypatch, tmp_path):
    points = [measured(step, WIRING_A if step < 20 else WIRING_B) for step in (0, 10, 20)]
    run = run_of(*points, store=tmp_path)
    (first,) = run_rewired(run)
    (unstored,) = run_rewired(run_of(*points))
    assert first.widget.data == unstored.widget.data
    (folder,) = (tmp_path / "atlas").iterdir()
    made = []
    monkeypatch.setattr(rewired, "atlas_of", lambda *args: made.append(args) or atlas_of(*args))
    (again,) = run_rewired(run)
    assert (again.widget.data, again.caption, made) == (first.widget.data, first.caption, [])

    renamed = [replace(p, branch="b") for p in points]
    (other,) = run_rewired(run_of(*renamed, store=tmp_path))
    assert (other.widget.data["labels"], made) == (["b/0", "b/10", "b/20"], [])
    (fewer,) = run_rewired(run_of(*points[:2], store=tmp_path))
    assert fewer.widget.data["labels"] == ["0", "10"] and len(made) == 1

    (folder / "arrays.safetensors").write_bytes(b"torn")
    (anew,) = run_rewired(run)
    assert anew.widget.data == first.widget.data and len(made) == 2
    assert [(own.result.measure, own.runs) for own in inventory(Store(tmp_path))] == [("atlas", ()), ("atlas", ())]


@pytest.mark.parametrize(("known", "names"), [(20, ["kept (20 facts)", "old (10 facts)", "new (8 facts)"])])
def test_a_pair_is_shown_on_the_facts_that_its_verdict_leads_with(known, names, tmp_path):
    run = run_of(measured(0, WIRING_A, known=known), measured(10, WIRING_B, known=known), store=tmp_path)
    (section,) = pair_rewired(PairDiff.of(stored_pair(run, 0, 10)), anchor="pair")
    assert (section.slug, section.title) == ("any-two-pair", "What rewired 0 → 10")
    assert [group["name"] for group in section.widget.data["groups"]] == names
    assert section.widget.data["start"] == [0, 1]
