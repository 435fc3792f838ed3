"""What is said of a pair: whether it differs, then behaviour, circuits group by group, heads, and what was left out."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from circuit_drift.comparison.pair_tables import pairings
from circuit_drift.measures.pairs.heads import NLL
from circuit_drift.measures.pairs.recall import NET, TURNOVER
from circuit_drift.record.circuit_groups import GroupChange
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import PairQuestion
from circuit_drift.report.asked import asked_sentences, scoring_statements
from circuit_drift.statements.statement import Statement

FEW = 4


def pair_statements(pair: PairRecord) -> tuple[Statement, ...]:
    """What changed from A to B: the outcome and its level, then each measure's own statements."""
    told = sorted(pairings(pair).values(), key=lambda how: how.place)
    found = [_outcome(pair)]
    if pair.floor is not None:
        basis = (
            "changes among siblings of A, on the same prompts; t over their scatter, Cauchy combination over changes"
        )
        found.append(Statement("floor", pair.floor.to_json(), basis=basis))
    found += [statement for how in told for statement in how.statements(pair)]
    if any(question.p == question.p for question in pair.questions):
        families = list(dict.fromkeys(q.family for q in pair.questions if q.p == q.p))
        found.append(Statement("level", {"level": pair.q, "families": families}, basis="Holm over families"))
    found += scoring_statements((pair.a, pair.b))
    found += [Statement("asked", told=sentence) for sentence in asked_sentences((pair.a, pair.b))]
    found += [
        Statement("missing", {"measure": measure, "why": why}, told=f"Not compared: {measure} ({why}).")
        for measure, why in pair.missing.items()
    ]
    return tuple(found)


def pair_verdict(pair: PairRecord) -> tuple[str, ...]:
    """The statements in words."""
    return tuple(statement.text for statement in pair_statements(pair))


def _outcome(pair: PairRecord) -> Statement:
    a, b = pair.ends
    numbers: dict[str, Any] = {"a": a, "b": b, "outcome": pair.outcome}
    if pair.outcome == "different":
        numbers["floor"] = "" if pair.floor is None else pair.floor.outcome
        parts = list(_parts(pair))
        numbers["parts"] = parts[:FEW] + ([{"what": "more", "n": len(parts) - FEW}] if len(parts) > FEW else [])
    if pair.outcome == "equivalent":
        compared = {effect for question in pair.questions for effect in _margins(question)}
        numbers["deltas"] = {name: value for name, value in asdict(pair.deltas).items() if name in compared}
    if pair.outcome == "undecided":
        numbers["open"] = _open(pair)
    if not pair.outcome and pair.questions:
        numbers["untested"] = all(question.adjusted != question.adjusted for question in pair.questions)
    return Statement("outcome", numbers, basis=f"level {pair.q:g} for the pair; margins as in docs/comparing.md")


def _margins(question: PairQuestion) -> Iterator[str]:
    """Names of the deltas that a question was held against."""
    if not question.effects:
        return
    if question.family == "circuit":
        yield from ("wiring", "strength", "edge")
    else:
        yield {"behaviour": "recall", "heads": "heads", "readouts": "nll"}[question.family]


def _open(pair: PairRecord) -> dict[str, Any]:
    """The change that is furthest from decided, of the questions left open."""
    open_ = [
        (effect.needed - effect.n, effect)
        for question in pair.questions
        if question.outcome == "undecided"
        for effect in question.effects
        if not effect.equivalent
    ]
    more, effect = max(open_, key=lambda pair: pair[0])
    beyond = effect.high - effect.bounds[1] >= effect.bounds[0] - effect.low
    reach, margin = (effect.high, effect.bounds[1]) if beyond else (effect.low, effect.bounds[0])
    return {"name": effect.name, "reach": reach, "margin": margin, "more": max(1, more), "unit": effect.unit}


def _parts(pair: PairRecord) -> Iterator[dict[str, Any]]:
    """What differs, behaviour first, then circuits, heads, and measures of others."""
    different = {(str(q.family), q.name): q for q in pair.questions if q.outcome == "different"}
    a, b = pair.a.circuit, pair.b.circuit
    classes = [name for family, name in different if family == "behaviour" and name not in (TURNOVER, NET)]
    if a is not None and b is not None and {("behaviour", TURNOVER), ("behaviour", NET)} & different.keys():
        before, after = a.answer_rank == 0, b.answer_rank == 0
        lost, learned = int((before & ~after).sum()), int((~before & after).sum())
        yield {"what": "facts", "lost": lost, "learned": learned, "of": len(before)}
    elif classes:
        yield {"what": "recall", "name": classes[0]}
    groups = () if pair.groups is None else pair.groups.groups
    told = [_circuit(each, different[key]) for each in groups if (key := ("circuit", each.group.name)) in different]
    if told:
        yield {"what": "circuits", "groups": sorted(told, key=lambda each: each["group"] == "neither")}
    if ("heads", "heads") in different and pair.heads is not None:
        yield {"what": "heads", "n": pair.heads.n_significant, "of": pair.heads.delta.size}
    for (family, name), _ in different.items():
        if family == "readouts" and pair.heads is not None:
            change = pair.heads.nll if name == NLL else pair.heads.accuracy
            yield {"what": "readout", "name": change.name, "before": change.before, "after": change.after}
    for measure, how in pairings(pair).items():
        if measure not in ("heads", "circuit"):
            yield from ({"what": "other", "name": part} for part in how.parts(pair.changes[measure]))


def _circuit(change: GroupChange, question: PairQuestion) -> dict[str, Any]:
    """A circuit that differs: strength or wiring where it is outside its margin, and how many edges changed."""
    found, diff = change.contrast, change.diff
    assert found is not None
    assert diff is not None
    outside = {effect.name.partition(" (")[0] for effect in question.effects if effect.different}
    return {
        "group": change.group.name,
        "stands": list(change.stands),
        "strength": found.strength if "strength" in outside else None,
        "strength_interval": (found.strength_low, found.strength_high),
        "wiring": found.apart if "wiring" in outside else None,
        "edges": diff.n_significant,
    }
