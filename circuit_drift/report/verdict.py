"""What is found of a run, as values: when heads begin to retrieve, whether needle tests deceive, recall by stage."""

from collections.abc import Iterator, Sequence
from math import exp, log

import heads
from circuit_drift.comparison.decision import answered
from circuit_drift.measures.pairs.recall import recall_questions, recall_statements
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.record.untrained import TWIN, floor_words, null_point, readouts
from circuit_drift.report.asked import asked_sentences, scoring_statements
from circuit_drift.stages.onset import HeadOnset, head_onsets
from circuit_drift.stages.stages import stage_ends, stages, track_points
from circuit_drift.statements.statement import Statement
from heads.scores.scores import THRESHOLD
from heads.tracking.head_track import HeadTrack
from heads.tracking.head_track_view import deception, deceptive_sentence
from heads.tracking.saturation import beyond_scatter

PASSED = 0.95
FALLING = 0.10
LEVEL = 0.05
TESTED = {
    "ablation": "paired over needles, beside as many other heads",
    "patching": "each edge alone, beside as many random ones",
}
"""Measures that intervene, and what their findings rest on."""


def run_verdict(run: RunRecord) -> tuple[str, ...]:
    """The statements in words."""
    return tuple(statement.text for statement in run_statements(run))


def run_statements(run: RunRecord) -> tuple[Statement, ...]:
    """What happened over a run: when heads began to retrieve, what saturated first, what was learned and lost."""
    found = [_onset(onset) for onset in head_onsets(run)]
    found += [*_saturation(run), *_recall(run), *_tested(run)]
    found += scoring_statements(run.points)
    found += [Statement("asked", told=sentence) for sentence in asked_sentences(run.points)]
    null = null_point(run)
    if null is not None:
        numbers = {"who": null.name, "twin": null.name == TWIN, "floor": readouts(null), "words": floor_words(null)}
        found.append(Statement("null", numbers, basis="one draw of weights, the same prompts"))
    failed = [point.name for point in run if point.failures]
    if failed:
        found.append(Statement("unmeasured", {"n": len(failed), "of": len(run), "names": failed}))
    return tuple(found)


def _onset(onset: HeadOnset) -> Statement:
    when, best, count = onset.found, onset.best, onset.count
    bracket = {name: None if when is None else getattr(when, name) for name in ("after", "by", "low", "high")}
    numbers = {
        "head": onset.head,
        "outcome": "" if when is None else when.outcome,
        "threshold": THRESHOLD,
        **bracket,
        "first": _place(onset.first),
        "last": _place(onset.last),
        "best": {"value": best.value, "low": best.low, "high": best.high, "step": _place(onset.at)},
        "count": {"value": int(count.value), "low": count.low, "high": count.high, "of": onset.of},
        **{name: getattr(onset, name) for name in ("chosen_on", "judged_on", "unit")},
    }
    judged = f"{onset.judged_on} others" if onset.judged_on else "the same"
    basis = f"head chosen on {onset.chosen_on} {onset.unit}s, dated and scored on {judged}; 95 % intervals over them"
    found = Statement("onset", numbers, basis=basis)
    return found.over(onset.line) if onset.line else found


def _place(point: Point) -> int | str:
    """Where a point stands on its line, or its name."""
    return point.label if point.position is None or point.branch else point.position


def _saturation(run: RunRecord) -> Iterator[Statement]:
    """Per stage: deceptive saturation, by the test of tracking; else a test passed for good while perplexity falls."""
    for stage in stages(run):
        scored = [point for point in stage if point.heads is not None and point.step]
        if len(scored) < 3:
            continue
        track = track_points(run, stage, top_k=None)
        found = deception(track)
        if found is None:
            yield from _passed(scored, track)
            continue
        still, moving = found
        numbers = {"metric": still.metric, "step": still.step, "stage": stage[0].stage or ""}
        numbers |= {name: exp(getattr(moving, name)) for name in ("slope", "low", "high")}
        basis = "the test is still, and answer NLL moves, per doubling; over needles and scatter between checkpoints"
        yield Statement("deceptive", numbers | {"said": deceptive_sentence(still, moving)}, basis=basis)


def _passed(scored: Sequence[Point], track: HeadTrack) -> Iterator[Statement]:
    """The perplexity of the answers at the first checkpoint that passes for good, and at the last."""
    tested = [(point, point.heads) for point in scored if point.heads is not None]
    passed = [scores.needle_score for _, scores in tested]
    first = next((i for i in range(len(tested)) if min(passed[i:]) >= PASSED), 0)
    (start, before), (end, after) = tested[first], tested[-1]
    change = heads.diff(before, after).nll
    if first == 0 or not (change.delta < log(1 - FALLING) and change.high < 0):
        return
    at, curve = track.steps.index(start.position or 0), track.curves["needle_score"]
    if not beyond_scatter(track.curves["answer_nll"].value[at:]):
        return
    numbers = {
        "step": _place(start),
        "end": _place(end),
        "stage": start.stage or "",
        "score": passed[first],
        "low": float(curve.low[at]),
        "high": float(curve.high[at]),
        "before": before.answer_ppl,
        "after": after.answer_ppl,
        "ratio": exp(change.delta),
        "ratio_low": exp(change.low),
        "ratio_high": exp(change.high),
    }
    basis = f"paired over needles, beyond the scatter of later checkpoints; passed: {PASSED:g}, at every later one too"
    yield Statement("passed", numbers, basis=basis)


def _recall(run: RunRecord) -> Iterator[Statement]:
    """Per stage: how many facts were learned and how many lost, in all and by class, from its start to its end."""
    for a, b in stage_ends(run):
        if a.circuit is None or b.circuit is None or not (a.circuit.answer_rank * b.circuit.answer_rank == 0).any():
            continue
        asked = answered(tuple(recall_questions(a.circuit, b.circuit, deltas=Deltas())), level=LEVEL)
        pair = PairRecord(a, b, LEVEL, questions=asked)
        yield from (statement.over(pair.span) for statement in recall_statements(pair))


def _tested(run: RunRecord) -> Iterator[Statement]:
    """What ablating the best heads, and patching the strongest edges, did at the last checkpoint that has it."""
    for measure, basis in TESTED.items():
        last = next((point for point in reversed(tuple(run)) if measure in point.results), None)
        if last is not None:
            told = f"Step {last.label}: {last.results[measure].verdict}."
            yield Statement("tested", {"measure": measure, "step": _place(last)}, basis=basis, told=told)
