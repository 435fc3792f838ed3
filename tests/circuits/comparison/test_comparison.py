"""Diffs: identities, refusals, and what they say about noise."""

from dataclasses import replace

import numpy as np
import pytest

import circuits
from checkpoints.errors import BadPrompt, CheckpointMismatch
from circuits.comparison.diff import similarity
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape

SHAPE = GraphShape(2, 3, 3)
EDGES = int(SHAPE.mask.sum())


def graph(scores, *, prompts="p", method="eap-ig") -> AttributionGraph:
    """A stored graph from [U, E] edge scores."""
    full = np.zeros((len(scores), *SHAPE.mask.shape))
    full[:, SHAPE.mask] = scores
    units = np.arange(len(scores))
    metric = np.ones(len(scores))
    return AttributionGraph(
        full, SHAPE, metric, -metric, units, units, tuple({} for _ in units), {"prompts": prompts, "method": method}
    )


def samples(seed: int, n: int = 16, *, strength: float = 1.0, noise: float = 0.3, base_seed: int = 0):
    """[n, E] heavy-tailed scores around one fixed pattern."""
    pattern = np.random.default_rng(base_seed).standard_t(2, EDGES) * strength
    rng = np.random.default_rng(1000 + seed)
    return pattern * (1 + noise * rng.standard_t(4, (n, 1))) + noise * rng.standard_t(3, (n, EDGES))


def test_a_graph_over_some_facts_and_its_circuit_of_the_usual_size():
    whole = graph(samples(0))
    part = whole.only(np.array([3, 1]))
    np.testing.assert_array_equal(part.edge_scores, whole.edge_scores[[3, 1]])
    assert len(part) == len(part.labels) == len(part.answer_rank) == 2
    np.testing.assert_array_equal(whole.prune().mask, whole.prune(min(EDGES, 20)).mask)
    grouped = replace(whole, scores=whole.scores[:2], group=np.arange(len(whole)) % 2)
    with pytest.raises(BadPrompt, match="16 facts were scored in 2 groups, which cannot be told apart"):
        grouped.only(np.array([0]))


def test_diff_with_itself_is_empty():
    a = graph(samples(0))
    same = circuits.diff(a, a)
    assert not same.significant
    assert same.global_p == 1.0
    assert not same.delta.any()
    assert set(same.status) <= {"kept", "outside"}
    assert all(s.value == pytest.approx(1.0) for s in same.similarity)


def test_diff_is_antisymmetric():
    a, b = graph(samples(0)), graph(samples(0) + np.r_[np.full(20, 2.0), np.zeros(EDGES - 20)])
    forth, back = circuits.diff(a, b), circuits.diff(b, a)
    np.testing.assert_array_equal(back.delta, -forth.delta)
    np.testing.assert_array_equal(back.tests.low, -forth.tests.high)
    np.testing.assert_array_equal(back.tests.q, forth.tests.q)
    swapped = {"gained": "lost", "lost": "gained", "strengthened": "weakened", "weakened": "strengthened"}
    assert [swapped.get(s, s) for s in forth.status] == list(back.status)
    assert forth.global_p == back.global_p
    assert forth.similarity == back.similarity
    np.testing.assert_array_equal(back.node_tests.delta, -forth.node_tests.delta)
    assert [p.delta for p in back.profile] == [-p.delta for p in forth.profile]
    assert forth.significant


def test_planted_edges_are_named():
    scores = samples(0, noise=0.1)
    changed = scores.copy()
    weak, strong, flipping = np.argsort(np.abs(scores.mean(0)))[[3, -1, -2]]
    changed[:, weak] += 20.0
    changed[:, strong] *= 0.01
    changed[:, flipping] *= -1
    found = circuits.diff(graph(scores), graph(changed), n_edges=20)
    status = found.status
    assert status[weak] == "gained"
    assert status[strong] == "lost"
    assert status[flipping] == "flipped"
    assert found.n_significant == 3
    frame = found.to_frame()
    assert set(frame["status"]) >= {"gained", "lost", "flipped", "kept"}
    assert (frame["q"][frame["changed"]] < 0.05).all()


