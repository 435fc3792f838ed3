"""What a strategy leaves on disk, and how it goes on from there.

DIR/<strategy>/strategy.json   what is trained, on what: a start with anything else is refused
DIR/<strategy>/checkpoint-N/   a whole model in Hugging Face format, or the adapters alone in peft's; the last one with
                               the state to resume from (training_state.pt); without it nothing is trained on
DIR/<strategy>/seconds.csv     seconds trained up to each checkpoint: not in the run, whose log is the same each time
DIR/store/                     the runs, as `circuit_drift.load_run` reads them
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.errors import StoreError
from checkpoints.files.reading import read_document, read_text
from checkpoints.files.states import read_state
from checkpoints.results.disk import collect_drafts, draft_folder, write_file
from circuit_drift.training.strategies.loop.adapters import base_name, save_adapter
from circuit_drift.training.strategies.loop.epoch import TrainingState
from circuit_drift.training.strategies.loop.parameters import own_copy, plain, prepare, recompute_activations, trained
from circuit_drift.training.strategies.loop.rope import with_rope
from circuit_drift.training.strategies.settings.config import Config
from circuit_drift.training.strategies.settings.strategy import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STATE = "training_state.pt"
RECORD = "strategy.json"
SECONDS = "seconds.csv"
STORE = "store"
FULL = 1_000_000
"""Bytes free on a disk below which it is full."""
COUNTED = ("epoch", "step", "tokens", "documents", "seconds")
NOT_OF_THE_TRAJECTORY = (
    *("strategies", "epochs", "retrieval", "measures", "circuits", "traced", "unit", "device", "device_map"),
    *("skills", "outside", "choices", "tasks", "tasks_folder", "tasks_limit", "text"),
)


def trajectory(config: Config, strategy: Strategy, base: Checkpoint) -> dict[str, Any]:
    """Everything that decides the weights at an epoch's end: files by their content, the model by its weights."""
    record: dict[str, Any] = {"strategy": asdict(strategy)}
    left_out = (*NOT_OF_THE_TRAJECTORY, *(() if strategy.follows_recall else ("answers",)))
    for name, value in asdict(config).items():
        if name not in left_out:
            record[name] = hashlib.sha256(value.read_bytes()).hexdigest() if isinstance(value, Path) else value
    return record | {"model": base.weights_hash}


def read_record(folder: Path) -> dict[str, Any]:
    """What a strategy's folder was begun with.

    Raises:
        StoreError: there is no record, or it is damaged.
    """
    found = read_document(folder / RECORD, "the record of a strategy", StoreError)
    if not isinstance(found, dict):
        raise StoreError(f"{folder / RECORD} is no record of a strategy: name another place with --out, or delete it")
    return found


