"""What is read of circuits, word for word, on values made by hand: verdicts, captions, tables, titles."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as textbook

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.results.figure import BLUE, unbroken
from checkpoints.stats.ttests import TTest
from circuits.attribution.positions import PositionScores
from circuits.comparison.graph_diff import GraphDiff
from circuits.comparison.graph_diff_view import _first
from circuits.comparison.overlap import halve, overlap
from circuits.comparison.profile import ProfileChange
from circuits.comparison.reliability import RankBand, reliability_by_rank
from circuits.comparison.similarity import Similarity, similarities
from circuits.graph.circuit import Circuit
from circuits.graph.nodes import NodeScores
from circuits.graph.scores import AttributionGraph, meaning
from circuits.graph.shape import GraphShape
from circuits.intervention.faithfulness import Faithfulness, FaithfulnessCurve, interval, ratio, spread
from circuits.intervention.transfer import Transfer, transfer
from circuits.roles.roles import HeadRoles, RoleChange, changes_sentence, role_changes
from circuits.tracking.changepoints import Products, Split, splits
from circuits.tracking.circuit_track import CircuitTrack
from circuits.tracking.contrasts import Contrast, contrast, contrasts, sentences
from tests.looks import looks

NAN = float("nan")
ONE = GraphShape(1, 1, 1)
EDGES = (
    "input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>", "input->m0", "input->logits", "a0.h0->m0",
    "a0.h0->logits", "m0->logits",
)  # fmt: skip


def circuit(*members: int, scores=None) -> Circuit:
    """The edges of `ONE` by their place in `EDGES`."""
    mask = np.zeros(ONE.mask.shape, dtype=bool)
    mask[ONE.mask] = np.isin(np.arange(8), members)
    table = None
    if scores is not None:
        table = np.zeros(ONE.mask.shape)
        table[ONE.mask] = scores
    return Circuit(ONE, mask, table)


def edge_tests(delta, q):
    delta, q = np.array(delta, dtype=float), np.array(q, dtype=float)
    return TTest(delta, delta - 0.1, delta + 0.1, q / 2, q)


SIMILARITY = (
    Similarity("Jaccard, 2 edges", 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    Similarity("Jaccard, 4 edges", 0.42, 0.81, 0.625, 0.935, 0.45, 0.35, 0.65, 0.052),
    Similarity("Jaccard, 8 edges", 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
    Similarity("cosine, all edges", 0.5, 0.5, 0.4, 0.6, 0.5, 0.4, 0.6, 0.0),
)
# kept, gained, lost, strengthened, weakened, flipped, uncertain, outside
BEFORE = np.array([0.5, 0.1, 0.6, 0.3, 0.8, 0.4001, 0.3, 0.1])
AFTER = np.array([0.5, 0.7, 0.2, 0.65, 0.5, -0.5001, 0.2, 0.1])
Q = np.array([0.9, 0.01, 0.01, 0.02, 0.05, 0.00104, 0.0501, 0.9])


def diffed(**changed) -> GraphDiff:
    values = {
        "shape": ONE,
        "a": BEFORE,
        "b": AFTER,
        "tests": edge_tests(AFTER - BEFORE, Q),
        "nodes_a": np.array([0.5, 0.2, 0.1]),
        "nodes_b": np.array([0.9, 0.1, -0.4]),
        "node_tests": edge_tests([0.4, -0.1, -0.5], [0.04, 0.2, 0.01]),
        "profile": (ProfileChange("total |score|", 3.1, 3.2, 0.1, -0.2, 0.4),),
        "circuit_a": circuit(0, 2, 3, 4, 5, 6),
        "circuit_b": circuit(0, 1, 3, 4, 5),
        "global_p": 0.0123,
        "similarity": SIMILARITY,
        "totals": (-1.0, -2.0),
        "pairing": "paired",
        "n": 12,
        "level": 0.05,
        "meta": {"method": "eap-ig", "metric": "logit difference"},
    }
    return GraphDiff(**(values | changed))


OVERLAP = (
    "Jaccard, 4 edges: 0.42; between halves of the facts 0.45 across the two, 0.81 [0.62, 0.94] within one checkpoint "
    "and 0.05 by chance: less alike than prompt noise makes them."
)


def test_the_outcome_of_every_edge():
    assert Circuit(ONE, ONE.mask).edges == EDGES
    found = diffed()
    assert found.status.tolist() == [
        "kept", "gained", "lost", "strengthened", "weakened", "flipped", "uncertain", "outside",
    ]  # fmt: skip
    assert found.counts == {
        "gained": 1, "lost": 1, "strengthened": 1, "weakened": 1, "flipped": 1, "kept": 1, "uncertain": 1, "outside": 1,
    }  # fmt: skip
    assert found.changed.tolist() == [False, True, True, True, True, True, False, False]
    assert found.nodes_changed == ("m0", "input")
    assert found.nodes_gained == ()
    assert found.nodes_lost == ()


def test_outcomes_against_the_membership():
    """An edge that left the circuit though it grew is strengthened, one that entered though it shrank weakened."""
    left = diffed(circuit_a=circuit(1), circuit_b=circuit(2))
    assert left.status.tolist() == [
        "outside", "strengthened", "weakened", "outside", "outside", "outside", "outside", "outside",
    ]  # fmt: skip
    still = diffed(global_p=0.0501)
    assert still.status.tolist() == [
        "kept", "uncertain", "uncertain", "kept", "kept", "kept", "uncertain", "outside",
    ]  # fmt: skip
    assert still.nodes_changed == ()
    assert not still.changed.any()
    same = diffed(a=AFTER, b=AFTER, circuit_a=circuit(1), circuit_b=circuit(2))
    assert same.status.tolist()[1:3] == ["uncertain", "uncertain"]
    assert diffed(global_p=0.05).significant


def test_nodes_enter_and_leave_with_their_edges():
    entering = diffed(circuit_a=circuit(4), circuit_b=circuit(1, 4))
    assert (entering.nodes_gained, entering.nodes_lost) == (("a0.h0",), ())
    leaving = diffed(circuit_a=circuit(2, 4), circuit_b=circuit(4))
    assert (leaving.nodes_gained, leaving.nodes_lost) == ((), ("a0.h0",))


def test_the_verdict_of_a_diff_word_for_word():
    assert diffed().verdict == (
        "5 of 8 edges changed for real (q ≤ 0.05, global p = 0.012): within the circuits 1 gained, 1 lost, "
        f"1 strengthened, 1 weakened, 1 flipped. {OVERLAP}"
    )


def test_the_verdicts_of_diffs_that_show_less():
    alike = (*SIMILARITY[:1], replace(SIMILARITY[1], across=0.625), *SIMILARITY[2:])
    said = diffed(global_p=0.2, similarity=alike).verdict
    assert said.startswith("No edge of 8 changed beyond the noise of the prompts (global p = 0.2). Jaccard, 4 edges: ")
    assert said.endswith("and 0.05 by chance: within the prompt noise.")
    unsure = diffed(tests=edge_tests(AFTER - BEFORE, np.full(8, 0.0501))).verdict
    assert unsure.startswith(
        "The graph changed as a whole (global p = 0.012), but no single one of its 8 edges can be named at q ≤ 0.05. "
    )
    outside = diffed(circuit_a=circuit(0), circuit_b=circuit(0)).verdict
    assert outside.startswith("5 of 8 edges changed for real (q ≤ 0.05, global p = 0.012), none of them in a circuit. ")
    few = diffed(n=5).verdict
    assert few.startswith(
        "5 units of facts cannot show a change at the level 0.05 (their smallest possible p is 0.12): measure more "
        "facts. "
    )
    assert diffed(n=5, pairing="unpaired").verdict.startswith("5 of 8 edges changed for real")
    assert diffed(n=7).verdict.startswith("5 of 8 edges changed for real")


def test_the_verdict_of_a_diff_ends_with_transfer_and_roles():
    change = RoleChange("a0.h0", "mover", True, 0.0, 1.0)
    found = diffed(transfer=transferred(), roles=(change,))
    assert found.verdict == (
        f"{diffed().verdict} {transferred().verdict} Roles in the circuits: 1 mover head gained (a0.h0)."
    )


def test_the_caption_of_a_diff_word_for_word():
    assert diffed().caption == (
        "Edges of either circuit by what became of them: 1 gained, 1 lost, 1 strengthened, 1 weakened, 1 flipped, "
        "1 kept, 1 uncertain; positive = corrupting the edge raises the logit difference. Tested over 12 facts, the "
        "same at A and B; changed: q ≤ 0.05."
    )
    bare = diffed(circuit_a=circuit(), circuit_b=circuit(), pairing="unpaired", meta={"method": "flow"}, level=0.01)
    assert bare.caption == (
        "Edges of either circuit by what became of them: none; scores are shares of what is read. Tested over 12 "
        "facts, others at A than at B; changed: q ≤ 0.01."
    )
    assert meaning({}, "it") == "positive = corrupting it raises the metric"


def test_the_tables_of_a_diff():
    frame = diffed().to_frame()
    assert list(frame.columns) == [
        "edge", "writer", "reader", "a", "b", "delta", "low", "high", "p", "q", "status", "changed",
    ]  # fmt: skip
    assert frame["edge"].tolist() == [EDGES[i] for i in (5, 1, 2, 3, 4, 6, 0)]
    assert frame["status"].tolist() == [
        "flipped", "gained", "lost", "strengthened", "weakened", "uncertain", "kept",
    ]  # fmt: skip
    first = frame.iloc[0]
    assert (first["writer"], first["reader"], first["a"], first["b"]) == ("a0.h0", "m0", 0.4001, -0.5001)
    assert (first["delta"], first["low"], first["high"]) == pytest.approx((-0.9002, -1.0002, -0.8002))
    assert (first["p"], first["q"], first["changed"]) == (0.00052, 0.00104, True)
    nodes = diffed().node_frame()
    assert nodes["node"].tolist() == ["m0", "input", "a0.h0"]
    assert nodes["a"].tolist() == [0.1, 0.5, 0.2]
    assert nodes["b"].tolist() == [-0.4, 0.9, 0.1]
    assert nodes["changed"].tolist() == [True, True, False]
    assert nodes["in_a"].tolist() == [False, True, True]
    assert nodes["in_b"].tolist() == [False, True, True]
    assert diffed().profile_frame().to_dict("records") == [
        {"name": "total |score|", "a": 3.1, "b": 3.2, "delta": 0.1, "low": -0.2, "high": 0.4}
    ]
    similarity = diffed().similarity_frame()
    assert similarity["measure"].tolist() == [s.measure for s in SIMILARITY]
    assert similarity.iloc[1].tolist() == [
        "Jaccard, 4 edges", 0.42, 0.81, 0.625, 0.935, 0.45, 0.35, 0.65, 0.052, pytest.approx(0.36),
        pytest.approx(NAN, nan_ok=True), True,
    ]  # fmt: skip


def test_a_diff_comes_back_as_it_went(tmp_path):
    found = diffed(
        transfer=transferred(),
        roles=(RoleChange("a0.h0", "mover", True, 0.0, 1.0, moved=True),),
        both_ends=np.arange(8) > 2,
        reliability=(RankBand(1, 2, 0.75), RankBand(3, 8, 0.5)),
        circuit_b=circuit(0, 1, 3, scores=AFTER),
    )
    back = GraphDiff.load(found.save(tmp_path / "all"))
    np.testing.assert_equal(asdict(back), asdict(found))
    assert (back.profile, back.roles, back.reliability) == (found.profile, found.roles, found.reliability)
    bare = GraphDiff.load(diffed().save(str(tmp_path / "bare")))
    assert (bare.transfer, bare.roles, bare.both_ends, bare.reliability) == (None, None, None, ())
    np.testing.assert_equal(asdict(bare), asdict(diffed()))


def test_a_diff_as_a_network_holds_its_table_between_the_nodes_joined():
    found, shared = diffed(), GraphShape(1, 2, 1)
    linked = found.to_networkx()
    ends = {"a0.h0<q>": "a0.h0", "a0.h0<k>": "a0.h0", "a0.h0<v>": "a0.h0", "m0": "m0", "logits": "logits"}
    rows = found.to_frame().to_dict("records")
    assert {(u, v, key): data for u, v, key, data in linked.edges(keys=True, data=True)} == {
        (row["writer"], ends[row["reader"]], row["reader"]): row for row in rows
    }
    assert linked.number_of_edges() == len(rows) == 7
    size = int(shared.mask.sum())
    whole = Circuit(shared, shared.mask)
    of_two = diffed(
        shape=shared, a=np.ones(size), b=np.ones(size), tests=edge_tests(np.zeros(size), np.ones(size)),
        circuit_a=whole, circuit_b=whole,
    ).to_networkx()  # fmt: skip
    readers = [(v, key) for u, v, key in of_two.edges(keys=True) if u == "input" and key.startswith("a0")]
    shared_heads = {key for _, key in readers if sum(key == other for _, other in readers) == 2}
    assert len(readers) == 6, "two heads' own queries; keys and values, which both heads share, at each"
    assert len(shared_heads) == 2


def test_roles_are_taken_into_a_diff_of_the_same_heads():
    mover, relation = roles(20), roles(0.01)
    found = diffed().with_roles(mover, relation)
    assert found.roles == role_changes(mover, relation, circuits=(diffed().circuit_a, diffed().circuit_b))
    assert found.roles == (
        RoleChange("a0.h0", "mover", False, 1.0, 0.0), RoleChange("a0.h0", "relation", True, 0.0, 1.0)
    )  # fmt: skip
    np.testing.assert_array_equal(found.a, BEFORE)
    other = HeadRoles(np.ones((3, 2, 1)), np.ones((3, 2, 1)))
    for given in ((other, mover), (mover, other)):
        with pytest.raises(BadPrompt, match=r"these roles are of \(2, 1\) \(layers, heads\), the graphs of \(1, 1\)"):
            diffed().with_roles(*given)


def test_the_reliability_of_a_diff_is_told_band_by_band():
    frame = diffed(reliability=(RankBand(1, 2, 0.75), RankBand(3, 8, 0.5))).reliability_frame()
    assert frame.to_dict("list") == {"first": [1, 3], "last": [2, 8], "reliability": [0.75, 0.5]}
    assert diffed().reliability_frame().columns.tolist() == ["first", "last", "reliability"]


def test_the_page_of_a_diff():
    page = diffed()._repr_html_()
    assert page.startswith("<p><b>Circuit diff</b>: 5 of 8 edges changed for real (q ≤ 0.05, global p = 0.012)")
    assert page.count("<table") == 2
    assert "border=" not in page


def test_the_figure_of_a_diff():
    figure = diffed().plot()
    assert unbroken(figure.layout.title.text) == "5 edges changed for real; 1 gained, 1 lost"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "the 5 strongest real changes of the two circuits; positive = corrupting the edge raises the logit difference; "
        "click a class to show or hide it"
    )
    edges = {trace.name: trace.visible for trace in figure.data if trace.name and "(" in trace.name}
    assert edges == {
        **dict.fromkeys(("gained (1)", "lost (1)", "strengthened (1)", "weakened (1)", "flipped (1)"), True),
        **dict.fromkeys(("kept (1)", "uncertain (1)"), "legendonly"),
    }
    texts = [text for trace in figure.data for text in (trace.text or ()) if "→" in text]
    assert "a0.h0 → m0<br>flipped: +0.4 → -0.5<br>Δ -0.9 [-1, -0.8], q = 0.001" in texts
    two = diffed().plot(2)
    assert "the 2 strongest real changes" in unbroken(two.layout.title.subtitle.text)
    assert {trace.name for trace in two.data if "(" in (trace.name or "")} == {"flipped (1)", "gained (1)"}


def test_the_figure_of_a_diff_tells_gained_from_lost():
    entering = diffed(circuit_a=circuit(4), circuit_b=circuit(1, 4)).plot()
    leaving = diffed(circuit_a=circuit(2, 4), circuit_b=circuit(4)).plot()
    assert unbroken(entering.layout.title.text) == "5 edges changed for real; 1 gained, 0 lost"
    assert unbroken(leaving.layout.title.text) == "5 edges changed for real; 0 gained, 1 lost"


def test_the_figure_of_a_diff_without_a_real_change_shows_what_is_kept():
    figure = diffed(global_p=0.5).plot()
    assert unbroken(figure.layout.title.text) == "0 edges changed for real; 0 gained, 0 lost"
    assert unbroken(figure.layout.title.subtitle.text).startswith(
        "nothing changed for real: what both circuits keep; positive"
    )
    assert {trace.visible for trace in figure.data if (trace.name or "").startswith("kept")} == {True}


def test_only_touched_nodes_are_drawn_each_with_its_name_and_kind():
    found = diffed(circuit_a=circuit(4), circuit_b=circuit(1, 4)).plot(1)
    assert {name: trace.name for trace in found.data if "text" in trace.mode for name in trace.text} == {
        "input": "input or logits",
        "a0.h0": "head",
    }
    (bow,) = (trace for trace in found.data if trace.mode == "lines")
    assert bow.name == "gained (1)"
    assert (bow.x[0], bow.y[0], bow.x[16], bow.y[16], bow.x[17]) == (0.5, 0.0, 0.5, 1.0, None)


def test_where_edges_changed_layer_by_layer():
    figure = diffed().plot_layers()
    assert unbroken(figure.layout.title.text) == "5 edges changed for real; input writes 4 of them"
    (heat,) = figure.data
    assert (heat.x, heat.y) == (("input", "layer 0"), ("layer 0", "logits"))
    assert heat.z.tolist() == [[3, 1], [1, 0]]
    assert heat.text[0][1] == "a0.h0 → m0 -0.9"
    assert heat.text[1][1] == "no edge changed"
    assert unbroken(diffed(global_p=0.5).plot_layers().layout.title.text) == "0 edges changed for real"


def test_the_first_examples_of_each_place_keep_their_order():
    assert _first(np.array([4, 2, 4, 4, 2, 9]), 2) == [0, 1, 2, 4, 5]
    assert _first(np.array([], dtype=int), 2) == []


def graph(scores, classes=None, prompts="p", metric=1.0) -> AttributionGraph:
    scores = np.asarray(scores, dtype=float)
    full = np.zeros((len(scores), *ONE.mask.shape))
    full[:, ONE.mask] = scores
    units, labels = np.arange(len(scores)), tuple({"class": c} if c else {} for c in classes or [None] * len(scores))
    ones = np.full(len(scores), metric)
    meta = {"prompts": prompts, "method": "eap", "metric": "logit difference"}
    return AttributionGraph(full, ONE, ones, -ones, units, units, labels, meta)


def _writers(units):
    """Summed |mean score| of each of the three writers."""
    size = np.abs(units.mean(0))
    return np.array([size[:5].sum(), size[5:7].sum(), size[7]])


def test_a_diff_rests_on_its_graphs():
    rng = np.random.default_rng(0)
    one = 0.1 * rng.standard_normal((9, 8)) + [1, 0, 0, 0, 2, 0, 0, 0]
    other = 0.1 * rng.standard_normal((9, 8)) + [0, 0, 0, 0, 2, 0, 0, 3]
    a, b = graph(one), graph(other, metric=2.0)
    found = circuits.diff(a, b, n_edges=2, q=0.1)
    assert (found.n, found.level, found.pairing, found.totals) == (9, 0.1, "paired", (-2.0, -4.0))
    np.testing.assert_allclose(found.a, one.mean(0))
    np.testing.assert_allclose(found.b, other.mean(0))
    np.testing.assert_allclose(found.delta, other.mean(0) - one.mean(0))
    np.testing.assert_allclose(found.nodes_a, [one.mean(0)[:5].sum(), one.mean(0)[5:7].sum(), one.mean(0)[7]])
    np.testing.assert_allclose(found.node_tests.delta, found.nodes_b - found.nodes_a)
    assert found.circuit_a.edges == ("input->logits",)
    assert set(found.circuit_b.edges) == {"input->logits"}
    assert [s.measure for s in found.similarity[:3]] == ["Jaccard, 1 edges", "Jaccard, 2 edges", "Jaccard, 4 edges"]
    assert found.meta["method"] == "eap"
    assert found.meta["backward"] == "plain"
    total, back = found.profile[-1], circuits.diff(b, a, n_edges=2, q=0.1).profile[-1]
    for value, units in ((total.a, one), (total.b, other)):
        draw = np.random.default_rng(9)
        halves = [part for _ in range(8) for part in np.array_split(draw.permutation(9), 2)]
        growth = sum(len(part) * _writers(units[part]) for part in halves) / 72 - _writers(units)
        freed = np.maximum(_writers(units) - growth / (2**0.7 - 1), 0)
        assert value == pytest.approx(freed.sum()), "without what noise adds to each writer, over halves of the units"
    assert (back.a, back.b, back.delta) == pytest.approx((total.b, total.a, -total.delta))
    assert (back.low, back.high) == pytest.approx((-total.high, -total.low))


def told(**changed) -> Contrast:
    values = {
        "name": "tuning",
        "facts": "all facts",
        "n": 24,
        "before": 1000,
        "after": 3000,
        "reliability_before": 0.9,
        "reliability_after": 0.8,
        "apart": 0.345,
        "low": 0.251,
        "high": 0.449,
        "p_wiring": 0.0123,
        "strength": 1.75,
        "p": 0.00412,
        "strength_low": 1.42,
        "strength_high": 2.13,
    }
    return Contrast(**(values | changed))


MOVED = "1 − cosine 0.34 [0.25, 0.45], p = 0.012"
GROWN = "1.8 [1.4, 2.1] times as strong"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, f"other wiring ({MOVED}), {GROWN}"),
        ({"p": 0.05}, f"other wiring ({MOVED}), {GROWN}"),
        ({"p": 0.0512}, "no change beyond the noise (p = 0.051)"),
        ({"p_wiring": 0.06}, f"the same wiring ({MOVED.replace('0.012', '0.06')}), {GROWN}"),
        ({"p_wiring": 0.05}, f"other wiring ({MOVED.replace('0.012', '0.05')}), {GROWN}"),
        ({"apart": 0.099}, f"the same wiring ({MOVED.replace('0.34', '0.10')}), {GROWN}"),
        ({"apart": 0.1}, f"other wiring ({MOVED.replace('0.34', '0.10')}), {GROWN}"),
        ({"reliability_before": 0.5}, "a circuit where none stood out of the noise (p = 0.0041)"),
        ({"reliability_after": 0.5}, "a circuit that no longer stands out of the noise (p = 0.0041)"),
        ({"reliability_before": 0.5, "reliability_after": 0.1}, "no circuit before or after"),
    ],
)
def test_the_outcome_of_a_contrast_word_for_word(changed, said):
    assert told(**changed).outcome(0.05) == said


def test_stages_are_told_class_by_class_at_a_shared_level():
    assert sentences([told()]) == f"Stage tuning, step 1,000 against 3,000: all facts (n = 24): {told().outcome(0.05)}."
    old, new = told(facts="old", n=12, p=0.02), told(facts="new", n=12, p=0.016)
    assert sentences([told(), old, new, told(name="late", before=3000, after=4000)]) == (
        f"Stage tuning, step 1,000 against 3,000: all facts (n = 24): {told().outcome(0.05)}; old (n = 12): no change "
        f"beyond the noise (p = 0.02); new (n = 12): {new.outcome(0.05)} (each at the level 0.017). "
        f"Stage late, step 3,000 against 4,000: all facts (n = 24): {told().outcome(0.05)}."
    )
    assert sentences([told(), told(facts="old", n=9)]).endswith(" (each at the level 0.025).")
    assert sentences([]) == ""


def test_classes_are_contrasted_from_eight_facts_on():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((19, 8)) + 2
    classes = ["old"] * 8 + ["new"] * 4 + ["odd"] * 7
    found = contrasts(graph(scores, classes), graph(2 * scores, classes), name="s", steps=(1, 2))
    assert [(c.facts, c.n) for c in found] == [("all facts", 19), ("old", 8)]
    assert [c.strength for c in found] == pytest.approx([2.0, 2.0])
    partly = replace(graph(scores), labels=tuple([{}] * 10 + [{"class": "old"}] * 9))
    found = contrasts(partly, partly, name="s", steps=(1, 2))
    assert [(c.facts, c.n) for c in found] == [("all facts", 19), ("facts without a class", 10), ("old", 9)]
    alone = contrasts(graph(scores), graph(2 * scores), name="s", steps=(1, 2))
    assert [(c.name, c.facts, c.before, c.after) for c in alone] == [("s", "all facts", 1, 2)]


def evolved(**changed) -> CircuitTrack:
    edges = np.array([[1, 1, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0, 0, 1]], dtype=bool)
    nodes = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1]], dtype=bool)
    similarity = np.full((3, 3, 4), NAN)
    similarity[1] = [[0.5, 0.45, 0.8, 0.6], [0.55, 0.5, 0.81, 0.61], [0.7, 0.65, 0.82, 0.62]]
    similarity[2, 0] = [0.9, 0.85, 0.83, 0.63]
    similarity[0, 2] = [0.3, 0.25, 0.84, 0.64]
    values = {
        "steps": (100, 200, 400),
        "shape": ONE,
        "n_edges": 20,
        "likeness": np.array([[1.0, 0.2, 0.1], [0.2, 1.0, 0.876], [0.1, 0.876, 1.0]]),
        "reliability": np.array([0.5, 0.9, 0.7]),
        "similarity": similarity,
        "edges": edges,
        "nodes": nodes,
        "node_scores": np.array([[0.1, -0.5, 0.2], [0.3, 0.4, 0.1], [-0.2, 0.1, 0.45]]),
        "node_errors": np.array([[0.01, 0.02, 0.03], [0.04, 0.05, 0.06], [0.07, 0.08, 0.09]]),
        "profile": np.arange(12.0).reshape(3, 4),
        "change_points": (Split(1, 1, 2, 0.0123),),
        "metric": np.array([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]]),
        "contrasts": (),
        "meta": {"metric": "logit difference"},
    }
    return CircuitTrack(**(values | changed))


def test_the_verdict_of_an_evolution_word_for_word():
    assert evolved().verdict == (
        "The circuit changes between steps 100 and 200 [100, 400] (p = 0.012); it stands out of the prompt noise from "
        "step 200 on; the circuits of its last phase, from step 200 on, have a mean cosine of 0.88."
    )
    twice = evolved(change_points=(Split(1, 1, 1, 0.02), Split(2, 2, 2, 0.005)), contrasts=(told(),))
    assert twice.verdict == (
        "The circuit changes between steps 100 and 200 [100, 200] (p = 0.02), between steps 200 and 400 [200, 400] "
        f"(p = 0.005); it stands out of the prompt noise from step 200 on. {sentences([told()])}"
    )
    early = evolved(reliability=np.array([0.9, 0.4, 0.7]))
    assert "it stands out of the prompt noise from step 400 on, and at 1 of the 2 checkpoints before; " in early.verdict
    lost = evolved(reliability=np.array([0.9, 0.8, 0.5]))
    assert "it stands out of the prompt noise at 2 of 3 checkpoints, not at the last one; " in lost.verdict
    drifting = evolved(change_points=(Split(1, 1, 2, 0.012, sudden=False),))
    assert drifting.verdict.startswith(
        "No change point in 3 checkpoints (steps 100 to 400), though the circuit changes: steady drift fits as well as "
        "a jump, and is best cut between steps 100 and 200 [100, 400] (p = 0.012); it stands out of the prompt noise "
    )
    assert unbroken(drifting.plot().layout.title.text) == "0 change points in 3 checkpoints"
    mixed = evolved(change_points=(Split(1, 1, 1, 0.02), Split(2, 2, 2, 0.005, sudden=False)))
    assert mixed.verdict.startswith(
        "The circuit changes between steps 100 and 200 [100, 200] (p = 0.02); elsewhere steady drift fits as well as a "
        "jump, and is best cut between steps 200 and 400 [200, 400] (p = 0.005); "
    )
    none = evolved(change_points=(), reliability=np.array([0.1, 0.5, NAN]), likeness=np.full((3, 3), 0.5))
    assert none.verdict == (
        "No change point in 3 checkpoints (steps 100 to 400); it never stands out of noise; the circuits of its last "
        "phase, from step 100 on, have a mean cosine of 0.50."
    )


def test_phases_births_and_deaths():
    found = evolved()
    assert [(p.start, p.stop, p.first, p.last) for p in found.phases] == [(0, 1, 100, 100), (1, 3, 200, 400)]
    assert np.isnan(found.phases[0].likeness)
    assert found.phases[1].likeness == pytest.approx(0.876)
    assert found.births.tolist() == [0, 1, 1]
    assert found.deaths.tolist() == [0, 1, 1]
    more = evolved(edges=np.array([[0] * 8, [1] * 8, [1] * 5 + [0] * 3], dtype=bool))
    assert (more.births.tolist(), more.deaths.tolist()) == ([0, 8, 0], [0, 0, 3])
    assert found.node_births == ((), (), ("m0",))
    assert found.node_deaths == ((), ("a0.h0",), ())
    assert found.landmarks == (100, 200, 400)
    assert evolved(steps=(1, 2, 3), change_points=()).landmarks == (1, 3)


def test_the_tables_of_an_evolution():
    frame = evolved(contrasts=(told(),)).to_frame()
    assert frame["step"].tolist() == [100, 200, 400]
    assert frame["phase"].tolist() == [0, 1, 1]
    assert frame["clean_metric"].tolist() == [1, 2, 3]
    assert frame["corrupt_metric"].tolist() == [-1, -2, -3]
    assert frame["jaccard_previous"].tolist()[1:] == [0.5, 0.9]
    assert frame["jaccard_previous_across"].tolist()[1:] == [0.45, 0.85]
    assert frame["jaccard_previous_within"].tolist()[1:] == [0.8, 0.83]
    assert frame["jaccard_previous_within_low"].tolist()[1:] == [0.6, 0.63]
    assert frame["jaccard_first_across"][1] == 0.5
    assert frame["jaccard_last_across"].tolist()[:2] == [0.25, 0.65]
    assert frame["births"].tolist() == [0, 1, 1]
    assert frame["total |score|"].tolist() == [3, 7, 11]
    assert frame["centre of mass, layers"].tolist() == [0, 4, 8]
    stages = evolved(contrasts=(told(),)).contrast_frame()
    assert stages[["name", "apart", "strength"]].values.tolist() == [["tuning", 0.345, 1.75]]
    assert evolved().lineage(2).to_dict("index") == {
        "a0.h0": {100: -0.5, 200: 0.4, 400: 0.1},
        "m0": {100: 0.2, 200: 0.1, 400: 0.45},
    }
    assert evolved().lineage_errors(1).to_dict("index") == {"a0.h0": {100: 0.02, 200: 0.05, 400: 0.08}}
    said = evolved()._repr_html_()
    assert said.startswith("<p><b>Circuit over training</b>: The circuit changes between steps 100 and 200")


def test_the_figure_of_an_evolution():
    figure = evolved().plot()
    assert unbroken(figure.layout.title.text) == "1 change point in 3 checkpoints"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "between halves of the facts; below the shade: less alike than halves at one checkpoint are; grey columns: "
        "95 % intervals of the change points"
    )
    lines = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert lines["with the previous"][1:] == [0.45, 0.85]
    assert lines["with the last"][:2] == [0.25, 0.65]
    assert lines["within one checkpoint: floor for the previous, to its 5th percentile"][1:] == [0.8, 0.83]
    assert list(figure.data[2].y)[1:] == [0.6, 0.63]
    assert list(figure.layout.xaxis.ticktext) == ["100", "200", "400"]
    assert figure.layout.yaxis.title.text == "Jaccard, 20 edges"
    column, line = figure.layout.shapes
    assert (column.x0, column.x1, line.x0) == (0.5, 1.5, 0.5)
    assert unbroken(evolved(change_points=()).plot().layout.title.text) == "0 change points in 3 checkpoints"


def test_the_other_figures_of_an_evolution():
    figure = evolved().plot_likeness()
    assert unbroken(figure.layout.title.text) == "Phases: 100, 200 to 400"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "cosine of the mean edge scores, corrected for prompt noise; blank: nothing but noise"
    )
    np.testing.assert_allclose(figure.data[0].z, evolved().likeness, rtol=1e-6)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1, 1)
    figure = evolved().plot_lineage(2)
    assert unbroken(figure.layout.title.text) == "a0.h0 carries most: 0.50 at its peak"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "sum over a writer's out-edges; positive = corrupting it raises the logit difference; bars: standard errors"
    )
    assert [(t.name, list(t.y), list(t.error_y.array)) for t in figure.data] == [
        ("a0.h0", [-0.5, 0.4, 0.1], [0.02, 0.05, 0.08]),
        ("m0", [0.2, 0.1, 0.45], [0.03, 0.06, 0.09]),
    ]


def test_an_evolution_rests_on_its_graphs():
    rng = np.random.default_rng(3)
    scores = [rng.standard_normal((9, 8)) + np.array([3, 0, 0, 0, 2 * i, 0, 0, 1]) for i in range(3)]
    graphs = [graph(s, metric=float(i + 1)) for i, s in enumerate(scores)]
    found = circuits.track(zip((10, 20, 30), graphs, strict=True), n_edges=3, draws=59, stages={"a": 10, "b": 30})
    np.testing.assert_allclose(found.metric, [[1, -1], [2, -2], [3, -3]])
    writers = [np.stack([s[:, :5].sum(1), s[:, 5:7].sum(1), s[:, 7]], axis=1) for s in scores]
    np.testing.assert_allclose(found.node_scores, [w.mean(0) for w in writers])
    np.testing.assert_allclose(found.node_errors, [w.std(0, ddof=1) / 3 for w in writers])
    np.testing.assert_allclose(found.profile[:, 3], [np.abs(s.mean(0)).sum() for s in scores])
    assert [(c.name, c.before, c.after) for c in found.contrasts] == [("b", 20, 30)]
    assert found.n_edges == 3
    assert np.isnan(found.similarity[0, :2]).all()
    assert np.isnan(found.similarity[2, 2]).all()
    assert np.isfinite(found.similarity[1]).all()


def test_changes_of_roles_are_told_by_way_and_role():
    assert changes_sentence(()) == "No head of the circuits gained or lost a role."
    several = [RoleChange(f"a0.h{i}", "mover", True, 0.0, 1.0) for i in range(5)]
    lost = RoleChange("a1.h0", "induction", False, 1.0, 0.0)
    entered, left = (RoleChange("a2.h0", "relation", gained, 1.0, 0.0, moved=True) for gained in (True, False))
    assert changes_sentence([left, lost, *several, entered]) == (
        "Roles in the circuits: 5 mover heads gained (a0.h0, a0.h1, a0.h2, a0.h3, …); 1 relation head gained by "
        "entering the circuit (a2.h0); 1 induction head lost (a1.h0); 1 relation head lost by leaving the circuit "
        "(a2.h0)."
    )
    assert changes_sentence(several[:4]).endswith("4 mover heads gained (a0.h0, a0.h1, a0.h2, a0.h3).")


def roles(subject, relation=1.0, copying=None) -> HeadRoles:
    values = np.full((3, 1, 1), float(subject))
    found = HeadRoles(values, np.full((3, 1, 1), relation))
    return found if copying is None else found.with_scores("retrieval", np.full((3, 1, 1), copying))


@pytest.mark.parametrize(
    ("subject", "role"),
    [(10.5, "mover"), (-10.5, "mover"), (10.0, "mixture"), (0.11, "mixture"), (0.09, "relation"), (-0.09, "relation")],
)
def test_the_role_of_a_head_by_its_ratio(subject, role):
    shares = roles(subject).certainty()
    assert {name: share.item() for name, share in shares.items()} == {
        name: float(name == role) for name in ("mover", "relation", "mixture")
    }
    assert roles(subject).ratio.item() == pytest.approx(subject)
    inside, outside = circuit(0, 6), circuit(4)
    assert roles(subject).of(inside) == {"a0.h0": (role,)}
    assert roles(subject).of(outside) == {}


def test_roles_come_and_go_with_the_head_or_with_its_place_in_the_circuit():
    mover, relation, inside, outside = roles(20), roles(0.01), circuit(0, 6), circuit(4)
    assert role_changes(mover, relation, circuits=(inside, inside)) == (
        RoleChange("a0.h0", "mover", False, 1.0, 0.0),
        RoleChange("a0.h0", "relation", True, 0.0, 1.0),
    )
    assert role_changes(mover, mover, circuits=(outside, inside)) == (
        RoleChange("a0.h0", "mover", True, 0.0, 1.0, moved=True),
    )
    assert role_changes(mover, relation, circuits=(inside, outside)) == (RoleChange("a0.h0", "mover", False, 1.0, 0.0),)
    assert role_changes(mover, mover, circuits=(inside, inside)) == ()
    half = HeadRoles(np.array([20.0, 0.0, 0.5])[:, None, None], np.ones((3, 1, 1)))
    assert role_changes(mover, half, circuits=(inside, inside)) == ()
    retrieving = roles(20, copying=0.2), roles(20, copying=0.05)
    assert role_changes(*retrieving, circuits=(inside, inside)) == (RoleChange("a0.h0", "retrieval", False, 1.0, 0.0),)


def test_the_table_of_roles():
    frame = roles(20, copying=0.2).to_frame(circuit(0, 6))
    assert frame.to_dict("records") == [
        {
            "head": "a0.h0", "layer": 0, "from_subject": 20.0, "from_relation": 1.0, "ratio": 20.0, "mover": 1.0,
            "relation": 0.0, "mixture": 0.0, "retrieval": 1.0, "in_circuit": True,
        }
    ]  # fmt: skip
    page = roles(20)._repr_html_()
    assert page.startswith("<p><b>Roles of heads</b>: over 3 facts; a role&#x27;s column is its share of resamples</p>")
    assert page.count("<tr") == 2
    assert "<td>a0.h0</td>" in page
    assert "border=" not in page


def test_roles_of_other_heads_or_without_their_threshold_are_flawed():
    whole = roles(20, copying=0.2)
    assert list(whole._flaws()) == []
    assert list(replace(whole, thresholds={})._flaws()) == ["its roles are not those that it has thresholds for"]
    other = replace(whole, scores={"retrieval": np.ones((3, 1, 2))})
    assert list(other._flaws()) == ["retrieval is of (1, 2) heads, not (1, 1)"]
    assert list(replace(whole, scores={"retrieval": np.ones((7, 1, 1))})._flaws()) == [], "of other prompts"


CLEAN, CORRUPT = np.array([4.0, 2.0, 3.0, 5.0]), np.array([0.0, -1.0, 1.0, 0.0])
WHOLE = np.array([3.0, 1.0, 3.0, 4.0])
"""Means 3.5 and 0, the circuit's 2.75: faithfulness 11 / 14."""


