"""The small change of sentences: p values, intervals, lists."""

from collections.abc import Sequence
from math import isnan

NAMED = 3


def p_text(p: float, least: float = 0.0) -> str:
    """A p value; one that is the smallest that the data can give is an upper bound, but of 1, which bounds nothing."""
    return f"p {'≤' if p <= least * (1 + 1e-9) and p < 1 else '='} {p:.2g}"


def span(low: float, high: float, form: str = ".2f") -> str:
    """A 95 % interval; too few units, as one needle, have none."""
    return "[no interval]" if isnan(low) and isnan(high) else f"[{low:{form}}, {high:{form}}]"


def signed_span(low: float, high: float) -> str:
    """The interval of a change, to two digits."""
    return "[no interval]" if isnan(low) and isnan(high) else f"[{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """A change to two digits; one that rounds to nothing has no minus."""
    return f"{round(value, 2) + 0.0:+.2f}"


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Names, the first few, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
