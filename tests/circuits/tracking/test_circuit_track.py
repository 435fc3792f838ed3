"""Series with known change points, and series without any."""

from dataclasses import replace

import numpy as np
import pytest

import circuits
from checkpoints.errors import BadPrompt, CheckpointMismatch
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape
from circuits.tracking.changepoints import Products, best_split, cosines, splits
from circuits.tracking.circuit_track import CircuitTrack
from circuits.tracking.contrasts import contrast

SHAPE = GraphShape(2, 3, 3)
EDGES = int(SHAPE.mask.sum())


def graph(scores, prompts="p") -> AttributionGraph:
    full = np.zeros((len(scores), *SHAPE.mask.shape))
    full[:, SHAPE.mask] = scores
    units = np.arange(len(scores))
    ones = np.ones(len(scores))
    return AttributionGraph(full, SHAPE, ones, -ones, units, units, tuple({} for _ in units), {"prompts": prompts})


def series(patterns, seed=0, units=16, noise=1.0):
    """Graphs whose units share heavy prompt noise across checkpoints and have a little of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_t(4, (units, EDGES)) * noise
    return [
        (100 * i, graph(pattern + shared + 0.3 * noise * rng.standard_normal((units, EDGES))))
        for i, pattern in enumerate(patterns)
    ]


def patterns(*lengths, seed=0):
    rng = np.random.default_rng(100 + seed)
    return [p for length in lengths for p in [rng.standard_normal(EDGES)] * length]


def test_change_points_are_found_where_they_were_put():
    evolution = circuits.track(series(patterns(4, 3, 4)))
    assert [split.index for split in evolution.change_points] == [4, 7]
    assert all(split.low <= split.index <= split.high for split in evolution.change_points)
    assert [(p.first, p.last) for p in evolution.phases] == [(0, 300), (400, 600), (700, 1000)]
    assert evolution.landmarks == (0, 300, 400, 600, 700, 1000)
    assert "between steps 300 and 400" in evolution.verdict
    assert np.nanmin(evolution.likeness[:4, :4]) > 0.9
    assert np.nanmax(np.abs(evolution.likeness[:4, 4:7])) < 0.6


def test_a_shuffled_stretch_and_its_best_cut_are_those_of_the_definitions():
    """Each unit's checkpoints in an order of its own; products of different units only; every cut by itself."""
    products = Products([g.edge_scores for _, g in series(patterns(3, 4), units=6)])
    kernel = products.shuffled(slice(1, 6), np.random.default_rng(5))
    rng = np.random.default_rng(5)
    orders = [1 + rng.permutation(5) for _ in range(6)]
    for i, j in np.ndindex(5, 5):
        terms = [products.gram[orders[u][i], u, orders[v][j], v] for u in range(6) for v in range(6) if u != v]
        assert kernel[i, j] == pytest.approx(np.mean(terms))
    likeness = np.nan_to_num(cosines(kernel))

    def scatter(part):
        return np.trace(part) - part.sum() / len(part)

    gains = [scatter(likeness) - scatter(likeness[:cut, :cut]) - scatter(likeness[cut:, cut:]) for cut in range(1, 5)]
    assert best_split(kernel) == (1 + int(np.argmax(gains)), pytest.approx(max(gains)))


def test_a_constant_series_is_one_phase_as_often_as_stated():
    found = []
    for seed in range(30):
        scores = [g.edge_scores for _, g in series(patterns(5), seed=seed)]
        found.append(bool(splits(Products(scores), draws=59)))
    assert np.mean(found) <= 0.12


def test_growth_alone_is_no_change_of_structure():
    base = patterns(1)[0]
    evolution = circuits.track(series([base * strength for strength in (1, 2, 3, 4, 5)], noise=0.2))
    assert evolution.change_points == ()
    assert evolution.profile[-1, 3] > 2 * evolution.profile[0, 3]


def test_likeness_is_corrected_for_noise():
    """The plain cosine of two noisy means is far below 1; the corrected one is not, and pure noise is not alike."""
    scores = [g.edge_scores for _, g in series(patterns(2), units=32, noise=4.0)]
    scores = [s + 4 * np.random.default_rng(i).standard_normal(s.shape) for i, s in enumerate(scores)]
    corrected = cosines(Products(scores).kernel())
    a, b = (s.mean(0) for s in scores)
    assert corrected[0, 1] == pytest.approx(1.0, abs=0.2)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 0.85
    reliability = Products(scores).reliability()
    assert (reliability < 0.8).all()