def ends(metric, clean=CLEAN, corrupt=CORRUPT):
    weights = np.random.default_rng(0).multinomial(4, [0.25] * 4, size=2000)
    drawn = (weights @ (metric - corrupt)) / (weights @ (clean - corrupt))
    return reaching(drawn, (metric - corrupt).sum() / (clean - corrupt).sum())


def reaching(drawn, value):
    """Ends of resamples of four facts, moved away from the value as far as a t interval reaches."""
    factor = (4 / 3) ** 0.5 * textbook.t.ppf(0.975, 3) / textbook.norm.ppf(0.975)
    return tuple(value + (np.quantile(drawn, [0.025, 0.975]) - value) * factor)


def faithful(**changed) -> Faithfulness:
    values = {
        "n_edges": 12,
        "metric": WHOLE,
        "random_metric": np.array([[0.0, 0.0, 1.0, 0.4], [0.7, 0.0, 1.0, 0.4]]),
        "clean_metric": CLEAN,
        "corrupt_metric": CORRUPT,
        "meta": {"metric": "logit difference"},
    }
    return Faithfulness(**(values | changed))


def test_faithfulness_word_for_word():
    low, high = ends(WHOLE)
    found = faithful()
    assert found.value == pytest.approx(11 / 14)
    assert "<table" not in found._repr_html_(), "one number, which its sentence says"
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.random == pytest.approx((1.4 / 14, 2.1 / 14))
    assert str(found) == (
        f"faithfulness 0.79 [{low:.2f}, {high:.2f}] with 12 edges; random circuits of that size 0.12 (0.10 to 0.15)"
    )
    alone = faithful(random_metric=np.zeros((0, 4)), unit="nodes")
    assert str(alone) == f"faithfulness 0.79 [{low:.2f}, {high:.2f}] with 12 nodes"
    assert spread((0.1234,)) == "0.12"
    assert np.isnan(ratio(WHOLE, CLEAN, CLEAN))
    assert np.isnan(interval(WHOLE, CLEAN, CLEAN)).all()


