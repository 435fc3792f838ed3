import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import circuit_drift
from checkpoints.errors import StoreError
from circuit_drift.page.page import Section, write_page
from circuit_drift.prompts import prompts_for
from circuit_drift.stages.stages import stage_ends


class _Outline(HTMLParser):
    """Ids, links and external resources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.external: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)
            if name in ("src", "href") and value.startswith(("http:", "https:", "//")):
                self.external.append(value)


@pytest.fixture(scope="module")
def tiny_run(tiny_series: Path, tmp_path_factory: pytest.TempPathFactory):
    prompts = prompts_for(tiny_series, length=64, depths=(0.2, 0.8))
    store = tmp_path_factory.mktemp("report") / "store"
    return circuit_drift.run(tiny_series, store=store, prompts=prompts, device="cpu", progress=False)


@pytest.fixture(scope="module")
def page(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_run.report(tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    return outline


def test_the_page_stands_alone(page):
    assert _outline(page).external == []
    assert len(page.encode()) < 10_000_000


def test_every_anchor_leads_somewhere_and_is_unique(page):
    outline = _outline(page)
    anchors = {link[1:] for link in outline.links if link.startswith("#")}
    assert anchors
    assert anchors <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))


def test_every_region_is_called_by_a_name_of_its_own(tmp_path):
    frame = pd.DataFrame({"a": [1]})
    sections = [Section(f"writes-{i}", "Writes", frame=frame) for i in range(3)] + [
        Section("other", "Other", frame=frame)
    ]
    page = write_page(
        tmp_path / "p.html", title="t", subtitle="s", verdict=["v"], warnings=[], sections=sections, provenance=[]
    )
    regions = re.findall(r'role="region" aria-label="(.*?)"', page.read_text())
    assert regions == ["Data of Writes", "Data of Writes (2)", "Data of Writes (3)", "Data of Other"]


def test_every_figure_is_on_the_page_and_has_its_numbers_below(page):
    drawn = set(re.findall(r'data-figure="(fig-[^"]+)"', page))
    assert drawn == set(re.findall(r'<div class="figure" id="(fig-[^"]+)"', page))
    assert {"fig-needle", "fig-heads", "fig-leading-heads", "fig-recall", "fig-circuits"} <= drawn
    assert page.count("Download as CSV") >= len(drawn)


def test_the_verdict_comes_first_and_provenance_last(page, tiny_run):
    weights = tiny_run.points[0].heads.meta["provenance"]["weights_hash"][:16]
    assert page.index("<h2>Findings") < page.index("<h3>Retrieval heads over training") < page.index(weights)


def test_writing_twice_gives_the_same_page(tiny_run, page, tmp_path):
    assert tiny_run.report(tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_nothing_in_a_prompt_or_a_name_can_run(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    figure = go.Figure(go.Scatter(x=[1], y=[np.float32(2)], text=[hostile]), layout={"title": {"text": hostile}})
    path = write_page(
        tmp_path / "page.html",
        title=hostile,
        subtitle=hostile,
        verdict=[hostile],
        warnings=[hostile],
        sections=[Section("s", hostile, hostile, figure, hostile, pd.DataFrame({hostile: [hostile]}))],
        provenance=[(hostile, hostile)],
    )
    assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_named(tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"report\.html cannot be written"):
        tiny_run.report(tmp_path / "file" / "report.html")


def test_without_stages_the_first_is_held_against_the_last(tiny_run):
    assert [(a.step, b.step) for a, b in stage_ends(tiny_run)] == [(0, 100)]
