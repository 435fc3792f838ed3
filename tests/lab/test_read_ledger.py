"""What is read of the ledger, word for word, on a handful of units whose history is written out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as textbook

from checkpoints.errors import BadPrompt
from circuit_drift import knowledge
from circuit_drift.knowledge.transitions import transitions

NAN = float("nan")
STEPS = (0, 10, 20, 30)
HISTORY = {
    "kept": [0.9, 0.8, 0.7, 0.9],
    "lost": [0.8, 0.7, 0.2, 0.1],
    "learned": [0.1, 0.6, 0.7, 0.8],
    "flickers": [0.1, 0.7, 0.3, 0.9],
    "never": [0.0, 0.1, 0.2, 0.5],
    "asked late": [NAN, NAN, 0.9, 0.2],
}
"""Known from a mean of 0.6 on."""
CLASSES = ("old", "old", "new", "new", "new", "old")


def book(**options) -> knowledge.Ledger:
    probes = np.array(list(HISTORY.values()))[:, :, None]
    return knowledge.ledger(
        knowledge.UnitScores(tuple(HISTORY), STEPS, probes, {"class": CLASSES}, "recall"), **options
    )


def test_the_verdict_of_a_ledger_is_its_findings_in_a_row():
    assert book().verdict == "; ".join(book().findings)


def test_the_findings_of_a_ledger_word_for_word():
    assert book().findings == (
        "known (mean recall ≥ 0.6): 2 of 6 at 0, 4 at best (10), 3 at 30",
        "2 were newly learned; 2 of those are held at 30, 1 unit is consolidated",
        "of the 2 known at 0, 1 is known at 30",
        "3 acquisitions (1 of them relearned) and 3 losses",
        "one score per unit and step: how much of this is noise of the probes cannot be said",
    )


def test_one_of_each_is_told_as_one():
    probes = np.array([[0.0, 0.8, 0.9], [0.9, 0.1, 0.2]])[:, :, None]
    told = knowledge.ledger(knowledge.UnitScores(("a", "b"), (0, 10, 20), probes, {}, "recall")).findings
    assert told[1] == "1 was newly learned; 1 of those is held at 20, 0 units are consolidated"
    assert told[2] == "of the 1 known at 0, 0 are known at 20"
    assert told[3] == "1 acquisition (0 of them relearned) and 1 loss"


def test_the_outcome_of_a_ledger():
    assert book().outcome == {
        "known_first": 2,
        "known_last": 3,
        "best": 4,
        "newly_learned": 2,
        "newly_learned_held": 2,
        "kept": 1,
        "consolidated": 1,
        "acquisitions": 3,
        "relearned": 1,
        "losses": 3,
    }
    strict = book(threshold=0.75)
    assert strict.outcome["known_first"] == 2
    assert strict.findings[0] == "known (mean recall ≥ 0.75): 2 of 6 at 0, 3 at best (30), 3 at 30"
    sensitivity = book().sensitivity((0.6, 0.75))
    assert sensitivity["threshold"].tolist() == [0.6, 0.75]
    assert sensitivity["best"].tolist() == [4, 3]


def test_the_table_of_a_ledger_by_step():
    frame = book().to_frame()
    assert frame["step"].tolist() == [0, 10, 20, 30]
    assert frame["asked"].tolist() == [5, 5, 6, 6]
    assert frame["known"].tolist() == [2, 4, 3, 3]
    assert frame["acquired"].tolist() == [0, 2, 0, 1]
    assert frame["retained"].tolist() == [0, 2, 2, 2]
    assert frame["forgotten"].tolist() == [0, 0, 2, 1]
    assert frame["relearned"].tolist() == [0, 0, 0, 1]
    assert frame["mean"].tolist() == pytest.approx([1.9 / 5, 2.9 / 5, 3.0 / 6, 3.4 / 6])
    assert frame["noise"].isna().all()
    expected = [textbook.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((2, 5), (4, 5), (3, 6), (3, 6))]
    np.testing.assert_allclose(frame["known_low"], [e.low * n for e, n in zip(expected, (5, 5, 6, 6), strict=True)])
    np.testing.assert_allclose(frame["known_high"], [e.high * n for e, n in zip(expected, (5, 5, 6, 6), strict=True)])
    for name in ("known", "acquired", "retained", "forgotten", "relearned"):
        assert (frame[f"{name}_low"] <= frame[name]).all()
        assert (frame[name] <= frame[f"{name}_high"]).all()
    classes = book().to_frame(by="class")
    assert classes["class"].tolist() == ["old"] * 4 + ["new"] * 4
    assert classes["known"].tolist() == [2, 2, 2, 1, 0, 2, 1, 2]
    assert list(book().by("class")) == ["old", "new"]


def test_the_table_of_a_ledger_by_unit():
    frame = book().units_frame().set_index("unit")
    assert frame["class"].tolist() == list(CLASSES)
    assert frame["known_first"].tolist() == [True, True, False, False, False, False]
    assert frame["known_last"].tolist() == [True, False, True, True, False, False]
    assert frame["acquired_at"].tolist() == [pd.NA, pd.NA, 10, 10, pd.NA, pd.NA]
    assert frame["not_yet_at"].tolist() == [pd.NA, pd.NA, 0, 0, pd.NA, pd.NA]
    assert frame["times_forgotten"].tolist() == [0, 1, 0, 1, 0, 1]
    assert frame["times_relearned"].tolist() == [0, 0, 0, 1, 0, 0]
    assert frame["consolidated"].tolist() == [False, False, True, False, False, False]
    assert not frame["noise"].any()


def test_a_unit_is_learned_anew_once_it_was_known_before_it_was_lost():
    known = np.array([True, False, True, True, False])
    found = transitions(known, np.ones(5, dtype=bool))
    assert found.acquired.tolist() == found.relearned.tolist() == [False, False, True, False, False]
    assert found.forgotten.tolist() == [False, True, False, False, True]
    assert found.retained.tolist() == [False, False, False, True, False]
    many = transitions(np.tile(known, (2, 3, 1)), np.ones((2, 3, 5), dtype=bool))
    assert (many.relearned == found.relearned).all()
    first = transitions(known, np.array([False, True, True, False, True]))
    assert first.forgotten.tolist() == [False] * 5, "what was not asked at both steps is no transition"


def test_spells_of_being_known():
    found = {(s.unit, s.first): s for s in book().spells}
    assert {at: (s.before, s.last, s.lost, s.further, s.relearned) for at, s in found.items()} == {
        (0, 0): (None, 30, None, 3, False),
        (1, 0): (None, 10, 20, 1, False),
        (2, 10): (0, 30, None, 2, False),
        (3, 10): (0, 10, 20, 0, False),
        (3, 30): (20, 30, None, 0, True),
        (5, 20): (None, 20, 30, 0, False),
    }


def spell(further, lost):
    return knowledge.Spell(0, 0, 1, 1 + further, 99 if lost else None, further, False)


def test_survival_is_kaplan_and_meiers_with_greenwoods_interval():
    stretches = [spell(0, True), spell(1, True), spell(1, False), spell(3, True), spell(3, False)]
    found = knowledge.survival(stretches)
    assert found.n == 5
    assert found.after.tolist() == [0, 1, 2, 3, 4]
    assert found.at_risk.tolist() == [5, 5, 3, 2, 1]
    share = np.array([1, 4 / 5, 4 / 5 * 2 / 3, 4 / 5 * 2 / 3, 0])
    np.testing.assert_allclose(found.share, share)
    variance = 1 / (5 * 4) + np.array([0, 1 / (3 * 2), 1 / (3 * 2)])
    half = 1.96 * np.sqrt(variance) / np.abs(np.log(share[1:4]))
    np.testing.assert_allclose(found.low, [NAN, *share[1:4] ** np.exp(half), NAN])
    np.testing.assert_allclose(found.high, [NAN, *share[1:4] ** np.exp(-half), NAN])
    assert knowledge.survival([knowledge.Spell(0, None, 1, 2, None, 1, False)]).n == 0


def probed(**options) -> knowledge.Ledger:
    """Three units over two steps by five probes: one clear gain, one by a single probe, one half asked."""
    probes = np.array(
        [
            [[0.0, 0.0, 0.1, 0.0, 0.0], [1.0, 0.9, 1.0, 1.0, 1.0]],
            [[1.0, 1.0, 0.0, 0.3, 0.5], [1.0, 1.0, 0.1, 0.4, 0.5]],
            [[1.0, 0.0, NAN, NAN, NAN], [0.0, 0.0, NAN, NAN, NAN]],
        ]
    )
    scores = knowledge.UnitScores(("clear", "near", "half"), (0, 1), probes, {}, "recall")
    return knowledge.ledger(scores, **options)


def test_noise_of_the_probes_is_what_resampling_undoes():
    found = probed(draws=500, seed=3)
    rng = np.random.default_rng(3)
    known = []
    for unit in found.scores.probes:
        own = unit[:, ~np.isnan(unit).all(axis=0)]
        count = own.shape[1]
        drawn = rng.multinomial(count, [1 / count] * count, size=500) / count
        known.append(drawn @ own.T >= 0.6 - 1e-9)
    known = np.array(known)
    acquired = known[:, :, 1] & ~known[:, :, 0]
    forgotten = known[:, :, 0] & ~known[:, :, 1]
    np.testing.assert_allclose(found.resampled.known, known.mean(1))
    np.testing.assert_allclose(found.resampled.acquired[:, 1], acquired.mean(1))
    np.testing.assert_allclose(found.resampled.forgotten[:, 1], forgotten.mean(1))
    assert 0 < acquired[1].mean() < 0.95
    assert found.noise.tolist() == [[False, False], [False, True], [False, False]]
    assert (
        found.findings[-1]
        == "1 of 2 acquisitions cannot be told from flicker: fewer than 95% of probe resamples repeat them"
    )
    lenient = probed(draws=500, seed=3, support=0.01)
    assert (
        lenient.findings[-1]
        == "0 of 2 acquisitions cannot be told from flicker: fewer than 1% of probe resamples repeat them"
    )
    frame = found.to_frame()
    assert frame["noise"].tolist() == [0, 1]
    assert frame["known"].tolist() == [0, 2]
    ends = textbook.binomtest(2, 3).proportion_ci(method="wilson")
    assert (frame["acquired_low"][1], frame["acquired_high"][1]) == pytest.approx((3 * ends.low, 3 * ends.high))
    assert frame["mean"].tolist() == pytest.approx([(0.02 + 0.56 + 0.5) / 3, (0.98 + 0.6 + 0.0) / 3])
    few = knowledge.ledger(replace(found.scores, probes=found.scores.probes[:, :, :4]))
    assert few.moves.acquired.sum() == 2
    assert not few.noise.any()
    assert few.to_frame()["noise"].isna().all()
    assert few.findings[-1] == "fewer than 5 probes per unit: how much of this is flicker cannot be said"
    assert found.units_frame()["noise"].tolist() == [False, True, False]


def test_probes_are_drawn_with_the_seed_0_unless_told_otherwise():
    def drawn(**seed):
        return probed(draws=50, **seed).resampled.acquired.tolist()

    assert drawn() == drawn(seed=0) != drawn(seed=1)
    scores = probed().scores
    plain, same, other = (
        knowledge.resample(scores, 0.6, draws=50, **seed).acquired.tolist() for seed in ({}, {"seed": 0}, {"seed": 1})
    )
    assert plain == same != other
    assert knowledge.resample(scores, 0.6).draws == probed().resampled.draws == 1000


def test_resampling_needs_probes():
    with pytest.raises(BadPrompt) as refused:
        knowledge.resample(book().scores, 0.6)
    assert str(refused.value) == (
        "each unit has one score a step, so its probes cannot be resampled; give scores by probe"
    )
    assert book().resampled is None


def test_loss_beside_recall_word_for_word():
    found = book().divergence({0: 3.0, 10: 2.5, 20: 2.6, 30: 2.0, 99: 1.0}, unit="epochs")
    assert found.steps == STEPS
    assert found.loss_fell == (True, False, True)
    assert found.recall_fell == (False, True, False)
    assert found.sentence == "loss fell in 2 of 3 epochs, recall fell in 1 (0 of them beyond chance over units)"
    late = book().divergence({10: 2.5, 20: 2.4, 30: NAN})
    assert late.steps == (10, 20)
    assert late.sentence == (
        "loss fell in 1 of 1 intervals, recall fell in 1 (0 of them beyond chance over units); loss fell while recall "
        "was lost at 20"
    )
    rising = book().divergence({0: 2.0, 10: 3.0})
    assert rising.sentence == "loss fell in 0 of 1 intervals, recall fell in 0"
    with pytest.raises(BadPrompt) as refused:
        book().divergence({10: 1.0, 5: 2.0})
    assert str(refused.value) == "loss and recall share 1 checkpoints ([10]); two are needed"


FALL = np.array([-0.30, -0.10, -0.25, 0.02, -0.15, -0.28, -0.05, -0.22])
"""Eight units' change: p about 0.004."""
SLIGHT = np.array([-0.30, -0.05, 0.04, 0.01, -0.12, -0.15, 0.02, -0.06])
"""p about 0.07: beyond chance neither alone nor with others."""
MIDDLE = np.array([-0.30, -0.05, 0.01, -0.08, -0.12, -0.15, 0.03, -0.10])
"""p about 0.04: below 0.05 alone, above it once several intervals are asked."""


