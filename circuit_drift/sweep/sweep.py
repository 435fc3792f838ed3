"""A run: every measure of every checkpoint of a series, from the store where it is there, computed where it is not.

Each result is written as soon as it exists, so a run that is killed loses the measure in hand and nothing else, and
the next start goes on from there. A checkpoint that cannot be measured is recorded with its reason and passed over.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import BadPrompt, Checkpoint, DamagedResult, DriftError, Series, StoreError, open_series
from checkpoints.audit import AuditReport, audit
from checkpoints.loading.load import DeviceMap
from circuit_drift.measures.measures import ATTENTION, MEASURES, build_measures, stored_result
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.store.journal import Outcome
from circuit_drift.store.records import joined, stored_record, warn_of_loss
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors import Executor, Workforce, execute
from circuit_drift.sweep.progress import Progress
from circuit_drift.sweep.tasks import Sweep

if TYPE_CHECKING:
    import pandas as pd

    import circuits
    import heads
    from circuit_drift.comparison.pair import PairDiff

logger = logging.getLogger(__name__)

__all__ = ["Point", "Run", "load_run", "measure_each", "point_record", "run"]

ERRORS = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint of a run with its results.

    Attributes:
        name, step, tokens, stage, branch: as the checkpoint says.
        keys: store key of each result there is.
        heads, circuit, faithfulness, roles: the results; ``None`` where not asked for or failed.
        others: results of measures that are none of these, by name.
        failures: measure -> why there is no result.
        weights: hash of the weights; "" where it is not known.
    """

    name: str
    step: int | None
    tokens: int | None
    stage: str | None
    keys: Mapping[str, str]
    heads: "heads.RetrievalScores | None" = None
    circuit: "circuits.AttributionGraph | None" = None
    faithfulness: "circuits.FaithfulnessCurve | None" = None
    roles: "circuits.HeadRoles | None" = None
    failures: Mapping[str, str] = field(default_factory=dict)
    branch: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""

    @classmethod
    def of(cls, results: Mapping[str, Any], **about: Any) -> "Point":
        """A point with results of measures of any name."""
        own = {name: result for name, result in results.items() if name in MEASURES}
        others = {name: result for name, result in results.items() if name not in MEASURES}
        return cls(**own, others=others, **about)

    @property
    def label(self) -> str:
        """How it is called in tables: its step where it has one, with its branch."""
        step = f"{self.step:,}" if self.step is not None else self.name
        return f"{self.branch}/{step}" if self.branch else step

    @property
    def place(self) -> str:
        """How the audit calls it, as `Checkpoint.label`: stage, branch and step."""
        if self.step is None:
            return self.name
        return "/".join(part for part in (self.stage, self.branch, str(self.step)) if part)


