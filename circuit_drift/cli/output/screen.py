"""A pair on one screen: what it does otherwise, and the strongest real changes of each kind, in narrow tables."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuit_drift.comparison.pair_tables import pair_tables
from circuit_drift.record.groups import class_names
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.recall import recall_change
from circuits.comparison.clusters import clusters_of
from heads.scores.change import Change

if TYPE_CHECKING:
    import pandas as pd

    from circuit_drift.explanation.explanation import Explanation

KINDS = {"heads": "Heads that changed", "edges": "Edges that changed", "roles": "Roles of heads that changed"}
"""Tables of a pair that stand on the screen, with what heads them there; the others stand behind ``--all``."""
ASIDE = ("few", "overlap", "scope", "transfer", "asked")
"""Statements of a pair that qualify others or are about circuits run elsewhere: behind ``--all``, not on the screen."""
NAMES = ("group", "name", "edge", "head", "role", "change", "status")
ENDS = {"a": "A", "before": "A", "b": "B", "after": "B"}


def screen_tables(pair: PairRecord, most: int) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """Behaviour, then each kind of finding: title and table, at most so many rows of each."""
    behaviour = behaviour_frame(pair)
    if len(behaviour):
        yield "Behaviour [95 %]", behaviour
    for table in pair_tables(pair):
        if table.name not in KINDS:
            continue
        frame = table.frame
        if table.name == "heads" and pair.heads is not None:
            frame = frame[frame["q"] <= pair.heads.level]
        if len(frame):
            of = f", {most} of {len(frame)}" if len(frame) > most else ""
            yield f"{KINDS[table.name]}{of}", narrow(_largest_first(frame).head(most))


def behaviour_frame(pair: PairRecord) -> "pd.DataFrame":
    """What both checkpoints do, readout by readout and, for facts, class by class: A, B, change with interval, p."""
    import pandas as pd

    rows = [
        {
            "readout": change.name,
            "A": _short(change.before),
            "B": _short(change.after),
            "change": interval(change.delta, change.low, change.high),
            "p": _short(change.p),
        }
        for change in (*pair.behaviour, *_recall_by_class(pair))
    ]
    return pd.DataFrame(rows)


def narrow(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Names, A, B and the change with its interval in one column: two digits, so that 80 columns hold them.

    Other columns are left out; q too, since all rows are within the level.
    """
    import pandas as pd

    columns: dict[str, Sequence[object]] = {name: frame[name].tolist() for name in NAMES if name in frame}
    columns |= {shown: [_short(each) for each in frame[name]] for name, shown in ENDS.items() if name in frame}
    if {"delta", "low", "high"} <= set(frame):
        ends = zip(frame["delta"], frame["low"], frame["high"], strict=True)
        columns["B - A"] = [interval(*each) for each in ends]
    return pd.DataFrame(columns)


def shares_frame(found: "Explanation") -> "pd.DataFrame":
    """Components of an explanation, largest share first: what each made, and restores and takes back alone, in %."""
    import pandas as pd

    frame = found.to_frame()
    ends = zip(frame["share"], frame["low"], frame["high"], strict=True)
    columns: dict[str, Sequence[object]] = {
        "component": frame["component"].tolist(),
        f"share, {found.unit}": [interval(*each) for each in ends],
    }
    told = {"percent": "% of change", "restored": "% restored", "taken_back": "% taken back"}
    columns |= {shown: [_short(each) for each in frame[name]] for name, shown in told.items() if name in frame}
    return pd.DataFrame(columns)


def interval(delta: float, low: float, high: float) -> str:
    """A change with its interval, as tables of the screen show it; by itself where too few units give none."""
    if math.isnan(low) or math.isnan(high):
        return f"{delta:+.2g}"
    return f"{delta:+.2g} [{low:+.2g}, {high:+.2g}]"


def _largest_first(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Largest change first, whatever its group; the table's own order where it has no change."""
    return frame.sort_values("delta", key=abs, ascending=False, kind="stable") if "delta" in frame else frame


def _short(value: float) -> float:
    return float(f"{value:.2g}")


def _recall_by_class(pair: PairRecord) -> Iterator[Change]:
    a, b = pair.a.circuit, pair.b.circuit
    if a is None or b is None:
        return
    names = class_names(a)
    kinds = dict.fromkeys(names.tolist())
    cluster = () if pair.groups is None else pair.groups.cluster
    of = clusters_of(a, cluster) if cluster else np.arange(len(names))
    for kind in kinds if len(kinds) > 1 else ():
        chosen = names == kind
        change = recall_change((a.answer_rank == 0)[chosen], (b.answer_rank == 0)[chosen], of[chosen])
        yield Change(f"recall of {kind} ({int(chosen.sum())})", *_numbers(change))


def _numbers(change: Change) -> tuple[float, float, float, float, float, float]:
    return change.before, change.after, change.delta, change.low, change.high, change.p
