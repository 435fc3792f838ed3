"""The page: sections of figures and tables put into one self-contained HTML file.

plotly.js is written into the file once, packed, so that a report opens on a machine without a network and years from
now, and goes into a mail.
All text passes through jinja2's autoescape; only plotly's own JSON and pandas' own tables are inserted as they are.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import unescape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote

from checkpoints.errors import require_choice
from checkpoints.results.disk import write_file
from checkpoints.results.figure import unbroken
from checkpoints.results.text import counted, to_csv, visible
from circuit_drift.page.picture import pictures
from circuit_drift.page.tables import html_table, true_minus
from circuit_drift.page.thinning import LEADING, ROWS

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from markupsafe import Markup

Figures = Literal["interactive", "svg"]
CHAPTERS = ("Behaviour", "Heads", "Circuit", "What changed and why", "Data and checks")
LONG = 30  # rows of a table that the page puts in only when it is opened
SHOWN = 3  # sentences of the verdict on the first screen
CONTENTS = 4  # sections that a folded chapter names
CSV_DIGITS = 8  # of the tables that the page itself carries
SCRIPTS = ("atlas.js", "widgets.js", "page.js")
RESERVED = ("verdict", "theme", *(f"chapter-{name.lower().replace(' ', '-')}" for name in CHAPTERS))
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
_EDGE = re.compile(r"[\w.]+-&gt;\w+(?:\.\w+)?(?:&lt;\w&gt;)?")


@dataclass(frozen=True, slots=True)
class Widget:
    """A figure that the page's own script draws, from what the reader chooses.

    Attributes:
        kind: which, by its name in ``widgets.js``.
        data: JSON.
    """

    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report.

    Attributes:
        slug: its anchor.
        title: its heading.
        text: a sentence or two before the figure.
        figure: a plotly figure, or none.
        caption: n, seed, prompts, method: how the numbers came about.
        frame: the numbers behind the figure.
        chapter: of the page, one of `CHAPTERS` or a name of one's own; a page of one chapter shows it unfolded.
        widget: a figure to choose in, or none.
        points: sentences before the figure, a line each, where they are several.
        of: the pair of checkpoints it is about, in a chapter of several; its sections are folded together.
    """

    slug: str
    title: str
    text: str = ""
    figure: "go.Figure | None" = None
    caption: str = ""
    frame: "pd.DataFrame | None" = None
    chapter: str = ""
    widget: Widget | None = None
    points: Sequence[str] = ()
    of: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A key number of the first screen: what it is, its value with unit, and what it is to be held against."""

    label: str
    value: str
    note: str


def in_chapter(chapter: str, sections: Iterable[Section]) -> Iterator[Section]:
    """The sections in that chapter, except those that name their own."""
    return (section if section.chapter else replace(section, chapter=chapter) for section in sections)


def write_page(
    path: Path | str,
    *,
    title: str,
    subtitle: str,
    verdict: Sequence[str],
    warnings: Sequence[str],
    sections: Sequence[Section],
    provenance: Sequence[tuple[str, str]],
    cards: Sequence[Card] = (),
    lead: Section | None = None,
    figures: Figures = "interactive",
) -> Path:
    """Render the page and put it in place in one step, so that no reader meets half a report.

    A table of more than `ROWS` rows stands whole in a CSV beside the page, ``NAME-data/SECTION.csv``; on the page are
    its first rows, and a sentence that says so. The first screen holds the first sentences of the verdict, the cards
    and the leading section; all other sections are folded into chapters. With ``figures="svg"`` figures are pictures,
    for a paper or a mail, and the page is without plotly.js.

    Raises:
        StoreError: the file cannot be written.
        DriftError: pictures without kaleido or a browser.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("circuit_drift.page", ""), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    environment.filters["unbroken_edges"] = _unbroken_edges
    parts = [*((lead,) if lead else ()), *sections]
    anchors = _anchors([*RESERVED, *(section.slug for section in parts)])[len(RESERVED) :]
    require_choice("figures", figures, get_args(Figures))
    still = iter(pictures([part.figure for part in parts if part.figure is not None]) if figures == "svg" else ())
    rendered = [
        _render(section, anchor, label, Path(path), next(still, None) if section.figure is not None else None)
        for section, anchor, label in zip(parts, anchors, _labels(parts), strict=True)
    ]
    html = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        verdict=verdict,
        warnings=warnings,
        shown=SHOWN,
        cards=cards,
        lead=rendered[0] if lead else None,
        chapters=_chapters(sections, rendered[bool(lead) :]),
        provenance=provenance,
        style=_text("style.css"),
        scripts=[_text(name) for name in SCRIPTS],
        plotly_js=_plotly_js() if figures == "interactive" else "",
    )
    return write_file(path, html)


@cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return _gzipped(get_plotlyjs())


def _text(name: str) -> str:
    return (files("circuit_drift.page") / name).read_text(encoding="utf-8")