@dataclass(frozen=True, slots=True)
class Run:
    """The measured checkpoints of a series, in order.

    Attributes:
        name: the series' name.
        points: one for each checkpoint.
        store: where the results live.
        origins: where the needles and the facts came from.
        log: the training log beside the series (``training_log.csv``), as text, if it has one.
        audit: what was found when the series was audited; None where no series was.
        parents: place -> places of the checkpoints that it continues.
        unread: results that the record names and the store could not give, each with the reason.
    """

    name: str
    points: tuple[Point, ...]
    store: Path
    origins: Mapping[str, str]
    log: str | None = None
    audit: AuditReport | None = None
    parents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def at(self, step: int | str) -> Point:
        """The point of a step (``9000``, ``"9,000"``), a name or a place, ``"first"`` or ``"last"``.

        Raises:
            StoreError: no such point, or several stages or branches have that step; names those there are.
        """
        text = str(step).strip()
        if text in ("first", "last"):
            return self.points[0 if text == "first" else -1]
        found = [point for point in self.points if text in (point.name, point.place)]
        if not found:
            number = text.replace(",", "")
            found = [p for p in self.points if p.label == text or (number.isdigit() and p.step == int(number))]
        if len(found) == 1:
            return found[0]
        known = ", ".join(point.place for point in found or self.points)
        if found:
            raise StoreError(f"step {text} of the run {self.name} is ambiguous: name one of {known}")
        raise StoreError(f"the run {self.name} has no checkpoint {text}; it has {known}")

    def diff(self, a: int | str, b: int | str, *, q: float = 0.05) -> "PairDiff":
        """Compare two of its checkpoints; see `circuit_drift.comparison.pair.compare`."""
        from circuit_drift.comparison.pair import compare
        from circuit_drift.comparison.transfer import stored_transfer

        pair = (self.at(a), self.at(b))
        return compare(*pair, q=q, transfer=stored_transfer(pair, Store(self.store)))

    def monitor(self, stage: str | None = None, branch: str | None = None, **options: Any) -> "heads.Monitor":
        """Follow retrieval through the run, one of its stages or one of its branches; options as of `heads.monitor`.

        A stage's tokens are counted from its start, since doublings of the whole run mean little inside a short one.

        Raises:
            StoreError: no such stage or branch.
            BadPrompt: fewer than two checkpoints with retrieval scores and a step, or several lines of training.
        """
        import heads
        from circuit_drift.stages.stages import line, tokens_in_stage

        chosen = line(self, stage, branch)
        tokens: Sequence[int | None] = tokens_in_stage(self, chosen) or [None] * len(chosen)
        scored = [
            (point.step, count, point.heads)
            for point, count in zip(chosen, tokens, strict=True)
            if point.step is not None and point.heads is not None
        ]
        if len(scored) < 2:
            raise BadPrompt(
                f"{self.name} has {len(scored)} checkpoints with retrieval scores and a step in what is followed; a "
                "monitor needs two: measure them with circuit-drift run --measures heads"
            )
        return heads.monitor(scored, **options)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each checkpoint: behaviour, heads, circuit."""
        from circuit_drift.report.run_table import run_frame

        return run_frame(self)

    def report(self, path: Path | str) -> Path:
        """Write one self-contained HTML page; see `circuit_drift.report.write_report`."""
        from circuit_drift.report import write_report

        return write_report(self, path)

    def _repr_html_(self) -> str:
        from circuit_drift.report.run_table import run_html

        return run_html(self)


def run(
    series: "Series | Path | str",
    *,
    store: "Store | Path | str | None" = None,
    prompts: Prompts | None = None,
    measures: Sequence[str] = MEASURES,
    device: str = "auto",
    dtype: str = "float32",
    attention: str = ATTENTION,
    device_map: DeviceMap | None = None,
    strict: bool = False,
    progress: bool = True,
    executor: Executor = "serial",
    workers: int | None = None,
    gpus_per_worker: int | None = None,
    keep_downloads: int | None = None,
    name: str | None = None,
) -> Run:
    """Measure every checkpoint of a series, after an audit of its files.

    Args:
        series: a `Series`, a folder of checkpoints, ``"demo"``, or revisions of a hub repository
            (``"org/name@step*"``).
        store: where results are kept and looked up first.
        prompts: what is asked; by default the series' own prompts, else the built-in ones.
        measures: which of ``heads``, ``circuit``, ``faithfulness``, ``roles``; the third needs the second.
        device: a torch device, or ``auto``.
        dtype: the dtype of the forward passes.
        attention: transformers' attention implementation (``"sdpa"``, ``"eager"``, or a registered name).
        device_map: in place of `device`, for models that are larger than one: ``"auto"``, ``"balanced"``,
            ``"sequential"``, or module names with their devices. By default ``"auto"`` where a worker holds several
            GPUs.
        strict: refuse a series in which the audit finds an error, instead of warning of it.
        progress: show progress bars where there is a terminal or a notebook.
        executor: where the workers run: ``serial`` (here), ``processes`` of this machine, ``ray`` or ``slurm``.
        workers: how many; by default one for each GPU, or as the executor sees fit.
        gpus_per_worker: GPUs that each holds.
        keep_downloads: how many hub revisions that this run fetched and is done with to keep on disk; None keeps all.
        name: what the store calls the run; by default the series' name. A stored run of that name that was asked the
            same keeps the checkpoints of the series that are not measured now; else it is replaced, with a warning,
            and its results stay.

    Returns:
        the run, every checkpoint in order, failures recorded.

    Raises:
        DriftError: no series, an unwritable store, unusable prompts, an error in the audit of a series that must
            pass it, workers that cannot be kept alive, or no checkpoint could be measured at all.
    """
    series = series if isinstance(series, Series) else open_series(series)
    store = store if isinstance(store, Store) else Store.open(store)
    prompts = prompts or prompts_for(series.path)
    report = _audit(series, strict=strict)
    log = series.path / "training_log.csv"
    sweep = Sweep.of(
        series.checkpoints,
        build_measures(prompts, measures),
        store,
        device=device,
        dtype=dtype,
        attention=attention,
        device_map=device_map or ("auto" if (gpus_per_worker or 0) > 1 else None),
        keep_downloads=keep_downloads,
    )
    record: dict[str, Any] = {
        "name": name or series.name,
        "origins": {"needles": prompts.needles.origin, "facts": prompts.facts.origin},
        "log": log.read_text(encoding="utf-8") if log.is_file() else None,
        "audit": report.to_dict(),
        "question": sweep.question,
    }
    warn_of_loss(stored_record(store, record["name"]), record, series)
    points: dict[int, Point] = {}
    for index, point in _finished(sweep, executor, Workforce(workers, gpus_per_worker), progress=progress):
        points[index] = point
        if any(found.keys for found in points.values()):
            measured = {**record, "points": [point_record(points[i]) for i in sorted(points)]}
            store.write_run(record["name"], joined(stored_record(store, record["name"]), measured, series))
    if not any(point.keys for point in points.values()):
        reasons = "; ".join(dict.fromkeys(reason for i in sorted(points) for reason in points[i].failures.values()))
        raise DriftError(f"no checkpoint of {series.name} could be measured: {reasons}")
    in_order = tuple(points[index] for index in sorted(points))
    parents = {label: list(found) for label, found in series.to_networkx().pred.items()}
    return Run(record["name"], in_order, store.path, record["origins"], record["log"], report, parents)


def measure_each(
    checkpoints: Sequence[Checkpoint],
    store: Store,
    prompts: Prompts,
    *,
    measures: Sequence[str] = MEASURES,
    device: str = "auto",
    dtype: str = "float32",
    attention: str = ATTENTION,
    device_map: DeviceMap | None = None,
    progress: bool = True,
) -> Iterator[Point]:
    """Measure checkpoints here, each result stored before the next is begun; yields them in their order.

    Raises:
        StoreError: a result cannot be written. Every other failure is recorded in its point.
    """
    sweep = Sweep.of(
        checkpoints,
        build_measures(prompts, measures),
        store,
        device=device,
        dtype=dtype,
        attention=attention,
        device_map=device_map,
    )
    early: dict[int, Point] = {}
    following = 0
    for index, point in _finished(sweep, "serial", Workforce(), progress=progress):
        early[index] = point
        while following in early:
            yield early.pop(following)
            following += 1


def load_run(store: "Store | Path | str | None" = None, run_name: str | None = None) -> Run:
    """A stored run (the newest without a name), read without its checkpoints and without torch.

    A result that is gone or damaged costs itself alone: a warning says so, and its point lists it with its failures.

    Raises:
        StoreError: no such run, a record that cannot be read, or none of its results.
    """
    store = store if isinstance(store, Store) else Store.existing(store)
    record = store.read_run(run_name)
    try:
        found = [_stored_point(entry, store) for entry in record["points"]]
        report = AuditReport.from_dict(record["audit"]) if record["audit"] else None
        parents = record.get("parents", {})
        name, origins, log = record["name"], dict(record["origins"]), record["log"]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedResult(
            f"the record of the run {run_name or ''} in {store.path} lacks what a run has "
            f"({type(error).__name__}: {error}); run the series again"
        ) from error
    points = tuple(point for point, _ in found)
    unread = {f"{measure} of {point.place}": why for point, lost in found for measure, why in lost.items()}
    for why in unread.values():
        logger.warning("a stored result is left out: %s", why)
    if unread and not any(point.keys for point in points):
        raise StoreError(f"no result of the run {name} can be read from {store.path}; run the series again")
    return Run(name, points, store.path, origins, log, report, parents, unread)


def _stored_point(entry: Mapping[str, Any], store: Store) -> tuple[Point, dict[str, str]]:
    """A point of a record with the results that can be read, and why others cannot."""
    results, lost = _results(entry["keys"], store)
    keys = {name: key for name, key in entry["keys"].items() if name in results}
    about = {**entry, "keys": keys, "failures": {**entry["failures"], **lost}}
    return Point.of(results, **about), lost


def _finished(sweep: Sweep, executor: Executor, workforce: Workforce, *, progress: bool) -> Iterator[tuple[int, Point]]:
    """Every checkpoint's place and point, as it is finished."""
    try:
        with Progress(sweep, wanted=progress) as bars:
            for outcome in execute(sweep, executor, workforce, bars):
                bars.finished(outcome)
                yield outcome.index, _point(sweep, outcome)
    finally:
        sweep.journal.close()


