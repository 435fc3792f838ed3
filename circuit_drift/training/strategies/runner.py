"""Runs strategies: epochs over the documents, a checkpoint and a probe at the end of each, resumable at any point.

DIR/<strategy>/checkpoint-N/   see `circuit_drift.training.strategies.checkpointing`
DIR/retrieval/                 the references that read instead of learning
DIR/store/                     the runs, as `circuit_drift.load_run` reads them
"""

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.measures.base import Measure
from circuit_drift.measures.registry import build_measures
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.training import Prober, Schedule, unit_scores
from circuit_drift.training.strategies.checkpointing import (
    STORE,
    Progress,
    begin,
    begin_folder,
    finished,
    save,
    saved,
    trajectory,
)
from circuit_drift.training.strategies.checks import Material, check
from circuit_drift.training.strategies.config import Config, Strategy
from circuit_drift.training.strategies.documents import IGNORED, Batch, Document, annotated, batches, teach_tags
from circuit_drift.training.strategies.gauges import gauges_of, prompts_of
from circuit_drift.training.strategies.parameters import embedding_rows, frozen_copy, plain
from circuit_drift.training.strategies.retrieval import answer_with_passages

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CLIP = 1.0


class Diverged(DriftError):
    """The loss or its gradient is no longer a finite number."""


def run_all(
    config: Config, out: Path | str, *, measures: Sequence[Measure] = (), gauges: Sequence[Gauge] = ()
) -> tuple[Path, ...]:
    """Train every strategy of a config and take its references; what is finished is left as it is.

    Args:
        config: what is compared.
        out: where to write.
        measures: stored measures to take at every epoch besides the config's.
        gauges: cheap probes to take at every epoch besides the config's.

    Returns:
        the series folder of each strategy.

    Raises:
        Diverged: a loss was not finite; names the last good checkpoint.
        StoreError: the place holds strategies that were begun with another config.
        DriftError: the config cannot work; nothing was loaded yet.
    """
    out = Path(out)
    material = check(config)
    if config.measures:
        measures = (*build_measures(prompts_of(config, material.base), config.measures, material.base), *measures)
    gauges = (*gauges_of(config, material.texts, material.facts), *gauges)
    folders = tuple(_train(config, s, material, out, measures=measures, gauges=gauges) for s in config.strategies)
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
) -> Path:
    folder = out / strategy.name
    begin_folder(folder, trajectory(config, strategy, material.base))
    if finished(folder, config.epochs):
        return folder
    loaded = material.base.load(device=config.device)
    tokenizer = _tokenizer(loaded, strategy)
    original = loaded.model
    progress = begin(original, strategy, folder, seed=config.seed)
    adapters = strategy.lora is not None
    prober = Prober(
        strategy.name,
        tokenizer,
        measures=measures,
        gauges=gauges,
        schedule=Schedule(epochs=True),
        store=out / STORE,
    )
    reference = _reference(strategy, original, progress)
    if saved(folder):
        prober.resume(progress.step)
    else:
        prober.after_step(plain(progress.module), step=0)
        save(folder, progress, tokenizer, adapters=adapters)
    while progress.epoch < config.epochs:
        chosen = _chosen(config, strategy, material, prober, progress.epoch)
        loss = _epoch(config, strategy, chosen, progress, tokenizer, reference, folder)
        model = plain(progress.module)
        prober.after_step(model, step=progress.step, loss=loss, tokens=progress.tokens, force=True)
        save(folder, progress, tokenizer, adapters=adapters)
        if strategy.kl and strategy.kl_to == "previous":
            reference = frozen_copy(progress.module)
    return folder


def _tokenizer(loaded: LoadedModel, strategy: Strategy) -> "PreTrainedTokenizerBase":
    tokenizer = tokenizer_of(loaded)
    if strategy.tags:
        teach_tags(tokenizer, strategy.tags, rows=embedding_rows(loaded.model))
    return tokenizer


def _reference(strategy: Strategy, original: "PreTrainedModel", progress: Progress) -> "PreTrainedModel | None":
    if not strategy.kl:
        return None
    return original if strategy.kl_to == "original" else frozen_copy(progress.module)


