"""What is read of strategies of continual pre-training side by side, on logs and ledgers made by hand."""

import math
import os

import numpy as np
import pandas as pd
import pytest

from checkpoints.results.figure import unbroken
from circuit_drift import knowledge
from circuit_drift.record.record import Point
from circuit_drift.store.store import Store
from circuit_drift.training.recorder import Recorder
from circuit_drift.training.strategies import figures, page
from circuit_drift.training.strategies.checkpointing import RECORD, SECONDS, STORE
from circuit_drift.training.strategies.comparison import (
    FOLDER,
    Trained,
    comparison_frame,
    retrieval_frame,
    retrieval_scores,
    strategies,
    strategy_ledgers,
)
from tests.looks import looks

STEPS = (0, 4, 8)
PLAIN = [[0.9, 0.2, 0.1], [0.8, 0.9, 0.7], [0.1, 0.9, 0.2], [0.2, 0.1, 0.8]]
CAREFUL = [[0.9, 0.9, 0.8], [0.8, 0.7, 0.7], [0.1, 0.7, 0.9], [0.2, 0.1, 0.7]]
CLASSES = {"class": ("old", "old", "new", "new")}


def trained(name="plain", history=PLAIN, loss=(3.0, 2.5, 2.6), copying=(0.9, 0.5, 0.75), **drift) -> Trained:
    scores = knowledge.UnitScores(tuple("abcd"), STEPS, np.array(history)[:, :, None], CLASSES, "recall")
    log = pd.DataFrame({"epoch": [0, 1, 2], "step": STEPS, "document_loss": loss, "copying_accuracy": copying})
    return Trained(name, log, knowledge.ledger(scores), store=None)


@pytest.fixture
def written(tmp_path):
    """Two strategies as training leaves them, the one that was begun first last by name; two units, two epochs."""
    recalled = {"zeta": [(0.9, 0.1), (0.8, 0.7)], "alpha": [(0.9, 0.1), (0.2, 0.1)]}
    for place, (name, epochs) in enumerate(recalled.items()):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text("{}")
        (tmp_path / name / SECONDS).write_text(f"step,seconds\n4,{60 + place}\n")
        os.utime(tmp_path / name / RECORD, ns=(place, place))
        recorder = Recorder(Store.open(tmp_path / STORE), name, {})
        for step, scores in zip((0, 4), epochs, strict=True):
            units = [{"unit": unit, "score": score} for unit, score in zip("ab", scores, strict=True)]
            recorder.add(Point(f"step{step}", step, None, None, {}), {"document_loss": 3.0 - place - step / 8}, units)
    return tmp_path


def test_strategies_are_read_each_from_its_own_run_in_the_order_they_were_begun(written):
    first, second = strategies(written)
    assert (first.name, second.name) == ("zeta", "alpha")
    assert first.ledger.to_frame()["known"].tolist() == [1, 2]
    assert second.ledger.to_frame()["known"].tolist() == [1, 0]
    assert strategies(written, threshold=0.85)[0].ledger.to_frame()["known"].tolist() == [1, 0]
    ledgers = strategy_ledgers(written, threshold=0.85)
    assert {name: one.to_frame()["known"].tolist() for name, one in ledgers.items()} == {
        "zeta": [1, 0],
        "alpha": [1, 0],
    }
    assert strategy_ledgers(written)["zeta"].to_frame()["known"].tolist() == [1, 2]
    frame = comparison_frame(written)
    assert frame["strategy"].tolist() == ["zeta", "zeta", "alpha", "alpha"]
    assert frame["epoch"].tolist() == [0, 1, 0, 1]
    assert frame["document_loss"].tolist() == [3.0, 2.5, 2.0, 1.5]
    assert frame["seconds"].tolist()[1::2] == [60, 61]
    assert frame["seconds"].isna().tolist() == [True, False, True, False]
    assert frame["acquired"].tolist() == [0, 1, 0, 0]
    assert frame["forgotten"].tolist() == [0, 0, 0, 1]


@pytest.fixture
def both():
    return (trained(), trained("careful", CAREFUL, loss=(3.0, 2.0, 1.0), copying=(0.9, 0.9, 1.0)))