def staged(first, second, classes, *, seed=0, noise=0.3):
    """Two checkpoints before a stage and two in it, each class of facts with patterns of its own."""
    rng = np.random.default_rng(seed)
    pairs = []
    for step, means in enumerate((first, first, second, second)):
        scores = np.stack([means[kind] + noise * rng.standard_normal(EDGES) for kind in classes])
        pairs.append((step, replace(graph(scores), labels=tuple({"class": kind} for kind in classes))))
    return pairs


def test_a_stage_that_moves_a_circuit_from_old_facts_to_new_ones_shows_class_by_class():
    """Over all facts nothing moves, so no change point can stand there; the planned contrast still tells."""
    wiring, classes = patterns(1)[0], ["old"] * 12 + ["new"] * 12
    nothing = np.zeros(EDGES)
    moved = circuits.track(
        staged({"old": wiring, "new": nothing}, {"old": nothing, "new": wiring}, classes), stages={"a": 0, "b": 2}
    )
    assert moved.change_points == ()
    told = {found.facts: found for found in moved.contrasts}
    assert list(told) == ["all facts", "old", "new"]
    assert {(found.name, found.before, found.after, found.n) for found in told.values()} == {
        ("b", 1, 3, 24), ("b", 1, 3, 12)
    }  # fmt: skip
    assert told["all facts"].apart < 0.1
    assert "no change beyond the noise" in told["all facts"].outcome(0.05)
    assert "no longer stands out" in told["old"].outcome(0.05)
    assert "where none stood out" in told["new"].outcome(0.05)
    assert moved.verdict.endswith(".")
    assert "Stage b, step 1 against 3: all facts (n = 24): no change" in moved.verdict
    assert list(moved.contrast_frame()["facts"]) == ["all facts", "old", "new"]


def test_contrasts_tell_wiring_from_strength():
    wiring, other = patterns(1, 1)
    classes = ["grown"] * 16 + ["rewired"] * 16
    found = circuits.track(
        staged({"grown": wiring, "rewired": wiring}, {"grown": 3 * wiring, "rewired": other}, classes), stages={"b": 2}
    ).contrasts
    told = {contrast.facts: contrast for contrast in found}
    assert told["grown"].strength == pytest.approx(3.0, rel=0.1)
    assert told["grown"].apart < 0.02
    assert told["grown"].p <= 0.01
    assert told["rewired"].p_wiring <= 0.01
    assert told["rewired"].low <= told["rewired"].apart <= told["rewired"].high
    assert told["rewired"].apart == pytest.approx(
        1 - wiring @ other / np.linalg.norm(wiring) / np.linalg.norm(other), abs=0.1
    )
    assert "other wiring" in told["rewired"].outcome(0.05)


def test_growth_is_called_other_wiring_no_more_often_than_stated():
    wiring = patterns(1)[0]
    ps = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first = wiring * rng.uniform(0.5, 1.5, (16, 1)) + rng.standard_normal((16, EDGES))
        second = 3 * wiring * rng.uniform(0.5, 1.5, (16, 1)) + rng.standard_normal((16, EDGES))
        ps.append(contrast(first, second, name="b", steps=(0, 1)).p_wiring)
    assert np.mean(np.array(ps) <= 0.05) <= 0.12


def test_births_deaths_and_lineage_add_up():
    evolution = circuits.track(series(patterns(2, 2), noise=0.1), n_edges=25)
    sizes = evolution.edges.sum(1)
    np.testing.assert_array_equal(np.diff(sizes), evolution.births[1:] - evolution.deaths[1:])
    assert evolution.births[0] == 0
    assert evolution.births[1] <= 3 < evolution.births[2]
    for t in range(1, 4):
        before = {n for n, inside in zip(SHAPE.writers, evolution.nodes[t - 1], strict=True) if inside}
        after = before - set(evolution.node_deaths[t]) | set(evolution.node_births[t])
        assert after == {n for n, inside in zip(SHAPE.writers, evolution.nodes[t], strict=True) if inside}
    frame = evolution.to_frame()
    assert list(frame["phase"]) == [0, 0, 1, 1]
    assert evolution.lineage(3).shape == (3, 4)


def test_overlaps_stand_beside_their_floors():
    frame = circuits.track(series(patterns(3, 3))).to_frame()
    assert frame["jaccard_previous_across"][3] < frame["jaccard_previous_within"][3] - 0.15
    assert frame["jaccard_previous_across"][2] == pytest.approx(frame["jaccard_previous_within"][2], abs=0.1)
    assert np.isnan(frame["jaccard_first"][0])
    assert np.isnan(frame["jaccard_last"][5])