def test_tables_and_figures_of_faithfulness():
    found, (low, high) = faithful(), ends(WHOLE)
    frame = found.to_frame()
    assert frame["circuit"].tolist() == ["circuit", "random 1", "random 2"]
    assert frame["edges"].tolist() == [12, 12, 12]
    assert frame["faithfulness"].tolist() == pytest.approx([11 / 14, 1.4 / 14, 2.1 / 14])
    assert frame["low"][0] == pytest.approx(low)
    assert frame["high"][0] == pytest.approx(high)
    figure = found.plot()
    assert unbroken(figure.layout.title.text) == "12 edges keep 79% of the logit difference"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "(circuit - corrupt) / (clean - corrupt), exact runs; bars: 95 % bootstrap over the facts"
    )
    bars = figure.data[0]
    assert list(bars.y) == pytest.approx([11 / 14, 1.4 / 14, 2.1 / 14])
    np.testing.assert_allclose(bars.error_y.array, frame["high"] - frame["faithfulness"])
    np.testing.assert_allclose(bars.error_y.arrayminus, frame["faithfulness"] - frame["low"])


def curved() -> FaithfulnessCurve:
    return FaithfulnessCurve(
        shares=(0.0, 0.2, 1.0),
        n_edges=np.array([0, 3, 1200]),
        metric=np.stack([CORRUPT, WHOLE, CLEAN + 1]),
        random_metric=np.stack([np.stack([CORRUPT, WHOLE]), np.stack([CORRUPT, CORRUPT]), np.stack([CLEAN, WHOLE])]),
        clean_metric=CLEAN,
        corrupt_metric=CORRUPT,
        shape=ONE,
        meta={"metric": "logit difference"},
    )