def _point(sweep: Sweep, outcome: Outcome) -> Point:
    checkpoint = sweep.checkpoints[outcome.index]
    for reason in dict.fromkeys(outcome.failures.values()):
        names = [name for name, why in outcome.failures.items() if why == reason]
        logger.warning("%s of %s: %s", ", ".join(names), checkpoint.name, reason)
    results, lost = _results(outcome.keys, sweep.store)
    return Point.of(
        results,
        name=checkpoint.name,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        stage=checkpoint.stage,
        branch=checkpoint.branch,
        keys={name: key for name, key in outcome.keys.items() if name in results},
        failures={**outcome.failures, **lost},
        weights=outcome.weights,
    )


def _results(keys: Mapping[str, str], store: Store) -> tuple[dict[str, Any], dict[str, str]]:
    """The stored results of one checkpoint, and why others cannot be read."""
    results: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for name, key in keys.items():
        try:
            results[name] = stored_result(store, name, key)
        except StoreError as error:
            lost[name] = str(error)
    return results, lost


def _audit(series: Series, *, strict: bool) -> AuditReport:
    """The audit of a series that is about to be measured; warns of what it finds.

    Local weights are sampled, which costs little whatever their size; of those on the hub only names, sizes, headers,
    configs and published hashes are looked at. Values that are not finite are found when a checkpoint is loaded.
    """
    local = all(checkpoint.hub is None for checkpoint in series)
    report = audit(series, depth="samples" if local else "metadata")
    if strict and report.status == ERRORS:
        told = "; ".join(finding.sentence for finding in report.findings)
        raise DriftError(f"the audit of {series.name} found errors, and the run is strict: {told}")
    for finding in report.findings:
        logger.warning("audit, %s", finding.sentence)
    return report


def point_record(point: Point) -> dict[str, Any]:
    """What the store remembers of one point: its identity, and the keys of its results."""
    return {
        "name": point.name,
        "step": point.step,
        "tokens": point.tokens,
        "stage": point.stage,
        "branch": point.branch,
        "failures": dict(point.failures),
        "keys": dict(point.keys),
        "weights": point.weights,
    }
