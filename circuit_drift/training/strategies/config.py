"""What a comparison of strategies consists of; `checks`, beside this file, refuses what could not work."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from checkpoints import DriftError
from checkpoints.errors import require_choice, require_choices
from checkpoints.files.reading import read_toml
from checkpoints.results.disk import can_be
from circuit_drift.measures.registry import known as known_measures

PATHS = ("documents", "facts", "replay", "traced", "text")
Reference = Literal["original", "previous"]
Told = Literal["all", "main", "unlearned"]
Passages = Literal["gold", "entity", "all"]
Skill = Literal["arithmetic", "copying"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021), trained in place of the weights they are added to; needs the extra ``lora``.

    The defaults are those of arXiv 2601.03858.

    Attributes:
        r: rank of each adapter.
        alpha: adapters are scaled by alpha / r.
        targets: last names of the linear modules that get one.
        embedding: train the whole embedding matrix too (and with it a tied unembedding).
        dropout: on the adapters' input.
    """

    r: int = 32
    alpha: float = 64.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    embedding: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.r < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise DriftError(f"LoRA needs r >= 1, alpha > 0, 0 <= dropout < 1 and at least one target: got {self}")


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of continual pre-training; the default is full fine-tuning on the documents alone.

    Attributes:
        name: of its folder and its run.
        lr: peak learning rate of AdamW.
        warmup: optimizer steps of linear re-warming.
        documents: which ones an epoch tells: all, the main one of each entity, or those of entities that the last probe
            did not find learned (the curriculum).
        tags: put around every mention of a document's entity (annotation); tokens that a closed vocabulary lacks are
            added to it. Probes are asked without them.
        replay: old documents mixed in for each new one.
        kl: weight of the divergence KL(reference || model), mean over tokens, in the loss.
        kl_to: the reference: the original model, or the model at the end of the previous epoch.
        freeze: shell-style patterns of parameter names that are not trained (``model.layers.0.*``).
        lora: train adapters instead of the weights.
    """

    name: str
    lr: float = 1e-4
    warmup: int = 0
    documents: Told = "all"
    tags: tuple[str, str] | None = None
    replay: float = 0.0
    kl: float = 0.0
    kl_to: Reference = "original"
    freeze: tuple[str, ...] = ()
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DriftError(f"the strategy name {self.name!r} names a folder; use letters, digits, dots and dashes")
        if not self.lr > 0 or min(self.warmup, self.replay, self.kl) < 0:
            raise DriftError(
                f"strategy {self.name}: lr {self.lr} must be above 0; warmup {self.warmup}, replay {self.replay} and "
                f"kl {self.kl} must not be below 0"
            )
        require_choice(f"strategy {self.name}: kl_to", self.kl_to, get_args(Reference), error=DriftError)
        require_choice(f"strategy {self.name}: documents", self.documents, get_args(Told), error=DriftError)
        if self.tags is not None and (len(self.tags) != 2 or not all(self.tags)):
            raise DriftError(f"strategy {self.name}: tags are an opening and a closing one: got {self.tags}")
        if self.lora is not None and self.freeze:
            raise DriftError(f"strategy {self.name}: LoRA freezes all but its adapters; leave freeze out, or lora")


@dataclass(frozen=True, slots=True)
class Config:
    """A comparison of strategies from one model over one set of documents.

    Attributes:
        model: the checkpoint to start from: a folder, or ``SERIES@STEP``.
        documents: JSONL with ``text`` and, for all but plain training, ``entity`` and ``main``.
        facts: JSONL of clean/corrupt facts, probed at every epoch.
        strategies: what is compared.
        replay: JSONL of old documents; needed by strategies that replay.
        epochs: passes over the documents.
        batch: documents in a step.
        longest: tokens of a document that are kept.
        entity: the facts' label that names the entity of a document; needed by the curriculum and by retrieval.
        unit: the facts' label that says which of them are probes of one unit of the ledger; None = each is its own.
        learned: mean recall of an entity's facts from which the curriculum drops its documents.
        retrieval: references that read instead of learning: the model as it was answers with a passage in front, the
            one that states the fact (gold), or the best match among the entity's documents or among all.
        measures: stored measures taken at every epoch, as of `circuit_drift.run`: heads, circuit, ...
        traced: JSONL of the facts whose circuit is traced; None = those beside the model, else the built-in ones.
        skills: outside the domain: arithmetic, copying.
        text: JSONL of documents whose perplexity is watched.
        seed: of the order of the documents, and of the adapters.
        device: torch device to train and probe on.
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
    retrieval: tuple[Passages, ...] = ()
    measures: tuple[str, ...] = ()
    traced: Path | None = None
    skills: tuple[Skill, ...] = ()
    text: Path | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        names = [strategy.name for strategy in self.strategies]
        if not names or len(set(names)) < len(names):
            raise DriftError(f"a comparison needs strategies of different names: got {names}")
        if min(self.epochs, self.batch) < 1 or self.longest < 2:
            raise DriftError(f"epochs {self.epochs} and batch {self.batch} must be at least 1, longest 2")
        if needy := [strategy.name for strategy in self.strategies if strategy.replay and self.replay is None]:
            raise DriftError(f"strategy {needy[0]} replays old documents; name them with replay = 'old.jsonl'")
        for kind in self.retrieval:
            require_choice("retrieval", kind, get_args(Passages), error=DriftError)
        for skill in self.skills:
            require_choice("skills", skill, get_args(Skill), error=DriftError)
        asked = [name.partition(":")[0] for name in self.measures]
        require_choices("measure", asked, known_measures(), error=DriftError)
        for path in (self.documents, self.facts, self.replay, self.traced, self.text):
            if path is not None and not (can_be(path) and path.is_file()):
                raise DriftError(f"{path} is not there; paths in a config are taken from the config's folder")