def _chosen(config: Config, strategy: Strategy, material: Material, prober: Prober, epoch: int) -> list[Document]:
    """The documents of an epoch: new ones that the strategy tells, and old ones drawn anew."""
    texts: Sequence[Document] = material.texts
    if strategy.documents == "main":
        texts = [text for text in texts if text.main]
    if strategy.documents == "unlearned":
        learned = _learned(prober, config)
        texts = [text for text in texts if text.entity not in learned]
    new = list(annotated(texts, strategy.tags) if strategy.tags else texts)
    rng = random.Random(f"replay-{config.seed}-{epoch}")
    return new + rng.choices(material.old, k=round(strategy.replay * len(new))) if strategy.replay else new


def _learned(prober: Prober, config: Config) -> set[str]:
    """Entities whose facts the last probe found recalled."""
    scores = unit_scores(prober.recorder.store, prober.recorder.name)
    groups = scores.groups(config.entity)
    return {entity for entity, part in groups.items() if part.mean[:, -1].mean() >= config.learned}


def _epoch(
    config: Config,
    strategy: Strategy,
    texts: Sequence[Document],
    progress: Progress,
    tokenizer: "PreTrainedTokenizerBase",
    reference: "PreTrainedModel | None",
    folder: Path,
) -> float:
    """One pass over the documents; returns its mean loss on them, the divergence not counted."""
    import torch

    progress.module.train(mode=True)
    device = next(progress.module.parameters()).device
    losses = []
    rng = random.Random(f"order-{config.seed}-{progress.epoch}")
    with torch.random.fork_rng():
        torch.manual_seed(rng.getrandbits(63))
        for batch in batches(tokenizer, texts, size=config.batch, longest=config.longest, rng=rng):
            loss, penalty = _losses(progress.module, batch.to(device), reference)
            total = loss + strategy.kl * penalty
            _check_finite("loss", float(total.detach()), strategy, progress, folder)
            torch.autograd.backward(total)
            size = torch.nn.utils.clip_grad_norm_(progress.module.parameters(), CLIP)
            _check_finite("gradient", float(size), strategy, progress, folder)
            _update(progress, strategy)
            progress.tokens += int(batch.mask.sum())
            losses.append(float(loss.detach()))
    progress.epoch += 1
    return sum(losses) / len(losses) if losses else float("nan")


def _check_finite(what: str, value: float, strategy: Strategy, progress: Progress, folder: Path) -> None:
    if not math.isfinite(value):
        raise Diverged(
            f"the {what} of strategy {strategy.name} is {value} after {progress.step} steps; the last good checkpoint "
            f"is {saved(folder)[-1]}: lower its lr {strategy.lr:g}"
        )


def _update(progress: Progress, strategy: Strategy) -> None:
    """One optimizer step at the learning rate of the moment."""
    for group in progress.optimizer.param_groups:
        group["lr"] = strategy.lr * min(1.0, (progress.step + 1) / max(1, strategy.warmup))
    progress.optimizer.step()
    progress.optimizer.zero_grad()
    progress.step += 1


def _losses(
    model: "torch.nn.Module", batch: Batch, reference: "PreTrainedModel | None"
) -> "tuple[torch.Tensor, torch.Tensor | float]":
    """Mean NLL of the documents' tokens, and the mean KL(reference || model) at the same places, in nats."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div

    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1]
    targets = batch.labels[:, 1:]
    loss = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED)
    if reference is None:
        return loss, 0.0
    with torch.no_grad():
        old = reference(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1]
    there = targets != IGNORED
    new_log, old_log = logits[there].log_softmax(dim=-1), old[there].log_softmax(dim=-1)
    return loss, kl_div(new_log, old_log, reduction="batchmean", log_target=True)


def run_strategy(
    config: Config,
    strategy: Strategy,
    out: Path | str,
    *,
    measures: Sequence[Measure] = (),
    gauges: Sequence[Gauge] = (),
) -> Path:
    """Train one strategy with a config's documents and settings; see `run_all`."""
    alone = replace(config, strategies=(strategy,), retrieval=())
    return run_all(alone, out, measures=measures, gauges=gauges)[0]
