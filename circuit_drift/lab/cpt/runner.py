"""Runs a strategy: epochs over the documents, a checkpoint and a probe at the end of each, resumable between them.

DIR/<strategy>/checkpoint-N/   a checkpoint in Hugging Face format, with training_state.pt beside its weights
DIR/store/                     the runs, as `circuit_drift.load_run` reads them
"""

import copy
import fnmatch
import logging
import math
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import circuits
from checkpoints import BadPrompt, DriftError, open_checkpoint
from circuit_drift.lab.cpt.config import Config, Strategy
from circuit_drift.lab.cpt.documents import IGNORED, Batch, Document, batches, load_documents
from circuit_drift.lab.probing import Knowledge, Prober, Schedule, unit_scores
from circuit_drift.lab.probing.gauges import Gauge
from circuit_drift.measures import Measure, tokenizer_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CLIP = 1.0
STATE = "training_state.pt"
STORE = "store"


class Diverged(DriftError):
    """The loss is no longer a finite number."""


@dataclass(slots=True)
class Progress:
    """Where a training run stands."""

    model: "PreTrainedModel"
    optimizer: "torch.optim.Optimizer"
    epoch: int = 0
    step: int = 0


def run_all(
    config: Config, out: Path, *, measures: Sequence[Measure] = (), gauges: Sequence[Gauge] = ()
) -> tuple[Path, ...]:
    """Train every strategy of a config; those that are finished are left as they are.

    Args:
        config: what is compared.
        out: where to write.
        measures: stored measures to take at every epoch besides the facts.
        gauges: cheap probes to take at every epoch besides the facts.

    Returns:
        the series folder of each strategy.

    Raises:
        Diverged: a loss was not finite; names the last good checkpoint.
        DriftError: the model or the documents cannot be used.
    """
    return tuple(run_strategy(config, s, out, measures=measures, gauges=gauges) for s in config.strategies)


def run_strategy(
    config: Config, strategy: Strategy, out: Path, *, measures: Sequence[Measure] = (), gauges: Sequence[Gauge] = ()
) -> Path:
    """Train one strategy, from its last checkpoint if there is one; see `run_all`."""
    folder = out / strategy.name
    texts = load_documents(config.documents)
    old = load_documents(config.replay) if config.replay is not None else ()
    facts = circuits.load_facts(config.facts)
    if strategy.curriculum:
        _check_entities(config, texts, facts)
    loaded = open_checkpoint(config.model).load()
    tokenizer, original = tokenizer_of(loaded), loaded.model
    progress = _begin(original, strategy, folder)
    prober = Prober(
        strategy.name,
        tokenizer,
        measures=measures,
        gauges=[Knowledge(facts, unit=config.unit), *gauges],
        schedule=Schedule(epochs=True),
        store=out / STORE,
    )
    reference = _reference(strategy, original, progress.model)
    if progress.epoch:
        prober.resume(progress.step)
    else:
        prober.after_step(progress.model, step=0)
        _save(folder, progress, tokenizer)
    while progress.epoch < config.epochs:
        chosen = _chosen(config, strategy, texts, old, prober, progress.epoch)
        loss = _epoch(config, strategy, chosen, progress, tokenizer, reference, folder)
        prober.after_step(progress.model, step=progress.step, loss=loss, force=True)
        _save(folder, progress, tokenizer)
        if strategy.kl and strategy.kl_to == "previous":
            reference = _frozen_copy(progress.model)
    return folder


