"""A run as a user holds it: the record, and what can be done with it."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from checkpoints import Series
from checkpoints.placement import Placement, Where
from circuit_drift.api.pairs import PairDiff
from circuit_drift.api.shown import figure_of, first_figure, show
from circuit_drift.comparison.pair import stored_pair
from circuit_drift.measures.base import Measure
from circuit_drift.page.page import Figures
from circuit_drift.prompts import Prompts
from circuit_drift.record.record import RunRecord
from circuit_drift.report import run_sections, write_report
from circuit_drift.report.latex import run_latex
from circuit_drift.report.run_table import run_frame, run_html
from circuit_drift.report.verdict import run_statements, run_verdict
from circuit_drift.stages.emergence import RunEmergence, run_emergence
from circuit_drift.stages.stages import track_circuit, track_heads
from circuit_drift.statements.statement import Statement
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors import Executor
from circuit_drift.sweep.limits import Limits
from circuit_drift.sweep.sweep import load_record, measure_series
from circuit_drift.trackers.trackers import Tracker

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from circuits.tracking.circuit_track import CircuitTrack
    from heads.tracking.head_track import HeadTrack


@dataclass(frozen=True, slots=True, repr=False)
class Run(RunRecord):
    """The measured checkpoints of a series, in order, and what can be done with them; fields as of `RunRecord`."""

    @classmethod
    def of(cls, record: RunRecord) -> "Run":
        """The run of a record."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(record)})

    def diff(
        self,
        a: int | str,
        b: int | str,
        *,
        q: float = 0.05,
        delta: Mapping[str, float] | None = None,
        floor: Sequence[int | str] | None = None,
        cluster: Sequence[str] = (),
    ) -> PairDiff:
        """Compare two of its checkpoints; see `circuit_drift.diff`.

        The floor is that of the siblings named, by default of the neighbours before A where its stage has converged;
        an empty one is none. ``cluster`` names labels of facts that are one unit.
        """
        return PairDiff.of(stored_pair(self, a, b, q=q, delta=delta, floor=floor, cluster=cluster))

    def track_heads(self, stage: str | None = None, branch: str | None = None, **options: Any) -> "HeadTrack":
        """Follow retrieval through the run, one of its stages or one of its branches; options as of `heads.track`.

        Raises:
            StoreError: no such stage or branch.
            BadPrompt: fewer than two checkpoints with retrieval scores and a step, or several lines of training.
        """
        return track_heads(self, stage, branch, **options)

    def track_circuit(
        self, stage: str | None = None, branch: str | None = None, group: str | None = None
    ) -> "CircuitTrack":
        """Follow the circuit through the run, one of its stages or one of its branches, as `circuits.track` does.

        With a group, on its facts alone: kept, lost, learned or neither from the first checkpoint to the last, or a
        class. Without one, on the largest group of facts that were recalled at the same ends of stages
        (`circuit_drift.stages.stages.track_circuits` follows them all); facts that no checkpoint recalls are left out.

        Raises:
            StoreError: no such stage or branch.
            BadPrompt: no such group, or one of fewer than eight facts;
                fewer than two checkpoints with a circuit and a step, or several lines of training.
        """
        return track_circuit(self, stage, branch, group)[0]

    def emergence(self, metrics: Sequence[str] = (), **options: Any) -> RunEmergence:
        """When metrics emerge, each with an interval for the step, and which comes first.

        Args:
            metrics: as ``recall``, ``needle_accuracy``, ``head:a1.h2``, ``edge:a0.h1->m2``; by default the usual.
            options: ``stage``, ``branch``, ``thresholds``, ``draws``, as of `circuit_drift.stages.emergence`.

        Raises:
            StoreError: no such stage or branch.
            BadPrompt: an unknown metric, or several lines of training.
        """
        return run_emergence(self, metrics, **options)

    def monitor(self, stage: str | None = None, branch: str | None = None, **options: Any) -> "HeadTrack":
        """The former name of `track_heads`; goes with the next release."""
        warnings.warn("Run.monitor is now Run.track_heads", DeprecationWarning, stacklevel=2)
        return self.track_heads(stage, branch, **options)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What is found, as values: kind, numbers, what they rest on, and their words in ``text``."""
        return run_statements(self)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The statements in words, as the terminal and the report have them."""
        return run_verdict(self)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each checkpoint: behaviour, heads, circuit."""
        return run_frame(self)

    def report(self, path: Path | str, *, figures: Figures = "interactive") -> Path:
        """Write one self-contained HTML page; see `circuit_drift.report.write_report`.

        Args:
            path: the HTML file; replaced in one step.
            figures: ``interactive``, or ``svg`` for pictures, which take kaleido (the extra ``images``).
        """
        return write_report(self, path, figures=figures)

    def to_latex(self) -> str:
        """The main results at the ends of its stages as a LaTeX table (booktabs), with 95 % intervals."""
        return run_latex(self)

    def plot(self) -> "go.Figure":
        """Behaviour, heads and circuit over training on one axis: the first figure of the report.

        Raises:
            DriftError: a run of a single checkpoint, or without a number to draw.
        """
        return self.figure("overview")

    def figure(self, name: str) -> "go.Figure":
        """A figure of the report by its anchor, as in ``heads``, ``recall`` or ``circuits``.

        Raises:
            DriftError: no such figure; the message lists those that there are.
        """
        return figure_of(run_sections(self), name)

    def _repr_html_(self) -> str:
        return run_html(self)

    def _ipython_display_(self) -> None:
        show(run_html(self), first_figure(run_sections(self)))


def run(
    series: "Series | Path | str",
    *,
    store: "Store | Path | str | None" = None,
    prompts: Prompts | None = None,
    measures: Sequence[str | Measure] | None = None,
    placement: Placement | None = None,
    strict: bool = False,
    progress: bool = True,
    executor: Executor = "serial",
    workers: int | None = None,
    gpus_per_worker: int | None = None,
    keep_downloads: int | None = 0,
    max_disk: int | None = None,
    max_hours: float | None = None,
    adaptive: int | None = None,
    name: str | None = None,
    track_to: Sequence[str | Tracker] = (),
    **where: Unpack[Where],
) -> "Run":
    """Measure every checkpoint of a series, after an audit of its files.

    Args:
        series: a `Series`, a folder of checkpoints, a shipped one (``"demo"``), or revisions of a hub repository
            (``"org/name@step*"``).
        store: where results are kept and looked up first.
        prompts: what is asked; by default the series' own prompts, else the built-in ones.
        measures: names, as in ``heads`` or ``harness:TASK``, or measures themselves (`circuit_drift.Measure`); what one
            of them needs is measured too. By default heads, circuit, faithfulness and roles, and, for a series without
            a step 0, an untrained twin as the floor of what is found (`circuit_drift.sweep.sweep.usual_measures`).
        placement: device, dtype, attention implementation and device map (`checkpoints.Placement`).
        strict: refuse a series in which the audit finds an error, instead of warning of it.
        progress: show progress bars where there is a terminal or a notebook.
        executor: where the workers run: ``serial`` (here), ``processes`` of this machine, ``ray`` or ``slurm``.
        workers: how many; by default one for each GPU, or as the executor sees fit.
        gpus_per_worker: GPUs that each holds.
        keep_downloads: how many hub revisions that this run fetched and is done with to keep on disk; None keeps all.
            What was on disk before always stays.
        max_disk: bytes of results and downloads together that the run may add; it stops in time.
        adaptive: measure so many checkpoints of the series, here and one after the other: some log-spaced, then where
            heads, circuit or recall change most beyond noise (`circuit_drift.sweep.adaptive`).
        max_hours: hours after which no further checkpoint is begun; the same call goes on later.
        name: what the store calls the run; by default the series' name. A stored run of that name that was asked the
            same keeps the checkpoints of the series that are not measured now; else it is replaced, with a warning,
            and its results stay.
        track_to: loggers that are told the numbers of each checkpoint as it is done: ``"tensorboard:DIR"``,
            ``"wandb:DIR"``, ``"mlflow:DIR"``, or an object with ``log(run, step, numbers)`` and ``close()``
            (`circuit_drift.trackers.trackers.Tracker`).
        where: fields of a placement by themselves: ``device="cuda"``, ``dtype="bfloat16"``.

    Returns:
        the run, every checkpoint in order, failures recorded.

    Raises:
        DriftError: no series, an unwritable store, unusable prompts, an error in the audit of a series that must
            pass it, workers that cannot be kept alive, or no checkpoint could be measured at all.
    """
    return Run.of(
        measure_series(
            series,
            store=store,
            prompts=prompts,
            measures=measures,
            placement=Placement.of(placement, where),
            strict=strict,
            progress=progress,
            executor=executor,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            keep_downloads=keep_downloads,
            limits=Limits(max_disk, max_hours),
            adaptive=adaptive,
            name=name,
            track_to=track_to,
        )
    )


def load_run(
    store: "Store | Path | str | None" = None, run_name: str | None = None, measures: Collection[str] | None = None
) -> Run:
    """A stored run (the newest without a name), read without its checkpoints and without torch.

    A result that is gone or damaged costs itself alone: a warning says so, and its point lists it with its failures.
    Edge scores are checked and stay in their files until they are used, so that a long series fits in memory.

    Args:
        store: where it is; by default as for `run`.
        run_name: which run.
        measures: those whose results are read, as in ``["heads"]``; by default all that the run has.

    Raises:
        StoreError: no such run, a record that cannot be read, or none of its results.
    """
    return Run.of(load_record(store, run_name, measures))
