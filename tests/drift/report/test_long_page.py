"""The page of a long run: what it draws is thinned and said to be, what it was made of is complete."""

import csv
import html
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from circuit_drift import report
from circuit_drift.measures.figures.heads import head_map_figure
from circuit_drift.page import page as page_module
from circuit_drift.page.thinning import DRAWN, left_out, thin_table, thinned
from circuit_drift.report import write_report
from circuit_drift.statements.statement import Statement
from tests.drift.handmade import point, retrieval, run_of

LONG = DRAWN + 21


def run(checkpoints):
    scores = retrieval({(0, 1): 0.5}, prompts=2)
    return run_of(*(point(step, heads=scores) for step in range(checkpoints)))


def test_thinning_keeps_both_ends_and_is_even():
    assert thinned(5) == [0, 1, 2, 3, 4]
    assert thinned(9, 3) == [0, 4, 8]
    places = thinned(LONG)
    assert len(places) == len(set(places)) == DRAWN and (places[0], places[-1]) == (0, LONG - 1)
    assert set(np.diff(places)) == {1, 2}
    assert left_out(DRAWN, "The slider") == ""
    assert left_out(LONG, "The slider").startswith(f" The slider shows {DRAWN} of {LONG} checkpoints")


def test_a_slider_has_the_drawn_checkpoints_and_its_title_counts_all():
    figure = head_map_figure(run(LONG))
    assert [frame.name for frame in figure.frames] == [f"step{place}" for place in thinned(LONG)]
    assert "1 at the start, 1 at most, 1 at the end" in figure.layout.title.text


def test_a_table_of_all_against_all_is_thinned_on_both_axes():
    labels = [str(place) for place in range(9)]
    figure = thin_table(go.Figure(go.Heatmap(x=labels, y=labels, z=np.arange(81).reshape(9, 9))), 3)
    assert list(figure.data[0].x) == list(figure.data[0].y) == ["0", "4", "8"]
    assert figure.data[0].z.tolist() == [[0, 4, 8], [36, 40, 44], [72, 76, 80]]


def test_a_long_table_lies_whole_beside_the_page_which_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "ROWS", 30)
    monkeypatch.setattr(page_module, "LEADING", 10)
    text = run(8).report(tmp_path / "my run.html").read_text()
    with (tmp_path / "my run-data" / "heads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 and rows[-1]["step"] == "7"
    assert [p.name for p in (tmp_path / "my run-data").iterdir()] == ["heads.csv"]
    told = html.unescape(re.search(r'left-out">(.*?)</p>', text).group(1))
    assert told == "Shown are the first 10 of 32 rows; all are in my run-data/heads.csv beside this page."
    section = text[text.index('<section class="part" id="heads">') :]
    section = section[: section.index("</section>")]
    assert section.count("<tr") == 11 and 'href="my%20run-data/heads.csv"' in section


def test_a_verdict_that_was_found_is_not_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "run_statements", lambda run: pytest.fail("found again"))
    page = write_report(run(2), tmp_path / "page.html", statements=[Statement("asked", told="What was found before.")])
    assert "<li>What was found before.</li>" in page.read_text()
