"""One pass over the documents: forward passes, optimizer steps, the learning rate of the moment."""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import DriftError
from circuit_drift.training.strategies.loop.batches import Batch, RowLayout, batches
from circuit_drift.training.strategies.loop.losses import losses, targets_in
from circuit_drift.training.strategies.settings.config import Config
from circuit_drift.training.strategies.settings.documents import Document
from circuit_drift.training.strategies.settings.strategy import Strategy

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLIP = 1.0

Tell = Callable[[int, Mapping[str, float]], None]
"""Takes numbers of a step."""


class Diverged(DriftError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(slots=True)
class TrainingState:
    """Where a training run stands.

    Attributes:
        module: what is trained: the model, or the model with adapters.
        optimizer: over its trained parameters.
        epoch: passes over the documents done.
        step: optimizer steps taken.
        tokens: tokens trained on.
        documents: documents trained on, each time it was told.
        seconds: of wall time spent in epochs, probes and checkpoints not counted.
    """

    module: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    epoch: int = 0
    step: int = 0
    tokens: int = 0
    documents: int = 0
    seconds: float = 0.0


def train_epoch(
    config: Config,
    strategy: Strategy,
    texts: Sequence[Document],
    progress: TrainingState,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    references: "Sequence[PreTrainedModel]",
    last_good: Path,
    tell: Tell = lambda step, numbers: None,
) -> float:
    """One pass over the documents; returns its mean loss on them, the divergence not counted.

    Args:
        config: batch, precision, seed.
        strategy: learning rate, divergence, length of rows.
        texts: the documents.
        progress: taken on.
        tokenizer: of the model.
        references: what the model is held to.
        last_good: the checkpoint to name where training fails.
        tell: is told the loss and the learning rate of every step.

    Raises:
        Diverged: a loss or gradient was not finite; the weights are as they were before that step.
    """
    import torch

    began = time.perf_counter()
    progress.module.train(mode=True)
    found = []
    seed, told = batches_of(config, strategy, texts, tokenizer, progress.epoch)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for group in grouped(told, config.accumulate):
            found.append(take_step(config, strategy, group, progress, references=references, last_good=last_good))
            progress.documents += sum(batch.documents for batch in group)
            tell(progress.step, {"step_loss": found[-1], "lr": progress.optimizer.param_groups[0]["lr"]})
    progress.epoch += 1
    progress.seconds += time.perf_counter() - began
    return sum(found) / len(found) if found else float("nan")


def batches_of(
    config: Config, strategy: Strategy, texts: Sequence[Document], tokenizer: "PreTrainedTokenizerBase", epoch: int
) -> tuple[int, Iterator[Batch]]:
    """The seed of an epoch's own draws, and its batches, the same at every start."""
    rng = random.Random(f"order-{strategy.seeded(config.seed)}-{epoch}")
    seed = rng.getrandbits(63)
    rows = RowLayout(config.batch, strategy.longest(epoch, config.longest), config.cut, config.packing)
    return seed, batches(tokenizer, texts, rows=rows, rng=rng)


def grouped(found: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches, as many together as an optimizer step takes."""
    while group := list(islice(found, size)):
        yield group


def take_step(
    config: Config,
    strategy: Strategy,
    group: Sequence[Batch],
    progress: TrainingState,
    *,
    references: "Sequence[PreTrainedModel]",
    last_good: Path,
) -> float:
    """One optimizer step over the batches of a group, as if they were one; returns its loss."""
    import torch

    device = next(progress.module.parameters()).device
    counts = [targets_in(batch) for batch in group]
    mean = 0.0
    for batch, count in zip(group, counts, strict=True):
        share = count / max(1, sum(counts))
        if not share:
            continue
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "mixed"):
            loss, penalty = losses(progress.module, batch.to(device), references, strategy.divergence)
        total = (loss + strategy.kl * penalty) * share
        _check_finite("loss", float(total.detach()), strategy, progress, last_good)
        torch.autograd.backward(total)
        progress.tokens += int(batch.mask.sum())
        mean += float(loss.detach()) * share
    size = torch.nn.utils.clip_grad_norm_(progress.module.parameters(), CLIP)
    _check_finite("gradient", float(size), strategy, progress, last_good)
    _update(progress, strategy)
    return mean


def _check_finite(what: str, value: float, strategy: Strategy, progress: TrainingState, last_good: Path) -> None:
    if not math.isfinite(value):
        raise Diverged(
            f"the {what} of strategy {strategy.name} is {value} after {progress.step} steps; the last good checkpoint "
            f"is {last_good}: lower its lr {strategy.lr:g}"
        )


def _update(progress: TrainingState, strategy: Strategy) -> None:
    """One optimizer step at the learning rate of the moment."""
    for group in progress.optimizer.param_groups:
        group["lr"] = strategy.lr * min(1.0, (progress.step + 1) / max(1, strategy.warmup))
    progress.optimizer.step()
    progress.optimizer.zero_grad()
    progress.step += 1
