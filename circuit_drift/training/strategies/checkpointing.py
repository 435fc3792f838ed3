"""What a strategy leaves on disk, and how it goes on from there.

DIR/<strategy>/strategy.json   what is trained, on what: a start with anything else is refused
DIR/<strategy>/checkpoint-N/   a whole model in Hugging Face format, adapters merged; the last one with the state to
                               resume from (training_state.pt)
DIR/store/                     the runs, as `circuit_drift.load_run` reads them
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.errors import StoreError
from checkpoints.files.reading import read_document
from checkpoints.files.states import read_state
from checkpoints.results.disk import collect_drafts, draft_folder, write_file
from circuit_drift.training.strategies.config import Config, Strategy
from circuit_drift.training.strategies.parameters import plain, prepare, trained

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STATE = "training_state.pt"
RECORD = "strategy.json"
STORE = "store"
NOT_OF_THE_TRAJECTORY = ("strategies", "epochs", "retrieval", "measures", "traced", "skills", "text", "unit", "device")


@dataclass(slots=True)
class Progress:
    """Where a training run stands.

    Attributes:
        module: what is trained: the model, or the model with adapters.
        optimizer: over its trained parameters.
        epoch: passes over the documents done.
        step: optimizer steps taken.
        tokens: tokens trained on.
    """

    module: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    epoch: int = 0
    step: int = 0
    tokens: int = 0


def trajectory(config: Config, strategy: Strategy, base: Checkpoint) -> dict[str, Any]:
    """Everything that decides the weights at an epoch's end: files by their content, the model by its weights."""
    record: dict[str, Any] = {"strategy": asdict(strategy)}
    for name, value in asdict(config).items():
        if name not in NOT_OF_THE_TRAJECTORY:
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


def begin(original: "PreTrainedModel", strategy: Strategy, folder: Path, *, seed: int) -> Progress:
    """A fresh start from the original, or the state of the last checkpoint."""
    import torch

    last = next(iter(saved(folder)[-1:]), None)
    device = original.device
    if last is None or strategy.lora is not None:
        model = copy.deepcopy(original)
    else:
        model = open_checkpoint(last).load(device=str(device)).model
    module = prepare(model, strategy, seed=seed)
    optimizer = torch.optim.AdamW(list(trained(module).values()), lr=strategy.lr)
    if last is None:
        return Progress(module, optimizer)
    state = read_state(last / STATE, device)
    optimizer.load_state_dict(state["optimizer"])
    with torch.no_grad():
        for name, parameter in trained(module).items():
            if name in state["adapters"]:
                parameter.copy_(state["adapters"][name])
    return Progress(module, optimizer, state["epoch"], state["step"], state["tokens"])


def save(folder: Path, progress: Progress, tokenizer: "PreTrainedTokenizerBase", *, adapters: bool) -> None:
    """Write a checkpoint and the state to go on from; the folder appears whole or not at all.

    Args:
        folder: of the strategy.
        progress: what to write.
        tokenizer: goes beside the weights.
        adapters: keep the trained parameters apart too, since they cannot be had back from the merged weights.
    """
    import torch

    earlier, final = saved(folder), folder / f"checkpoint-{progress.step}"
    with draft_folder(final) as part:
        with _without_bars():
            plain(progress.module).save_pretrained(part)
        tokenizer.save_pretrained(part)
        state = {
            "optimizer": progress.optimizer.state_dict(),
            "adapters": {name: p.detach() for name, p in trained(progress.module).items()} if adapters else {},
            "epoch": progress.epoch,
            "step": progress.step,
            "tokens": progress.tokens,
        }
        torch.save(state, part / STATE)
        if final.exists():  # an epoch without a document to tell
            (part / STATE).replace(final / STATE)
        else:
            part.rename(final)
    for path in earlier:
        if path != final:
            (path / STATE).unlink(missing_ok=True)


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


def finished(folder: Path, epochs: int) -> bool:
    """Whether that many epochs are done."""
    last = saved(folder)[-1:]
    return bool(last) and read_state(last[0] / STATE, "meta")["epoch"] >= epochs


def saved(folder: Path) -> list[Path]:
    """The checkpoints so far, in order."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