def _chapters(sections: Sequence[Section], rendered: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Chapters in the order of `CHAPTERS`, others behind them as they come, each with its sections."""
    named = [section.chapter or "Results" for section in sections]
    order = [chapter for chapter in CHAPTERS if chapter in named]
    order += [chapter for chapter in dict.fromkeys(named) if chapter not in CHAPTERS]
    found = []
    for chapter in order:
        parts = [part for part, name in zip(rendered, named, strict=True) if name == chapter]
        groups = _groups(parts)
        titles = [str(title) for group in groups for title in group["titles"]]
        found.append(
            {
                "title": chapter,
                "slug": f"chapter-{_ODD.sub('-', chapter).lower()}",
                "sections": parts,
                "groups": groups,
                "contents": ", ".join(titles[:CONTENTS])
                + (f" and {len(titles) - CONTENTS} more" if len(titles) > CONTENTS else ""),
                "open": len(order) == 1,
            }
        )
    return found


def _groups(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sections one after the other that are about the same pair, together; others by themselves."""
    found = []
    for of, own in groupby(parts, key=lambda part: str(part["of"])):
        sections = list(own)
        titles = [of] if of else [part["title"] for part in sections]
        found.append({"of": of, "slug": f"pair-{sections[0]['slug']}", "sections": sections, "titles": titles})
    return found


def _unbroken_edges(text: str) -> "Markup":
    """Text as HTML in which numbers have a true minus and no line ends inside the name of an edge."""
    from markupsafe import Markup, escape

    return Markup(_EDGE.sub(r'<span class="whole">\g<0></span>', str(escape(_shown(true_minus(text))))))


def _shown(value: object) -> object:
    """What a template puts in, with control characters written out; markup of our own as it is."""
    return visible(value) if type(value) is str else value


def _anchors(slugs: Sequence[str]) -> list[str]:
    """Names of sections that are the same in an address, an attribute and a script, whatever a checkpoint is called."""
    found: list[str] = []
    for slug in slugs:
        anchor = _ODD.sub("-", slug)
        again = sum(re.fullmatch(rf"{re.escape(anchor)}(--\d+)?", other) is not None for other in found)
        found.append(f"{anchor}--{again + 1}" if again else anchor)
    return found


def _labels(sections: Sequence[Section]) -> list[str]:
    """What a screen reader calls the tables: titles, numbered where several sections have the same."""
    found: list[str] = []
    titles = [section.title for section in sections]
    for place, title in enumerate(titles):
        again = titles[:place].count(title)
        found.append(f"{title} ({again + 1})" if again else title)
    return found


def _render(section: Section, anchor: str, label: str, page: Path, picture: str | None) -> dict[str, object]:
    figure, frame = section.figure, section.frame
    return {
        "slug": anchor,
        "label": label,
        "title": section.title,
        "short": section.title.removesuffix(f" {section.of.rpartition(': ')[2]}"),
        "text": section.text,
        "points": section.points,
        "of": section.of,
        "caption": section.caption,
        "figure": _json_for_script(figure) if figure is not None and picture is None else None,
        "picture": picture,
        "widget": None if section.widget is None else {"kind": section.widget.kind, "data": _packed(section.widget)},
        "summary": unescape(unbroken(figure.layout.title.text or "")) if figure is not None else "",
        **(_tabled(frame, anchor, page) if frame is not None else {"table": None, "none": False}),
    }


def _tabled(frame: "pd.DataFrame", anchor: str, page: Path) -> dict[str, object]:
    """A table with its CSV, which lies beside the page where the table is long."""
    if not len(frame):
        return {"table": None, "none": True}
    if len(frame) <= ROWS:
        text = to_csv(frame, CSV_DIGITS)
        shown = {
            "table": html_table(frame),
            "long": len(frame) > LONG,
            "rows": counted(len(frame), "row"),
            "csv": _data_uri(text),
        }
        return {**shown, "left": "", "none": False}
    beside = Path(f"{page.stem}-data", f"{anchor}.csv")
    write_file(page.parent / beside, to_csv(frame))
    whole = counted(len(frame), "row")
    return {
        "table": html_table(frame.head(LEADING)),
        "long": True,
        "rows": f"{LEADING} of {whole}",
        "csv": quote(beside.as_posix()),
        "none": False,
        "left": f"Shown are the first {LEADING} of {whole}; all are in {beside.as_posix()} beside this page.",
    }


def _json_for_script(figure: "go.Figure") -> str:
    """The figure as JSON that cannot end the script element it stands in."""
    document: str = figure.to_json()
    return json.dumps(json.loads(document), separators=(",", ":")).replace("<", "\\u003c")


def _packed(widget: Widget) -> str:
    return _gzipped(json.dumps(widget.data, separators=(",", ":"), allow_nan=False))


def _gzipped(text: str) -> str:
    """Text in gzip in base64, which a browser unpacks by itself."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _data_uri(text: str) -> str:
    return "data:text/csv;base64," + base64.b64encode(text.encode(errors="backslashreplace")).decode()
