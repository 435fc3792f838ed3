"""The look that figures of all packages share; plotly figures come in and go out, nothing is shown.

Okabe-Ito for categories, cividis for values of one sign, blue to red for signed ones.
"""

from textwrap import wrap
from typing import TYPE_CHECKING

from checkpoints.results.text import label

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#767676",
)
CATEGORIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY, "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
UNSIGNED, SIGNED = "Cividis", "RdBu_r"
TOP, BOTTOM, ABOVE = 90, 60, 16
"""Pixels above the plot, below it, and above the title."""
BREAK = "<br>"
TITLE, SUBTITLE = 16, 12
"""Sizes of their letters, in pixels."""
TITLE_COLUMNS, SUBTITLE_COLUMNS = 80, 105
"""Letters in one line of them, so that a picture of plotly's own width, 700 pixels, cuts none off."""
TITLE_LINE, SUBTITLE_LINE = 21, 16
"""Pixels that a further line of them takes; page.js knows them too."""


def dress(figure: "go.Figure", *, title: str, subtitle: str = "", height: int = 420, top: int = TOP) -> "go.Figure":
    """Give a figure its title (the finding), its subtitle (metric and sign, how to read it) and the common look.

    Long ones are broken into lines, for which the figure grows: its plot keeps its height.

    Args:
        figure: changed in place.
        title: in a few words.
        subtitle: in smaller letters below it.
        height: pixels, with a line each of both.
        top: pixels of these above the plot; panels with titles of their own take more.
    """
    title, subtitle = broken(label(title), TITLE_COLUMNS), broken(label(subtitle), SUBTITLE_COLUMNS)
    further = TITLE_LINE * title.count(BREAK) + SUBTITLE_LINE * subtitle.count(BREAK)
    figure.update_layout(
        template="plotly_white",
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": SUBTITLE}},
            "font": {"size": TITLE},
            "x": 0,
            "xref": "container",
            "y": 1 - ABOVE / (height + further),
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12},
        },
        height=height + further,
        margin={"l": 70, "r": 60, "t": top + further, "b": BOTTOM},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    return figure


def broken(text: str, columns: int) -> str:
    """A text in lines of at most so many letters, as a figure breaks them; a longer word stands whole."""
    return BREAK.join(wrap(text, columns, break_long_words=False, break_on_hyphens=False))


def unbroken(text: str) -> str:
    """The text of a figure's title in one line."""
    return text.replace(BREAK, " ")