def begin_folder(folder: Path, record: Mapping[str, Any]) -> None:
    """Begin in a folder, or go on in one that was begun with the same record; remains of a killed start are removed.

    Raises:
        StoreError: it was begun with another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / RECORD, json.loads(json.dumps(record))
    if path.is_file():
        found = read_record(folder)
        if odd := [name for name in wanted if found.get(name) != wanted[name]]:
            raise StoreError(
                f"{folder} was begun with another {', '.join(odd)}: name another place with --out, or delete it"
            )
    else:
        write_file(path, json.dumps(wanted, indent=1) + "\n")
    collect_drafts(folder)


def begin(original: "PreTrainedModel", strategy: Strategy, folder: Path, config: Config) -> TrainingState:
    """A fresh start from the original, which is left as it is, or the state of the last checkpoint."""
    import torch

    last = next(iter(saved(folder)[-1:]), None)
    if last is None or strategy.lora is not None:
        model = own_copy(original, strategy)
        model = with_rope(model, strategy.rope) if strategy.rope else model
    else:
        model = open_checkpoint(last).load(config.placement).model
    module = prepare(model, strategy, seed=strategy.seeded(config.seed))
    if config.gradient_checkpointing:
        recompute_activations(module)
    optimizer = torch.optim.AdamW(list(trained(module).values()), lr=strategy.lr)
    if last is None:
        return TrainingState(module, optimizer)
    state = read_state(last / STATE, next(module.parameters()).device)
    optimizer.load_state_dict(state["optimizer"])
    with torch.no_grad():
        for name, parameter in trained(module).items():
            if name in state["adapters"]:
                parameter.copy_(state["adapters"][name])
    return TrainingState(module, optimizer, *(state[name] for name in COUNTED))


def save(
    folder: Path,
    progress: TrainingState,
    tokenizer: "PreTrainedTokenizerBase",
    strategy: Strategy,
    base: Path,
) -> None:
    """Write a checkpoint and the state to go on from; the folder appears whole or not at all.

    Args:
        folder: of the strategy.
        progress: what to write.
        tokenizer: goes beside whole weights, and beside adapters that were trained with tokens of their own.
        strategy: its adapters are saved alone, and kept unrounded in the state.
        base: the model that adapters are for.

    Raises:
        StoreError: the disk is full.
    """
    import torch

    earlier, final = saved(folder), folder / f"checkpoint-{progress.step}"
    spent = {**seconds_of(folder), progress.step: progress.seconds}
    write_file(folder / SECONDS, "step,seconds\n" + "".join(f"{step},{spent[step]:.3f}\n" for step in sorted(spent)))
    with draft_folder(final) as part, _room_for(final):
        if strategy.saves_adapters and strategy.lora is not None:
            name = base_name(base, folder)
            save_adapter(part, progress.module, base=name, embedding=strategy.lora.embedding)
        else:
            with _without_bars():
                plain(progress.module).save_pretrained(part)
        if strategy.tags or not strategy.saves_adapters:
            tokenizer.save_pretrained(part)
        own = trained(progress.module) if strategy.lora is not None else {}
        state = {
            "optimizer": progress.optimizer.state_dict(),
            "adapters": {name: parameter.detach() for name, parameter in own.items()},
            **{name: getattr(progress, name) for name in COUNTED},
        }
        torch.save(state, part / STATE)
        if final.exists():  # an epoch without a document to tell
            (part / STATE).replace(final / STATE)
        else:
            part.rename(final)
    for path in earlier:
        if path != final:
            (path / STATE).unlink(missing_ok=True)


def seconds_of(folder: Path) -> dict[int, float]:
    """Step -> seconds of training up to it, probes and checkpoints not counted; of every start together."""
    path = folder / SECONDS
    rows = csv.DictReader(read_text(path, "seconds of training").splitlines()) if path.is_file() else ()
    return {int(row["step"]): float(row["seconds"]) for row in rows}


@contextmanager
def _without_bars() -> Iterator[None]:
    """Silence transformers' bar over the files of one checkpoint."""
    from transformers.utils import logging

    hf_logging: Any = logging
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def epochs_done(folder: Path) -> int:
    """Passes over the documents that the last checkpoint has behind it; 0 where there is none.

    A strategy that was published without the state to go on from tells them by its seconds: one row for each.
    """
    if not (found := saved(folder)):
        return 0
    last, spent = found[-1], seconds_of(folder)
    if not (last / STATE).exists() and max(spent, default=-1) == step_of(last):
        return len(spent) - 1
    return int(read_state(last / STATE, "meta")["epoch"])


def finished(folder: Path, epochs: int) -> bool:
    """Whether that many epochs are done."""
    return bool(saved(folder)) and epochs_done(folder) >= epochs


@contextmanager
def _room_for(checkpoint: Path) -> Iterator[None]:
    """Name a full disk as what it is: each library that writes calls it otherwise."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(checkpoint.parent).free >= FULL:
            raise
        raise StoreError(
            f"{checkpoint} cannot be written, its disk is full: make room, and the same command goes on from the "
            "checkpoint before"
        ) from error


def saved(folder: Path) -> list[Path]:
    """The checkpoints so far, in order."""
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(path.name.partition("-")[2])
