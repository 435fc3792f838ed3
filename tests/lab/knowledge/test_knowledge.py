import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from checkpoints.errors import BadPrompt, CheckpointMismatch, StoreError
from circuit_drift import knowledge
from circuit_drift.knowledge.transitions import transitions

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "entity_recall_llama1b_lora.csv"


@pytest.fixture(scope="module")
def published():
    scores = knowledge.read_scores(PUBLISHED, unit="entity", step="epoch", score="rouge1_recall")
    return knowledge.ledger(scores)


def book_of(rows, *, threshold=0.6, labels=None, **options):
    """A ledger of units with one score a step."""
    probes = np.array(rows, dtype=float)
    probes = probes[:, :, None] if probes.ndim == 2 else probes
    units = tuple(f"u{i}" for i in range(len(probes)))
    scores = knowledge.UnitScores(units, tuple(range(probes.shape[1])), probes, labels or {})
    return knowledge.ledger(scores, threshold=threshold, **options)


def test_a_published_run_is_reproduced(published):
    frame = published.to_frame()
    assert frame["known"].tolist() == [12, 14, 15, 13, 19, 19, 17, 23, 20, 21, 17]
    assert frame["acquired"].tolist() == [0, 7, 3, 3, 11, 4, 3, 6, 3, 4, 1]
    assert frame["retained"].tolist() == [0, 7, 12, 10, 8, 15, 14, 17, 17, 17, 16]
    assert frame["forgotten"].tolist() == [0, 5, 2, 5, 5, 4, 5, 0, 6, 3, 5]
    outcome = published.outcome
    assert (outcome["newly_learned"], outcome["newly_learned_held"]) == (18, 10)
    assert (outcome["known_first"], outcome["kept"]) == (12, 7)


def test_findings_of_the_published_run(published):
    said = " | ".join(published.findings)
    assert "12 of 100 at 0, 23 at best (7), 17 at 10" in said
    assert "18 were newly learned; 10 of those are held at 10" in said
    assert "of the 12 known at 0, 7 are known at 10" in said
    assert "cannot be said" in said
    assert "<table" in published._repr_html_()


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 8))), st.data())
def test_what_is_known_is_what_was_acquired_or_retained(known, data):
    asked = known | data.draw(arrays(bool, known.shape))
    moves = transitions(known, asked)
    both = np.zeros_like(asked)
    both[:, 1:] = asked[:, 1:] & asked[:, :-1]
    assert ((moves.acquired | moves.retained) == (known & both)).all()
    assert not (moves.acquired & moves.retained).any()
    assert not (moves.forgotten & known).any()
    assert not (moves.relearned & ~moves.acquired).any()


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 8))))
def test_spells_tell_the_same_story_as_transitions(known):
    steps = tuple(range(known.shape[1]))
    asked = np.ones_like(known)
    moves, stretches = transitions(known, asked), knowledge.spells(known, asked, steps)
    assert sum(s.before is not None for s in stretches) == moves.acquired.sum()
    assert sum(s.lost is not None for s in stretches) == moves.forgotten.sum()
    assert sum(s.relearned for s in stretches) == moves.relearned.sum()
    assert sum(s.further + 1 for s in stretches) == known.sum()


def test_relearned_consolidated_and_windows():
    book = book_of([[0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]])
    frame = book.units_frame().set_index("unit")
    assert frame["consolidated"].tolist() == [True, False, False, False]
    assert frame["times_relearned"].tolist() == [1, 0, 0, 0]
    assert frame.loc["u1", ["not_yet_at", "acquired_at"]].tolist() == [3, 4]
    assert frame["acquired_at"].isna().tolist() == [False, False, True, True]
    assert book.retained.tolist() == [False, False, True, False]


