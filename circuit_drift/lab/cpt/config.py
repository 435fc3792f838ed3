"""What a comparison of strategies consists of; everything that can be refused is refused before a model loads."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from checkpoints import DriftError

Reference = Literal["original", "previous"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of continual pre-training; the default is full fine-tuning on the documents alone.

    Attributes:
        name: of its folder and its run.
        lr: peak learning rate of AdamW.
        warmup: optimizer steps of linear re-warming.
        replay: old documents mixed in for each new one.
        kl: weight of the divergence KL(reference || model), mean over tokens, in the loss.
        kl_to: the reference: the original model, or the model at the end of the previous epoch.
        freeze: shell-style patterns of parameter names that are not trained (``model.layers.0.*``).
        curriculum: leave out, in each epoch, documents of entities that the last probe found learned.
    """

    name: str
    lr: float = 1e-4
    warmup: int = 0
    replay: float = 0.0
    kl: float = 0.0
    kl_to: Reference = "original"
    freeze: tuple[str, ...] = ()
    curriculum: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DriftError(f"the strategy name {self.name!r} names a folder; use letters, digits, dots and dashes")
        if not self.lr > 0 or min(self.warmup, self.replay, self.kl) < 0:
            raise DriftError(
                f"strategy {self.name}: lr {self.lr} must be above 0; warmup {self.warmup}, replay {self.replay} and "
                f"kl {self.kl} must not be below 0"
            )
        if self.kl_to not in get_args(Reference):
            raise DriftError(
                f"strategy {self.name}: kl_to is {self.kl_to!r}; choose {' or '.join(get_args(Reference))}"
            )


@dataclass(frozen=True, slots=True)
class Config:
    """A comparison of strategies from one model over one set of documents.

    Attributes:
        model: the checkpoint to start from: a folder, or ``SERIES@STEP``.
        documents: JSONL with ``text`` and, for the curriculum, ``entity``.
        facts: JSONL of clean/corrupt facts, probed at every epoch.
        strategies: what is compared.
        replay: JSONL of old documents; needed by strategies that replay.
        epochs: passes over the documents.
        batch: documents in a step.
        longest: tokens of a document that are kept.
        entity: the facts' label that names the entity of a document; needed by the curriculum.
        unit: the facts' label that says which of them are probes of one unit of the ledger; None = each is its own.
        learned: mean recall of an entity's facts from which the curriculum drops its documents.
        seed: of the order of the documents.
    """

    model: str
    documents: Path
    facts: Path
    strategies: tuple[Strategy, ...]
    replay: Path | None = None
    epochs: int = 3
    batch: int = 8
    longest: int = 512
    entity: str = "entity"
    unit: str | None = None
    learned: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        names = [strategy.name for strategy in self.strategies]
        if not names or len(set(names)) < len(names):
            raise DriftError(f"a comparison needs strategies of different names: got {names}")
        if min(self.epochs, self.batch) < 1 or self.longest < 2:
            raise DriftError(f"epochs {self.epochs} and batch {self.batch} must be at least 1, longest 2")
        if needy := [strategy.name for strategy in self.strategies if strategy.replay and self.replay is None]:
            raise DriftError(f"strategy {needy[0]} replays old documents; name them with replay = 'old.jsonl'")
        for path in (self.documents, self.facts, self.replay):
            if path is not None and not path.is_file():
                raise DriftError(f"{path} is not there; paths in a config are taken from the config's folder")


def load_config(path: Path | str) -> Config:
    """Read a comparison from TOML: the fields of `Config`, with a ``[[strategy]]`` table for each strategy.

    Paths, and a model given as a folder, are taken from the config's own folder.

    Raises:
        DriftError: the file cannot be read, or names something that there is not; nothing was loaded yet.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DriftError(f"cannot read the config {path}: {error}") from error
    strategies = tuple(
        Strategy(**_known(Strategy, entry | _as_tuple(entry, "freeze"), f"{path}, [[strategy]]"))
        for entry in table.pop("strategy", [])
    )
    places: dict[str, Any] = {
        name: path.parent / table[name] for name in ("documents", "facts", "replay") if name in table
    }
    beside = path.parent / str(table.get("model", ""))
    model = {"model": str(beside)} if "model" in table and beside.is_dir() else {}
    return Config(**_known(Config, table | places | model | {"strategies": strategies}, str(path)))


def _as_tuple(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: tuple(entry[name])} if name in entry else {}


def _known(kind: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table, if it names fields of the dataclass and all that it must."""
    names = {field.name for field in fields(kind)}
    if unknown := sorted(set(table) - names):
        raise DriftError(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(needed - set(table)):
        raise DriftError(f"{where}: {', '.join(missing)} is missing")
    return dict(table)