def test_a_curve_of_faithfulness():
    found = curved()
    values = (0.0, 11 / 14, 18 / 14)
    assert found.values == pytest.approx(values)
    assert found.random_values == pytest.approx((11 / 28, 0.0, (1 + 11 / 14) / 2))
    assert found.cpr == pytest.approx(0.2 * 11 / 28 + 0.8 * (29 / 28))
    assert found.cmd == pytest.approx(0.2 * (1 + 3 / 14) / 2 + 0.8 * (3 / 14 + 4 / 14) / 2)
    np.testing.assert_allclose(found.intervals, [(0.0, 0.0), ends(WHOLE), ends(CLEAN + 1)])
    weights = np.random.default_rng(0).multinomial(4, [0.25] * 4, size=2000)
    drawn = [(weights @ (m - CORRUPT)) / (weights @ (CLEAN - CORRUPT)) for m in (CORRUPT, WHOLE, CLEAN + 1)]
    area = 0.2 * (drawn[0] + drawn[1]) / 2 + 0.8 * (drawn[1] + drawn[2]) / 2
    gap = [np.abs(1 - d) for d in drawn]
    distance = 0.2 * (gap[0] + gap[1]) / 2 + 0.8 * (gap[1] + gap[2]) / 2
    assert found.cpr_interval == pytest.approx(reaching(area, found.cpr))
    assert found.cmd_interval == pytest.approx(reaching(distance, found.cmd))
    frame = found.to_frame()
    assert frame["share"].tolist() == [0.0, 0.2, 1.0]
    assert frame["n_edges"].tolist() == [0, 3, 1200]
    assert frame["faithfulness"].tolist() == pytest.approx(values)
    assert frame["random"].tolist() == pytest.approx(found.random_values)
    assert (frame["low"][1], frame["high"][1]) == pytest.approx(ends(WHOLE))
    assert np.isnan(replace(found, random_metric=np.zeros((3, 0, 4))).random_values).all()


