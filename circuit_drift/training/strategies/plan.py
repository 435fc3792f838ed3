"""What a comparison of strategies will train, probe and store, and what that costs, told before it begins.

Steps and tokens are counted in the documents themselves. Time, memory and sizes are those of a short trial here: each
kind of strategy takes a few optimizer steps on a copy that is thrown away and writes one checkpoint that is removed;
probes are taken of the model as it is, questions on a sample of them. Nothing is left behind.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from checkpoints.loading.load import LoadedModel
from checkpoints.results.disk import free_bytes
from checkpoints.results.text import counted, in_bytes
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.measures.base import Measure
from circuit_drift.measures.registry import build_measures
from circuit_drift.store.store import Store
from circuit_drift.store.timings import peak_memory
from circuit_drift.sweep.workers.machine import caution, neighbours
from circuit_drift.sweep.workers.tasks import SweepTask
from circuit_drift.sweep.workers.worker import gpu_memory, reason, take
from circuit_drift.trackers.steady import duration
from circuit_drift.training.strategies.checkpointing import (
    RECORD,
    STATE,
    begin,
    begin_folder,
    epochs_done,
    save,
    saved,
    trajectory,
)
from circuit_drift.training.strategies.checks import Material, check
from circuit_drift.training.strategies.gauges import gauges_of, prompts_of
from circuit_drift.training.strategies.loop.epoch import TrainingState, batches_of, grouped, take_step
from circuit_drift.training.strategies.loop.parameters import frozen_copy, taught_tokenizer
from circuit_drift.training.strategies.settings.config import Config
from circuit_drift.training.strategies.settings.strategy import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Asked = TypeVar("Asked")
Found = TypeVar("Found")
TIMED = 2
"""Optimizer steps that are timed, after one that is not."""
SHORT = 5.0
"""Seconds below which a part of a probe is timed the second time that it is taken."""
ASKED = 48
"""Questions that a probe is timed on, where it has more."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What there is to train on in the epochs to come.

    Attributes:
        steps: optimizer steps.
        tokens: tokens told; the curriculum may leave out some.
        places: rows times their length, padding among them: what the time goes by.
    """

    steps: int = 0
    tokens: int = 0
    places: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.steps + other.steps, self.tokens + other.tokens, self.places + other.places)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a kind of strategy was seen to take.

    Attributes:
        per_place: seconds of training for each place of a batch.
        saving: seconds of writing a checkpoint.
        checkpoint: bytes of one.
        state: bytes of the state to resume from, which the last checkpoint alone has.
    """

    per_place: float
    saving: float
    checkpoint: int
    state: int


@dataclass(frozen=True, slots=True)
class Probes:
    """What one probe was seen to take.

    Attributes:
        seconds: of all of it.
        results: bytes in the store.
        failures: gauge or measure -> why it could not be taken.
    """

    seconds: float = 0.0
    results: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StrategyPlan:
    """The price of one strategy.

    Attributes:
        name: of the strategy.
        epochs: passes over the documents to come.
        amount: what they train on.
        probes: to be taken, each beside a checkpoint.
        seconds: of training; probes and checkpoints are not counted.
        saving: seconds of writing checkpoints.
        probing: seconds of probes.
        disk: bytes of checkpoints, of the state beside the last one while it is replaced, and of results.
    """

    name: str
    epochs: int
    amount: Amount
    probes: int
    seconds: float
    saving: float
    probing: float
    disk: int

    @property
    def total_seconds(self) -> float:
        """All of it."""
        return self.seconds + self.saving + self.probing

    @property
    def line(self) -> str:
        """In words."""
        if not self.epochs:
            return f"{self.name}: done"
        padding = 1 - self.amount.tokens / max(1, self.amount.places)
        return (
            f"{self.name}: {counted(self.epochs, 'epoch')} to come, {counted(self.amount.steps, 'step')}, "
            f"{self.amount.tokens:,} tokens ({padding:.0%} more is padding); training about {duration(self.seconds)}, "
            f"{counted(self.probes, 'probe')} about {duration(self.probing)}, checkpoints {in_bytes(self.disk)}"
        )


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The price of a comparison.

    Attributes:
        strategies: one after the other.
        memory, gpu: peak bytes of this process in the trial; 0 on no GPU.
        free: bytes on the disk that it writes to.
        unpriced: what is not counted in the time -> why.
        neighbours: share of the processors that other work had during the trial.
    """

    strategies: tuple[StrategyPlan, ...]
    memory: int
    gpu: int
    free: int
    unpriced: Mapping[str, str] = field(default_factory=dict)
    neighbours: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Of all strategies."""
        return sum(strategy.total_seconds for strategy in self.strategies)

    @property
    def disk(self) -> int:
        """Bytes of all strategies."""
        return sum(strategy.disk for strategy in self.strategies)

    def lines(self) -> tuple[str, ...]:
        """The plan in words, a line a matter."""
        short = "; that is too little" if self.disk > self.free else ""
        on_gpu = f", on its GPUs {in_bytes(self.gpu)}" if self.gpu else ""
        seconds = f"about {duration(self.total_seconds)}{caution(self.neighbours)}"
        return (
            *(strategy.line for strategy in self.strategies),
            f"time in all, one strategy after the other: {seconds}",
            f"disk at most: {in_bytes(self.disk)} ({in_bytes(self.free)} are free{short})",
            f"memory at most: {in_bytes(self.memory)}{on_gpu}",
            *(f"{each}: {why}" for each, why in self.unpriced.items()),
        )


