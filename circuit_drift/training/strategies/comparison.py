"""Strategies side by side, from what their runs recorded; no torch."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import circuit_drift
from checkpoints.errors import StoreError
from checkpoints.stats.ttests import mean_interval
from circuit_drift.knowledge import Divergence, Ledger, ledger
from circuit_drift.knowledge.scores import UnitScores
from circuit_drift.record.record import RunRecord
from circuit_drift.store.store import Store
from circuit_drift.training import Verdict, unit_scores, verdict
from circuit_drift.training.recorder import units_table
from circuit_drift.training.strategies.checkpointing import RECORD, STORE, seconds_of
from circuit_drift.training.strategies.drift import drift_frame
from circuit_drift.training.strategies.retrieval import FOLDER
from circuit_drift.training.strategies.settings.config import TASK

if TYPE_CHECKING:
    import pandas as pd


EXPOSURE = "class"
LOSS = "document_loss"
SKILLS = (
    *("needle_accuracy", "answer_ppl", "copying_accuracy", "arithmetic_accuracy", "text_ppl"),
    *("outside_recall", "choices_accuracy"),
)


@dataclass(frozen=True)
class Trained:
    """One strategy, trained and probed.

    Attributes:
        name: of the strategy.
        log: one row an epoch: epoch, step, loss on the documents, skills.
        ledger: what was known when.
    """

    name: str
    log: "pd.DataFrame"
    ledger: Ledger
    store: Path

    @property
    def run(self) -> RunRecord:
        """Its heads and circuits, as far as they were measured."""
        return circuit_drift.load_run(self.store, self.name)

    @property
    def divergence(self) -> Divergence:
        """Loss on the documents against recall, epoch by epoch."""
        loss = dict(zip(self.log["step"].astype(int), self.log[LOSS], strict=True))
        return self.ledger.divergence(loss, unit="epochs")

    @property
    def verdict(self) -> Verdict:
        """What the stopping rule says of it, groups of prior exposure watched apart."""
        by = EXPOSURE if EXPOSURE in self.ledger.scores.labels else None
        return verdict(self.ledger.scores, by=by)

    @property
    def outcome(self) -> dict[str, Any]:
        """The whole strategy in numbers: loss, what was learned and held, what was kept, skills first and last."""
        book, log = self.ledger.outcome, self.log
        found: dict[str, Any] = {"strategy": self.name, "epochs": len(log) - 1}
        found |= {"loss_first": float(log[LOSS].iloc[0]), "loss_last": float(log[LOSS].iloc[-1])}
        names = ("known_first", "best", "known_last", "newly_learned", "newly_learned_held", "kept")
        found |= {name: book[name] for name in names}
        for skill in self.skills:
            found |= {f"{skill}_first": float(log[skill].iloc[0]), f"{skill}_last": float(log[skill].iloc[-1])}
        stop = self.verdict.stop
        epochs = dict(zip(log["step"], log["epoch"], strict=True))
        return found | {"stop_at_epoch": None if stop is None else int(epochs[stop.step])}

    @property
    def skills(self) -> tuple[str, ...]:
        """The skills outside the domain that were probed: the built-in ones, then the metrics of the harness' tasks."""
        tasks = [str(name) for name in self.log if str(name).startswith(TASK)]
        return tuple(name for name in (*SKILLS, *tasks) if name in self.log and self.log[name].notna().all())

    def drift(self) -> "pd.DataFrame":
        """The circuit at each epoch against the one before training; empty where none was traced."""
        frame = drift_frame(self.run)
        epochs = dict(zip(self.log["step"], self.log["epoch"], strict=True))
        return frame.assign(epoch=[epochs[step] for step in frame["step"]]) if len(frame) else frame