def test_figures_and_disk(tmp_path):
    evolution = circuits.track(series(patterns(3, 3)), draws=59, stages={"a": 0, "b": 300})
    back = CircuitTrack.load(evolution.save(tmp_path / "evolution"))
    assert back.verdict == evolution.verdict
    assert back.to_frame().equals(evolution.to_frame())
    assert back.contrasts == evolution.contrasts
    assert len(back.contrasts) == 1
    for figure in (back.plot(), back.plot_likeness(), back.plot_lineage(5)):
        assert figure.layout.title.text
    assert "Circuit over training" in back._repr_html_()
    assert back.meta == evolution.meta
    (leading,) = back.lineage(1).index
    first = series(patterns(3, 3))[0][1].scores[:, :, :].sum(2)[:, SHAPE.writers.index(leading)]
    assert back.lineage_errors(1).loc[leading, 0] == pytest.approx(first.std(ddof=1) / np.sqrt(len(first)))


def test_series_that_cannot_be_followed_are_refused():
    one = series(patterns(1))
    with pytest.raises(BadPrompt, match="at least 2 checkpoints"):
        circuits.track(one)
    with pytest.raises(CheckpointMismatch, match="same facts in the same groups, but those of steps 0 and 5"):
        circuits.track([*one, (5, graph(one[0][1].edge_scores, prompts="others"))])
    other = replace(one[0][1], meta={**one[0][1].meta, "backward": "gim"})
    with pytest.raises(CheckpointMismatch, match="different backward: 'plain' and 'gim'"):
        circuits.track([*one, (5, other)])
    with pytest.raises(BadPrompt, match="must rise, got 100, 0"):
        circuits.track(series(patterns(2))[::-1])
    with pytest.raises(BadPrompt, match="circuits of 0 edges"):
        circuits.track(series(patterns(2)), n_edges=0)
    with pytest.raises(BadPrompt, match="one of the steps measured, 0, 100; got 7"):
        circuits.track(series(patterns(2)), stages={"b": 7})
    with pytest.raises(BadPrompt, match="58 permutations cannot show a change point"):
        circuits.track(series(patterns(2)), draws=58)
    with pytest.raises(BadPrompt, match="at least 2 facts"):
        circuits.track([(0, graph(np.ones((1, EDGES)))), (1, graph(np.ones((1, EDGES))))])


def test_the_interval_of_strength_holds_the_growth_that_was_planted():
    """A circuit that doubles under prompt noise of its own at each checkpoint."""
    inside, base = 0, np.random.default_rng(1).normal(size=EDGES)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, second = (scale * base + rng.normal(size=(24, EDGES)) for scale in (1.0, 2.0))
        found = contrast(first, second, name="x", steps=(0, 1))
        assert found.strength_low < found.strength < found.strength_high
        inside += found.strength_low <= 2.0 <= found.strength_high
    assert inside >= 17
    nothing = contrast(rng.normal(size=(24, EDGES)) - 9.0, rng.normal(size=(24, EDGES)) * 0.0, name="x", steps=(0, 1))
    assert np.isnan([nothing.strength, nothing.strength_low, nothing.strength_high]).all()


@pytest.mark.parametrize(("course", "sudden"), [("jump", True), ("drift", False)])
def test_a_jump_is_told_from_steady_drift(course, sudden):
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(2, 60))
    share = np.repeat([0.0, 1.0], 4) if course == "jump" else np.linspace(0, 1, 8)
    own = rng.normal(0, 0.5, (10, 60))
    scores = [(1 - s) * first + s * last + own + rng.normal(0, 0.3, (10, 60)) for s in share]
    found = splits(Products(scores), draws=99)
    assert found
    assert found[0].sudden is sudden
    if sudden:
        assert [split.index for split in found] == [4]


@pytest.mark.parametrize(("units", "interval"), [(2, (1, 11)), (3, (6, 6)), (4, (6, 6))])
def test_resampling_one_unit_alone_tells_nothing_of_where_a_change_lies(units, interval):
    """Of three units one draw in nine is of one alone; it used to put the cut behind the first checkpoint."""
    draw = np.random.default_rng(0)
    before, after = draw.standard_normal((2, 40))
    scores = [(before if step < 6 else after) + 0.05 * draw.standard_normal((units, 40)) for step in range(12)]
    (found,) = splits(Products(scores), draws=99)
    assert (found.index, found.low, found.high) == (6, *interval)
    assert found.sudden is (units > 2)
    assert np.isnan(Products(scores).kernel(np.eye(units)[0])).all()