def test_a_curve_whose_shares_are_not_its_sizes_is_flawed():
    assert list(curved()._flaws()) == []
    assert list(replace(curved(), shares=(0.0, 1.0))._flaws()) == ["2 shares have 3 sizes"]
    assert list(replace(curved(), shares=(), n_edges=np.zeros(0))._flaws()) == ["0 shares have 0 sizes"]


def test_a_curve_cross_fitted_has_intervals_of_its_own():
    crossed = replace(curved(), cross_metric=np.stack([CORRUPT, CLEAN + 1, WHOLE]))
    np.testing.assert_allclose(crossed.cross_intervals, [(0.0, 0.0), ends(CLEAN + 1), ends(WHOLE)])
    assert np.shape(curved().cross_intervals) == (3, 2)
    assert np.isnan(curved().cross_intervals).all()
    frame = crossed.to_frame()
    assert (frame["cross_low"][1], frame["cross_high"][1]) == pytest.approx(ends(CLEAN + 1))


def test_a_curve_is_told_smallest_circuit_first():
    assert curved().verdict == "0.00 with 0 edges, 0.79 with 3 edges, 1.29 with 1200 edges"
    assert faithful().verdict == str(faithful())


def test_a_metric_without_a_name_is_called_metric():
    assert unbroken(replace(curved(), meta={}).plot().layout.title.text) == "1,200 edges keep 129% of the metric"
    assert unbroken(replace(faithful(), meta={}).plot().layout.title.text) == "12 edges keep 79% of the metric"