def test_a_unit_not_asked_is_neither_acquired_nor_forgotten():
    book = book_of([[0, np.nan, 1, 0], [1, np.nan, 0, 1]])
    assert book.moves.acquired.sum() == 1
    assert book.moves.forgotten.tolist() == [[False, False, False, True], [False] * 4]
    assert [spell.lost for spell in book.spells] == [3, None, None]
    assert book.to_frame()["asked"].tolist() == [2, 0, 2, 2]
    assert np.isnan(book.to_frame()["mean"][1])


@pytest.mark.filterwarnings("ignore:The confidence interval is undefined:RuntimeWarning")
def test_survival_is_the_kaplan_meier_estimate():
    from scipy.stats import CensoredData, ecdf

    rng = np.random.default_rng(0)
    book = book_of((rng.random((60, 12)) < 0.7).astype(float))
    followed = [spell for spell in book.spells if spell.before is not None]
    lost = [spell.further + 1 for spell in followed if spell.lost is not None]
    held = [spell.further for spell in followed if spell.lost is None]
    theirs = ecdf(CensoredData(uncensored=lost, right=held)).sf
    ours = book.survival()
    np.testing.assert_allclose(theirs.evaluate(ours.after), ours.share)
    band = theirs.confidence_interval(method="log-log")
    inside = np.isfinite(ours.low)
    np.testing.assert_allclose(band.low.evaluate(ours.after[inside]), ours.low[inside], rtol=1e-3)
    np.testing.assert_allclose(band.high.evaluate(ours.after[inside]), ours.high[inside], rtol=1e-3)
    assert ours.n == len(followed)


def test_survival_of_nothing_acquired():
    curve = book_of([[1, 1, 0]]).survival()
    assert curve.n == 0 and len(curve.share) == 0


def test_resampling_undoes_a_flicker_and_keeps_a_clear_acquisition():
    low, high = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    book = book_of([[low, high], [[0] * 10, [1] * 10]])
    assert book.moves.acquired[:, 1].tolist() == [True, True]
    assert book.noise[:, 1].tolist() == [True, False]
    assert book.resampled.acquired[1, 1] == 1.0
    frame = book.to_frame()
    assert frame["noise"].tolist() == [0, 1]
    assert frame["acquired_low"][1] <= 2 == frame["acquired_high"][1]
    assert any("1 of 2 acquisitions cannot be told from flicker" in sentence for sentence in book.findings)


def test_resampling_is_the_binomial_tail():
    from scipy.stats import binom

    book = book_of([[[1] * 6 + [0] * 4]], draws=20000)
    assert book.resampled.known[0, 0] == pytest.approx(binom.sf(5, 10, 0.6), abs=0.02)


def test_resampling_needs_probes(published):
    with pytest.raises(BadPrompt, match="cannot be resampled"):
        knowledge.resample(published.scores, 0.6)
    assert published.resampled is None
    assert published.to_frame()["noise"].isna().all()


def test_thresholds_change_the_outcome(published):
    table = published.sensitivity((0.4, 0.6, 0.9)).set_index("threshold")
    assert table.loc[0.6, "known_last"] == 17
    assert table["known_first"].is_monotonic_decreasing


def test_a_score_at_the_threshold_is_known_whatever_its_rounding():
    tenths = [[[0.1, 0.2, 1.5]]]
    assert book_of(tenths, threshold=0.6).known.all()


def test_groups_add_up():
    labels = {"class": ("new", "old", "new")}
    book = book_of([[0, 1], [1, 1], [0, 0]], labels=labels)
    parts = book.by("class")
    assert {name: part.outcome["newly_learned"] for name, part in parts.items()} == {"new": 1, "old": 0}
    frame = book.to_frame(by="class")
    assert frame.groupby("step")["known"].sum().tolist() == book.to_frame()["known"].tolist()
    with pytest.raises(BadPrompt, match="no label 'relation'; they have class"):
        book.by("relation")


