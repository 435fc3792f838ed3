"""Runs that are no single line of steps: branches, stages that count anew; and how their points are named."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from checkpoints.errors import BadPrompt, StoreError
from circuit_drift.api.runs import Run
from circuit_drift.cli import app
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.record import Point
from circuit_drift.report.run_table import run_frame
from circuit_drift.stages.stages import continued, line, stage_ends, stages, tokens_in_stage, track_circuit
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


def test_branches_whose_steps_rise_are_not_joined_either():
    """The end of one branch stands before the start of the next, and its step is lower: they are two lines still."""
    rising = _run(
        ("one", None, 0, 0), ("two", "a", 10, 10), ("two", "a", 20, 20), ("two", "b", 30, 30), ("two", "b", 40, 40)
    )
    for stage in (None, "two"):
        with pytest.raises(BadPrompt, match=r"two/b/30 does not continue two/a/20; choose one .*branch: a, b"):
            line(rising, stage)
        for follow in (rising.track_heads, lambda stage, run=rising: track_circuit(run, stage)):
            with pytest.raises(BadPrompt, match="not one line of training"):
                follow(stage)
    assert [point.place for point in line(rising, branch="b")] == ["one/0", "two/b/30", "two/b/40"]
    assert [point.place for point in line(rising, "two", "a")] == ["two/a/10", "two/a/20"]


def test_two_runs_in_one_folder_are_two_lines():
    seeds = _run((None, "seed1", 10, None), (None, "seed1", 20, None), (None, "seed2", 30, None))
    with pytest.raises(BadPrompt, match="seed2/30 does not continue seed1/20"):
        line(seeds)
    assert [point.place for point in line(seeds, branch="seed1")] == ["seed1/10", "seed1/20"]


def test_stored_parents_are_followed_rather_than_names():
    """A run of which only the record knows that one checkpoint was left behind."""
    points = _run((None, None, 10, None), (None, None, 20, None), (None, None, 30, None)).points
    forked = Run("some", points, Path("store"), {}, parents={"10": [], "20": ["10"], "30": ["10"]})
    with pytest.raises(BadPrompt, match=r"30 does not continue 20; choose one \(measure one with run --steps\)"):
        line(forked)
    whole = Run("some", points, Path("store"), {}, parents={"10": [], "20": ["10"], "30": ["20"]})
    assert line(whole) == list(points)


def test_a_merge_is_several_lines_and_its_stage_alone_is_one():
    merged = _run(("two", "a", 10, 10), ("two", "b", 10, 10), ("three", None, 20, 20), ("three", None, 30, 30))
    with pytest.raises(BadPrompt, match="not one line of training: two/b/10 does not continue two/a/10"):
        line(merged)
    assert [point.place for point in line(merged, "three")] == ["three/20", "three/30"]
    parents = {"two/b/10": [], "three/20": ["two/a/10", "two/b/10"], "three/30": ["three/20"]}
    with pytest.raises(BadPrompt, match="three/20 does not continue two/b/10"):
        line(Run("some", merged.points[1:], Path("store"), {}, parents=parents))


def test_a_run_that_counts_tokens_alone_is_followed_by_them():
    points = tuple(Point(f"{n}B", None, n * 10**9, None, {}) for n in (0, 20, 50))
    tokens = Run("some", points, Path("store"), {})
    assert line(tokens) == list(points)
    assert [point.position for point in points] == [0, 20 * 10**9, 50 * 10**9]
    with pytest.raises(BadPrompt, match="0 checkpoints with retrieval scores"):
        tokens.track_heads()
    final = Point("final", None, None, None, {})
    assert line(Run("some", (*points[:1], final, *points[1:]), Path("store"), {})) == list(points)


def test_lines_of_figures_end_where_branches_do(branched):
    import plotly.graph_objects as go

    figure = go.Figure().add_scatter(
        x=[0, 1, 2, 3, 4, 5], y=[0, 1, 2, 3, 4, 5], mode="lines+markers", text=list("abcdef")
    )
    figure.add_scatter(x=[1, 3, 5], y=[1, 3, 5], mode="lines", error_y={"array": [1, 2, 3], "arrayminus": [3, 2, 1]})
    figure.add_scatter(x=[0, 4], y=[0, 4], mode="markers")
    figure.add_scatter(x=[0, 1], y=np.array([0, 1]), mode="lines", text=["a", "b"])
    figure.add_scatter(x=np.array([2, 4]), y=[2, 4], mode="lines", text="both", customdata=[[1], [2]], name="far")
    over_checkpoints(figure, branched)
    assert list(figure.data[0].x) == [0, 1, 2, 3, None, 4, None, 5]
    assert list(figure.data[0].text) == ["a", "b", "c", "d", None, "e", None, "f"]
    assert list(figure.data[1].y) == [1, 3, None, 5]
    assert list(figure.data[1].error_y.arrayminus) == [3, 2, None, 1]
    assert list(figure.data[1].error_y.array) == [1, 2, None, 3]
    assert list(figure.data[2].x) == [0, 4]
    assert (list(figure.data[3].x), list(figure.data[3].text)) == ([0, 1], ["a", "b"]), "no line begins between them"
    far = figure.data[4]
    assert (list(far.x), list(far.y), far.text) == ([2, None, 4], [2, None, 4], "both")
    assert list(far.customdata) == [[1], None, [2]]


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
        branched.track_heads("one")
    with pytest.raises(BadPrompt, match=r"stage one of some has 0 checkpoints .* --measures circuit"):
        track_circuit(branched, "one")


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
    for command in ("track", "monitor", "evolve"):
        refused = invoke(command, store)
        assert refused.exit_code == 2, refused.output
        assert "ingredient1, ingredient2" in refused.stderr
        assert invoke(command, "--store", store, "--branch", "ingredient2").exit_code == 0