def load_config(path: Path | str) -> Config:
    """Read a comparison from TOML: the fields of `Config`, with a ``[[strategy]]`` table for each strategy.

    A strategy's adapters are its table ``[strategy.lora]``. Paths, and a model given as a folder, are taken from the
    config's own folder.

    Raises:
        DriftError: the file cannot be read, or names something that there is not; nothing was loaded yet.
    """
    path = Path(path)
    table = read_toml(path, "the config")
    entries = table.pop("strategy", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DriftError(f"{path}: strategy is {entries!r}; write a table [[strategy]] for each")
    strategies = tuple(_strategy(entry, path) for entry in entries)
    known = _known(Config, table | {"strategies": strategies}, str(path))
    places = {name: path.parent / known[name] for name in PATHS if name in known}
    beside = path.parent / known["model"]
    return Config(**known | places | ({"model": str(beside)} if can_be(beside) and beside.is_dir() else {}))


def _strategy(entry: Mapping[str, Any], path: Path) -> Strategy:
    where = f"{path}, [[strategy]]"
    if not isinstance(entry.get("lora", {}), dict):
        raise DriftError(f"{where}: lora is {entry['lora']!r}; write a table [strategy.lora]")
    lora = {"lora": Lora(**_known(Lora, entry["lora"], f"{where}, lora"))} if "lora" in entry else {}
    return Strategy(**_known(Strategy, {**entry, **lora}, where))


def _known(kind: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table, lists as tuples, if it names fields of the dataclass and all that it must."""
    names = {field.name for field in fields(kind)}
    if unknown := sorted(set(table) - names):
        raise DriftError(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(needed - set(table)):
        raise DriftError(f"{where}: {', '.join(missing)} is missing")
    hints = get_type_hints(kind)
    for name, value in table.items():
        if not _fits(value, hints[name]):
            raise DriftError(f"{where}: {name} is {value!r}; it takes {_words(hints[name])}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of TOML is of the type that a field says."""
    choices = get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return any(_fits(value, choice) for choice in choices)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(inner, choices[0]) for inner in value)
    if get_origin(hint) is Literal or hint is Path:
        return isinstance(value, str)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(float(value))  # type: ignore[arg-type]
    return type(value) is hint


def _words(hint: Any) -> str:
    """What a field takes, for a reader."""
    choices = get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return _words(next(choice for choice in choices if choice is not type(None)))
    if get_origin(hint) is tuple:
        return f"a list, each {_words(choices[0])}"
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, choices))
    return {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text"}.get(hint, "a path")
