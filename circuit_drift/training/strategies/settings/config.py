"""What a comparison of strategies consists of; `strategies.checks` refuses what could not work."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from checkpoints import DriftError
from checkpoints.errors import require_choice, require_choices
from checkpoints.files.reading import read_toml
from checkpoints.files.tables import values_of
from checkpoints.placement import DeviceMap, Placement
from checkpoints.results.disk import can_be
from circuit_drift.behaviour.gauges import By
from circuit_drift.measures.registry import known as known_measures
from circuit_drift.prompts import EdgeScoring
from circuit_drift.training.strategies.settings.strategy import Strategy

PATHS = ("documents", "facts", "replay", "traced", "text", "outside", "choices", "tasks_folder")
TASK = "task_"
"""Before the names of a harness task's numbers in the log of a strategy."""
Passages = Literal["gold", "entity", "all"]
Skill = Literal["arithmetic", "copying"]
Precision = Literal["float32", "mixed", "bfloat16"]
Cut = Literal["drop", "split"]


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How the probes are asked and scored; arXiv 2601.03858: rouge1, 25 tokens, an instruction, the chat template.

    Attributes:
        score: what the ledger gets: ``rank`` (is the answer's first token the most likely one?), its ``probability``,
            or the ROUGE-1 recall of the whole answer in what the model writes.
        new_tokens: of a written answer, at most; 0 = none is written.
        instruction: in front of every prompt that is answered in writing.
        chat: ask in writing as a user's turn of the tokenizer's chat template.
        stops: texts that end a written answer.
    """

    score: By = "rank"
    new_tokens: int = 0
    instruction: str = ""
    chat: bool = False
    stops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_choice("answers: score", self.score, get_args(By), error=DriftError)
        if self.new_tokens < 0 or (self.score == "rouge1" and not self.new_tokens):
            raise DriftError(f"answers: new_tokens {self.new_tokens} must not be below 0, and rouge1 scores what is "
                             "written: say how long it may get, as new_tokens = 25")  # fmt: skip
        if not all(self.stops):
            raise DriftError("answers: an empty text among stops ends every answer before it begins; leave it out")
        if not self.new_tokens and (self.instruction or self.chat or self.stops):
            raise DriftError("answers: an instruction, chat and stops are for written answers: give new_tokens = 25")


@dataclass(frozen=True, slots=True)
class Circuits:
    """How the edges of the traced facts' circuits are scored, as by the options of ``circuit-drift run``.

    arXiv 2601.03858: ``ig_steps = 30``, ``rule = "left"``, ``edges = 50000``.

    Attributes:
        method: eap, eap-ig, ...
        ig_steps: gradients along the path from corrupt to clean.
        rule: which point of each step: left, right or midpoint.
        metric: what is attributed; answers and wrong answers of different lengths need ``log probability`` or ``kl``.
        backward: plain, gim or relp.
        edges: of the circuit that is compared; None = 5 %, at least 20.
    """

    method: str = "eap-ig"
    ig_steps: int = 5
    rule: str = "midpoint"
    metric: str = "logit difference"
    backward: str = "plain"
    edges: int | None = None

    def __post_init__(self) -> None:
        self.scoring.check()

    @property
    def scoring(self) -> EdgeScoring:
        """The same for the measures; a metric may be written with hyphens."""
        how: dict[str, Any] = asdict(self)
        return EdgeScoring(**how | {"metric": self.metric.replace("-", " ")})


@dataclass(frozen=True, slots=True)
class Config:
    """A comparison of strategies from one model over one set of documents.

    Attributes:
        model: the checkpoint to start from: a folder, or ``SERIES@STEP``.
        documents: JSONL with ``text`` and, for all but plain training, ``entity`` and ``main``.
        facts: what is probed at every epoch: JSONL of clean/corrupt facts, or of questions and answers without a twin
            (`circuits.facts.questions.read_questions`).
        strategies: what is compared.
        replay: JSONL of old documents; needed by strategies that replay.
        epochs: passes over the documents.
        batch: rows in a forward pass: documents, or packed rows.
        accumulate: forward passes in an optimizer step.
        longest: tokens of a row.
        cut: what becomes of a document's tokens beyond that: dropped, or split off as documents of their own.
        packing: put whole documents side by side in a row, where each sees itself alone and begins at position 0.
        precision: ``float32``; ``mixed`` = bfloat16 passes over float32 weights; ``bfloat16`` = the weights themselves,
            which full fine-tuning moves by no less than 1/256 of their size: for adapters.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        entity: the facts' label that names the entity of a document; needed by the curriculum and by retrieval.
        unit: the facts' label that says which of them are probes of one unit of the ledger; None = each is its own.
        learned: mean recall of an entity's facts from which the curriculum drops its documents.
        answers: how the facts are asked and scored.
        retrieval: references that read instead of learning: the model as it was answers with a passage in front, the
            one that states the fact (gold), or the best match among the entity's documents or among all.
        measures: stored measures taken at every epoch, as of `circuit_drift.run`: heads, circuit, ...
        circuits: how the circuits among the measures are scored.
        traced: JSONL of the facts whose circuit is traced; None = those beside the model, else the built-in ones.
        skills: outside the domain: arithmetic, copying.
        outside: facts or questions outside the domain, asked as the others are; they are in no ledger.
        choices: JSONL of questions with options, the right one first; their accuracy is watched.
        tasks: of lm-evaluation-harness, taken at every epoch.
        tasks_folder: of tasks of one's own, in its YAML.
        tasks_limit: items of each task; None = all.
        text: JSONL of documents whose perplexity is watched.
        seed: of the order of the documents, and of the adapters.
        device: torch device to train and probe on.
        device_map: in place of the device: spreads the model, as of `checkpoints.Placement`.
    """

    model: str
    documents: Path
    facts: Path
    strategies: tuple[Strategy, ...]
    replay: Path | None = None
    epochs: int = 3
    batch: int = 8
    accumulate: int = 1
    longest: int = 512
    cut: Cut = "drop"
    packing: bool = False
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    entity: str = "entity"
    unit: str | None = None
    learned: float = 0.6
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    retrieval: tuple[Passages, ...] = ()
    measures: tuple[str, ...] = ()
    circuits: Circuits = field(default_factory=Circuits)
    traced: Path | None = None
    skills: tuple[Skill, ...] = ()
    outside: Path | None = None
    choices: Path | None = None
    tasks: tuple[str, ...] = ()
    tasks_folder: Path | None = None
    tasks_limit: int | None = None
    text: Path | None = None
    seed: int = 0
    device: str = "cpu"
    device_map: DeviceMap | None = None

    def __post_init__(self) -> None:
        names = [strategy.name for strategy in self.strategies]
        if not names or len(set(names)) < len(names):
            raise DriftError(f"a comparison needs strategies of different names: got {names}")
        if min(self.epochs, self.batch, self.accumulate) < 1 or self.longest < 2:
            raise DriftError(
                f"epochs {self.epochs}, batch {self.batch} and accumulate {self.accumulate} must be at least 1, and "
                f"longest {self.longest} at least 2"
            )
        if needy := [strategy.name for strategy in self.strategies if strategy.replay and self.replay is None]:
            raise DriftError(f"strategy {needy[0]} replays old documents; name them with replay = 'old.jsonl'")
        require_choice("precision", self.precision, get_args(Precision), error=DriftError)
        require_choice("cut", self.cut, get_args(Cut), error=DriftError)
        for kind in self.retrieval:
            require_choice("retrieval", kind, get_args(Passages), error=DriftError)
        for skill in self.skills:
            require_choice("skills", skill, get_args(Skill), error=DriftError)
        asked = [name.partition(":")[0] for name in self.measures]
        require_choices("measure", asked, known_measures(), error=DriftError)
        if not self.tasks and (self.tasks_folder is not None or self.tasks_limit is not None):
            raise DriftError("tasks_folder and tasks_limit are of tasks, and there are none: name them in tasks")
        for path in (self.documents, self.facts, self.replay, self.traced, self.text, self.outside, self.choices):
            if path is not None and not (can_be(path) and path.is_file()):
                raise DriftError(f"{path} is not there; paths in a config are taken from the config's folder")

    def only(self, names: Sequence[str]) -> "Config":
        """The same with some of its strategies.

        Raises:
            DriftError: it has no strategy of such a name, or none is named.
        """
        require_choices("strategy", names, [strategy.name for strategy in self.strategies], error=DriftError)
        return replace(self, strategies=tuple(one for one in self.strategies if one.name in names))

    @property
    def placement(self) -> Placement:
        """Where the model is trained and probed, and in which precision its weights are kept."""
        dtype = "bfloat16" if self.precision == "bfloat16" else "float32"
        return Placement(self.device, dtype, device_map=self.device_map)


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
    known = values_of(Config, table | {"strategies": strategies}, str(path))
    places = {name: path.parent / known[name] for name in PATHS if name in known}
    beside = path.parent / known["model"]
    return Config(**known | places | ({"model": str(beside)} if can_be(beside) and beside.is_dir() else {}))


def _strategy(entry: Mapping[str, Any], path: Path) -> Strategy:
    return Strategy(**values_of(Strategy, entry, f"{path}, [[strategy]]"))
