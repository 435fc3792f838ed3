"""What a notebook shows of a run or a pair, and one figure of its report by name."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from checkpoints.errors import require_choice
from circuit_drift.page.page import Section

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure_of(sections: Iterable[Section], name: str) -> "go.Figure":
    """The figure of the section of that name.

    Raises:
        DriftError: there is none; the message lists those that there are.
    """
    known = []
    for section in sections:
        if section.figure is not None:
            if section.slug == name:
                return section.figure
            known.append(section.slug)
    require_choice("figure", name, known)
    raise AssertionError(name)


def first_figure(sections: Iterable[Section]) -> "go.Figure | None":
    """The first figure of some sections."""
    return next((section.figure for section in sections if section.figure is not None), None)


def show(html: str, figure: "go.Figure | None") -> None:
    """Show both in the cell of a notebook, the figure below."""
    from IPython.display import HTML, display

    display(HTML(html))  # type: ignore[no-untyped-call]
    if figure is not None:
        display(figure)  # type: ignore[no-untyped-call]
