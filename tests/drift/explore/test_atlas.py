"""Thinned scores on a page: what the page's script makes of them is what a diff over all edges makes."""

import json
import shutil
import subprocess
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

import circuit_drift.page
import circuits
from checkpoints.errors import CheckpointMismatch
from circuit_drift.explore.atlas import STOPS, UNTESTED, USUAL, atlas_of, stop_of, strongest
from circuit_drift.record.groups import FactGroup
from tests.drift.handmade import EDGES, WIRING_A, WIRING_B, graph, strengths

ATLAS_JS = Path(circuit_drift.page.__file__).with_name("atlas.js")
ALL = FactGroup("all 10 facts", np.arange(10))
needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed; the page's script runs in it"
)


@pytest.fixture(scope="module")
def graphs():
    """Three checkpoints: wired by A; by B and twice as strong; by A with half of the edges turned around."""
    rng = np.random.default_rng(1)
    wired, other = strengths(WIRING_A), strengths(WIRING_B)
    turned = wired * np.where(np.arange(len(wired)) % 2, 1, -1)
    return [graph(scores + 0.05 * rng.normal(size=(10, len(EDGES)))) for scores in (wired, 2 * other, turned)]


@pytest.fixture(scope="module")
def atlas(graphs):
    return atlas_of(graphs, ["0", "9,000", "9,600"], [ALL])


