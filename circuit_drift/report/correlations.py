"""Do the numbers of a measure go with downstream scores over training?"""

from collections.abc import Iterator, Mapping, Sequence

from checkpoints.errors import BadPrompt
from circuit_drift.record.record import RunRecord
from circuit_drift.report.run_table import readings
from circuit_drift.stages.stages import line
from heads.tracking.correlation import align_steps, correlate


def correlations(
    run: RunRecord,
    measures: Sequence[str],
    downstream: Mapping[str, Mapping[int, float]],
    *,
    stage: str | None = None,
    branch: str | None = None,
) -> Iterator[str]:
    """Every number of some measures against every downstream score, a sentence each, over one line of training.

    Why some have no correlation is told behind them, each reason once.

    Args:
        run: with results of the measures.
        measures: their names.
        downstream: column -> {step: value}.
        stage: of training, as for `circuit_drift.stages.stages.line`.
        branch: of it.

    Raises:
        DriftError: a measure that the run has no result of.
        BadPrompt: several lines of training.
    """
    missing: dict[str, None] = {}
    steps = [point.step for point in line(run, stage, branch) if point.step is not None]
    for measure in measures:
        for metric, values in readings(run, measure).items():
            for column, scores in downstream.items():
                if column == metric:
                    continue
                try:
                    yield str(correlate(align_steps(values, steps), align_steps(scores, steps), names=(metric, column)))
                except BadPrompt as reason:
                    missing[f"no correlation: {reason}"] = None
    yield from missing