def test_divergence_is_a_sentence(published):
    loss = {epoch: 12.6 - 0.2 * epoch for epoch in range(1, 11)}
    found = published.divergence(loss, unit="epochs")
    means = np.nanmean(published.scores.mean, axis=0)[1:]
    assert sum(found.recall_fell) == (np.diff(means) < 0).sum()
    assert found.sentence.startswith(f"loss fell in 9 of 9 epochs, recall fell in {sum(found.recall_fell)}")
    assert len(found.diverged) == sum(found.recall_fell)
    with pytest.raises(BadPrompt, match="two are needed"):
        published.divergence({3: 1.0})


def test_a_sure_fall_is_told_from_an_unsure_one():
    rng = np.random.default_rng(0)
    start = rng.random((40, 1))
    found = book_of(np.hstack([start, start - 0.3, start - 0.3 + 0.5 * rng.standard_normal((40, 1))])).divergence(
        {0: 3.0, 1: 2.0, 2: 2.5}
    )
    assert found.certain[0] and found.recall_fell[0]
    assert found.loss_fell == (True, False)


def test_saved_and_loaded(published, tmp_path):
    again = knowledge.Ledger.load(published.save(tmp_path / "book"))
    pd.testing.assert_frame_equal(again.to_frame(), published.to_frame())
    assert again.scores.units == published.scores.units
    with pytest.raises(StoreError):
        knowledge.Ledger.load(tmp_path / "nothing")


def test_figure_counts_what_is_known(published):
    figure = published.plot()
    bars = {bar.name: np.array(bar.y) for bar in figure.data}
    assert (bars["retained"] + bars["acquired"]).tolist() == published.to_frame()["known"].tolist()
    assert (bars["forgotten"] <= 0).all()
    assert len(book_of([[[0] * 5, [1] * 5]]).plot().data) == 4
    assert len(book_of([[[0, 0], [1, 1]]]).plot().data) == 3, "two probes cannot tell flicker"


def test_tables_with_probes_and_labels():
    frame = pd.DataFrame(
        {
            "entity": ["a"] * 4 + ["b"] * 2,
            "step": [1, 1, 0, 0, 0, 1],
            "probe": ["p", "q", "q", "p", "p", "p"],
            "score": [1.0, 0.0, 0.5, 0.25, 1.0, 1.0],
            "kind": ["x"] * 4 + ["y"] * 2,
        }
    )
    scores = knowledge.scores_from_frame(frame, unit="entity", probe="probe", labels=["kind"])
    np.testing.assert_array_equal(scores.probes[0], [[0.25, 0.5], [1.0, 0.0]])
    assert np.isnan(scores.probes[1, :, 1]).all()
    assert scores.labels == {"kind": ("x", "y")}
    np.testing.assert_allclose(scores.mean, [[0.375, 0.5], [1.0, 1.0]])
    assert scores.until(0).steps == (0,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.drop(columns="score"), "no column score"),
        (lambda f: f.assign(score="high"), "not numbers"),
        (lambda f: f.assign(step=[0, 0.5]), "whole numbers"),
        (lambda f: f.assign(step=0), "several scores at step 0"),
        (lambda f: f.assign(kind=["x", "y"]), "more than one value of kind"),
        (lambda f: f.iloc[:0], "no scores"),
    ],
)
def test_tables_that_cannot_be_read(change, reason):
    frame = pd.DataFrame({"unit": "a", "step": [0, 1], "score": [0.0, 1.0], "kind": "x"})
    with pytest.raises(BadPrompt, match=reason):
        knowledge.scores_from_frame(change(frame), labels=["kind"])


def test_arguments_and_files_that_make_no_sense(tmp_path):
    with pytest.raises(BadPrompt, match="cannot read scores"):
        knowledge.read_scores(tmp_path / "none.csv")
    with pytest.raises(BadPrompt, match="threshold"):
        book_of([[0.0, 1.0]], threshold=float("nan"))
    with pytest.raises(BadPrompt, match="support"):
        book_of([[0.0, 1.0]], support=0)
    with pytest.raises(BadPrompt, match="must rise"):
        knowledge.UnitScores(("a",), (1, 0), np.zeros((1, 2, 1)))
    with pytest.raises(BadPrompt, match="do not fit"):
        knowledge.UnitScores(("a",), (0, 1), np.zeros((1, 3, 1)))
    with pytest.raises(BadPrompt, match="same name"):
        knowledge.UnitScores(("a", "a"), (0,), np.zeros((2, 1, 1)))