def node(call: str, *values: object) -> object:
    """What an expression over ``Atlas`` and ``values`` gives in node."""
    script = f"const Atlas = require({json.dumps(str(ATLAS_JS))}); const values = JSON.parse(process.argv[1]); "
    script += f"process.stdout.write(JSON.stringify({call}))"
    done = subprocess.run(
        ["node", "-e", script, json.dumps(values)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_q_is_kept_as_the_first_level_that_it_does_not_exceed():
    assert stop_of(np.array([0, 0.001, 0.0011, 0.05, 0.2, 0.21, np.nan])).tolist() == [0, 0, 1, 5, 7, 8, 8]
    assert (STOPS[USUAL], UNTESTED) == (0.05, len(STOPS))


def test_kept_are_the_strongest_of_every_checkpoint_and_fewer_of_each_where_they_are_too_many():
    mean = np.array([[4.0, -5, 0, 1, 2, 0], [0, 0.5, -3, 2, 1, 0]])
    assert [(kept.tolist(), size) for kept, size in [strongest(mean, 2), strongest(mean, 9)]] == [
        ([0, 1, 2, 3], 2),
        ([0, 1, 2, 3, 4, 5], 6),
    ]
    kept, size = strongest(mean, 3, most=4)
    assert (kept.tolist(), size) == ([0, 1, 2, 3], 2)


def test_levels_whole_and_counts_are_those_of_a_diff_over_all_edges(graphs, atlas):
    group = atlas.groups[0]
    assert set(group.edges) == set(EDGES) and group.largest == 40 and atlas.usual == 20 and atlas.total == 46
    for pair, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
        diff = circuits.diff(graphs[a], graphs[b], splits=2, exchanges=0)
        assert group.whole[pair] == diff.global_p
        assert group.stops[pair].tolist() == stop_of(diff.tests.q).tolist()
        assert group.changed[pair].tolist() == [int((diff.tests.q <= stop).sum()) for stop in STOPS]
        assert np.array_equal(group.apart[a] & group.apart[b], diff.both_ends)


def test_facts_of_a_group_are_told_by_themselves(graphs):
    few = FactGroup("two facts", np.array([0, 1]))
    group = atlas_of(graphs, ["0", "1", "2"], [few]).groups[0]
    assert (group.facts, group.name) == (2, "two facts")
    kept = [EDGES.index(edge) for edge in group.edges]
    assert np.allclose(group.mean[0], graphs[0].edge_scores[:2].mean(0)[kept])
    assert (group.stops == UNTESTED).all(), "two facts can show no change"


def test_checkpoints_that_were_not_measured_alike_are_refused(graphs):
    with pytest.raises(CheckpointMismatch, match="different method"):
        atlas_of([graphs[0], graph(strengths(WIRING_A), method="eap")], ["0", "1"], [ALL])


@needs_node
def test_the_page_names_what_a_diff_names(graphs, atlas):
    document = json.loads(json.dumps(atlas.to_json(), allow_nan=False))
    asked = [(a, b, size) for a, b in permutations(range(3), 2) for size in (18, 20, 40)]
    choices = [{"group": 0, "a": a, "b": b, "level": USUAL, "size": size} for a, b, size in asked]
    told = node("values[1].map((choice) => Atlas.between(values[0], choice))", document, choices)
    seen = set()
    for (a, b, size), found in zip(asked, told, strict=True):
        diff = circuits.diff(graphs[a], graphs[b], n_edges=size, splits=2, exchanges=0)
        wanted = {name: str(status) for name, status in zip(EDGES, diff.status, strict=True) if status != "outside"}
        moved = {name for name, changed in zip(EDGES, diff.changed, strict=True) if changed and name not in wanted}
        wanted |= dict.fromkeys(moved & set(atlas.groups[0].edges), "beyond")
        assert {f"{row['writer']}->{row['reader']}": row["status"] for row in found["rows"]} == wanted
        assert found["changed"] == diff.n_significant
        assert found["counts"] == {name: list(wanted.values()).count(name) for name in found["counts"]}
        seen |= set(wanted.values())
    assert seen >= {"gained", "lost", "strengthened", "weakened", "flipped", "kept", "beyond"}


@needs_node
def test_the_headline_tells_the_choice_in_words(atlas):
    document, choice = atlas.to_json(), {"group": 0, "a": 0, "b": 1, "level": USUAL, "size": 20}
    told = node("Atlas.headline(values[0], values[1], Atlas.between(values[0], values[1]))", document, choice)
    changed = int(atlas.groups[0].changed[0, USUAL])
    assert told.startswith(f"0 → 9,000: {changed} of 46 edges changed at q ≤ 0.05; in the circuits ")
    assert told.endswith("(p = 0.0039, 10 facts)")
    same = node(
        "Atlas.headline(values[0], values[1], Atlas.between(values[0], values[1]))", document, {**choice, "b": 0}
    )
    assert same == '0 → 0: one checkpoint; what its circuit holds is under "kept"'


@needs_node
def test_edges_between_two_nodes_are_one_line_and_layers_without_an_edge_are_left_out():
    rows = [
        {"writer": "a0.h1", "reader": reader, "a": 0, "b": 1, "delta": size, "stop": 0, "status": "gained"}
        for reader, size in (("a1.h0<q>", 2), ("a1.h0<k>", -1), ("logits", 3))
    ]
    lines = node("Atlas.bundles(values[0])", rows)
    assert [(line["from"], line["to"], line["size"], len(line["rows"])) for line in lines] == [
        ("a0.h1", "a1.h0", 3, 2),
        ("a0.h1", "logits", 3, 1),
    ]
    shape = {"n_layers": 4, "n_heads": 4, "n_kv_heads": 2}
    rows[0]["reader"] = "a2.kv1<k>"
    stands = node("Atlas.layers(values[0], values[1])", shape, [*rows, {**rows[0], "reader": "a2.h2<q>"}])
    assert [(row["layer"], row["heads"]) for row in stands] == [
        (0, ["a0.h1"]),
        (1, ["a1.h0"]),
        (2, ["a2.h2", "a2.kv1"]),
        (4, ["logits"]),
    ]
    table = node("Atlas.matrix(values[0], values[1])", shape, rows)
    assert (table["writes"], table["reads"]) == ([0], [1, 2, 4])
    assert [[len(cell) for cell in row] for row in table["cells"]] == [[1], [1], [1]]


@needs_node
def test_a_key_value_head_feeds_every_query_head_that_shares_it():
    shape = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    assert node("Atlas.headsReading(values[0], 'a1.kv1<v>')", shape) == ["a1.h2", "a1.h3"]
    assert node("['m3', 'logits', 'a1.kv0', 'a1.h0'].map(Atlas.kindOf)", shape) == [
        "MLP",
        "input or logits",
        "shared key/value head",
        "attention head",
    ]
    edges, strong = [["input", "a1.kv1<v>"], ["a1.h3", "logits"], ["a1.h1", "logits"]], [3, 2, 1]
    assert node("Atlas.circuit(values[0], values[1], values[2], 3)", shape, edges, strong) == [True, True, False]


@needs_node
def test_the_table_is_saved_as_csv_with_the_checkpoints_in_its_head(atlas):
    document, choice = atlas.to_json(), {"group": 0, "a": 0, "b": 1, "level": USUAL, "size": 20}
    rows = [{"writer": "m0", "reader": "logits", "a": 0.5, "b": -1, "delta": -1.5, "stop": 8, "status": "flipped"}]
    text = node("Atlas.csv(values[0], values[1], values[2])", document, choice, [*rows, {**rows[0], "stop": 1}])
    assert text.splitlines() == [
        'edge,score at 0,"score at 9,000",change,q at most,status',
        "m0->logits,0.5,-1,-1.5,,flipped",
        "m0->logits,0.5,-1,-1.5,0.002,flipped",
    ]
