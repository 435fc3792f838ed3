"""What is said of a run: sentences in which every number is computed from the results."""

from collections.abc import Iterator

import numpy as np

from checkpoints.results.text import counted
from circuit_drift.record.lineage import nearest_before
from circuit_drift.record.recall import recall_by_class
from circuit_drift.record.record import RunRecord
from circuit_drift.record.untrained import untrained_twin
from circuit_drift.report.asked import asked_sentences
from circuit_drift.stages.stages import continued, stages, track_heads
from heads.scores.scores import THRESHOLD

PASSED = 0.95
FALLING = 0.10


def run_verdict(run: RunRecord) -> tuple[str, ...]:
    """What happened over a run: when heads began to retrieve, what saturated first, what was learned and lost."""
    sentences = [*_emergence(run), *_saturation(run), *_knowledge(run), *asked_sentences(run.points)]
    twin = untrained_twin(run)
    if twin is not None:
        sentences.append(f"{twin.verdict[0].upper()}{twin.verdict[1:]}: the floor of what is found here.")
    failed = [point.name for point in run if point.failures]
    if failed:
        sentences.append(f"{len(failed)} of {len(run)} checkpoints could not be measured in full: {', '.join(failed)}.")
    return tuple(sentences)


def _emergence(run: RunRecord) -> Iterator[str]:
    scored = [(point, point.heads) for point in run if point.heads is not None]
    leaders = [scores.top(1)[0] for _, scores in scored]
    best = [leader.score.value for leader in leaders]
    if not scored:
        return
    onset = next((i for i, score in enumerate(best) if score > THRESHOLD), None)
    if onset is None:
        yield f"No head retrieves: the best score of any checkpoint is {max(best):.2f}, below {THRESHOLD}."
        return
    labels = [point.label for point, _ in scored]
    peak = int(np.argmax(best))
    end, last = scored[-1]
    before = nearest_before(run, scored[onset][0], lambda point: point.heads is not None)
    start = next((i for i, (point, _) in enumerate(scored) if point is before), onset)
    when = (
        f"at step {labels[onset]} already" if before is None else f"between steps {labels[start]} and {labels[onset]}"
    )
    of = f" of {end.branch}" if end.branch else ""
    yield (
        f"Retrieval heads appear {when}: the best score goes from {best[start]:.2f} to {best[onset]:.2f}, "
        f"and reaches {best[peak]:.2f} ({leaders[peak].name}) at step {labels[peak]}; {last.count()} of "
        f"{last.mean.size} heads retrieve at the end{of}."
    )


def _saturation(run: RunRecord) -> Iterator[str]:
    """Per stage: a needle test that is passed for good while the perplexity still falls, and what tracking tests."""
    for stage in stages(run):
        scored = [(point.label, point.heads) for point in stage if point.heads is not None and point.step]
        if len(scored) < 3:
            continue
        where = f" (stage {stage[0].stage})" if stage[0].stage else ""
        passed = [scores.needle_score for _, scores in scored]
        perplexity = [scores.answer_ppl for _, scores in scored]
        first = next((i for i in range(len(scored)) if min(passed[i:]) >= PASSED), len(scored) - 1)
        lowest = first + int(np.argmin(perplexity[first:]))
        if first > 0 and perplexity[lowest] < (1 - FALLING) * perplexity[first]:
            yield (
                f"The needle test is passed for good from step {scored[first][0]} on (score {passed[first]:.2f}), but "
                f"answer perplexity falls further, {perplexity[first]:.2f} → {perplexity[lowest]:.2f}, until step "
                f"{scored[lowest][0]}, {counted(lowest - first, 'checkpoint')} later{where}."
            )
        for sentence in track_heads(run, stage[0].stage, stage[0].branch).findings:
            if sentence.startswith("deceptive"):
                yield f"{sentence[0].upper()}{sentence[1:]}{where}."


def _knowledge(run: RunRecord) -> Iterator[str]:
    """Per stage after the first: recall of each class of facts before, at its best, and at the end."""
    groups = stages(run)
    for index, stage in enumerate(groups):
        before = continued(groups, index)
        if before is None:
            continue
        graphs = [point.circuit for point in (before, *stage)]
        if any(graph is None for graph in graphs):
            continue
        shares = [recall_by_class(graph) for graph in graphs if graph is not None]
        told = []
        for name in shares[0]:
            path = [share[name][0] for share in shares]
            peak = int(np.argmax(path))
            if peak in (0, len(path) - 1):
                told.append(f"{name} {path[0]:.2f} → {path[-1]:.2f}")
            else:
                told.append(f"{name} {path[0]:.2f} → {path[peak]:.2f} (step {stage[peak - 1].label}) → {path[-1]:.2f}")
        where = f"stage {stage[0].stage}" + (f", branch {stage[0].branch}" if stage[0].branch else "")
        yield f"Fact recall over {where}: {'; '.join(told)}."