def strategies(out: Path | str, *, threshold: float = 0.6) -> tuple[Trained, ...]:
    """The strategies trained into a folder, in the order they were begun.

    Args:
        out: where `run_all` wrote.
        threshold: a unit is known iff its score is at least this.

    Raises:
        StoreError: nothing was trained there.
    """
    store = Path(out) / STORE
    found = []
    for name in strategy_names(out):
        book = ledger(unit_scores(store, name), threshold=threshold)
        log = _log(Store.open(store), name)
        spent = seconds_of(Path(out) / name)
        found.append(Trained(name, log.assign(seconds=[spent.get(int(step)) for step in log["step"]]), book, store))
    return tuple(found)


def strategy_names(out: Path | str) -> tuple[str, ...]:
    """Names of the strategies trained into a folder, in the order they were begun.

    Raises:
        StoreError: nothing was trained there.
    """
    begun = sorted(Path(out).glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime_ns)
    names = tuple(path.parent.name for path in begun if path.parent.name != FOLDER)
    if not names:
        raise StoreError(f"{out} holds no trained strategies; train them with circuit-drift train CONFIG --out {out}")
    return names


def strategy_ledgers(out: Path | str, *, threshold: float = 0.6) -> dict[str, Ledger]:
    """The ledger of each strategy; see `strategies`."""
    return {one.name: one.ledger for one in strategies(out, threshold=threshold)}


def comparison_frame(out: Path | str, *, threshold: float = 0.6) -> "pd.DataFrame":
    """One row for each strategy and epoch: what its log says, and the ledger's counts; arguments as for `strategies`.

    Raises:
        StoreError: nothing was trained there.
    """
    import pandas as pd

    parts = []
    for one in strategies(out, threshold=threshold):
        counts = one.ledger.to_frame()[["step", "known", "acquired", "retained", "forgotten", "relearned"]]
        parts.append(one.log.merge(counts, on="step").assign(strategy=one.name))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["strategy", "epoch", *(c for c in frame.columns if c not in ("strategy", "epoch"))]]


def outcome_frame(out: Path | str, *, threshold: float = 0.6) -> "pd.DataFrame":
    """One row for each strategy: `Trained.outcome`."""
    import pandas as pd

    return pd.DataFrame([one.outcome for one in strategies(out, threshold=threshold)])


def retrieval_scores(out: Path | str) -> dict[str, tuple[UnitScores, int]]:
    """Recall of every unit by the references that read instead of learning, and the probes refused, by passages.

    Passages are ``gold``, ``entity`` or ``all``; empty where none was read.
    """
    import pandas as pd

    found = {}
    for path in sorted((Path(out) / FOLDER).glob("*.csv")):
        frame = pd.read_csv(path)
        asked = frame[frame["score"].notna()].drop(columns="refused", errors="ignore")
        found[path.stem] = units_table(asked.assign(step=0)), len(frame) - len(asked)
    return found


def retrieval_frame(out: Path | str, *, threshold: float = 0.6) -> "pd.DataFrame":
    """The references that read instead of learning, one row each; empty where none was taken.

    Columns: ``passages`` (gold, entity, all), ``asked`` and ``refused`` probes, ``recall``: the mean over units
    of their asked probes, as a ledger's, with its 95 % interval ``low`` to ``high`` over them; units ``known`` of
    ``units``.
    """
    import pandas as pd

    rows = []
    for passages, (scores, refused) in retrieval_scores(out).items():
        mean = scores.mean[:, 0]
        low, high = (float(end) for end in mean_interval(mean))
        rows.append(
            {
                "passages": passages,
                "asked": int(np.isfinite(scores.probes).sum()),
                "refused": refused,
                "recall": float(mean.mean()),
                "low": low,
                "high": high,
                "known": int(ledger(scores, threshold=threshold).known.sum()),
                "units": len(mean),
            }
        )
    return pd.DataFrame(rows, columns=["passages", "asked", "refused", "recall", "low", "high", "known", "units"])


def _log(store: Store, name: str) -> "pd.DataFrame":
    import pandas as pd

    rows = list(csv.DictReader(io.StringIO(store.read_run(name)["log"] or "")))
    frame = pd.DataFrame(rows).drop(columns=["stage", "tokens"]).apply(pd.to_numeric, errors="coerce")
    return frame.assign(epoch=range(len(frame)))
