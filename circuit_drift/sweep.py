"""A run: every measure of every checkpoint of a series, from the store where it is there, computed where it is not.

Each result is written as soon as it exists, so a run that is killed loses the measure in hand and nothing else, and
the next start goes on from there. A checkpoint that cannot be measured is recorded with its reason and passed over.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint, DriftError, LoadedModel, Series, StoreError, open_series
from checkpoints.audit import audit
from circuit_drift.measures import (
    CircuitMeasure,
    FaithfulnessMeasure,
    Measure,
    RetrievalMeasure,
    read_result,
    store_key,
    with_provenance,
)
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.store import Store

if TYPE_CHECKING:
    import pandas as pd

    import circuits
    import heads
    from circuit_drift.pair import PairDiff

logger = logging.getLogger(__name__)

ERRORS = 2
AUDITED_BYTES = 4 << 30
MEASURES = ("heads", "circuit", "faithfulness")


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint of a run with its results.

    Attributes:
        name, step, tokens, stage: as the checkpoint says.
        keys: store key of each result there is.
        heads, circuit, faithfulness: the results; ``None`` where not asked for or failed.
        failures: measure -> why there is no result.
    """

    name: str
    step: int | None
    tokens: int | None
    stage: str | None
    keys: Mapping[str, str]
    heads: "heads.RetrievalScores | None" = None
    circuit: "circuits.AttributionGraph | None" = None
    faithfulness: "circuits.FaithfulnessCurve | None" = None
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How it is called in tables: its step where it has one."""
        return f"{self.step:,}" if self.step is not None else self.name


@dataclass(frozen=True, slots=True)
class Run:
    """The measured checkpoints of a series, in order.

    Attributes:
        name: the series' name.
        points: one for each checkpoint.
        store: where the results live.
        origins: where the needles and the facts came from.
        log: the training log beside the series (``training_log.csv``), as text, if it has one.
        audit: what is wrong with the series itself, a sentence each; empty for a clean one.
    """

    name: str
    points: tuple[Point, ...]
    store: Path
    origins: Mapping[str, str]
    log: str | None = None
    audit: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def at(self, step: int | str) -> Point:
        """The point of a step, or of a checkpoint name.

        Raises:
            StoreError: no such point; names those there are.
        """
        for point in self.points:
            if step in (point.step, point.name):
                return point
        known = ", ".join(point.label for point in self.points)
        raise StoreError(f"the run {self.name} has no checkpoint {step}; it has {known}")

    def diff(self, a: int | str, b: int | str, *, q: float = 0.05) -> "PairDiff":
        """Compare two of its checkpoints; see `circuit_drift.pair.compare`."""
        from circuit_drift.pair import compare

        return compare(self.at(a), self.at(b), q=q)

    def monitor(self, stage: str | None = None, **options: Any) -> "heads.Monitor":
        """Follow retrieval through the run or one of its stages; see `heads.monitor` for the options.

        Raises:
            BadPrompt: fewer than two checkpoints with retrieval scores and a step.
        """
        import heads

        chosen = [point for point in self if stage is None or point.stage == stage]
        scored = [(p.step, p.tokens, p.heads) for p in chosen if p.step is not None and p.heads is not None]
        return heads.monitor(scored, **options)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each checkpoint: behaviour, heads, circuit."""
        from circuit_drift.table import run_frame

        return run_frame(self)

    def report(self, path: Path | str) -> Path:
        """Write one self-contained HTML page; see `circuit_drift.report.write_report`."""
        from circuit_drift.report import write_report

        return write_report(self, path)

    def _repr_html_(self) -> str:
        from circuit_drift.table import run_html

        return run_html(self)


def run(
    series: "Series | Path | str",
    *,
    store: "Store | Path | str | None" = None,
    prompts: Prompts | None = None,
    measures: Sequence[str] = MEASURES,
    device: str = "auto",
    dtype: str = "float32",
    strict: bool = False,
    progress: bool = True,
) -> Run:
    """Measure every checkpoint of a series, after an audit of its files.

    Args:
        series: a `Series`, a folder of checkpoints, or ``"demo"``.
        store: where results are kept and looked up first.
        prompts: what is asked; by default the series' own prompts, else the built-in ones.
        measures: which of ``heads``, ``circuit``, ``faithfulness``; the last needs the second.
        device: a torch device, or ``auto``.
        dtype: the dtype of the forward passes.
        strict: refuse a series in which the audit finds an error, instead of warning of it.
        progress: show a progress bar where there is a terminal or a notebook.

    Returns:
        the run, every checkpoint in order, failures recorded.

    Raises:
        DriftError: no series, an unwritable store, unusable prompts, an error in the audit of a series that must
            pass it, or no checkpoint could be measured at all.
    """
    series = series if isinstance(series, Series) else open_series(series)
    store = store if isinstance(store, Store) else Store.open(store)
    prompts = prompts or prompts_for(series.path)
    findings = _audit(series, strict=strict)
    log = series.path / "training_log.csv"
    record: dict[str, Any] = {
        "name": series.name,
        "origins": {"needles": prompts.needles.origin, "facts": prompts.facts.origin},
        "log": log.read_text(encoding="utf-8") if log.is_file() else None,
        "audit": findings,
        "points": [],
    }
    points = []
    for point in measure_each(
        series.checkpoints, store, prompts, measures=measures, device=device, dtype=dtype, progress=progress
    ):
        points.append(point)
        record["points"].append(_entry(point))
        store.write_run(series.name, record)
    if not any(point.keys for point in points):
        reasons = "; ".join(dict.fromkeys(reason for point in points for reason in point.failures.values()))
        raise DriftError(f"no checkpoint of {series.name} could be measured: {reasons}")
    return Run(series.name, tuple(points), store.path, record["origins"], record["log"], tuple(findings))