@pytest.mark.parametrize(
    ("reference", "answer", "recall"),
    [
        ("Joe Biden", "It is Biden, Joe Biden.", 1.0),
        ("Joe Biden", "joe", 0.5),
        ("the the cat", "the cat", 2 / 3),
        ("1945", "in 1945-46", 1.0),
        ("Angela Merkel", "", 0.0),
        ("São Paulo", "são_paulo", 1.0),
    ],
)
def test_rouge_recall_of_known_answers(reference, answer, recall):
    assert knowledge.rouge1_recall(reference, answer) == pytest.approx(recall)


def test_a_reference_without_words_is_refused():
    with pytest.raises(BadPrompt, match="no word"):
        knowledge.rouge1_recall("?!", "yes")


def test_scores_of_a_circuit_run():
    class Graph(SimpleNamespace):
        def __len__(self):
            return len(self.answer_rank)

    labels = ({"class": "new", "x": 1}, {"class": "old"})
    graphs = [(0, Graph(answer_rank=np.array([9, 0]), labels=labels))]
    graphs += [(5, Graph(answer_rank=np.array([1, 0]), labels=labels))]
    scores = knowledge.graph_scores(graphs, top=2)
    assert scores.mean.tolist() == [[0, 1], [1, 1]]
    assert scores.labels == {"class": ("new", "old")}
    other = Graph(answer_rank=np.array([1]), labels=labels[:1])
    with pytest.raises(CheckpointMismatch, match="step 7"):
        knowledge.graph_scores([*graphs, (7, other)])
    with pytest.raises(BadPrompt, match="no graph"):
        knowledge.graph_scores([])


def recall_table(folder):
    rows = [
        {"fact": f, "class": c, "relation": "r", "batch": 0, "step": step}
        | {"correct": int(rank == 0), "rank": rank, "prob": 0.5 / (rank + 1)}
        | {"held_out_paraphrase": int(c == "new"), "held_out_correct": 0, "held_out_rank": 3, "held_out_prob": 0.1}
        for f, c, ranks in (("a", "new", (5, 0)), ("b", "known", (0, 0)))
        for step, rank in zip((0, 9), ranks, strict=True)
    ]
    pd.DataFrame(rows).to_csv(folder / "fact_recall.csv", index=False)


def test_scores_of_a_lab_series(tmp_path):
    recall_table(tmp_path)
    scores = knowledge.series_scores(tmp_path)
    assert scores.mean.tolist() == [[0, 1], [1, 1]]
    assert scores.labels["class"] == ("new", "known")
    both = knowledge.series_scores(tmp_path, held_out=True)
    assert both.mean.tolist() == [[0, 0.5], [1, 1]]
    chances = knowledge.series_scores(tmp_path, score="probability")
    np.testing.assert_allclose(chances.mean, [[0.5 / 6, 0.5], [0.5, 0.5]])
    with pytest.raises(BadPrompt, match="cannot read the recall"):
        knowledge.series_scores(tmp_path / "none")


def test_the_ledger_needs_no_torch():
    code = (
        "import sys; from circuit_drift import knowledge\n"
        f"book = knowledge.ledger(knowledge.read_scores({str(PUBLISHED)!r}, unit='entity', step='epoch', "
        "score='rouge1_recall'))\n"
        "book._repr_html_(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@settings(max_examples=20)
@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(0, 1)))
def test_outcomes_are_consistent(scores):
    out = book_of(scores).outcome
    assert out["known_last"] == out["kept"] + out["newly_learned_held"]
    assert out["known_last"] - out["known_first"] == out["acquisitions"] - out["losses"]
