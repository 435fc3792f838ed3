"""The audit in the report: findings, marks on every step axis, missing steps, and the series as a graph."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import circuit_drift
from checkpoints import open_series
from checkpoints.audit import AuditReport, Fault, audit
from circuit_drift.api.runs import Run, load_run
from circuit_drift.cli import app
from circuit_drift.measures.figures.heads import head_map_figure
from circuit_drift.page.axis import mark_audit, mark_steps, missing, over_checkpoints, tick_labels
from circuit_drift.prompts import prompts_for
from circuit_drift.record.record import Point
from circuit_drift.report.audit import audit_sections, branches, series_figure
from tests.drift.conftest import save_model, save_prompts

STEPS = (0, 10, 20, 40, 50, 60)


@pytest.fixture(scope="module")
def suspect(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A measured run that lacks step 30, and whose step 20 holds the last one's weights."""
    root = tmp_path_factory.mktemp("suspect") / "suspect"
    for seed, step in enumerate(STEPS):
        save_model(root / f"checkpoint-{step}", seed)
    save_prompts(root)
    shutil.copy(root / "checkpoint-60" / "model.safetensors", root / "checkpoint-20" / "model.safetensors")
    prompts = prompts_for(root, length=64, depths=(0.5,))
    store = root.parent / "store"
    circuit_drift.run(root, store=store, prompts=prompts, measures=["heads"], device="cpu", progress=False)
    return load_run(store)


def plain_run(points: Sequence[Point], findings: Sequence[Fault] = (), **options) -> Run:
    report = AuditReport("run", tuple(point.place for point in points), tuple(findings), "samples")
    return Run("run", tuple(points), Path(), {}, audit=report, **options)


def point(step: int, stage: str | None = None, branch: str | None = None) -> Point:
    return Point(f"step{step}", step, None, stage, {}, branch=branch)


def empty_figure():
    import plotly.graph_objects as go

    return go.Figure()


def test_findings_are_kept_with_the_run_as_they_were(suspect: Run):
    assert {(f.kind, f.checkpoints) for f in suspect.audit.faults} >= {
        ("identical", ("20", "60")),
        ("missing_steps", ("20", "40")),
    }
    assert AuditReport.from_dict(json.loads(suspect.audit.to_json())) == suspect.audit


def test_a_report_survives_its_form_as_plain_values(tiny_series: Path):
    report = audit(open_series(tiny_series))
    again = AuditReport.from_dict(json.loads(report.to_json()))
    assert again.to_dict() == report.to_dict()
    assert again.suspects == report.suspects


def test_the_page_has_a_section_with_every_finding(suspect: Run, tmp_path: Path):
    html = suspect.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<section class="part" id="audit">' in html
    (section,) = audit_sections(suspect)
    assert section.text == f"{suspect.audit.verdict}."
    assert set(section.frame["kind"]) == {finding.kind for finding in suspect.audit.faults}
    assert set(section.frame.columns) >= {"severity", "checkpoint", "message", "reference"}
    assert "audit, error: identical" in html


def test_suspect_and_missing_checkpoints_are_marked_on_the_step_axis(suspect: Run):
    figure = over_checkpoints(empty_figure(), suspect)
    ticks = figure.layout.xaxis.ticktext
    errors = {i for i, tick in enumerate(ticks) if tick.startswith("✕ ")}
    assert errors >= {2, 5}
    bands = {(shape.x0 + shape.x1) / 2 for shape in figure.layout.shapes if shape.type == "rect"}
    assert bands == {i for i, tick in enumerate(ticks) if tick[0] in "✕!"}
    assert missing(suspect) == {2.5: 1}
    assert [(a.x, a.text) for a in figure.layout.annotations] == [(2.5, "1 missing")]
    labels = [step.label for step in head_map_figure(suspect).layout.sliders[0].steps]
    assert labels == list(ticks)


def test_every_figure_over_steps_carries_the_marks(suspect: Run, tmp_path: Path):
    html = suspect.report(tmp_path / "report.html").read_text(encoding="utf-8")
    axes = html.count('"title":{"text":"step (checkpoints evenly spaced)"}')
    assert axes >= 2
    assert html.count("1 missing") == axes