def test_the_figure_of_a_curve():
    found, figure = curved(), curved().plot()
    assert unbroken(figure.layout.title.text) == "1,200 edges keep 129% of the logit difference"
    own, chance = figure.data
    assert (own.name, chance.name) == ("circuit", "random circuits of that size")
    assert list(own.y) == pytest.approx(found.values)
    assert list(chance.y) == pytest.approx(found.random_values)
    np.testing.assert_allclose(own.error_y.array, [0.0, ends(WHOLE)[1] - 11 / 14, ends(CLEAN + 1)[1] - 18 / 14])
    np.testing.assert_allclose(own.error_y.arrayminus, [0.0, 11 / 14 - ends(WHOLE)[0], 18 / 14 - ends(CLEAN + 1)[0]])


def transferred(**changed) -> Transfer:
    values = {
        "names": ("A", "B"),
        "models": ("A", "B"),
        "metric": np.array([[0.9 * CLEAN, 0.4 * CLEAN], [0.88 * CLEAN, 0.95 * CLEAN]]),
        "clean_metric": np.stack([CLEAN, CLEAN]),
        "corrupt_metric": np.zeros((2, 4)),
        "n_edges": np.array([3, 4]),
        "meta": {"metric": "logit difference"},
    }
    return Transfer(**(values | changed))