def test_the_findings_word_for_word(both, tmp_path):
    said = list(page.findings(both, tmp_path))
    assert said[0] == (
        "Loss fell in 3 of 4 epochs; in 0 of those, recall fell too. Of 2 units known before, 1 (plain) to 2 (careful) "
        "are kept; 50% to 100% of those newly learned are held."
    )
    assert said[1] == (
        "Most learned and held to the end: 2 units (careful). Most kept of the 2 known before: 2 (careful)."
    )
    assert said[2].startswith("plain: no reason to stop up to 8: ")
    assert said[3].startswith("careful: no reason to stop up to 8: ")
    assert len(said) == 4


@pytest.fixture
def told(both, written, monkeypatch):
    """The sections of two strategies that have all there is: skills, classes, circuits, and references that read."""
    (written / FOLDER).mkdir()
    rows = {"unit": ["a", "b"], "probe": ["x", "x"], "score": [0.8, 0.9], "refused": ["", ""]}
    pd.DataFrame(rows).to_csv(written / FOLDER / "gold.csv", index=False)
    columns = {"overlap": [0.4], "floor": [0.8], "floor_low": [0.6], "chance": [0.1], "beyond_noise": [True]}
    monkeypatch.setattr(Trained, "drift", lambda one: pd.DataFrame({"epoch": [1], **columns}))
    return both, list(page._sections(both, written, 0.85))


def test_the_sections_of_the_page_word_for_word(told):
    both, sections = told
    about = "4 units; known: mean recall of a unit's probes at least 0.85."
    loss = "One loss for all: on the new documents as they are, whatever a strategy trains on."
    halves = "EAP-IG edge scores; overlap and floor are both between disjoint halves of the facts."
    assert [(s.slug, s.title, s.caption) for s in sections] == [
        ("outcomes", "The strategies in one table", ""),
        ("loss", "Loss and recall", loss),
        ("ledger", "Acquired, retained, forgotten", about),
        ("exposure", "By prior exposure", about),
        ("skills", "Outside the domain", ""),
        ("drift", "Circuits against the noise floor", halves),
        ("retrieval", "Reading instead of learning", ""),
    ]
    said = [f"plain: {both[0].divergence.sentence}.", f"careful: {both[1].divergence.sentence}."]
    assert [s.text for s in sections] == ["", " ".join(said), "", "", "", "", ""]


def test_the_sections_of_the_page_hold_the_tables_of_the_threshold_asked_for(told, written):
    _, sections = told
    outcomes, loss, ledger, exposure, skills, drift, retrieval = (section.frame for section in sections)
    assert outcomes["strategy"].tolist() == ["zeta", "alpha"]
    assert outcomes["known_last"].tolist() == [0, 0], "by 0.6, two of them"
    assert loss["known"].tolist() == [1, 0, 1, 0] != comparison_frame(written)["known"].tolist()
    assert ledger is exposure is skills is None
    assert drift.to_dict("list") == {
        "epoch": [1, 1], "overlap": [0.4, 0.4], "floor": [0.8, 0.8], "floor_low": [0.6, 0.6], "chance": [0.1, 0.1],
        "beyond_noise": [True, True], "strategy": ["plain", "careful"],
    }  # fmt: skip
    assert drift.index.tolist() == [0, 1]
    assert retrieval[["passages", "known", "units"]].to_numpy().tolist() == [["gold", 1, 2]]


def test_the_sections_of_the_page_hold_the_figures_of_their_strategies(told):
    both, sections = told
    drawn = {section.slug: section.figure for section in sections if section.figure is not None}
    assert drawn == {
        "loss": figures.loss_and_recall(both, sections[-1].frame),
        "ledger": figures.transitions(both),
        "exposure": figures.exposure(both),
        "skills": figures.skills(both),
        "drift": figures.circuit_drift_figure(both),
    }