def test_an_edge_that_is_noise_at_one_end_is_gained_and_not_flipped():
    scores = samples(0, noise=0.1)
    changed = scores + np.random.default_rng(3).normal(0, 0.1, scores.shape)
    edge = int(np.argmax(np.abs(scores.mean(0))))
    scores[:, edge] = np.tile([2.1, -1.9], 8)
    changed[:, edge] = -20.0 + 0.1 * scores[:, edge]
    forth = circuits.diff(graph(scores), graph(changed), n_edges=EDGES)
    back = circuits.diff(graph(changed), graph(scores), n_edges=EDGES)
    assert (forth.status[edge], back.status[edge]) == ("gained", "lost")
    assert replace(forth, both_ends=None).status[edge] == "flipped", "as before results held it"


def test_an_edge_that_stands_out_at_one_end_by_being_one_of_many_is_gained_and_not_flipped():
    """t = -2.7 of 16 facts: p = .016 by itself, beyond any level as one of the edges."""
    rng = np.random.default_rng(0)
    scores, changed = rng.normal(size=(2, 16, EDGES))
    scores -= scores.mean(0)
    wide = np.arange(16) - 7.5
    wide /= np.std(wide, ddof=1)
    scores[:, 0], changed[:, 0] = wide - 2.7 / 4, wide[::-1] + 20
    found = circuits.diff(graph(scores), graph(changed), n_edges=EDGES)
    assert (found.status[0], found.counts["flipped"]) == ("gained", 0)
    scores[:, 0] = wide - 5
    assert circuits.diff(graph(scores), graph(changed), n_edges=EDGES).status[0] == "flipped"


def test_other_facts_are_refused_unless_unpaired_is_asked_for():
    a, b = graph(samples(0)), graph(samples(1), prompts="others")
    with pytest.raises(BadPrompt, match="unknown pairing 'matched'"):
        circuits.diff(a, a, pairing="matched")
    with pytest.raises(BadPrompt, match="between 0 and 1, got 5"):
        circuits.diff(a, a, q=5)
    with pytest.raises(CheckpointMismatch, match="different facts"):
        circuits.diff(a, b)
    assert not circuits.diff(a, b, pairing="unpaired").significant


def test_other_methods_and_shapes_and_single_facts_are_refused():
    a = graph(samples(0))
    with pytest.raises(CheckpointMismatch, match="different method"):
        circuits.diff(a, graph(samples(0), method="eap"))
    with pytest.raises(BadPrompt, match="at least 2"):
        circuits.diff(graph(samples(0, 1)), graph(samples(1, 1)))
    other = GraphShape(1, 1, 1)
    small = AttributionGraph(
        np.ones((4, 3, 5)) * other.mask, other, np.ones(4), np.zeros(4), np.arange(4), np.arange(4), ({},) * 4, a.meta
    )
    with pytest.raises(CheckpointMismatch, match="different shapes"):
        circuits.diff(a, small)


def test_similarity_knows_its_floor_and_its_null():
    a, b = graph(samples(0)), graph(samples(1), prompts="others")
    same = circuits.diff(a, b, pairing="unpaired", n_edges=30).similarity
    other = circuits.diff(a, graph(samples(0, base_seed=9)), n_edges=30).similarity
    for measure in same:
        assert abs(measure.excess) < 0.15
        assert not measure.beyond_noise
        assert measure.random < measure.within
    assert all(measure.beyond_noise for measure in other)


def test_similarity_alone_is_that_of_a_diff_whichever_way_round():
    a, b = graph(samples(0)), graph(samples(1))
    assert similarity(a, b) == similarity(b, a) == circuits.diff(a, b).similarity
    with pytest.raises(CheckpointMismatch, match="different facts"):
        similarity(a, graph(samples(1), prompts="others"))


def test_verdict_frames_and_figures_are_computed():
    a, b = graph(samples(0)), graph(samples(0) * np.linspace(0.2, 3, EDGES))
    found = circuits.diff(a, b)
    assert f"{found.n_significant:,} of {EDGES:,} edges changed for real" in found.verdict
    assert str(found.counts["kept"] or "") in found.caption
    assert list(found.similarity_frame()["measure"]) == [s.measure for s in found.similarity]
    assert "Circuit diff" in found._repr_html_()
    figure = found.plot()
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    shown = {trace.name.split(" (")[0] for trace in lines}
    assert shown <= {"gained", "lost", "strengthened", "weakened", "flipped", "kept", "uncertain"}
    nodes = [trace for trace in figure.data if "text" in trace.mode]
    assert len(figure.data) == len(nodes) + len(lines) + len(shown), "each kind of node, lines, midpoints of each class"
    assert sum(trace.showlegend for trace in lines) == len(shown), "one legend entry a class"
    drawn = sum(list(trace.x).count(None) for trace in lines)
    assert drawn == sum(found.counts[name] for name in shown)
    widest = max(lines, key=lambda trace: trace.line.width)
    assert widest.line.width > min(trace.line.width for trace in lines)


