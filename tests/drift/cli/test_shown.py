"""Names of others on a terminal, in a figure, a page and a spreadsheet: shown, never obeyed, and nothing is lost."""

import base64
import json
import re

import pandas as pd
import plotly.graph_objects as go
import pytest

from checkpoints.results.figure import dress
from checkpoints.results.text import label, to_csv, visible, visible_line
from circuit_drift.cli.output.forms import csv_table
from circuit_drift.cli.render import _console, _show
from circuit_drift.cli.status import say
from circuit_drift.page.axis import tick_labels
from circuit_drift.page.page import SCRIPTS, Section, write_page
from circuit_drift.record.record import Point, RunRecord

HOSTILE = "a\x1b[31m\u202eb\x9bc\u200be\x07"
TOLD = r"a\x1b[31m\u202eb\x9bc\u200be\x07"


def test_what_a_terminal_would_obey_is_written_out():
    assert visible(HOSTILE) == visible_line(HOSTILE) == TOLD
    assert visible("caf\udce9") == r"caf\udce9"
    assert visible("two\nlines\there") == "two\nlines\there"
    assert visible_line("two\nlines\there\r") == r"two\nlines\there\r"
    for kept in ("été 北京 ⟨é⟩ → ✕ a—b", "می‌خواهم", "क्‍ष", "👩‍🔬"):
        assert visible(kept) == kept


def test_names_reach_the_terminal_written_out(capsys):
    console = _console()
    console.print(f"• {HOSTILE}")
    _show(console, pd.DataFrame({"checkpoint": [HOSTILE, "two\nlines"], "step": [1, 2]}), title=HOSTILE)
    say(f"{HOSTILE} is no checkpoint\nfor two reasons")
    out, err = capsys.readouterr()
    assert out.count(TOLD) == 3
    assert r"two\nlines" in out
    assert err == f"circuit-drift: {TOLD} is no checkpoint for two reasons\n"
    assert not set(HOSTILE) & set("\x1b\u202e\x9b\u200b\x07") & set(out + err)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a<b>c", "a&lt;b>c"),
        ("</script>", "&lt;/script>"),
        ("<!--", "&lt;!--"),
        ("q < 0.05 & so on", "q < 0.05 & so on"),
        ("&lt;b", "&amp;lt;b"),
        ("a\x1bb", r"a\x1bb"),
    ],
)
def test_a_figures_label_is_the_name(name, told):
    assert label(name) == told
    assert dress(go.Figure(), title=name, subtitle=name).layout.title.text == told
    point = Point("x", 1, None, None, {}, branch=name)
    assert tick_labels(RunRecord("r", (point,), None, {})) == [f"{told}/1"]


def test_a_spreadsheet_finds_no_formula_and_numbers_stay_numbers():
    frame = pd.DataFrame(
        {
            "=name": ["=cmd|' /C calc'!A0", "+1+1", "-1 [-2, 0]", "@SUM(A1)", "\tx", "plain", 'a,"b"'],
            "value": [-1.5, float("nan"), 2, 3, 4, 5, 1e-9],
            "text": ["-0.5", "+3", None, "-inf", "1e3", "", "-"],
        }
    )
    assert to_csv(frame).splitlines() == [
        "'=name,value,text",
        "'=cmd|' /C calc'!A0,-1.5,-0.5",
        "'+1+1,,+3",
        '"\'-1 [-2, 0]",2.0,',
        "'@SUM(A1),3.0,-inf",
        "'\tx,4.0,1e3",
        "plain,5.0,",
        '"a,""b""",1e-09,\'-',
    ]


def test_a_table_that_a_command_prints_is_shown_and_computes_nothing():
    names = [HOSTILE, "=1+1", "plain"]
    frame = pd.DataFrame({"circuit": names, "n": [1, 20_000_000, 3], "value": [1 / 3, 1.0, float("nan")]})
    assert csv_table(frame) == f"circuit,n,value\n{TOLD},1,0.3333\n'=1+1,20000000,1\nplain,3,\n"
    assert csv_table(frame[["n", "value"]]) == frame[["n", "value"]].to_csv(index=False, float_format="%.4g")


@pytest.mark.parametrize(
    "name", ["it's", 'say "x"', "a&b", "<b>", "a b", "é/ü", "100%", "a;b(c)", HOSTILE, "</script>"]
)
def test_every_section_keeps_its_figure_whatever_a_checkpoint_is_called(tmp_path, name):
    figure = dress(go.Figure().add_scatter(x=[0], y=[1], name=label(name)), title=name)
    frame = pd.DataFrame({name: [name, "=1"]})
    sections = [Section(f"circuit-{name}", name, text=name, figure=figure, caption=name, frame=frame) for _ in "ab"]
    given = {"title": name, "subtitle": name, "verdict": [name], "warnings": [name], "provenance": [(name, name)]}
    page = write_page(tmp_path / "page.html", sections=sections, **given).read_text(encoding="utf-8")
    body = page[page.index("<body>") :]
    drawn = re.findall(r'<script type="application/json" data-figure="([^"]+)">(\{.*?\})</script>', body)
    assert len(drawn) == len({anchor for anchor, _ in drawn}) == 2
    for anchor, document in drawn:
        assert re.fullmatch(r"fig-[A-Za-z0-9_.-]+", anchor)
        assert f'<div class="figure" id="{anchor}"' in body
        assert f'<section class="part" id="{anchor.removeprefix("fig-")}">' in body
        assert f'<a href="#{anchor.removeprefix("fig-")}">' in body
        assert json.loads(document)["layout"]["title"]["text"] == label(name)
    plotly = 1
    assert body.count("<script") == body.count("</script>") == len(drawn) + len(SCRIPTS) + plotly
    assert not set("\x1b\u202e\x9b\u200b\x07") & set(body)
    cells = base64.b64decode(re.search(r"base64,([A-Za-z0-9+/=]+)", body)[1]).decode()
    assert cells.endswith("\n'=1\n")