def _begin(original: "PreTrainedModel", strategy: Strategy, folder: Path) -> Progress:
    """A fresh start from the original, or the state of the last checkpoint."""
    import torch

    saved = _saved(folder)
    model = open_checkpoint(saved[-1]).load().model if saved else copy.deepcopy(original)
    _unfreeze(model, strategy)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=strategy.lr)
    if not saved:
        return Progress(model, optimizer)
    state = torch.load(saved[-1] / STATE, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return Progress(model, optimizer, state["epoch"], state["step"])


def _unfreeze(model: "PreTrainedModel", strategy: Strategy) -> None:
    """Let every parameter be trained but those of the strategy's patterns.

    Raises:
        DriftError: a pattern matches nothing, or all is frozen.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in strategy.freeze:
        if not fnmatch.filter(names, pattern):
            raise DriftError(f"strategy {strategy.name}: no parameter is called {pattern}; there is {names[0]}, ...")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, pattern) for pattern in strategy.freeze))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DriftError(f"strategy {strategy.name} freezes every parameter: nothing is left to train")


def _reference(strategy: Strategy, original: "PreTrainedModel", model: "PreTrainedModel") -> "PreTrainedModel | None":
    if not strategy.kl:
        return None
    return original if strategy.kl_to == "original" else _frozen_copy(model)


def _frozen_copy(model: "PreTrainedModel") -> "PreTrainedModel":
    twin = copy.deepcopy(model)
    twin.train(mode=False)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _chosen(
    config: Config, strategy: Strategy, texts: Sequence[Document], old: Sequence[Document], prober: Prober, epoch: int
) -> list[Document]:
    """The documents of an epoch: new ones that are still to be learned, and old ones drawn anew."""
    new = list(texts)
    if strategy.curriculum:
        learned = _learned(prober, config)
        new = [text for text in texts if text.entity not in learned]
    rng = random.Random(f"replay-{config.seed}-{epoch}")
    return new + rng.choices(list(old), k=round(strategy.replay * len(new))) if strategy.replay else new


def _check_entities(config: Config, texts: Sequence[Document], facts: Sequence[circuits.Fact]) -> None:
    """Refuse a curriculum that could never drop a document."""
    asked = {str(fact.labels.get(config.entity)) for fact in facts}
    if not any(text.entity in asked for text in texts):
        raise BadPrompt(
            f"no document of {config.documents} has an entity that a fact of {config.facts} names in its label "
            f"{config.entity!r}: the curriculum could drop none; name the label with entity ="
        )


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

    progress.model.train(mode=True)
    losses = []
    rng = random.Random(f"order-{config.seed}-{progress.epoch}")
    with torch.random.fork_rng():
        torch.manual_seed(rng.getrandbits(63))
        for batch in batches(tokenizer, texts, size=config.batch, longest=config.longest, rng=rng):
            loss, penalty = _losses(progress.model, batch, reference)
            total = loss + strategy.kl * penalty
            if not math.isfinite(float(total.detach())):
                raise Diverged(
                    f"the loss of strategy {strategy.name} is {float(total.detach())} after {progress.step} steps; the "
                    f"last good checkpoint is {_saved(folder)[-1]}: lower its lr {strategy.lr:g}"
                )
            torch.autograd.backward(total)
            _update(progress, strategy)
            losses.append(float(loss.detach()))
    progress.epoch += 1
    return sum(losses) / len(losses) if losses else float("nan")


def _update(progress: Progress, strategy: Strategy) -> None:
    """One optimizer step at the learning rate of the moment, gradients clipped."""
    import torch

    torch.nn.utils.clip_grad_norm_(progress.model.parameters(), CLIP)
    for group in progress.optimizer.param_groups:
        group["lr"] = strategy.lr * min(1.0, (progress.step + 1) / max(1, strategy.warmup))
    progress.optimizer.step()
    progress.optimizer.zero_grad()
    progress.step += 1


def _losses(
    model: "PreTrainedModel", batch: Batch, reference: "PreTrainedModel | None"
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


def _save(folder: Path, progress: Progress, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Write a checkpoint and the state to go on from; the folder appears whole or not at all."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        part = Path(scratch) / "checkpoint"
        progress.model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        state = {"optimizer": progress.optimizer.state_dict(), "epoch": progress.epoch, "step": progress.step}
        torch.save(state, part / STATE)
        final = folder / f"checkpoint-{progress.step}"
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)


def _saved(folder: Path) -> list[Path]:
    """The checkpoints so far, in order."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