def divergence_over(*changes) -> knowledge.Divergence:
    course = np.cumsum([np.linspace(0.5, 0.9, 8), *changes], axis=0).T
    scores = knowledge.UnitScores(tuple("abcdefgh"), tuple(range(len(changes) + 1)), course[:, :, None])
    return knowledge.divergence(scores, dict.fromkeys(range(len(changes) + 1), 1.0))


def test_a_fall_is_certain_only_below_the_false_discovery_rate_over_all_intervals():
    p = {name: textbook.ttest_1samp(change, 0).pvalue for name, change in (("fall", FALL), ("middle", MIDDLE))}
    assert p["fall"] < 0.0125 < 0.025 < p["middle"] < 0.05
    assert textbook.ttest_1samp(SLIGHT, 0).pvalue > 0.05
    assert divergence_over(MIDDLE).certain == (True,)
    # q of the middle one: of two intervals, 2 p / 2; of three, 3 p / 2
    assert divergence_over(FALL, MIDDLE).certain == (True, True)
    assert divergence_over(FALL, MIDDLE, -SLIGHT).certain == (True, False, False)
    assert divergence_over(MIDDLE, -SLIGHT).certain == (False, False)
    told = divergence_over(FALL, MIDDLE, -SLIGHT)
    assert told.sentence == "loss fell in 0 of 3 intervals, recall fell in 2 (1 of them beyond chance over units)"


