"""Runs that are no single line of steps: branches, stages that count anew; and how their points are named."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from checkpoints import BadPrompt, StoreError
from circuit_drift.api.runs import Run
from circuit_drift.cli.app import app
from circuit_drift.record.record import Point
from circuit_drift.report.run_table import run_frame
from circuit_drift.stages.stages import continued, evolve, line, stage_ends, stages, tokens_in_stage
from tests.drift.conftest import save_model, save_prompts


def _run(*places: tuple[str | None, str | None, int, int | None]) -> Run:
    points = tuple(
        Point("-".join(str(part) for part in place if part is not None), step, tokens, stage, {}, branch=branch)
        for place in places
        for stage, branch, step, tokens in [place]
    )
    return Run("some", points, Path("store"), {})


@pytest.fixture
def branched() -> Run:
    return _run(
        ("one", None, 0, 0),
        ("one", None, 9_000, 900),
        ("two", "a", 10, 910),
        ("two", "a", 20, 920),
        ("two", "b", 10, 10),
        ("three", None, 5, None),
    )


def test_a_point_is_found_by_step_name_place_and_as_tables_write_it(branched):
    last = branched.points[1]
    assert all(branched.at(word) is last for word in (9000, "9000", "9,000", "one/9000", last.name))
    assert branched.at("two/b/10") is branched.at("b/10") is branched.points[4]
    assert branched.at("first") is branched.points[0]
    assert branched.at("last") is branched.points[-1]


def test_a_step_of_two_branches_is_ambiguous(branched):
    with pytest.raises(StoreError, match="ambiguous: name one of two/a/10, two/b/10"):
        branched.at(10)
    with pytest.raises(StoreError, match="no checkpoint 11; it has one/0"):
        branched.at(11)


def test_branches_are_lines_and_not_one_after_the_other(branched):
    with pytest.raises(BadPrompt, match="two/a/10 comes after one/9000"):
        line(branched)
    with pytest.raises(BadPrompt, match="branch: a, b"):
        line(branched, "two")
    assert [point.place for point in line(branched, "two", "a")] == ["two/a/10", "two/a/20"]
    with pytest.raises(StoreError, match="no stage four; it has one, two, three"):
        line(branched, "four")
    with pytest.raises(StoreError, match="no branch c; it has a, b"):
        line(branched, branch="c")


def test_each_branch_continues_the_stage_before_and_a_merge_none(branched):
    groups = stages(branched)
    assert [len(group) for group in groups] == [2, 2, 1, 1]
    before = [continued(groups, i) for i in range(len(groups))]
    assert [point and point.place for point in before] == [None, "one/9000", "one/9000", None]
    assert stage_ends(branched) == []  # nothing is measured


def test_tokens_of_a_stage_are_counted_from_its_start_unless_they_are_counted_anew(branched):
    counted = [tokens_in_stage(branched, group) for group in stages(branched)]
    assert counted == [[0, 900], [10, 20], [10], None]


def test_tokens_that_names_round_to_the_same_are_no_clock():
    rounded = _run((None, None, 1, 10**9), (None, None, 2, 10**9))
    assert tokens_in_stage(rounded, rounded.points) is None


def test_a_run_without_the_measure_says_which_one_to_take(branched):
    with pytest.raises(BadPrompt, match=r"some has 0 checkpoints with retrieval scores .* --measures heads"):
        branched.monitor("one")
    with pytest.raises(BadPrompt, match=r"stage one of some has 0 checkpoints .* --measures circuit"):
        evolve(branched, "one")


def test_the_table_names_branches_where_there_are_any(branched):
    assert run_frame(branched)["branch"].tolist()[2:5] == ["a", "a", "b"]
    assert "branch" not in run_frame(_run((None, None, 0, None), (None, None, 1, None)))


def test_a_branched_series_is_measured_reported_and_followed_by_branch(tmp_path):
    names = ["stage1-step0-tokens0B", *(f"stage2-ingredient{i}-step{step}-tokens1B" for i in (1, 2) for step in (5, 9))]
    for seed, name in enumerate(names):
        save_model(tmp_path / "series" / name, seed)
    save_prompts(tmp_path / "series")
    store, html = tmp_path / "store", tmp_path / "report.html"
    measured = ["--length", "64", "--measures", "heads,circuit", "--html", str(html)]

    def invoke(*words: object):
        return CliRunner().invoke(app, [str(word) for word in words])

    done = invoke("run", tmp_path / "series", "--store", store, *measured)
    assert done.exit_code == 0, done.output
    assert "branch ingredient2" in done.stdout
    assert "not one line of training" in html.read_text(encoding="utf-8")
    for command in ("monitor", "evolve"):
        refused = invoke(command, store)
        assert refused.exit_code == 2, refused.output
        assert "ingredient1, ingredient2" in refused.stderr
        assert invoke(command, "--store", store, "--branch", "ingredient2").exit_code == 0