def test_one_strategy_has_a_page_of_its_own(both, written, tmp_path, monkeypatch):
    monkeypatch.setattr(Trained, "drift", lambda one: pd.DataFrame())
    alone = both[1:]
    assert next(page.findings(alone, tmp_path)) == (
        "Loss fell in 2 of 2 epochs; in 0 of those, recall fell too. Of 2 units known before, 2 are kept; 100% of "
        "those newly learned are held."
    )
    assert list(page.findings(alone, tmp_path))[1] == (
        "Most learned and held to the end: 2 units (careful). Most kept of the 2 known before: 2 (careful)."
    )
    sections = list(page._sections(alone, written, 0.6))
    assert [section.slug for section in sections] == ["outcomes", "loss", "ledger", "exposure", "skills"]
    assert sections[2].caption == "4 units; known: mean recall of a unit's probes at least 0.6."
    skills = sections[4].figure
    assert unbroken(skills.layout.title.text) == "copying accuracy 0.9 → 1"


def test_a_section_of_what_was_not_measured_is_left_out(both, written):
    unlabelled = knowledge.UnitScores(tuple("abcd"), STEPS, np.array(PLAIN)[:, :, None], {}, "recall")
    bare = Trained("bare", both[0].log.drop(columns="copying_accuracy"), knowledge.ledger(unlabelled), written / STORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trained, "drift", lambda one: pd.DataFrame())
        told = [section.slug for section in page._sections((bare, both[0]), written, 0.6)]
        assert told == ["outcomes", "loss", "ledger"]


def test_the_page_is_told_its_title_failures_verdict_and_where_it_is_from(written, monkeypatch):
    store = Store.open(written / STORE)
    failed = Point("step8", 8, None, None, {}, failures={"heads": "no memory", "roles": "stopped"})
    recorder = Recorder(store, "alpha", {})
    recorder.resume(4)
    recorder.add(failed, {"document_loss": 1.0}, [{"unit": unit, "score": 0.9} for unit in "ab"])
    for name in ("zeta", "alpha"):
        (written / name / RECORD).write_text('{"strategy": {"lr": 0.5}, "seed": 3}')
    os.utime(written / "zeta" / RECORD, ns=(0, 0))
    monkeypatch.setattr(page, "write_page", lambda path, **parts: {"path": path, **parts})
    told = page.write_comparison(written, "page.html", threshold=0.85)
    trained = strategies(written, threshold=0.85)
    assert told["path"] == "page.html"
    assert told["title"] == "Does falling loss mean learning?"
    assert told["subtitle"] == "2 strategies: zeta, alpha"
    assert told["verdict"] == list(page.findings(trained, written))
    assert told["warnings"] == ["alpha, step8, heads: no memory", "alpha, step8, roles: stopped"]
    assert [section.slug for section in told["sections"]] == ["outcomes", "loss", "ledger"]
    assert told["sections"][2].caption.startswith("2 units; known: mean score of a unit's probes at least 0.85.")
    assert told["sections"][0].frame["known_last"].tolist() == [0, 2]
    rows = [("threshold", "0.85"), ("seed", "3"), ("strategy zeta", "lr 0.5"), ("strategy alpha", "lr 0.5")]
    assert told["provenance"][1:] == rows
    assert page.write_comparison(written, "page.html")["provenance"][1] == ("threshold", "0.6")


def test_loss_that_falls_with_recall_is_counted(both):
    again = trained(loss=(3.0, 2.5, 2.4))
    assert again.divergence.recall_fell == (True, True) or again.divergence.recall_fell == (False, True)
    assert figures.loss_finding([again]) == "Loss fell in 2 of 2 epochs; in 1 of those, recall fell too"
    assert again.divergence.sentence == (
        "loss fell in 2 of 2 epochs, recall fell in 1 (0 of them beyond chance over units); loss fell while recall was "
        "lost at 8"
    )


def test_what_is_kept_and_held_is_told_from_worst_to_best(both):
    alone = trained("careful", CAREFUL)
    assert figures.exposure_finding([alone]) == (
        "Of 2 units known before, 2 are kept; 100% of those newly learned are held"
    )
    nothing = trained("idle", [[0.9] * 3, [0.8] * 3, [0.1] * 3, [0.2] * 3])
    assert figures.exposure_finding([nothing]) == "Of 2 units known before, 2 are kept; none is newly learned"
    assert figures.exposure_finding(both[::-1]) == figures.exposure_finding(both)


