"""A table as a page shows it: words for names of columns, and both ends of an interval in one cell."""

import re
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from checkpoints.results.text import visible

if TYPE_CHECKING:
    import pandas as pd

WORDS = {
    "a": "at A", "b": "at B", "delta": "change", "in_a": "in A", "in_b": "in B", "score_a": "score at A",
    "score_b": "score at B", "nll": "NLL", "ppl": "PPL", "": "interval",
}  # fmt: skip
ENDS = ("low", "high")
_MINUS = re.compile(r"(?<![\w\-/.])-(?=\.?\d)")


def true_minus(text: str) -> str:
    """Numbers below 0 as figures spell them; hyphens of names stay."""
    return _MINUS.sub("−", text)


def html_table(frame: "pd.DataFrame") -> str:
    """The table as HTML; numbers to four digits with a true minus, truth as yes or no, what is missing as n/a."""
    rows = readable_rows(frame)
    rows = rows.where(rows.notna(), float("nan"))  # pandas writes None as such
    cells = {name: _cell for name, kind in rows.dtypes.items() if kind.kind in "iuO"}
    return visible(
        rows.to_html(
            index=False,
            border=0,
            na_rep="n/a",
            float_format=_number,
            formatters=cells,
            escape=True,
        )
    )


def readable_rows(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The same rows for people: ``x_low`` and ``x_high`` are one column ``x interval``, where ``low`` stood."""
    import pandas as pd

    columns: list[tuple[str, Any]] = []
    for name in map(str, frame.columns):
        stem, end = _parted(name)
        if end and f"{stem}{'_' if stem else ''}{'high' if end == 'low' else 'low'}" in frame.columns:
            if end == "low":
                high = frame[name.removesuffix("low") + "high"]
                columns.append((_interval(stem), [_ends(*pair) for pair in zip(frame[name], high, strict=True)]))
            continue
        columns.append(
            (column_in_words(name), frame[name].map(_plain) if frame[name].dtype == bool else frame[name].array)
        )
    return pd.concat(
        [pd.Series(values, name=name, dtype=getattr(values, "dtype", object)) for name, values in columns], axis=1
    )


def column_in_words(name: str) -> str:
    """A column's name for people: ``edges_changed`` is edges changed, ``reliability_a`` reliability at A."""
    if name in WORDS:
        return WORDS[name]
    for end, where in (("_a", " at A"), ("_b", " at B")):
        if name.endswith(end):
            return column_in_words(name.removesuffix(end)) + where
    return " ".join(WORDS.get(part, part) if part in ("nll", "ppl") else part for part in name.split("_"))


def _cell(value: Any) -> str:
    """What a column of whole numbers or of several kinds holds."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    return _number(value)


def _number(value: Any) -> str:
    whole = isinstance(value, Integral) or (abs(value) >= 1000 and float(value).is_integer())
    return true_minus(f"{int(value):,}" if whole else f"{value:.4g}")


def _parted(name: str) -> tuple[str, str]:
    """What an end of an interval belongs to, and which end it is; "" where it is none."""
    stem, _, end = name.rpartition("_")
    return (stem, end) if end in ENDS else (name, "")


def _interval(stem: str) -> str:
    return f"{column_in_words(stem)} interval" if stem else "interval"


def _ends(low: Any, high: Any) -> str:
    import pandas as pd

    return "n/a" if pd.isna(low) and pd.isna(high) else true_minus(f"[{_end(low)}, {_end(high)}]")


def _end(value: Any) -> str:
    import pandas as pd

    if value == "" or pd.isna(value):
        return "…"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(truth: bool) -> str:
    return "yes" if truth else "no"
