"""The circuit of retrieval: measured, stored, shown, and a head that stops writing loses its edges in the diff."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import circuit_drift
from checkpoints import DriftError, open_checkpoint
from circuit_drift.measures.base import Asked
from circuit_drift.measures.causal.retrieval import RetrievalCircuitMeasure, TwinSource
from circuit_drift.measures.pairs.retrieval import RetrievalCircuitPairing
from circuit_drift.prompts import EdgeScoring, prompts_for
from circuit_drift.record.record import Point
from circuit_drift.twins import SWAPS
from tests.drift.handmade import WIRING_A, graph, point, run_of, strengths

NAME = "retrieval-circuit"


@pytest.fixture(scope="module")
def prompts(tiny_series):
    return prompts_for(tiny_series, length=48, depths=(0.2, 0.8))


@pytest.mark.parametrize("swap", SWAPS)
def test_every_needle_is_asked_once_and_depths_take_turns(swap, prompts, tiny_series):
    tokenizer = AutoTokenizer.from_pretrained(tiny_series / "checkpoint-0")
    pairs = TwinSource(prompts.needles, swap).tokenized(tokenizer)
    starts = [segments["needle"][0] for segments in pairs.segments]
    assert len(pairs) == 6
    assert max(starts[::2]) < 12 < min(starts[1::2])


def test_the_swap_is_the_argument_and_part_of_the_key(prompts):
    built = [RetrievalCircuitMeasure.build(Asked(prompts, names)) for names in ((), ("value",), ("key",))]
    assert [each.swap for each in built] == ["value", "value", "key"]
    assert built[0].key_params() == built[1].key_params() != built[2].key_params()
    finer = RetrievalCircuitMeasure.build(Asked(replace(prompts, scoring=EdgeScoring(ig_steps=9))))
    assert finer.key_params() != built[0].key_params()
    for names in (("nothing",), ("key", "value")):
        with pytest.raises(DriftError, match="retrieval-circuit takes one swap, value, key, question"):
            RetrievalCircuitMeasure.build(Asked(prompts, names))


def test_it_is_stored_and_stands_in_the_table_the_report_and_the_diff(tiny_series, prompts, store, tmp_path):
    asked = {"prompts": prompts, "measures": ["retrieval-circuit:key"], "store": store}
    run = circuit_drift.run(tiny_series, **asked, device="cpu", progress=False)
    graph, frame = run.points[0].results[NAME], run.to_frame()
    assert graph.meta["swap"] == "key"
    assert frame.retrieval_effect[0] == pytest.approx((graph.clean_metric - graph.corrupt_metric).mean())
    for measured, kept in zip(run.points, frame.retrieval_faithfulness, strict=True):
        stored = measured.results[NAME].meta["faithfulness"]
        assert kept == stored or (stored is None and np.isnan(kept))
    assert frame.retrieved[0] == (graph.answer_rank == 0).mean()
    nodes = {name: abs(score) for name, score in graph.nodes().items() if ".h" in name}
    assert nodes[frame.retrieval_head[0]] == max(nodes.values())
    page = run.report(tmp_path / "report.html").read_text()
    assert "The circuit of retrieval" in page
    assert "Key swap; 6 needles, each at one depth" in page
    pair = run.diff(0, 10)
    assert "Retrieval circuit (key swap), of 6 needles " in " ".join(pair.verdict)
    assert pair.to_json()["retrieval_edges"] is not None
    assert "Circuit of retrieval" in pair.write_html(tmp_path / "pair.html").read_text()


def test_a_copying_head_without_its_output_loses_its_edges():
    checkpoint = open_checkpoint("demo@9000")
    needles = prompts_for(checkpoint.path, length=128).needles
    measure = RetrievalCircuitMeasure(replace(needles, needles=needles.needles[:12]))
    loaded = checkpoint.load(device="cpu")
    before = measure.compute(loaded, {})
    found = measure.columns(before)
    assert found["retrieved"] == 1
    assert found["retrieval_faithfulness"] > 0.9
    assert found["retrieval_cross_fitted"] > 0.9
    assert abs(found["retrieval_random"]) < 0.01
    head = found["retrieval_head"]
    layer, place = (int(part[1:]) for part in head.split("."))
    attention = loaded.model.model.layers[layer].self_attn
    with torch.no_grad():
        attention.o_proj.weight[:, place * attention.head_dim : (place + 1) * attention.head_dim] = 0
    after = measure.compute(loaded, {})

    pair = run_of(point(0, **{NAME: before}), point(1, **{NAME: after})).diff(0, 1)
    change = pair.changes[NAME].lead
    own = change.to_frame().query("writer == @head and a != 0")
    assert len(own) > 5
    np.testing.assert_array_equal(own["b"], 0)
    in_circuit = own[own["changed"] & (own["status"] != "outside")]
    assert len(in_circuit) > 1
    assert set(in_circuit["status"]) == {"lost"}
    assert change.nodes_changed[0] == head
    assert head in change.nodes_lost
    moved = f"{head} {change.node_frame()['a'][0]:+.2g} → +0, "
    assert f"(below 0: corrupting it lowers the metric): {moved}" in " ".join(pair.verdict)


def ways(*scores: np.ndarray, known: tuple[bool, ...]) -> Point:
    """A checkpoint of as many groups of ten needles, each alike."""
    rows, knows = np.repeat(np.stack(scores), 10, axis=0), [way for way in known for _ in range(10)]
    step = 0 if known[1] else 1
    return point(step, **{NAME: graph(list(rows), known=knows, prompts="needles", swap="value")})


def test_needles_that_went_opposite_ways_are_never_averaged():
    wired, none = strengths(WIRING_A), strengths(())
    before = ways(wired, wired, none, known=(True, True, False))
    after = ways(wired, none, wired, known=(True, False, True))
    pair = run_of(before, after).diff(0, 1)
    frame = pair.changes[NAME].to_frame().set_index("group")
    assert frame.index.tolist() == ["needles kept", "needles lost", "needles learned"]
    assert frame["facts"].tolist() == [10, 10, 10]
    assert frame["edges_changed"]["needles kept"] == 0
    assert frame["edges_changed"]["needles lost"] == frame["edges_changed"]["needles learned"] > 5
    assert pair.changes[NAME].of == "the 10 of 30 needles recalled at A and B"
    told = " ".join(pair.verdict)
    assert "Retrieval circuit (value swap), of 30 needles 10 kept, 10 lost, 10 learned: kept: no edge changed" in told
    asked = {question.name: question for question in pair.questions}
    assert asked["recall of all needles"].p == 1  # as many lost as learned
    assert asked["needles that change sides"].outcome == "different"
    assert asked["needles lost"].after == "behaviour"
    assert asked["needles lost"].outcome == asked["needles learned"].outcome == "different"
    assert asked["needles lost"].adjusted >= 2 * asked["needles lost"].p  # held to the level of the pair
    assert pair.to_json()["retrieval_groups"][1]["group"] == "needles lost"
    nodes = "20 of 46 edges changed; nodes, by the sum of their edges (below 0: corrupting it lowers the metric)"
    assert list(RetrievalCircuitPairing().sentences(pair)) == [
        "Retrieval circuit (value swap), of 30 needles 10 kept, 10 lost, 10 learned: kept: no edge changed beyond the "
        f"noise (p = 1); lost: {nodes}: input -23 → +0.12, a0.h0 -0.91 → +0.18, a0.h1 -0.78 → +0.25, m0 -0.68 → +0.29, "
        f"a1.h0 -0.83 → +0.083; learned: {nodes}: input +0.12 → -23, a0.h0 +0.18 → -0.91, a0.h1 +0.25 → -0.78, "
        "m0 +0.29 → -0.68, a1.h0 +0.083 → -0.83."
    ]
    sections = list(RetrievalCircuitPairing().sections(pair, anchor="b"))
    assert [(section.slug, section.title) for section in sections] == [
        ("retrieval-circuit-b", "Circuit of retrieval 0 → 1"),
        ("retrieval-groups-b", "Circuit of retrieval by group of needles 0 → 1"),
        ("retrieval-edges-b", "Edges of retrieval that changed 0 → 1"),
        ("retrieval-nodes-b", "Nodes of retrieval that changed 0 → 1"),
    ]
    assert sections[0].text.startswith("Retrieval circuit (value swap), of 30 needles 10 kept, 10 lost, 10 learned: ")
    assert sections[0].caption.startswith("Measured on the 10 of 30 needles recalled at A and B. ")
    assert "facts" not in sections[0].caption


def test_turned_over_by_nothing_the_retrieval_circuits_stay_the_same():
    wired = strengths(WIRING_A)
    pair = run_of(*(ways(wired, wired, wired, known=known) for known in ((True,) * 3, (True, False, True)))).diff(0, 1)
    assert pair.changes[NAME].to_frame()["edges_changed"].tolist() == [0, 0]
    assert "the circuit of retrieval" not in " ".join(pair.verdict)


def test_a_group_of_few_needles_is_told_as_too_few():
    wired, none = strengths(WIRING_A), strengths(())

    def checkpoint(step: int, *, known: bool) -> Point:
        rows = [wired] * 10 + [none] * 10 + [wired if known else none] * 2
        knows = [True] * 10 + [False] * 10 + [known] * 2
        return point(step, **{NAME: graph(rows, known=knows, prompts="needles", swap="key")})

    pair = run_of(checkpoint(0, known=True), checkpoint(1, known=False)).diff(0, 1)
    assert list(RetrievalCircuitPairing().sentences(pair)) == [
        "Retrieval circuit (key swap), of 22 needles 10 kept, 2 lost, 10 neither: kept: no edge changed beyond the "
        "noise (p = 1); lost (2): too few to show a change of their circuit at the level of the pair; neither: no edge "
        "changed beyond the noise (p = 1)."
    ]
