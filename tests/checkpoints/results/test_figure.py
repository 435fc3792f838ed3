"""The title of a figure stands whole in a picture of any program: broken into lines, with room for them."""

import plotly.graph_objects as go
import pytest

from checkpoints.results.figure import SUBTITLE_LINE, TITLE_LINE, dress, unbroken

FINDING = "needle accuracy 0\u00a0% → 95\u00a0%; recall, known facts 0\u00a0% → 31\u00a0%; recall, new 1 facts 0\u00a0%"


@pytest.fixture
def layout():
    return dress(go.Figure(), title=FINDING, subtitle="how to read it, " * 20).layout


def test_a_long_title_is_broken_where_a_picture_of_700_pixels_ends(layout):
    lines = layout.title.text.split("<br>")
    assert lines == [FINDING.removesuffix(" 0\u00a0%"), "0\u00a0%"]
    assert max(map(len, layout.title.subtitle.text.split("<br>"))) <= 105
    assert unbroken(layout.title.text) == FINDING


def test_further_lines_take_room_of_their_own_and_none_of_the_plot(layout):
    plain = dress(go.Figure(), title="a finding").layout
    further = TITLE_LINE + SUBTITLE_LINE * layout.title.subtitle.text.count("<br>")
    assert layout.height - layout.margin.t == plain.height - plain.margin.t
    assert layout.margin.t == plain.margin.t + further


def test_a_name_that_looks_like_a_break_is_shown_and_breaks_nothing():
    title = dress(go.Figure(), title="run <br> of a & b").layout.title
    assert "<br>" not in title.text and title.text == "run &lt;br> of a & b"