def test_the_best_and_the_worst_strategy_by_a_skill(both):
    assert figures.skills_finding(both) == "copying accuracy: careful +0.10, plain -0.15 by the last epoch"
    worse = [
        Trained(one.name, one.log.assign(text_ppl=[5.0, 6.0, 7.0 + i]), one.ledger, None) for i, one in enumerate(both)
    ]
    assert worse[0].skills == ("copying_accuracy", "text_ppl")
    assert figures.skills_finding(worse) == "text ppl: plain +2.00, careful +3.00 by the last epoch"
    assert figures.skills_finding([worse[0]]).startswith("copying accuracy ")
    assert figures.skills_finding([worse[0]]).endswith(", text ppl 5 → 7")
    bare = Trained("bare", both[0].log.drop(columns="copying_accuracy"), both[0].ledger, None)
    with pytest.raises(ValueError, match="no skill was probed; name skills = or measures = in the config"):
        figures.skills([bare])


def test_the_outcome_of_a_strategy(both):
    assert both[0].outcome == {
        "strategy": "plain",
        "epochs": 2,
        "loss_first": 3.0,
        "loss_last": 2.6,
        "known_first": 2,
        "best": 2,
        "known_last": 2,
        "newly_learned": 2,
        "newly_learned_held": 1,
        "kept": 1,
        "copying_accuracy_first": 0.9,
        "copying_accuracy_last": 0.75,
        "stop_at_epoch": None,
    }


def test_the_figures_of_strategies(both):
    figure = figures.loss_and_recall(both, pd.DataFrame({"passages": ["gold", "all"], "recall": [0.9, 0.4]}))
    assert unbroken(figure.layout.title.text) == "Loss fell in 3 of 4 epochs; in 0 of those, recall fell too"
    assert unbroken(figure.layout.title.subtitle.text) == "nats per token; mean recall of all units"
    assert [(t.name, list(t.y)) for t in figure.data] == [
        ("plain", [3.0, 2.5, 2.6]),
        ("plain", pytest.approx([2.0 / 4, 2.1 / 4, 1.8 / 4])),
        ("careful", [3.0, 2.0, 1.0]),
        ("careful", pytest.approx([2.0 / 4, 2.4 / 4, 3.1 / 4])),
    ]
    assert [t.showlegend for t in figure.data] == [True, False, True, False]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.9]
    figure = figures.transitions(both)
    assert unbroken(figure.layout.title.text) == "4 acquisitions, 0 of them for a second time, and 2 losses"
    assert unbroken(figure.layout.title.subtitle.text) == "units known; epoch 0 is the model before training"
    assert [(t.name, list(t.y)) for t in figure.data] == [
        ("retained", [2, 1, 1]),
        ("acquired", [0, 1, 1]),
        ("forgotten", [0, -1, -1]),
        ("retained", [2, 2, 3]),
        ("acquired", [0, 1, 1]),
        ("forgotten", [0, 0, 0]),
    ]
    figure = figures.exposure(both)
    assert unbroken(figure.layout.title.text) == figures.exposure_finding(both)
    assert [(t.name, list(t.y)) for t in figure.data] == [
        ("plain", [1.0, 0.5, 0.5]),
        ("plain", [0.0, 0.5, 0.5]),
        ("careful", [1.0, 1.0, 1.0]),
        ("careful", [0.0, 0.5, 1.0]),
    ]
    assert [note.text for note in figure.layout.annotations] == ["old", "new"]
    figure = figures.skills(both)
    assert unbroken(figure.layout.title.text) == figures.skills_finding(both)
    assert [list(t.y) for t in figure.data] == [[0.9, 0.5, 0.75], [0.9, 0.9, 1.0]]


