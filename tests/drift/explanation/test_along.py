"""The course of a series: shares by interval, complete to the change from first to last."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import circuit_drift
from checkpoints import open_series
from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.series.series import shipped_folder
from circuit_drift.cli.commands import app
from circuit_drift.explanation import along, explain
from circuit_drift.explanation.along import explain_series
from circuit_drift.explanation.behaviours import Behaviour
from circuit_drift.explanation.course import Course
from circuit_drift.explanation.explanation import Effort, Explanation
from circuit_drift.explanation.line import Line
from circuit_drift.store.store import Store
from tests.drift.explanation import test_read_explanation as by_hand


def made(times: int = 2, **given) -> Course:
    """Over two prompts, each so many times."""
    shares = np.zeros((2, 2, 3))
    shares[0, :, 0] = 0.25
    shares[1, :, 1] = (-1.0, -1.5)
    shares[1, :, 2] = 0.25
    values = np.array([[3.0, 3.0], [3.25, 3.25], [2.5, 2.0]])
    given = {"shares": shares, "values": values, "steps": np.array([4, 8]), **given}
    given["shares"], given["values"] = np.tile(given["shares"], (1, times, 1)), np.tile(given["values"], (1, times))
    given["needle"] = given.get("needle", ()) * times
    return Course(("0", "10", "20"), "needle answer NLL", "nats", ("a0.h1.q", "m0.down", "embedding"),
                  ("q", "m.down", "embedding"), (0, 0, -1), **given)  # fmt: skip


def test_the_largest_change_is_told_with_who_made_it():
    assert made().verdict == (
        "needle answer NLL goes 3 → 2.25 nats from 0 to 20, over 4 prompts. The largest step, -1, is 10 → 20; its "
        "largest shares: m0.down -1.2. The shares of all intervals miss the whole change by 0 nats."
    )


def test_prompts_of_one_needle_are_one_unit():
    told = made(needle=(7, 7))
    assert told.leading is None
    assert "over 4 prompts of 1 needle. 1 needle tells no spread, so no component is named." in told.verdict
    assert told.values_frame()[["low", "high"]].isna().all(axis=None)
    assert "over 4 prompts of 2 needles. 2 needles tell no spread, so no" in made(needle=(7, 8)).verdict
    four = made(1, values=np.tile(made(1).values, 2), shares=np.tile(made(1).shares, (1, 2, 1)), needle=(1, 2, 3, 4))
    assert four.verdict == made().verdict.replace("4 prompts.", "4 prompts of 4 needles.")


def test_an_interval_that_is_not_complete_is_named_and_a_noisy_one_names_nobody():
    told = made(values=np.array([[3.0, 3.0], [3.25, 3.25], [1.5, 4.5]])).verdict
    assert "is 0 → 10; its largest shares: a0.h1.q +0.25." in told
    assert "Not complete to 1 %: 10 → 20; the behaviour bends along the way" in told
    still = made(values=np.array([[3.0, 3.0], [3.1, 2.9], [3.0, 3.2]])).verdict
    assert "No interval's change is told apart from none over them, so no component is named" in still


def test_the_table_adds_up_over_intervals():
    frame = made().to_frame()
    assert list(frame.columns) == ["component", "kind", "layer", "0 → 10", "10 → 20", "sum"]
    assert frame["component"].tolist() == ["m0.down", "a0.h1.q", "embedding"]
    assert frame["sum"].tolist() == [-1.25, 0.25, 0.25]
    assert frame[["0 → 10", "10 → 20"]].to_numpy().sum() == pytest.approx(2.25 - 3.0)
    figure = made().plot()
    assert list(figure.data[0].y) == ["embedding", "a0.h1.q", "m0.down"]
    assert figure.data[0].z[2].tolist() == [0, -1.25]


def test_shares_of_a_series_are_complete_from_first_to_last(tiny_series: Path, tmp_path: Path):
    course = explain_series(open_series(tiny_series).checkpoints, "facts", effort=Effort(prompts=3))
    assert course.checkpoints == ("0", "10", "100")
    assert course.residuals.max() < 0.01
    whole = course.values[-1] - course.values[0]
    assert course.shares.sum((0, 2)) == pytest.approx(whole, abs=0.02 * np.abs(np.diff(course.values, axis=0)).sum())
    again = Course.load(course.save(tmp_path / "course"))
    assert again.verdict == course.verdict


def test_the_interval_told_is_proved_by_putting_its_components_back():
    lead = by_hand.made(patching=by_hand.patched([0.0, 0.06875], [0.6875, 0.1375]))
    told = made(lead=lead).verdict
    assert "The largest step, -1, is 10 → 20" in told
    assert "Put into 10, the first 2 components of 20 restore 5 % of it" in told
    assert "Co-adapted: they make 109 % of the change" in told
    assert made(lead=lead).to_json()["lead"]["a"] == "10"


def test_the_page_holds_sentences_figures_table_and_the_proof_of_the_leading_interval(tmp_path: Path):
    lead = by_hand.made(patching=by_hand.patched([0.6875, 1.375], [0.6875, 0.1375]))
    course = made(lead=lead)
    assert [section.slug for section in course.sections()] == [
        "course",
        "values",
        "why-lead",
        "path-lead",
        "proof-lead",
    ]
    frame = course.values_frame()
    assert frame["mean"].tolist() == [3.0, 3.25, 2.25]
    assert frame["high"][2] - 2.25 == pytest.approx(3.1824 * 0.0833**0.5 / 2, rel=1e-3)  # t, three degrees of freedom
    page = course.write_html(tmp_path / "who.html").read_text()
    for told in (*course.verdict.split(". ")[:2], "10 → 20", "Put back: needle answer NLL", "m0.down"):
        assert told.rstrip(".").replace("-", "−") in page
    assert [section.slug for section in made().sections()] == ["course", "values"]


def hard(spread: int) -> Behaviour:
    """Which token is the model's top one: a number without a gradient."""
    prompts = tuple((3 + i, 5, 7 + i) for i in range(4))
    return Behaviour("top token", "", prompts, ((2,),) * 4, lambda _i, logits, _a: (logits.argmax() % spread).double())