def test_a_rise_is_never_a_certain_fall():
    assert divergence_over(-FALL).certain == (False,)
    assert divergence_over(-FALL).recall_fell == (False,)


def test_the_figure_of_a_ledger():
    figure = book().plot()
    assert figure.layout.title.text == "2 known at first, 3 at the end"
    assert figure.layout.title.subtitle.text == "6 units; known: mean recall ≥ 0.6"
    assert {bar.name: list(bar.y) for bar in figure.data} == {
        "retained": [2, 2, 3, 2],
        "acquired": [0, 2, 0, 1],
        "forgotten": [0, 0, -2, -1],
    }
    assert list(figure.data[0].x) == ["0", "10", "20", "30"]
    figure = probed(draws=500, seed=3).plot()
    assert {bar.name: list(bar.y) for bar in figure.data} == {
        "retained": [0, 0],
        "acquired": [0, 1],
        "acquired, perhaps flicker": [0, 1],
        "forgotten": [0, 0],
    }


def test_the_page_of_a_ledger():
    page = book()._repr_html_()
    assert page.startswith("<ul><li>known (mean recall ≥ 0.6): 2 of 6 at 0, 4 at best (10), 3 at 30</li>")
    assert page.count("<li>") == 5
    assert page.count("<tr") == 5


def test_scores_read_from_a_table():
    frame = pd.DataFrame(
        {
            "unit": ["a", "b", "a", "a", "b"],
            "step": [0, 0, 5, 5, 5],
            "probe": ["x", "x", "x", "y", "y"],
            "score": [0.1, 0.2, 0.3, 0.5, 0.8],
            "kind": ["k", "l", "k", "k", "l"],
        }
    )
    found = knowledge.scores_from_frame(frame, probe="probe", labels=["kind"])
    assert (found.units, found.steps, found.labels, found.name) == (("a", "b"), (0, 5), {"kind": ("k", "l")}, "score")
    np.testing.assert_allclose(found.mean, [[0.1, 0.4], [0.2, 0.8]])
    np.testing.assert_array_equal(found.asked, [[True, True], [True, True]])
    assert list(found.groups("kind")) == ["k", "l"]
    assert found.until(4).steps == (0,)
    np.testing.assert_allclose(found.until(0).mean, [[0.1], [0.2]])
    assert found.until(5).steps == (0, 5)
    np.testing.assert_allclose(found.subset(np.array([False, True])).mean, [[0.2, 0.8]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": "text"}, "the column score holds str, not numbers"),
        ({"step": 0.5}, "the column step must hold whole numbers: steps or epochs"),
        ({"kind": list("kl")}, "a has more than one value of kind; a label belongs to a unit for good"),
        (
            {"step": 0},
            "a has several scores at step 0; name the column that tells probes apart, or keep one run's rows",
        ),
    ],
)
def test_tables_that_say_two_things_are_refused(change, said):
    frame = pd.DataFrame({"unit": ["a", "a"], "step": [0, 1], "score": [0.1, 0.2], "kind": ["k", "k"]})
    with pytest.raises(BadPrompt) as refused:
        knowledge.scores_from_frame(frame.assign(**change), labels=["kind"])
    assert str(refused.value) == said


def test_scores_that_do_not_fit_are_refused():
    cases = {
        "probes of shape (2, 1, 1) do not fit 1 units at 1 steps; give [units, steps, probes]": (
            ("a",),
            (0,),
            (2, 1, 1),
        ),
        "steps must rise from checkpoint to checkpoint: got [1, 0]": (("a",), (1, 0), (1, 2, 1)),
        "two units have the same name; name each unit once": (("a", "a"), (0,), (2, 1, 1)),
    }
    for said, (units, steps, shape) in cases.items():
        with pytest.raises(BadPrompt) as refused:
            knowledge.UnitScores(units, steps, np.zeros(shape))
        assert str(refused.value) == said