def test_the_figure_of_drift_counts_what_left_the_floor(both, monkeypatch):
    tables = {
        "plain": pd.DataFrame(
            {
                "epoch": [1, 2],
                "overlap": [0.4, 0.7],
                "floor": [0.8, 0.8],
                "floor_low": [0.6, 0.6],
                "chance": [0.1, 0.2],
                "beyond_noise": [True, False],
            }
        ),
        "careful": pd.DataFrame(),
    }
    monkeypatch.setattr(Trained, "drift", lambda one: tables[one.name])
    figure = figures.circuit_drift_figure(both)
    assert unbroken(figure.layout.title.text) == "The circuit left its noise floor in 1 of 2 epochs"
    assert unbroken(figure.layout.title.subtitle.text) == (
        "facts that either epoch recalls, together; above the dots a change is neither shown nor ruled out"
    )
    assert {t.name: list(t.y) for t in figure.data} == {
        "noise floor, 5 %": [0.6, 0.6],
        "noise floor: halves of the facts, one checkpoint": [0.8, 0.8],
        "overlap with the circuit before training": [0.4, 0.7],
        "random edges": [0.1, 0.2],
    }


def test_reading_instead_of_learning_is_told(both, tmp_path):
    (tmp_path / FOLDER).mkdir()
    table = pd.DataFrame(
        {
            "unit": ["a", "a", "b", "b"],
            "probe": ["x", "y", "x", "y"],
            "score": [1.0, 0.5, 0.25, None],
            "refused": ["", "", "", "too long"],
        }
    )
    table.to_csv(tmp_path / FOLDER / "gold.csv", index=False)
    row = retrieval_frame(tmp_path).to_dict("records")[0]
    assert math.isnan(row.pop("low")) and math.isnan(row.pop("high")), "two units tell no interval"
    assert row == {"passages": "gold", "asked": 3, "refused": 1, "recall": 0.5, "known": 1, "units": 2}
    assert list(page.findings(both, tmp_path))[2] == (
        "Reading instead of learning, recall of the untrained model: gold passage 0.50 (1 of 2 units known, 1 refused)."
    )


PLAIN_LINE = "legendgroup=plain color=#0072B2 dash=solid symbol=circle mode=lines+markers"
CAREFUL_LINE = "legendgroup=careful color=#D55E00 dash=dash symbol=square mode=lines+markers"
LEFT, RIGHT = "xaxis=x yaxis=y", "xaxis=x2 yaxis=y2"
LINES = [
    f"{PLAIN_LINE} showlegend=True {LEFT}", f"{PLAIN_LINE} showlegend=False {RIGHT}",
    f"{CAREFUL_LINE} showlegend=True {LEFT}", f"{CAREFUL_LINE} showlegend=False {RIGHT}",
]  # fmt: skip
"""Two strategies, each in a line of its own, in two panels of one legend."""


def test_how_loss_and_recall_and_the_knowledge_by_exposure_are_drawn(both):
    reading = pd.DataFrame({"passages": ["gold", "all"], "recall": [0.9, 0.4]})
    assert looks(figures.loss_and_recall(both, reading)) == [
        *LINES,
        "xaxis matches=x2 showticklabels=False",
        "yaxis text=loss on the documents",
        "xaxis2 text=epoch",
        "yaxis2 range=[-0.03, 1.03] text=recall",
        "mark color=#767676 dash=dot x0=0 x1=1 xref=x2 domain y0=0.9 y1=0.9 yref=y2",
        "layout height=560",
    ]
    note = figures.loss_and_recall(both, reading).layout.annotations[0]
    assert (note.text, note.font.color) == ("untrained, the right passage in front", "#767676")
    assert looks(figures.exposure(both)) == [
        *LINES,
        "xaxis text=epoch",
        "yaxis range=[-0.03, 1.03] text=share known",
        "xaxis2 text=epoch",
        "yaxis2 matches=y range=[-0.03, 1.03] showticklabels=False",
        "layout height=441",
    ]
    subtitle = figures.exposure(both).layout.title.subtitle.text
    assert unbroken(subtitle) == "units known, by prior exposure"


