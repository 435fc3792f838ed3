"""Runs strategies: epochs over the documents, a checkpoint and a probe at the end of each, resumable at any point.

DIR/<strategy>/checkpoint-N/   see `circuit_drift.training.strategies.checkpointing`
DIR/retrieval/                 the references that read instead of learning
DIR/store/                     the runs, as `circuit_drift.load_run` reads them
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.measures.base import Measure
from circuit_drift.measures.registry import build_measures
from circuit_drift.trackers.steady import steadily
from circuit_drift.trackers.trackers import Tracker, Trackers
from circuit_drift.training import Prober, Schedule, unit_scores
from circuit_drift.training.prober import ProbeRecord
from circuit_drift.training.strategies.checkpointing import (
    STORE,
    begin,
    begin_folder,
    finished,
    save,
    saved,
    trajectory,
)
from circuit_drift.training.strategies.checks import Material, check
from circuit_drift.training.strategies.gauges import DocumentCount, gauges_of, prompts_of
from circuit_drift.training.strategies.loop.batches import require_apart
from circuit_drift.training.strategies.loop.epoch import Tell, TrainingState, train_epoch
from circuit_drift.training.strategies.loop.parameters import plain, taught_tokenizer
from circuit_drift.training.strategies.references import References
from circuit_drift.training.strategies.retrieval import answer_with_passages
from circuit_drift.training.strategies.settings.config import Config
from circuit_drift.training.strategies.settings.strategy import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

steps_log = logging.getLogger("circuit_drift.progress")


def run_all(
    config: Config,
    out: Path | str,
    *,
    measures: Sequence[Measure] = (),
    gauges: Sequence[Gauge] = (),
    track_to: Sequence[str | Tracker] = (),
) -> tuple[Path, ...]:
    """Train every strategy of a config and take its references; what is finished is left as it is.

    Args:
        config: what is compared.
        out: where to write.
        measures: stored measures to take at every epoch besides the config's.
        gauges: cheap probes to take at every epoch besides the config's.
        track_to: loggers that are told each step's loss and each probe's numbers, as of `circuit_drift.run`.

    Returns:
        the series folder of each strategy.

    Raises:
        Diverged: a loss was not finite; names the last good checkpoint.
        StoreError: the place holds strategies that were begun with another config.
        DriftError: the config cannot work; nothing was loaded yet.
    """
    out, trackers = Path(out), Trackers.of(track_to)
    material = check(config)
    if config.measures:
        measures = (*build_measures(prompts_of(config, material.base), config.measures, material.base), *measures)
    gauges = (*gauges_of(config, material), *gauges)
    with trackers:
        folders = tuple(
            _train(config, strategy, material, out, measures=measures, gauges=gauges, trackers=trackers)
            for strategy in config.strategies
        )
    answer_with_passages(config, material, out)
    return folders


def _train(
    config: Config,
    strategy: Strategy,
    material: Material,
    out: Path,
    *,
    measures: Sequence[Measure],
    gauges: Sequence[Gauge],
    trackers: Trackers,
) -> Path:
    """Train one strategy to its last epoch, from where it was stopped; its series folder."""
    folder = out / strategy.name
    begin_folder(folder, trajectory(config, strategy, material.base))
    if finished(folder, config.epochs):
        return folder
    loaded = material.base.load(config.placement)
    tokenizer = taught_tokenizer(loaded, strategy)
    if config.packing:
        require_apart(loaded.model)
    progress = begin(loaded.model, strategy, folder, config)
    prober = Prober(
        strategy.name,
        tokenizer,
        measures=measures,
        gauges=(*gauges, DocumentCount(progress)),
        schedule=Schedule(epochs=True),
        store=out / STORE,
    )
    references = References(strategy, loaded.model, folder, config.placement)
    with steadily(f"training {strategy.name}", unit="step") as tally:
        tally.done = tally.stored = progress.step

        def tell(step: int, numbers: Mapping[str, float]) -> None:
            trackers.log(strategy.name, step, numbers)
            tally.done = step

        way = _Way(config, strategy, material, folder, tokenizer, progress, prober, references, tell)
        way.take_up()
        while progress.epoch < config.epochs:
            tally.total = round(progress.step / progress.epoch * config.epochs) if progress.epoch else None
            tally.in_hand = f"epoch {progress.epoch + 1} of {config.epochs}"
            way.epoch()
    return folder


@dataclass(frozen=True)
class _Way:
    """One strategy on its way through the epochs, each of which ends with a probe and a checkpoint.

    Attributes:
        folder: its series.
        tell: is told the numbers of each step and probe.
    """

    config: Config
    strategy: Strategy
    material: Material
    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    progress: TrainingState
    prober: Prober
    references: References
    tell: Tell

    def take_up(self) -> None:
        """Go on from the last checkpoint, or probe and save the beginning."""
        if saved(self.folder):
            steps_log.info(
                "strategy %s goes on after epoch %d of %d", self.strategy.name, self.progress.epoch, self.config.epochs
            )
            self.prober.resume(self.progress.step)
            return
        self._told(self.prober.after_step(plain(self.progress.module), step=0))
        self._save()

    def epoch(self) -> None:
        """Train one more."""
        progress = self.progress
        learned = self._learned() if self.strategy.documents == "unlearned" else set()
        loss = train_epoch(
            self.config,
            self.strategy,
            self.material.told(self.config, self.strategy, progress.epoch, learned),
            progress,
            self.tokenizer,
            references=self.references.at(progress, self.prober),
            last_good=saved(self.folder)[-1],
            tell=self.tell,
        )
        model = plain(progress.module)
        self._told(self.prober.after_step(model, step=progress.step, loss=loss, tokens=progress.tokens, force=True))
        self._save()

    def _save(self) -> None:
        save(self.folder, self.progress, self.tokenizer, self.strategy, self.material.base.path)

    def _told(self, probe: ProbeRecord | None) -> None:
        if probe is not None:
            self.tell(probe.point.step or 0, probe.scalars)

    def _learned(self) -> set[str]:
        """Entities whose facts the last probe found recalled."""
        scores = unit_scores(self.prober.recorder.store, self.prober.recorder.name)
        groups = scores.groups(self.config.entity)
        return {entity for entity, part in groups.items() if part.mean[:, -1].mean() >= self.config.learned}


def run_strategy(
    config: Config,
    strategy: Strategy,
    out: Path | str,
    *,
    measures: Sequence[Measure] = (),
    gauges: Sequence[Gauge] = (),
    track_to: Sequence[str | Tracker] = (),
) -> Path:
    """Train one strategy with a config's documents and settings; see `run_all`."""
    alone = replace(config, strategies=(strategy,), retrieval=())
    return run_all(alone, out, measures=measures, gauges=gauges, track_to=track_to)[0]