def test_the_verdict_of_a_transfer_word_for_word():
    assert transferred().verdict == (
        "The circuit of A keeps 0.40 [0.40, 0.40] of the logit difference in B, whose own keeps 0.95 (change -0.55 "
        "[-0.55, -0.55], margin -0.1): the function has moved. The circuit of B keeps 0.88 [0.88, 0.88] of the logit "
        "difference in A, whose own keeps 0.90 (change -0.02 [-0.02, -0.02], margin -0.1): it still does the work."
    )
    mixed = np.array([0.9, 0.9, 0.3, 0.95]) * CLEAN
    undecided = transferred(metric=np.array([[0.9 * CLEAN, mixed], [0.88 * CLEAN, 0.95 * CLEAN]])).verdict
    assert undecided.split(". The circuit")[0].endswith("margin -0.1): undecided on these facts")
    assert transferred().loss(0, 1) == pytest.approx((0.55, 0.55, 0.55))


def test_a_transfer_runs_every_circuit_in_every_model(monkeypatch):
    """The metric of circuit c in model m of fact n is made 100 c + 10 m + n."""
    asked, facts = [], SimpleNamespace(hash="h")

    def metrics(model, circuits, facts, **how):
        asked.append((facts, how))
        own = 10 * model + np.arange(4.0)
        return np.stack([100 * place + own for place in range(len(circuits))]), own + 0.5, -own

    monkeypatch.setattr("circuits.intervention.transfer.circuit_metrics", metrics)
    monkeypatch.setattr("circuits.facts.metrics.find_metric", lambda metric, facts: (f"{metric} of {facts.hash}", None))
    found = transfer(iter([1, 2]), [circuit(0, 2), circuit(0, 1, 3)], facts)
    assert (found.names, found.models, found.n_edges.tolist()) == (("A", "B"), ("A", "B"), [2, 3])
    np.testing.assert_array_equal(
        found.metric, [[[10, 11, 12, 13], [20, 21, 22, 23]], [[110, 111, 112, 113], [120, 121, 122, 123]]]
    )
    np.testing.assert_array_equal(found.clean_metric, [[10.5, 11.5, 12.5, 13.5], [20.5, 21.5, 22.5, 23.5]])
    np.testing.assert_array_equal(found.corrupt_metric, [[-10, -11, -12, -13], [-20, -21, -22, -23]])
    assert found.meta == {"prompts": "h", "metric": "logit difference of h", "ablation": "corrupt"}
    assert asked == [(facts, {"metric": "logit difference", "ablation": "corrupt", "batch_size": 8})] * 2
    how = {"metric": "nll", "ablation": "mean", "batch_size": 2}
    named = transfer([1, 2], [circuit(0)] * 2, facts, names=["x", "y"], **how)
    assert (named.names, named.models, named.meta["ablation"]) == (("x", "y"), ("x", "y"), "mean")
    assert named.meta["metric"] == "nll of h"
    assert asked[-1] == (facts, how)
    for models, names in (([1], None), ([1, 2], ["x"])):
        with pytest.raises(BadPrompt, match=f"got {len(models)} models, 2 circuits, {len(names or 'AB')} names"):
            transfer(models, [circuit(0)] * 2, facts, names=names)


def test_a_model_in_which_the_facts_have_no_effect_has_nothing_to_keep():
    clean = np.stack([CLEAN, np.array([1.0, -1.0, 1.0, -1.0])])
    first, second = transferred(clean_metric=clean).sentences
    assert first == (
        "What the circuit of A keeps of the logit difference in B is not applicable: clean and corrupt prompts do not "
        "differ beyond the noise, so there is no effect to keep."
    )
    assert second.startswith("The circuit of B keeps 0.88 ")
    mute = transferred(clean_metric=clean)
    assert mute.to_frame()["faithfulness"].tolist() == pytest.approx([0.9, np.nan, 0.88, np.nan], nan_ok=True)
    assert mute.to_frame()["low"].isna().tolist() == [False, True, False, True]
    assert mute.plot().data[0].text.tolist() == [["0.90", "n/a"], ["0.88", "n/a"]]
    assert unbroken(mute.plot().layout.title.text) == "Own circuits keep 0.90, foreign ones 0.88"
    none = transferred(clean_metric=clean[[1, 1]]).plot()
    assert unbroken(none.layout.title.text) == "No model has an effect of which a circuit could keep a share"
    assert transferred().only(np.array([1, 3])).values == pytest.approx(transferred().values)


def test_the_table_and_figure_of_a_transfer():
    frame = transferred().to_frame()
    assert frame[["circuit", "model", "n_edges"]].values.tolist() == [
        ["A", "A", 3], ["A", "B", 3], ["B", "A", 4], ["B", "B", 4],
    ]  # fmt: skip
    assert frame["faithfulness"].tolist() == pytest.approx([0.9, 0.4, 0.88, 0.95])
    figure = transferred().plot()
    assert unbroken(figure.layout.title.text) == "Own circuits keep 0.93, foreign ones 0.64"
    np.testing.assert_allclose(figure.data[0].z, [[0.9, 0.4], [0.88, 0.95]], rtol=1e-6)


def test_the_figure_of_a_circuit():
    found = circuit(0, 4, 6, 7, scores=[0.5, 0, 0, 0, -0.8, 0, 0.1, 0.2])
    figure = found.plot()
    assert unbroken(figure.layout.title.text) == "Circuit of 4 edges over 4 nodes"
    assert (
        unbroken(figure.layout.title.subtitle.text) == "the 4 strongest, by what corrupting the edge does to the metric"
    )
    drawn = {trace.name for trace in figure.data if trace.name}
    assert drawn == {"raises it (3)", "lowers it (1)"}
    texts = [text for trace in figure.data for text in (trace.text or ()) if "→" in text]
    assert texts == [
        "input → a0.h0<q><br>+0.5",
        "m0 → logits<br>+0.2",
        "a0.h0 → logits<br>+0.1",
        "input → logits<br>-0.8",
    ]
    whole = graph([[0.5, 0, 0, 0, -0.8, 0, 0.1, 0.2]] * 2).plot(2)
    assert unbroken(whole.layout.title.subtitle.text).endswith("corrupting the edge does to the logit difference")


def test_the_figures_of_positions_and_of_nodes():
    first = graph([[0.5, 0, 0, 0, -0.8, 0, 0.1, 0.2]] * 2)
    last = graph([[0, 0, 0, 0, 0.2, 0.3, 0.5, -0.4]] * 2)
    figure = PositionScores({"subject": first, "last": last}).plot(2)
    assert unbroken(figure.layout.title.text) == "a0.h0 at 'last' carries most: +0.80"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "sum over a writer's out-edges; positive = corrupting it there raises the logit difference"
    )
    assert (list(figure.data[0].x), list(figure.data[0].y)) == (["subject", "last"], ["a0.h0", "m0"])
    across, down = figure.layout.xaxis, figure.layout.yaxis
    assert (across.title.text, across.type) == ("segment", "category")
    assert (down.title.text, down.type, down.autorange) == ("writer", "category", "reversed")
    assert figure.data[0].texttemplate == "%{z:.2f}"
    assert figure.data[0].hovertemplate == "%{y} at %{x}: %{z:.3g}<extra></extra>"
    assert figure.layout.height == 520
    np.testing.assert_allclose(figure.data[0].z, [[0.1, 0.8], [0.2, -0.4]], rtol=1e-6)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-0.8, 0.8)
    assert figure.data[0].colorbar.title.text == "score"
    scores = [[0.5, 0, 0, 0, -0.8, 0, 0.1, 0.2], [0.3, 0, 0, 0, -0.4, 0, 0.1, 1.2]]
    figure = NodeScores.of(graph(scores)).plot(2)
    assert unbroken(figure.layout.title.text) == "m0 carries most: +0.70"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "positive = corrupting the node raises the logit difference; bars: standard errors over the facts"
    )
    assert (list(figure.data[0].x), list(figure.data[0].y)) == (["m0", "input"], pytest.approx([0.7, -0.2]))
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis.type) == ("node", "category")
    assert figure.layout.yaxis.title.text == "score"
    assert figure.data[0].marker.color == BLUE
    assert list(figure.data[0].error_y.array) == pytest.approx([0.5, 0.1])