def test_how_transitions_and_skills_are_drawn(both):
    bars = [("retained", "#0072B2"), ("acquired", "#009E73"), ("forgotten", "#D55E00")]
    assert looks(figures.transitions(both)) == [
        *(f"legendgroup={name} color={colour} showlegend=True {LEFT}" for name, colour in bars),
        *(f"legendgroup={name} color={colour} showlegend=False {RIGHT}" for name, colour in bars),
        "xaxis",
        "yaxis text=units",
        "xaxis2",
        "yaxis2 matches=y showticklabels=False",
        "layout barmode=relative height=450",
    ]
    assert [note.text for note in figures.transitions(both).layout.annotations] == ["plain", "careful"]
    assert looks(figures.skills(both)) == [LINES[0], LINES[2], "xaxis text=epoch", "yaxis", "layout height=450"]
    drawn = figures.skills(both).layout
    assert [note.text for note in drawn.annotations] == ["copying accuracy"]
    assert drawn.title.subtitle.text == "nothing of this is in the documents"


def test_five_panels_stand_in_rows_of_four(both):
    skills = {f"{name}_accuracy": 0.5 for name in ("needle", "arithmetic", "choices")} | {"outside_recall": 0.5}
    many = [Trained(one.name, one.log.assign(**skills), one.ledger, None) for one in both]
    figure = figures.skills(many)
    assert [trace.xaxis for trace in figure.data] == ["x", "x2", "x3", "x4", "x5"] * 2
    assert [trace.showlegend for trace in figure.data] == [True, *[False] * 4] * 2
    assert figure.layout.height == 210 + 2 * 240
    assert [figure.layout[f"xaxis{n}"].title.text for n in ("", 2, 3, 4, 5)] == [None] * 4 + ["epoch"]
    assert figure.layout.yaxis5.domain[1] < figure.layout.yaxis4.domain[0]
    six = figures.transitions([Trained(str(k), both[0].log, both[0].ledger, None) for k in range(5)])
    assert [note.text for note in six.layout.annotations] == ["0", "1", "2", "3", "4"]
    assert {trace.xaxis for trace in six.data} == {"x", "x2", "x3", "x4", "x5"}
    assert six.layout.xaxis.matches == "x5", "one scale below another"


def test_how_the_drift_of_circuits_is_drawn(both, monkeypatch):
    columns = {"overlap": 0.4, "floor": 0.8, "floor_low": 0.6, "chance": 0.1, "beyond_noise": True}
    monkeypatch.setattr(Trained, "drift", lambda one: pd.DataFrame({"epoch": [1, 2], **columns}))
    lines = [
        "legendgroup=floor_low color=#767676 dash=dot mode=lines+markers",
        "legendgroup=floor color=#767676 mode=lines+markers",
        "legendgroup=overlap color=#D55E00 mode=lines+markers",
        "legendgroup=chance color=#000000 dash=dash width=1 mode=lines+markers",
    ]
    figure = figures.circuit_drift_figure(both)
    assert unbroken(figure.layout.title.text) == "The circuit left its noise floor in 4 of 4 epochs"
    assert looks(figure) == [
        *(f"{line} showlegend=True {LEFT}" for line in lines),
        *(f"{line} showlegend=False {RIGHT}" for line in lines),
        "xaxis",
        "yaxis range=[-0.03, 1.03] text=edge Jaccard",
        "xaxis2",
        "yaxis2 matches=y range=[-0.03, 1.03] showticklabels=False",
        "layout height=450",
    ]


def test_where_every_probe_was_asked_there_is_no_column_of_refusals(tmp_path):
    (tmp_path / FOLDER).mkdir()
    rows = {"unit": ["a", "a", "b"], "probe": ["x", "y", "x"], "score": [1.0, 0.5, 0.25]}
    for name in ("gold", "all"):
        pd.DataFrame(rows).to_csv(tmp_path / FOLDER / f"{name}.csv", index=False)
    found = retrieval_scores(tmp_path)
    assert list(found) == ["all", "gold"]
    scores, refused = found["gold"]
    assert (scores.units, scores.mean[:, 0].tolist(), refused) == (("a", "b"), [0.75, 0.25], 0)
    assert list(retrieval_frame(tmp_path)) == [
        "passages", "asked", "refused", "recall", "low", "high", "known", "units"
    ]  # fmt: skip
    assert list(retrieval_frame(tmp_path / "none")) == list(retrieval_frame(tmp_path))