def plan_training(
    config: Config, out: Path | str, *, measures: Sequence[Measure] = (), gauges: Sequence[Gauge] = ()
) -> TrainingPlan:
    """What `run_all` would do with the same arguments, and what that costs.

    Raises:
        DriftError: as `run_all` would, before it begins.
    """
    with neighbours() as others:
        plan = _plan(config, Path(out), measures, gauges)
    return replace(plan, neighbours=others.share)


def _plan(config: Config, out: Path, measures: Sequence[Measure], gauges: Sequence[Gauge]) -> TrainingPlan:
    material = check(config)
    left = {strategy.name: _left(config, strategy, material, out) for strategy in config.strategies}
    trials: dict[Strategy, Trial] = {}
    probes = Probes()
    plans = []
    gpu = 0
    loaded = material.base.load(config.placement) if any(left.values()) else None
    if loaded is not None:
        if config.measures:
            measures = (*build_measures(prompts_of(config, material.base), config.measures, material.base), *measures)
        probes = _probed(config, material, loaded, measures, gauges)
    for strategy in config.strategies:
        epochs = left[strategy.name]
        if loaded is None or not epochs:
            plans.append(StrategyPlan(strategy.name, 0, Amount(), 0, 0.0, 0.0, 0.0, 0))
            continue
        kind = _kind(strategy)
        if kind not in trials:
            trials[kind] = _tried(config, strategy, material, loaded)
        amount = _amount(config, strategy, material, taught_tokenizer(loaded, strategy), epochs)
        plans.append(_priced(strategy, out, epochs, amount, trials[kind], probes))
        gpu = gpu_memory(loaded)
    unpriced = {"retrieval references": "not timed"} if config.retrieval else {}
    failed = {name: f"cannot be taken of the model as it is: {why}" for name, why in probes.failures.items()}
    return TrainingPlan(tuple(plans), peak_memory(), gpu, free_bytes(out), unpriced | failed)


def _left(config: Config, strategy: Strategy, material: Material, out: Path) -> int:
    """Epochs to come; refuses a place that was begun with another config."""
    folder = out / strategy.name
    if (folder / RECORD).is_file():
        begin_folder(folder, trajectory(config, strategy, material.base))
    return max(0, config.epochs - epochs_done(folder))


def _kind(strategy: Strategy) -> Strategy:
    """The strategy without what does not change the price of a step or of a checkpoint."""
    held = 1.0 if strategy.kl else 0.0
    return replace(strategy, name="kind", lr=1.0, warmup=0, seed=None, replay=0.0, documents="all", kl=held, lengths=())


def _amount(
    config: Config, strategy: Strategy, material: Material, tokenizer: "PreTrainedTokenizerBase", epochs: int
) -> Amount:
    """Counted in one epoch of each length of rows, where the others tell the same documents in another order."""
    found: dict[tuple[int, int], Amount] = {}
    total = Amount()
    for epoch in range(config.epochs - epochs, config.epochs):
        of_its_own = epoch if strategy.replay or config.packing else 0
        kind = strategy.longest(epoch, config.longest), of_its_own
        if kind not in found:
            _, told = batches_of(config, strategy, material.told(config, strategy, epoch), tokenizer, epoch)
            counts = [(int(batch.mask.sum()), batch.ids.numel()) for batch in told]
            steps = math.ceil(len(counts) / config.accumulate)
            found[kind] = Amount(steps, sum(tokens for tokens, _ in counts), sum(places for _, places in counts))
        total += found[kind]
    return total


