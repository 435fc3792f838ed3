"""The figure of a pair's groups says how many are wired as before, and draws what has a value alone."""

import numpy as np
import pandas as pd
import pytest

from checkpoints.results.figure import unbroken
from circuit_drift.measures.pairs.groups_figure import groups_figure
from tests.looks import looks

DELTAS = {"wiring": 0.1, "strength": 0.25}


def groups(**changed):
    table = {
        "group": ["kept", "lost", "learned", "neither"],
        "facts": [35, 2, 36, 90],
        "wiring": [0.01, np.nan, 0.3, 0.12],
        "wiring_low": [0.0, np.nan, 0.2, 0.05],
        "wiring_high": [0.1, np.nan, 0.4, 0.2],
        "strength": [1.0, np.nan, 1.64, 0.9],
        "strength_low": [0.9, np.nan, 1.46, 0.8],
        "strength_high": [1.1, np.nan, 1.98, 1.05],
    }
    return pd.DataFrame(table | changed)


def test_the_title_counts_what_is_certainly_the_same_and_what_is_certainly_another():
    figure = groups_figure(groups(), DELTAS)
    told = "Same wiring in 1 of 3 groups, another in 1; 0.90 to 1.64 times as strong"
    assert unbroken(figure.layout.title.text) == told
    wider = groups_figure(groups(), DELTAS | {"wiring": 0.4})
    assert unbroken(wider.layout.title.text) == "Same wiring in 3 of 3 groups; 0.90 to 1.64 times as strong"


def test_each_group_stands_at_its_values_with_its_interval():
    wiring, strength = groups_figure(groups(), DELTAS).data
    assert list(wiring.y) == list(strength.y) == ["kept (35)", "learned (36)", "neither (90)"]
    assert list(wiring.x) == [0.01, 0.3, 0.12]
    assert list(strength.x) == [1.0, 1.64, 0.9]
    assert list(strength.error_x.array) == pytest.approx([0.1, 0.34, 0.15])
    assert list(strength.error_x.arrayminus) == pytest.approx([0.1, 0.18, 0.1])


def test_the_margins_are_dotted_and_no_change_is_solid():
    lines = [(shape.xref, shape.x0, shape.line.dash) for shape in groups_figure(groups(), DELTAS).layout.shapes]
    assert lines == [("x", 0.0, None), ("x", 0.1, "dot"), ("x2", 1.0, None), ("x2", 0.8, "dot"), ("x2", 1.25, "dot")]


def test_one_group_alone_is_told_by_its_name():
    for place, wiring in ((0, "the same wiring"), (2, "another wiring"), (3, "wiring undecided")):
        one = groups().iloc[[place]]
        name, strength = one["group"].item(), one["strength"].item()
        told = groups_figure(one, DELTAS).layout.title.text
        assert unbroken(told) == f"{name.capitalize()} facts: {wiring}; {strength:.2f} times as strong"


def test_nothing_is_drawn_where_no_group_was_compared():
    assert groups_figure(groups(wiring=np.nan), DELTAS) is None


def test_what_the_figure_of_groups_shows_is_told_below_its_title():
    assert unbroken(groups_figure(groups(), DELTAS).layout.title.subtitle.text) == (
        "groups of facts, how many in brackets; bars: 95 % intervals; solid line: no change; dotted: margin"
    )


def test_how_groups_are_drawn():
    value = "%{y}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>"
    marker = f"symmetric=False hovertemplate={value} color=#0072B2 size=9 mode=markers showlegend=False"
    assert looks(groups_figure(groups(), DELTAS)) == [
        f"{marker} xaxis=x yaxis=y",
        f"{marker} xaxis=x2 yaxis=y2",
        "xaxis text=1 − cosine (0: the same wiring)",
        "yaxis automargin=True autorange=reversed",
        "xaxis2 text=times as strong at B",
        "yaxis2 automargin=True autorange=reversed matches=y showticklabels=False",
        "mark color=#767676 width=1 x0=0.0 x1=0.0 xref=x y0=0 y1=1 yref=y domain",
        "mark color=#767676 dash=dot x0=0.1 x1=0.1 xref=x y0=0 y1=1 yref=y domain",
        "mark color=#767676 width=1 x0=1.0 x1=1.0 xref=x2 y0=0 y1=1 yref=y2 domain",
        "mark color=#767676 dash=dot x0=0.8 x1=0.8 xref=x2 y0=0 y1=1 yref=y2 domain",
        "mark color=#767676 dash=dot x0=1.25 x1=1.25 xref=x2 y0=0 y1=1 yref=y2 domain",
        "layout height=322",
    ]