def test_without_a_gradient_each_component_of_an_interval_is_patched_by_itself(tiny_series: Path, tmp_path: Path):
    checkpoints = open_series(tiny_series).checkpoints[:2]
    course = explain_series(checkpoints, hard(97), effort=Effort(prompts=4))
    assert course.steps.tolist() == [0]
    assert not course.is_attributed
    single = circuit_drift.explain(*checkpoints, hard(97), effort=Effort(prompts=4))
    assert course.shares[0] == pytest.approx(single.shares)
    assert course.shares.any()
    assert "top token has no gradient, so nothing is attributed: shares are exact patches" in course.verdict
    assert "miss the whole change" not in course.verdict
    assert course.to_json()["attributed"] is False
    assert Course.load(course.save(tmp_path / "course")).verdict == course.verdict
    with pytest.raises(BadPrompt, match="patching alone"):
        explain_series(checkpoints, hard(97), effort=Effort(prompts=4, patching=False))


def test_where_such_a_behaviour_stands_still_nothing_is_missing(tiny_series: Path):
    course = explain_series(open_series(tiny_series).checkpoints[:2], hard(1), effort=Effort(prompts=4))
    assert not course.shares.any()
    assert "no component is named" in course.verdict


def test_facts_learned_over_a_series_are_those_that_its_last_checkpoint_recalls_and_its_first_does_not():
    few = Effort(prompts=6, steps=2, patching=False)
    series = open_series(shipped_folder())
    course = explain_series(series.select("9000,9300,9600").checkpoints, "facts:learned", effort=few)
    pair = circuit_drift.explain("demo@9000", "demo@9600", "facts:learned", effort=few)
    assert course.behaviour == pair.behaviour == "logit difference of learned facts"
    assert course.values[[0, -1]] == pytest.approx(np.stack([pair.before, pair.after]), abs=1e-4)
    assert (course.values[-1] > course.values[0]).all()


def test_an_interrupted_course_goes_on_where_it_was_and_one_that_is_done_needs_no_model(
    tiny_series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "circuit_drift.progress")
    checkpoints, effort = open_series(tiny_series).checkpoints, Effort(prompts=3)
    taken = []

    def attributed(line: Line, asked: Behaviour, names: tuple[str, str], own: Effort) -> Explanation:
        taken.append(names)
        if names == ("10", "100") and len(taken) == 2:
            raise KeyboardInterrupt
        return explain.attributed(line, asked, names, own)

    monkeypatch.setattr(along, "attributed", attributed)
    asked = {"effort": effort, "store": Store.open(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        explain_series(checkpoints, "facts", **asked)
    course = explain_series(checkpoints, "facts", **asked)
    assert taken == [("0", "10"), ("10", "100"), ("10", "100")]
    assert [told.partition(" took ")[0] for told in caplog.messages] == [
        "explaining: 1 of 2 intervals; 0 to 10", "explaining: 2 of 2 intervals; 10 to 100",
    ]  # fmt: skip
    monkeypatch.setattr(along, "opened_line", None)
    assert explain_series(checkpoints, "facts", **asked).to_json() == course.to_json()


def test_checkpoints_of_two_models_are_no_course(tiny_series: Path, tmp_path: Path):
    for name in ("0", "10"):
        shutil.copytree(tiny_series / f"checkpoint-{name}", tmp_path / f"checkpoint-{name}")
    vocabulary = tmp_path / "checkpoint-10" / "tokenizer.json"
    words = vocabulary.read_text().replace('"place0"', '"other"').replace('"place1"', '"place0"')
    vocabulary.write_text(words.replace('"other"', '"place1"'))
    with pytest.raises(CheckpointMismatch, match="tokenizer"):
        explain_series(open_series(tmp_path).checkpoints)


def test_a_course_has_two_checkpoints(tiny_series: Path):
    with pytest.raises(BadPrompt, match="two checkpoints at least, got 1"):
        explain_series(open_series(tiny_series).checkpoints[:1])


def test_the_command_prints_the_table_and_the_verdict(tiny_series: Path, tmp_path: Path):
    asked = ["explain", str(tiny_series), "--behaviour", "facts:odd", "--steps", "0,10", "--prompts", "2"]
    asked += ["--store", str(tmp_path / "store")]
    told = CliRunner().invoke(app, [*asked, "--html", str(tmp_path / "who.html")])
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[0] == "component,kind,layer,0 → 10,sum"
    assert "logit difference of odd facts goes" in told.stderr
    proof = "circuit-drift diff A B --explain facts:odd proves it between any two checkpoints"
    assert told.stderr.splitlines()[-1] == f"circuit-drift: next: {proof}"
    page = (tmp_path / "who.html").read_text()
    assert "Who made the" in page
    assert "logit difference of odd facts goes" in page
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert document["checkpoints"] == ["0", "10"]
    assert len(document["values"]) == 2
    assert document["shares"][0]["0 → 10"] == document["shares"][0]["sum"]
