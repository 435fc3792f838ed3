"""What a run asked, how, and what it could not: refused facts and needles with reasons, and where needles stand."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import circuits
from checkpoints.results.text import counted
from circuit_drift.measures.registry import kinds_in
from circuit_drift.prompts import USUAL_SCORING
from circuit_drift.record.record import Point
from circuit_drift.statements.statement import Statement

if TYPE_CHECKING:
    import pandas as pd

_DETAILS = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\d+")
SHOWN = 3
HOW = ("method", "metric", "ig_steps", "rule", "backward", "circuit_edges")


def asked_sentences(points: Sequence[Point]) -> Iterator[str]:
    """How many facts and needles were refused and why, how answers were scored, and at which depths needles stand.

    All checkpoints of a run are asked the same, so the first that was asked speaks for them.
    """
    facts, needles = (_first(points, name) for name in ("circuit", "heads"))
    yield from _facts_refused(facts)
    if facts.get("answers") == "whole":
        yield "Facts are scored over all tokens of their answers (answers: whole)."
    if refused := needles.get("refused", ()):
        yield f"{_counted(refused, 'needle')} refused and not asked: {_reasons(refused, 'needle')}."
    if unlike := needles.get("answers_unlike_needle", 0):
        yield (
            f"In {unlike} needle prompts the answer is of other tokens than in the needle, since it follows another "
            "character there; no head can copy what differs."
        )
    yield from depth_sentence(needles)


def scoring_statements(points: Sequence[Point]) -> Iterator[Statement]:
    """How edges are scored and how many a circuit holds, where that is not the usual way."""
    results = (result for point in points for result in point.results.values())
    graph = next((result for result in results if isinstance(result, circuits.AttributionGraph)), None)
    if graph is None:
        return
    usual = {**asdict(USUAL_SCORING), "circuit_edges": USUAL_SCORING.edges}
    how = {name: graph.meta.get(name, usual[name]) for name in HOW}
    if all(how[name] == usual[name] for name in HOW):
        return
    words = [f"Edges are scored by {str(how['method']).upper()}"]
    words += [f" in the {how['metric']}"] if how["metric"] != "none" else []
    words += [f", {counted(how['ig_steps'], 'gradient')}"] if how["ig_steps"] else []
    words += [f" at the {how['rule']} of each step"] if how["rule"] in ("left", "right", "midpoint") else []
    words += [f", backward pass {how['backward']}"] if how["backward"] != "plain" else []
    size, of, asked = graph.circuit_edges, int(graph.mask.sum()), how["circuit_edges"]
    if asked is not None and asked >= of:
        words += [f"; {asked:,} edges were asked for, so a circuit holds all {of:,}, and none differ in what they hold"]
    elif asked is not None:
        words += [f"; a circuit holds {size:,} of {of:,} edges"]
    yield Statement("scoring", {**how, "edges": of}, told="".join(words) + ".")


def depth_sentence(meta: Mapping[str, Any]) -> Iterator[str]:
    """Where the needles stand beside where they were asked for; nothing where a result does not say."""
    if depths := meta.get("depths", ()):
        asked = ", ".join(f"{row[0]:g}" for row in depths)
        stand = ", ".join(f"{row[2]:.2f}" for row in depths)
        off = max(max(abs(row[1] - row[0]), abs(row[3] - row[0])) for row in depths)
        yield f"Needles were asked for at depth {asked} and stand at {stand} on average, {off:.2f} away at most."


def _facts_refused(meta: dict[str, Any]) -> Iterator[str]:
    refused = meta.get("refused", ())
    if refused:
        way_out = ""
        if any(reason.endswith(", not one") for _, reason in refused):
            way_out = " --answers whole scores answers of several tokens."
        yield f"{_counted(refused, 'fact')} refused and not asked: {_reasons(refused, 'fact')}.{way_out}"


def refused_frame(points: Sequence[Point]) -> "pd.DataFrame":
    """One row for each refused fact or needle: kind, index in its file (from 0), reason."""
    import pandas as pd

    rows = [
        {"kind": kind, "index": index, "reason": reason}
        for kind, name in (("fact", "circuit"), ("needle", "heads"))
        for index, reason in _first(points, name).get("refused", ())
    ]
    return pd.DataFrame(rows, columns=["kind", "index", "reason"])


def recorded(point: Point) -> dict[str, Mapping[str, Any]]:
    """Measure -> what its result of a point says it was computed from."""
    found = {kind.name: point.results[kind.name].meta.get("provenance") for kind in kinds_in([point])}
    return {measure: record for measure, record in found.items() if record}


def _first(points: Sequence[Point], name: str) -> dict[str, Any]:
    """What the first result of a measure says of its prompts."""
    found = next((result for point in points if (result := getattr(point, name)) is not None), None)
    return {} if found is None else dict(found.meta)


def _counted(refused: Sequence[Any], noun: str) -> str:
    return f"1 {noun} was" if len(refused) == 1 else f"{len(refused)} {noun}s were"


def _reasons(refused: Sequence[tuple[int, str]], noun: str) -> str:
    """Reasons of one kind counted together, the most frequent first, each with an example."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for index, reason in refused:
        kinds.setdefault(_DETAILS.sub("", reason), []).append((index, reason))
    by_size = sorted(kinds.values(), key=len, reverse=True)
    told = [
        f"{noun} {group[0][0]}: {group[0][1]}" + (f" (and {len(group) - 1} more like it)" if len(group) > 1 else "")
        for group in by_size[:SHOWN]
    ]
    rest = sum(map(len, by_size[SHOWN:]))
    return "; ".join(told) + (f"; {rest} for other reasons" if rest else "")