def _tried(config: Config, strategy: Strategy, material: Material, loaded: LoadedModel) -> Trial:
    """A few steps on a copy of the model, and one checkpoint, in a folder that is removed."""
    tokenizer = taught_tokenizer(loaded, strategy)
    with tempfile.TemporaryDirectory(prefix="circuit-drift-plan-") as place:
        folder = Path(place)
        progress = begin(loaded.model, strategy, folder, config)
        references = _references(strategy, progress, loaded.model)
        _, told = batches_of(config, strategy, material.told(config, strategy, 0), tokenizer, 0)
        groups = list(itertools.islice(grouped(told, config.accumulate), 1 + TIMED))
        progress.module.train(mode=True)
        seconds, places = 0.0, 0
        for group in [*groups[:1], *(groups[1:] or groups)]:
            began = time.perf_counter()
            take_step(config, strategy, group, progress, references=references, last_good=material.base.path)
            if progress.step > 1:
                seconds += time.perf_counter() - began
                places += sum(batch.ids.numel() for batch in group)
        began = time.perf_counter()
        save(folder, progress, tokenizer, strategy, material.base.path)
        saving = time.perf_counter() - began
        files = [path for path in saved(folder)[0].rglob("*") if path.is_file()]
        state = sum(path.stat().st_size for path in files if path.name == STATE)
        return Trial(seconds / places, saving, sum(path.stat().st_size for path in files) - state, state)


def _references(strategy: Strategy, progress: TrainingState, original: "PreTrainedModel") -> "list[PreTrainedModel]":
    """As many as the strategy is held to, of the same shape."""
    if not strategy.kl:
        return []
    own = [] if strategy.kl_to == "original" else [frozen_copy(progress.module)]
    return [*([original] if strategy.kl_to in ("original", "both") else []), *own]


def _probed(
    config: Config, material: Material, loaded: LoadedModel, measures: Sequence[Measure], gauges: Sequence[Gauge]
) -> Probes:
    """One probe of the model as it is, questions on a sample."""
    facts, outside = material.facts, material.outside
    sample = replace(material, facts=_some(facts), outside=_some(outside))
    more = {"knowledge": len(facts) / len(sample.facts), "outside": len(outside) / max(1, len(sample.outside))}
    seconds, failures = 0.0, dict[str, str]()
    for gauge in (*gauges_of(config, sample), *gauges):
        try:
            took, _ = _timed(partial(gauge.read, loaded))
        except Exception as error:  # which the probes of a training only record
            failures[gauge.name] = reason(error)
        else:
            seconds += took * more.get(gauge.name, 1.0)
    with tempfile.TemporaryDirectory(prefix="circuit-drift-plan-") as place:
        store = Store.open(place)
        results: dict[str, object] = {}
        for measure in measures:
            task = SweepTask.of(loaded.checkpoint, measure, loaded.dtype, loaded.attention)
            took, _ = _timed(partial(take, task, loaded, store, results, failures))
            seconds += took
        written = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    return Probes(seconds, written, failures)


def _some(asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """So many of them, evenly spaced."""
    return tuple(asked[place * len(asked) // ASKED] for place in range(ASKED)) if len(asked) > ASKED else tuple(asked)


def _priced(strategy: Strategy, out: Path, epochs: int, amount: Amount, trial: Trial, probes: Probes) -> StrategyPlan:
    count = epochs + (not saved(out / strategy.name))
    return StrategyPlan(
        name=strategy.name,
        epochs=epochs,
        amount=amount,
        probes=count,
        seconds=trial.per_place * amount.places,
        saving=trial.saving * count,
        probing=probes.seconds * count,
        disk=count * (trial.checkpoint + probes.results) + 2 * trial.state,
    )


def _timed(work: Callable[[], Found]) -> tuple[float, Found]:
    """Seconds of some work, and what it gave; what is short is done twice, since the first time sets up much."""
    for _ in range(2):
        began = time.perf_counter()
        found = work()
        if (took := time.perf_counter() - began) > SHORT:
            break
    return took, found