def measure_each(
    checkpoints: Sequence[Checkpoint],
    store: Store,
    prompts: Prompts,
    *,
    measures: Sequence[str] = MEASURES,
    device: str = "auto",
    dtype: str = "float32",
    progress: bool = True,
) -> Iterator[Point]:
    """Measure checkpoints one after the other, each result stored before the next is begun.

    Raises:
        StoreError: a result cannot be written. Every other failure is recorded in its point.
    """
    from tqdm.auto import tqdm

    chosen = build_measures(prompts, measures)
    with tqdm(checkpoints, desc="measuring", unit="checkpoint", disable=None if progress else True) as bar:
        for checkpoint in bar:
            bar.set_postfix_str(checkpoint.name)
            yield _measure(checkpoint, chosen, store, device=device, dtype=dtype)


def load_run(store: "Store | Path | str | None" = None, run_name: str | None = None) -> Run:
    """A stored run (the newest without a name), read without its checkpoints and without torch.

    Raises:
        StoreError: no such run, or a result of it is gone.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    record = store.read_run(run_name)
    points = []
    for entry in record["points"]:
        keys = entry["keys"]
        results = {name: read_result(name, store.folder(name, keys[name])) for name in keys}
        points.append(Point(**entry, **results))
    return Run(record["name"], tuple(points), store.path, record["origins"], record["log"], tuple(record["audit"]))


def build_measures(prompts: Prompts, names: Sequence[str] = MEASURES) -> tuple[Measure, ...]:
    """The measures of those names over these prompts, in the order they must be taken.

    Raises:
        DriftError: an unknown name.
    """
    unknown = sorted(set(names) - set(MEASURES))
    if unknown or not names:
        raise DriftError(f"unknown measure {', '.join(unknown) or '(none)'}; choose from {', '.join(MEASURES)}")
    circuit = CircuitMeasure(prompts.facts)
    built: dict[str, Measure] = {
        "heads": RetrievalMeasure(prompts.needles),
        "circuit": circuit,
        "faithfulness": FaithfulnessMeasure(circuit),
    }
    wanted = set(names) | {need for name in names for need in built[name].needs}
    return tuple(built[name] for name in MEASURES if name in wanted)


def _audit(series: Series, *, strict: bool) -> list[str]:
    """Findings of the audit as sentences. Past a total size, only names, sizes, headers and configs are looked at."""
    size = sum(file.stat().st_size for checkpoint in series for file in checkpoint.path.glob("*") if file.is_file())
    report = audit(series, values=size <= AUDITED_BYTES)
    told = [
        f"{finding.severity}: {finding.kind}: {finding.message} ({finding.reference})" for finding in report.findings
    ]
    if strict and report.status == ERRORS:
        raise DriftError(f"the audit of {series.name} found errors, and the run is strict: {'; '.join(told)}")
    for sentence in told:
        logger.warning("audit, %s", sentence)
    return told


def _measure(checkpoint: Checkpoint, measures: Sequence[Measure], store: Store, *, device: str, dtype: str) -> Point:
    """Every measure of one checkpoint; the model is loaded only when one of them is not stored yet."""
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    keys: dict[str, str] = {}
    try:
        keys = {measure.name: store_key(checkpoint, measure, dtype) for measure in measures}
        stored = [name for name in keys if store.has(name, keys[name])]
        results = {name: read_result(name, store.folder(name, keys[name])) for name in stored}
        missing = [measure for measure in measures if measure.name not in results]
        if missing:
            with checkpoint.open(device=pick_device(device), dtype=dtype) as loaded:
                for measure in missing:
                    _take(measure, loaded, store.folder(measure.name, keys[measure.name]), results, failures)
    except StoreError:
        raise
    except DriftError as error:
        failures.update({measure.name: str(error) for measure in measures if measure.name not in results})
    for name, reason in failures.items():
        logger.warning("%s of %s: %s", name, checkpoint.name, reason)
    return Point(
        name=checkpoint.name,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        stage=checkpoint.stage,
        keys={name: keys[name] for name in results},
        failures=failures,
        **results,
    )


def _take(
    measure: Measure, loaded: LoadedModel, folder: Path, results: dict[str, Any], failures: dict[str, str]
) -> None:
    """Compute one measure and store it, or record why it could not be computed."""
    absent = [need for need in measure.needs if need not in results]
    if absent:
        failures[measure.name] = f"needs {', '.join(absent)}, which failed"
        return
    try:
        result = with_provenance(measure.compute(loaded, results), loaded, measure)
    except (DriftError, RuntimeError, ValueError) as error:
        logger.debug("%s of %s failed", measure.name, loaded.checkpoint.name, exc_info=True)
        failures[measure.name] = str(error) if isinstance(error, DriftError) else f"{type(error).__name__}: {error}"
        return
    result.save(folder)
    results[measure.name] = result


def _entry(point: Point) -> dict[str, Any]:
    """What the store remembers of one point: its identity, and the keys of its results."""
    return {
        "name": point.name,
        "step": point.step,
        "tokens": point.tokens,
        "stage": point.stage,
        "failures": dict(point.failures),
        "keys": dict(point.keys),
    }


def pick_device(device: str) -> str:
    """``auto`` as the accelerator of this machine, else the CPU; anything else as it is."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
