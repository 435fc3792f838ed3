"""The prober: takes the measures and gauges of a live model when they are due and training can afford them."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from checkpoints.model.plain import under_bridge
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.measures.base import Measure
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.measures.registry import register
from circuit_drift.measures.stored import stored_result
from circuit_drift.record.record import Point
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.tasks import SweepTask
from circuit_drift.sweep.workers.worker import reason, take
from circuit_drift.training.budget import Budget
from circuit_drift.training.live import hash_tokenizer, live_model
from circuit_drift.training.recorder import Recorder
from circuit_drift.training.schedule import Schedule
from circuit_drift.training.undisturbed import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    import heads
    from checkpoints.model.plain import Model

logger = logging.getLogger(__name__)

SHARE = 0.15


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One probe that was taken.

    Attributes:
        point: its results, as a sweep would give them; failures are in there.
        scalars: what the log gets.
        seconds: how long it took.
    """

    point: Point
    scalars: Mapping[str, float]
    seconds: float


class Prober:
    """Probes a run while it trains, into a store that `circuit_drift.load_run` reads.

    Args:
        run: name of the run in the store.
        tokenizer: of the model.
        measures: as a sweep takes them (`circuit_drift.measures.build_measures`), or one's own, in an order that
            serves their needs.
        gauges: cheap probes besides (`Knowledge`, `Arithmetic`, `Copying`).
        schedule: when the run is probed.
        share: seconds of probing for each second of training. A probe that does not fit is passed over until
            training has paid for it; the first and the last one are always taken. With ``math.inf`` every probe is:
            what that costs is measured in ``benchmarks/lab/cost.py``, whose sets of measures are complete and cheap
            (a `panel` of facts, a skill, a few needles, the circuit of a few facts).
        store: a store, or its folder; by default the usual one.
    """

    def __init__(
        self,
        run: str,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        *,
        measures: Sequence[Measure] = (),
        gauges: Sequence[Gauge] = (),
        schedule: Schedule,
        share: float = SHARE,
        store: Store | Path | str | None = None,
    ) -> None:
        if not measures and not gauges:
            raise DriftError(f"the run {run} has nothing to probe; give measures= or gauges=")
        self.tokenizer = tokenizer
        self._words = hash_tokenizer(tokenizer) if tokenizer is not None else None
        self.measures = tuple(measures)
        for measure in self.measures:
            register(type(measure))
        self.gauges = tuple(gauges)
        self.schedule = schedule
        self.budget = Budget(share)
        self.passed_over: list[int] = []
        self.recorder = Recorder(store if isinstance(store, Store) else Store.open(store), run, _origins(measures))
        self._last: int | None = None

    def resume(self, step: int) -> None:
        """Go on with what an earlier start of the run recorded up to a step."""
        self.recorder.resume(step)

    def after_step(
        self,
        model: "Model",
        *,
        step: int,
        loss: float | None = None,
        tokens: int | None = None,
        stage: str | None = None,
        epoch_ended: bool = False,
        force: bool = False,
    ) -> ProbeRecord | None:
        """Probe the model if a probe is due and fits the budget; call it after every optimizer step, and with 0 first.

        Args:
            model: the plain transformers model, or a TransformerLens bridge over it.
            step: optimizer steps taken.
            loss: training loss, to be recorded beside the probes.
            tokens: tokens seen.
            stage: of the training.
            epoch_ended: whether an epoch ends with this step.
            force: probe whether or not it is due and affordable.

        Returns:
            the probe; None where there was none. What failed in it is recorded, and training may go on.

        Raises:
            TrainingDisturbed: a probe wrote to the weights.
            DriftError: a `HookedTransformer`, whose weights are not those that are trained elsewhere.
        """
        if step == self._last or not (force or self.schedule.due(step, epoch_ended=epoch_ended)):
            return None
        if not (force or self.budget.affords()):
            self.passed_over.append(step)
            return None
        self._last = step
        began = time.perf_counter()
        with self.budget.spending():
            point, scalars = self._probe(under_bridge(model), step, loss=loss, tokens=tokens, stage=stage)
        return ProbeRecord(point, scalars, time.perf_counter() - began)

    def retrieval(self) -> "list[tuple[int, int | None, heads.Scores]]":
        """(step, tokens, scores) of every probe so far that has retrieval scores, as `heads.track` takes them."""
        store, found = self.recorder.store, []
        for point in self.recorder.points:
            if "heads" in point["keys"]:
                scores = stored_result(store, RetrievalMeasure, point["keys"]["heads"])
                found.append((point["step"], point["tokens"], scores))
        return found

    def _probe(
        self, model: "PreTrainedModel", step: int, *, loss: float | None, tokens: int | None, stage: str | None
    ) -> tuple[Point, dict[str, float]]:
        results: dict[str, Any] = {}
        failures: dict[str, str] = {}
        keys: dict[str, str] = {}
        scalars: dict[str, float] = {} if loss is None else {"train_loss": loss}
        units: list[Mapping[str, Any]] = []
        with undisturbed(model):
            loaded = live_model(model, self.tokenizer, step=step, tokens=tokens, stage=stage, words=self._words)
            for measure in self.measures:
                if key := self._measure(measure, loaded, results, failures):
                    keys[measure.name] = key
                    scalars |= _reading(measure, results[measure.name], failures)
            for gauge in self.gauges:
                try:
                    reading = gauge.read(loaded)
                except Exception as error:  # whatever a probe runs into must not end the training it watches
                    failures[gauge.name] = reason(error)
                else:
                    scalars |= reading.scalars
                    units += reading.units
        for name, why in failures.items():
            logger.warning("%s at step %d: %s", name, step, why)
        point = Point(
            name=loaded.checkpoint.name,
            step=step,
            tokens=tokens,
            stage=stage,
            keys=keys,
            results=results,
            failures=failures,
            weights=loaded.checkpoint.weights_hash,
        )
        try:
            self.recorder.add(point, scalars, units)
        except DriftError as error:
            logger.warning("the probe of step %d could not be recorded: %s", step, error)
        return point, scalars

    def _measure(
        self, measure: Measure, loaded: LoadedModel, results: dict[str, Any], failures: dict[str, str]
    ) -> str | None:
        """Take one measure as a sweep does, or record why it could not be taken; returns its key in the store."""
        try:
            task = SweepTask.of(loaded.checkpoint, measure, loaded.dtype, loaded.attention)
            take(task, loaded, self.recorder.store, results, failures)
        except Exception as error:  # not even a store that cannot be written must end the training
            failures[measure.name] = reason(error)
            return None
        return task.key if measure.name in results else None


def _reading(measure: Measure, result: Any, failures: dict[str, str]) -> dict[str, float]:
    """The numbers of a result that a log should show; what is not finite is left out."""
    try:
        found = {name: float(value) for name, value in measure.reading(result).items()}
    except Exception as error:  # a measure that cannot say what it found must not end the training
        failures[measure.name] = f"it was taken, and cannot be read: {reason(error)}"
        return {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _origins(measures: Sequence[Measure]) -> dict[str, str]:
    origins = {"needles": "none", "facts": "none"}
    for measure in measures:
        origins |= measure.origins
    return origins