def test_a_clean_run_bears_no_mark_and_says_so():
    run = plain_run([point(step) for step in (0, 1, 2)])
    figure = mark_audit(empty_figure(), run)
    assert (figure.layout.shapes, figure.layout.annotations) == ((), ())
    assert tick_labels(run) == ["0", "1", "2"]
    (section,) = audit_sections(run)
    assert section.text.endswith("nothing found.")
    assert section.frame is None
    (section,) = audit_sections(replace(run, audit=None))
    assert "No audit is on record" in section.text


def test_axes_that_name_steps_are_marked_too():
    import plotly.graph_objects as go

    findings = [Fault("identical", ("a/20", "b/40"), "the same")]
    findings.append(Fault("missing_steps", ("a/20", "b/40"), "one", {"steps": [30]}))
    run = plain_run([point(10, "a"), point(20, "a"), point(40, "b"), point(50, "b")], findings)
    labels = ["10", "20", "40"]
    figure = mark_steps(go.Figure(go.Heatmap(z=[[0] * 3] * 3, x=labels, y=labels)), run)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert (list(axis.tickvals), list(axis.ticktext)) == (labels, ["10", "✕ 20", "✕ 40"])
    assert {a.text for a in figure.layout.annotations} == {"b →", "1 missing"}


def test_warnings_are_told_from_errors_by_more_than_their_colour():
    findings = [Fault("off_path", ("1",), "off"), Fault("non_finite", ("2",), "NaN")]
    run = plain_run([point(step) for step in (0, 1, 2)], findings)
    assert tick_labels(run) == ["0", "! 1", "✕ 2"]
    colours = [shape.fillcolor for shape in mark_audit(empty_figure(), run).layout.shapes]
    assert len(set(colours)) == 2


@pytest.fixture
def branched() -> Run:
    places = [
        *(point(step, "stage1") for step in (10, 20)),
        *(point(step, "stage2", f"ingredient{k}") for k in (1, 2) for step in (5, 10)),
        point(1, "stage3"),
    ]
    parents = {
        "stage1/10": [],
        "stage1/20": ["stage1/10"],
        **{f"stage2/ingredient{k}/5": ["stage1/20"] for k in (1, 2)},
        **{f"stage2/ingredient{k}/10": [f"stage2/ingredient{k}/5"] for k in (1, 2)},
        "stage3/1": ["stage2/ingredient1/10", "stage2/ingredient2/10"],
    }
    findings = [Fault("identical", ("stage2/ingredient2/5", "stage3/1"), "the same")]
    return plain_run(places, findings, parents=parents)


def test_a_branched_series_is_drawn_as_a_graph(branched: Run):
    assert branches(branched)
    figure = series_figure(branched)
    lines, clean, wrong = figure.data
    ends = list(zip(lines.x, lines.y, strict=True))
    arrows = set(zip(ends[::3], ends[1::3], strict=True))
    assert arrows == {
        ((0, 0), (1, 0)),
        *(((1, 0), (2, lane)) for lane in (-1, -2)),
        *(((2, lane), (3, lane)) for lane in (-1, -2)),
        *(((3, lane), (4, 0)) for lane in (-1, -2)),
    }
    assert set(wrong.customdata) == {"stage2/ingredient2/5", "stage3/1"}
    assert len(clean.customdata) + len(wrong.customdata) == len(branched)
    assert clean.marker.symbol != wrong.marker.symbol
    assert list(figure.layout.yaxis.ticktext) == ["trunk", "ingredient1", "ingredient2"]
    (section,) = audit_sections(branched)
    assert section.figure is not None


def test_branches_are_told_apart_on_the_axis(branched: Run):
    assert tick_labels(branched)[2:5] == ["ingredient1/5", "ingredient1/10", "✕ ingredient2/5"]


def test_a_straight_series_needs_no_graph(suspect: Run):
    assert not branches(suspect)
    assert suspect.parents["10"] == ["0"]


def test_a_long_series_has_a_depth():
    steps = range(1500)
    run = plain_run([point(step) for step in steps], parents={str(s): [str(s - 1)] if s else [] for s in steps})
    _, nodes = series_figure(run).data
    assert max(nodes.x) == 1499


def test_the_architectures_are_listed():
    from checkpoints.model.architectures import capabilities

    listed = CliRunner().invoke(app, ["architectures"])
    assert (listed.exit_code, listed.stdout) == (0, f"{capabilities()}\n")
    rows = json.loads(CliRunner().invoke(app, ["architectures", "--json"]).stdout)
    assert [row["architecture"] for row in rows] == [row.model_type for row in capabilities().rows]