def test_contrasts_of_a_stage_are_those_of_its_classes():
    rng = np.random.default_rng(1)
    first, second = (
        rng.normal([2, 1, 0, 0, 0, 0, 0, 3], size=(17, 8)),
        rng.normal([1, 2, 0, 0, 0, 0, 0, 3], size=(17, 8)),
    )
    classes = np.array(["old"] * 9 + ["new"] * 8)
    before, after = (graph(scores, classes.tolist()) for scores in (first, second))
    for options, seed in (({}, 0), ({"seed": 5}, 5)):
        expected = [contrast(first, second, name="s", steps=(1, 2), seed=seed)]
        for kind in ("old", "new"):
            inside = classes == kind
            one = contrast(first[inside], second[inside], name="s", steps=(1, 2), facts=kind, seed=seed)
            expected.append(one)
        assert contrasts(before, after, name="s", steps=(1, 2), **options) == tuple(expected)
    assert expected[0] != contrast(first, second, name="s", steps=(1, 2), seed=0)


def test_how_an_evolution_is_drawn():
    steps = "xaxis tickmode=array text=step (checkpoints evenly spaced)"
    split = [
        "mark fillcolor=#767676 width=0 opacity=0.15 x0=0.5 x1=1.5 xref=x y0=0 y1=1 yref=y domain",
        "mark color=#767676 dash=dash width=1 x0=0.5 x1=0.5 xref=x y0=0 y1=1 yref=y domain",
    ]
    assert looks(evolved().plot()) == [
        "color=#0072B2 dash=solid symbol=circle mode=lines+markers",
        "color=#D55E00 dash=dash symbol=square mode=lines+markers",
        "hoverinfo=skip legendgroup=floor width=0 mode=lines showlegend=False",
        "fill=tonexty fillcolor=rgba(118, 118, 118, 0.25) legendgroup=floor color=#767676 dash=dot mode=lines",
        "yaxis range=[0, 1] text=Jaccard, 20 edges",
        steps,
        *split,
        "layout height=456",
    ]
    assert looks(evolved().plot_likeness()) == [
        "hovertemplate=step %{y} and step %{x}: %{z:.2f}<extra></extra> zmax=1 zmin=-1",
        "xaxis text=step",
        "yaxis autorange=reversed text=step",
        "layout height=520",
    ]
    assert looks(evolved().plot_lineage(2)) == [
        "thickness=1 width=2 color=#0072B2 dash=solid symbol=circle mode=lines+markers",
        "thickness=1 width=2 color=#D55E00 dash=dash symbol=square mode=lines+markers",
        "yaxis text=node score",
        steps,
        *split,
        "layout height=496",
    ]


def test_how_faithfulness_and_transfer_are_drawn():
    cell = "hovertemplate=circuit of %{y} in model %{x}: %{z:.2f} %{customdata}<extra></extra> texttemplate=%{text}"
    assert looks(transferred().plot()) == [
        f"{cell} zmax=1 zmin=0",
        "xaxis text=model",
        "yaxis autorange=reversed text=circuit of",
        "layout height=496",
    ]
    drawn = transferred().plot()
    assert drawn.data[0].text.tolist() == [["0.90", "0.40"], ["0.88", "0.95"]]
    assert drawn.data[0].colorbar.title.text == "faithfulness"
    assert drawn.data[0].customdata[0][1] == "[0.40, 0.40]"
    assert (drawn.layout.xaxis.type, drawn.layout.yaxis.type) == ("category", "category")
    nothing = transferred(clean_metric=np.zeros((2, 4))).plot()
    assert nothing.data[0].text.tolist() == [["n/a"] * 2] * 2
    assert looks(faithful().plot()) == [
        "symmetric=False color=['#0072B2', '#767676', '#767676']", "yaxis text=faithfulness", "layout height=420"
    ]  # fmt: skip
    assert looks(curved().plot()) == [
        "symmetric=False color=#0072B2 mode=lines+markers",
        "color=#767676 dash=dot symbol=x mode=lines+markers",
        "xaxis text=edges in the circuit",
        "yaxis text=faithfulness",
        "layout height=420",
    ]


def test_how_a_diff_is_drawn():
    """Each status has its colour, dash, width and symbol; what did not change is put in by the legend."""
    statuses = [
        ("gained", "#0072B2", "solid", "4.0", "diamond", "True"),
        ("lost", "#D55E00", "dot", "4.0", "x", "True"),
        ("strengthened", "#009E73", "longdash", "2.4", "triangle-up", "True"),
        ("weakened", "#E69F00", "dash", "2.4", "triangle-down", "True"),
        ("flipped", "#CC79A7", "dashdot", "4.0", "star", "True"),
        ("kept", "#767676", "solid", "1.2", "circle", "legendonly"),
        ("uncertain", "#767676", "longdash", "1.2", "circle-open", "legendonly"),
    ]
    told = []
    for status, colour, dash, width, symbol, seen in statuses:
        of = f"legendgroup={status} color={colour}"
        line = f"{of} dash={dash} width={width} mode=lines opacity=0.75 showlegend=True visible={seen}"
        marker = f"{of} size=6 symbol={symbol} mode=markers showlegend=False visible={seen}"
        told += [f"hoverinfo=skip {line}", f"hovertemplate=%{{text}}<extra></extra> {marker}"]
    for kind, colour, symbol in (
        ("head", "#1B1B1B", "circle"), ("MLP", "#6B4C9A", "square"), ("input or logits", "#777777", "hexagon")
    ):  # fmt: skip
        node = f"legendgroup=nodes color={colour} color=#FFFFFF width=1 size=12 symbol={symbol} mode=markers+text"
        told.append(f"hovertemplate=%{{text}}: {kind}<extra></extra> {node} size=11 textposition=top center")
    assert looks(diffed().plot()) == [
        *told,
        "xaxis range=[-0.12, 1.42] visible=False",
        "yaxis range=[-0.6, 2.8] showgrid=False zeroline=False",
        "layout height=436",
    ]


def test_what_is_drawn_without_a_seed_is_drawn_with_the_seed_0():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 12, 8)) + np.arange(8) / 8
    a, b = (graph(units) for units in scores)
    undecided = HeadRoles(rng.uniform(0, 20, (12, 2, 2)), np.ones((12, 2, 2)), meta={})
    many, ones = SimpleNamespace(edge_scores=rng.normal(size=(12, 40))), np.ones(12)
    products = Products([*scores, scores[0] * rng.choice([-1, 1], 8)])
    drawn = {
        "similarities": lambda **seed: (
            similarities(*scores, weights=(ones, ones), sizes=[3], exchanges=0, **seed)[0].within
        ),
        "halve": lambda **seed: halve(a, n_edges=3, splits=3, **seed).halves.tolist(),
        "overlap": lambda **seed: overlap(a, b, n_edges=3, splits=3, **seed).within,
        "diff": lambda **seed: circuits.diff(a, b, n_edges=3, exchanges=0, **seed).similarity[0].within,
        "reliability_by_rank": lambda **seed: reliability_by_rank(many, **seed),
        "certainty": lambda **seed: undecided.certainty(**seed)["mover"].tolist(),
        "splits": lambda **seed: splits(products, level=1, draws=49, **seed),
        "contrast": lambda **seed: contrast(*scores, name="s", steps=(0, 1), **seed).high,
        "contrasts": lambda **seed: contrasts(a, b, name="s", steps=(0, 1), **seed)[0].high,
    }
    for name, found in drawn.items():
        assert found() == found(seed=0), name
        assert found() != found(seed=1), name


def test_circuits_of_a_diff_are_of_the_size_that_the_graph_was_asked_for():
    scores = np.random.default_rng(0).normal(size=(2, 12, 8))
    a, b = (graph(units) for units in scores)
    asked = [replace(each, meta={**each.meta, "circuit_edges": 3}) for each in (a, b)]
    how = {"splits": 2, "exchanges": 0}
    names = [[each.measure for each in found.similarity] for found in (
        circuits.diff(*asked, **how), circuits.diff(a, b, n_edges=3, **how), circuits.diff(a, b, **how)
    )]  # fmt: skip
    assert names[0] == names[1] != names[2]