def test_profile_knows_depth_and_spread():
    shallow, deep = np.zeros(EDGES), np.zeros(EDGES)
    names = graph(samples(0)).edge_names
    shallow[[names.index("a0.h0->logits"), names.index("m0->m1")]] = 1.0
    deep[names.index("m1->logits")] = -2.0
    found = circuits.diff(graph(np.tile(shallow, (8, 1))), graph(np.tile(deep, (8, 1))))
    told = {p.name: p for p in found.profile}
    assert (told["centre of mass, layers"].a, told["centre of mass, layers"].b) == (0.0, 1.0)
    assert told["effective edges"].a == pytest.approx(2.0)
    assert told["effective nodes"].b == pytest.approx(1.0)
    assert told["total |score|"].delta == pytest.approx(0.0)
    assert found.nodes_changed == ("m1", "a0.h0", "m0")
    assert list(found.node_frame()["node"][:3]) == ["m1", "a0.h0", "m0"]


def test_too_few_facts_are_said_to_be_too_few():
    told = circuits.diff(graph(samples(0, 4)), graph(samples(0, 4) + 5.0))
    assert not told.significant
    assert "4 units of facts cannot show a change" in told.verdict


def test_rank_biased_overlap_of_equal_and_of_disjoint_orders():
    from circuits.comparison.similarity import Ranked, measure_names, measures

    scores = np.arange(40.0)[::-1]
    place = measure_names((5, 10)).index("rank-biased overlap, 10 edges")
    same, opposite = Ranked(scores, (5, 10)), Ranked(scores[::-1], (5, 10))
    assert measures(same, same)[place] == pytest.approx(1.0)
    assert measures(same, opposite)[place] == 0.0


def test_two_prompt_sets_of_one_checkpoint_are_called_different_no_more_often_than_stated():
    called = [
        circuits.diff(
            graph(samples(2 * i, noise=1.0)), graph(samples(2 * i + 1, noise=1.0), prompts="others"),
            pairing="unpaired", splits=1, exchanges=0,
        ).significant
        for i in range(60)
    ]  # fmt: skip
    assert np.mean(called) <= 0.1


def test_differences_without_a_direction_are_called_no_more_often_than_stated():
    """Two patterns that differ by far, exchanged at random fact by fact: no fact tells which side is A."""
    called, named = [], []
    for seed in range(60):
        pair = np.stack([samples(seed, noise=1.0), samples(seed, noise=1.0, base_seed=9)])
        side = np.random.default_rng(seed).integers(0, 2, 16)
        found = circuits.diff(graph(pair[side, range(16)]), graph(pair[1 - side, range(16)]), splits=1, exchanges=0)
        called.append(found.significant)
        named.append(found.n_significant > 0)
    assert np.mean(called) <= 0.1
    assert np.mean(named) <= 0.1


def test_a_p_from_drawn_permutations_is_the_upper_end_of_what_they_leave_possible():
    from scipy.stats import binom

    from checkpoints.stats.bootstrap import upper_share
    from checkpoints.stats.permutation import sign_flip_p, smallest_sign_flip_p

    for hits in (0, 3, 40):
        assert binom.cdf(hits, 999, upper_share(hits, 999)) == pytest.approx(0.05)
    assert upper_share(999, 999) == 1.0
    sure = np.ones((24, 5))
    assert sign_flip_p(sure) == smallest_sign_flip_p(24)
    assert sign_flip_p(sure[:8]) == smallest_sign_flip_p(8) == 2 / 2**7, (
        "all sign patterns are listed: nothing is drawn"
    )


def test_a_change_too_spread_for_any_one_edge_still_makes_the_graph_differ():
    """Every edge moves a little, coherently from fact to fact: the summed change is sure, no edge is."""
    rng = np.random.default_rng(2)
    a = graph(rng.normal(size=(24, EDGES)))
    shift = 0.2 * rng.normal(size=EDGES)
    b = graph(a.edge_scores + shift + rng.normal(size=(24, EDGES)))
    found = circuits.diff(a, b)
    assert found.significant
    assert found.n_significant == 0
    assert "as a whole" in found.verdict
