"""What a paper takes from a run: a LaTeX table of the main results, and a page whose figures are pictures."""

import base64
from dataclasses import replace

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from checkpoints.errors import DriftError
from circuit_drift.page.page import Section, write_page
from tests.drift.handmade import WIRING_A, faithfulness, graph, point, retrieval, run_of, strengths

LABELS = [{"class": "old"}] * 10 + [{"class": "50 % new"}] * 10


def run():
    points = [
        point(
            1000 * i,
            stage="pre" if i < 2 else "fine_tune",
            heads=retrieval({(0, 1): 0.25 * i}, correct=4 * i),
            circuit=graph(strengths(WIRING_A), facts=20, known=5 * i, labels=LABELS),
            faithfulness=faithfulness([0.5, 0.5], [0.25 * i, 0.25 * i]) if i else None,
        )
        for i in range(3)
    ]
    return run_of(*points)


def test_the_main_results_as_a_table_for_a_paper():
    latex = run().to_latex()
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert rows == [
        r"step & stage & needle accuracy (\%) & retrieval heads & best head (score) & recall of old (\%) & "
        r"recall of 50 \% new (\%) & faithfulness \\",
        r"0 & pre & 0 & 0 & a0.h0 0.00 [0.00, 0.31] & 0 [0, 31] & 0 [0, 31] & -- \\",
        r"1,000 & pre & 40 & 1 & a0.h1 0.25 [0.17, 0.48] & 50 [19, 81] & 0 [0, 31] & 0.25 \\",
        r"2,000 & fine\_tune & 80 & 1 & a0.h1 0.50 [0.35, 0.65] & 100 [69, 100] & 0 [0, 31] & 0.50 \\",
    ]
    assert (
        r"\caption{handmade at the ends of its stages, over 10 needle prompts and 20 facts; 95\,\% intervals" in latex
    )
    assert r"\label{tab:handmade}" in latex and latex.count("rule") == 3
    assert r"\begin{tabular}{llrrlrrr}" in latex, "words to the left, numbers to the right"


def test_a_table_for_a_paper_has_no_share_of_nothing_and_a_minus_below_zero():
    curve = faithfulness([-0.5, -0.5])
    idle = replace(curve, clean_metric=curve.corrupt_metric)
    points = [point(0, faithfulness=idle), point(10, faithfulness=curve)]
    rows = [line for line in run_of(*points).to_latex().splitlines() if line.endswith(r"\\")]
    assert rows == [r"step & faithfulness \\", r"0 & -- \\", r"10 & $-$0.50 \\"]


@pytest.fixture
def page(tmp_path):
    def write(**how):
        figure = go.Figure(
            go.Scatter(x=[1], y=[2]), layout={"title": {"text": "A <finding>"}, "sliders": [{}], "height": 640}
        )
        head = {"title": "t", "subtitle": "s", "verdict": [], "warnings": [], "provenance": []}
        return write_page(tmp_path / "page.html", sections=[Section("one", "One", figure=figure)], **head, **how)

    return write


def test_pictures_stand_in_the_place_of_figures_and_the_page_is_small(page, monkeypatch):
    drawn = []

    def write_images(figures, files, **how):
        drawn.extend((figure, how) for figure in figures)
        for file in files:
            file.write_bytes(b"<svg/>")

    monkeypatch.setattr(pio, "write_images", write_images)
    text = page(figures="svg").read_text()
    picture = base64.b64encode(b"<svg/>").decode()
    assert f'<img class="picture" src="data:image/svg+xml;base64,{picture}" alt="A &lt;finding&gt;">' in text
    assert 'class="figure"' not in text and len(text) < 100_000
    ((figure, how),) = drawn
    assert how == {"format": "svg", "width": 1000, "height": [640]} and not figure.layout.sliders


def test_without_kaleido_the_page_says_what_to_install(page, monkeypatch):
    def write_images(figures, files, **how):
        raise ValueError("\nImage export requires the kaleido package\nmore")

    monkeypatch.setattr(pio, "write_images", write_images)
    with pytest.raises(DriftError, match=r"pip install 'circuit-drift\[images\]' \(Image export requires"):
        page(figures="svg")
    with pytest.raises(DriftError, match="figures"):
        page(figures="png")
