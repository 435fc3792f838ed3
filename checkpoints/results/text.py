"""Text of others, names above all, on its way to a terminal, a figure or a spreadsheet: shown, never obeyed."""

import csv
import io
import re
from collections.abc import Sequence
from numbers import Integral, Real
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_CONTROLS = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"
_DIRECTIONS = "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"
_UNSEEN = "\\u200b\\u2028\\u2029\\u2060-\\u2064\\ufeff\\ud800-\\udfff"
_HIDDEN = re.compile(f"[{_CONTROLS}{_DIRECTIONS}{_UNSEEN}]")
_BREAKS = re.compile(r"[\t\n]")
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!])"), re.compile(r"&(?=#?\w+;)")
NUMBERS, FRACTIONS = frozenset("?bBhHiIlLqQ"), frozenset("efd")
"""Of numpy: truth and whole numbers; all others that are real."""
_FORMULA = re.compile(r"[=+\-@\t\r]")


def bulleted(head: str, sentences: Sequence[str], more: str, *, most: int = 12, width: int = 300) -> str:
    """A head and sentences below it, each on its line and none longer than ``width``, as a value shows itself.

    Args:
        head: what it is.
        sentences: what it says.
        more: where those that are left out are to be had.
        most: so many have a bullet.
        width: characters of a line at most; what is cut ends in an ellipsis.
    """
    told = [shorten(sentence, width, placeholder=" …") for sentence in sentences[:most]]
    left = [f"and {len(sentences) - most} more in {more}"] if len(sentences) > most else []
    return "\n".join([f"<{head}>", *(f"• {line}" for line in (*told, *left))])


def visible(text: str) -> str:
    """A text of any number of lines, with what a terminal would obey or hide written out as Python writes it.

    That is control characters, those that turn the direction of reading around, and halves of surrogate pairs, as which
    names of files come that are no UTF-8.
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_line(text: str) -> str:
    """`visible`, with line feeds and tabs written out too."""
    return _BREAKS.sub(lambda found: ascii(found[0])[1:-1], visible(text))


def label(text: str) -> str:
    """`visible_line` for a figure, whose labels plotly would read as tags and entities where they look like it."""
    return _TAG.sub("&lt;", _ENTITY.sub("&amp;", visible_line(text)))


def in_bytes(size: float) -> str:
    """A size for people: ``1.2 GB``."""
    for power, unit in enumerate(("B", "kB", "MB", "GB")):
        if size < 999.5 * 1000**power:
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size / 1e12:,.3g} TB"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things in words: ``1 head``, ``2,000 heads``; the plural is said where it is no added s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def to_csv(frame: "pd.DataFrame", digits: int | None = None) -> str:
    """A table as CSV in which no cell is a formula to a spreadsheet: such a text is led by an apostrophe.

    Args:
        frame: the table; its index is left out.
        digits: significant digits of numbers that are not whole; None = all.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(str(name)) for name in frame.columns])
    columns = [_cells(frame.iloc[:, place], digits) for place in range(frame.shape[1])]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def _cells(column: "pd.Series[Any]", digits: int | None) -> list[Any]:
    """A column's cells, each as `_cell` has it; numbers and repeated texts without a look at each."""
    values: list[Any] = column.tolist()
    kind = getattr(column.dtype, "char", "")
    if kind in NUMBERS:
        return values
    if kind in FRACTIONS:
        if digits is None:  # a csv.writer writes a float as `repr` does
            return ["" if value != value else value for value in values] if column.isna().any() else values
        form = f"{{:.{digits}g}}".format
        return ["" if value != value else form(value) for value in values]
    if column.dtype == "str":  # texts, and what is missing
        shown = {value: _cell(value) for value in column.dropna().unique().tolist()}
        return [shown.get(value, "") for value in values]
    texts = {value: _cell(value) for value in {value for value in values if isinstance(value, str)}}
    return [texts[value] if isinstance(value, str) else _cell(value, digits) for value in values]


def _cell(value: Any, digits: int | None = None) -> Any:
    if isinstance(value, str):
        return f"'{value}" if _FORMULA.match(value) and not _is_number(value) else value
    if value is None or value != value:
        return ""
    return f"{value:.{digits}g}" if digits is not None and _is_fraction(value) else value


def _is_fraction(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, Integral)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
