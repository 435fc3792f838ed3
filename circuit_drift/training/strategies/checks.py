"""What a comparison is made of, read and checked before any weight is loaded."""

import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint, DriftError, open_checkpoint
from checkpoints.errors import BadPrompt, NotACheckpoint
from checkpoints.files.formats import packed_file
from checkpoints.model.rope import context_of
from checkpoints.results.text import counted
from checkpoints.tokenizers.framing import chat_ids
from checkpoints.tokenizers.words import words_of
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.training.strategies.loop.parameters import check_names, embedding_rows
from circuit_drift.training.strategies.loop.rope import roped
from circuit_drift.training.strategies.settings.config import Config
from circuit_drift.training.strategies.settings.documents import Document, annotated, load_documents, teach_tags
from circuit_drift.training.strategies.settings.strategy import Strategy
from circuits.facts.facts import Fact, load_facts
from circuits.facts.questions import Question, read_questions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained on and asked.

    Attributes:
        base: the checkpoint to start from.
        texts: the new documents.
        old: the old ones.
        facts: probed at every epoch.
        outside: probed too, and in no ledger.
    """

    base: Checkpoint
    texts: tuple[Document, ...]
    old: tuple[Document, ...]
    facts: tuple[Fact | Question, ...]
    outside: tuple[Fact | Question, ...] = ()

    def told(
        self, config: Config, strategy: Strategy, epoch: int, learned: Collection[str] = frozenset()
    ) -> list[Document]:
        """The documents of an epoch: new ones that a strategy tells, and old ones drawn anew.

        Args:
            config: its seed.
            strategy: which documents, tags and replay.
            epoch: counted from 0.
            learned: entities that the curriculum leaves out.
        """
        texts: Sequence[Document] = self.texts
        if strategy.documents == "main":
            texts = [text for text in texts if text.main]
        if strategy.documents == "unlearned":
            texts = [text for text in texts if text.entity not in learned]
        new = list(annotated(texts, strategy.tags) if strategy.tags else texts)
        rng = random.Random(f"replay-{strategy.seeded(config.seed)}-{epoch}")
        return new + rng.choices(self.old, k=round(strategy.replay * len(new))) if strategy.replay else new


def check(config: Config) -> Material:
    """Read documents and facts, and refuse a config that could not work with them or with the model's architecture.

    Raises:
        DriftError: what is wrong, and with which strategy; no weight was loaded.
    """
    texts = load_documents(config.documents)
    old = load_documents(config.replay) if config.replay is not None else ()
    facts = _probes(config.facts)
    outside = _probes(config.outside) if config.outside is not None else ()
    for strategy in config.strategies:
        _check_documents(config, strategy, texts, facts)
    if config.retrieval:
        _check_entities(config, texts, facts, "retrieval could find none")
    base = open_checkpoint(config.model)
    material = Material(base, texts, old, facts, outside)
    _check_answers(config, material)
    _check_model(config, material)
    return material


def _probes(path: Path) -> tuple[Fact | Question, ...]:
    """Clean/corrupt facts; where the file holds none, questions with their answers, which need no twin."""
    try:
        return tuple(load_facts(path))
    except BadPrompt as error:
        try:
            found = read_questions(path)
        except BadPrompt:
            raise error from None
    halves = sum(not question.labels.keys().isdisjoint(("corrupt", "wrong")) for question in found)
    if halves:
        logger.warning("%s: %s asked without a twin, since none is a whole pair", path, counted(halves, "question"))
    if found.refused:
        lines = len(found) + len(found.refused)
        logger.warning("%s: %d of %d rows refused, the first: %s", path, len(found.refused), lines, found.refused[0][1])
    return tuple(found)


def _check_documents(
    config: Config, strategy: Strategy, texts: Sequence[Document], facts: Sequence[Fact | Question]
) -> None:
    if strategy.documents == "unlearned":
        _check_entities(config, texts, facts, "the curriculum could drop none")
    if strategy.documents == "main" and not any(text.main for text in texts):
        raise BadPrompt(f'strategy {strategy.name}: no document of {config.documents} is marked "main": true')
    if strategy.tags and not any(text.entity and text.entity in text.text for text in texts):
        raise BadPrompt(f"strategy {strategy.name}: no document of {config.documents} mentions its entity; none to tag")
    if strategy.lora is not None and find_spec("peft") is None:
        raise DriftError(f"strategy {strategy.name} needs the package peft: pip install 'circuit-drift[lora]'")


def _check_answers(config: Config, material: Material) -> None:
    """Answers that are written need a chat template where a chat is asked for, and words to be scored by."""
    how = config.answers
    if how.chat:
        chat_ids(tokenizer_of(material.base), "a")
    for path, asked in ((config.facts, material.facts), (config.outside, material.outside)):
        wordless = [fact for fact in asked if how.new_tokens and not words_of(fact.answer)]
        if wordless:
            raise BadPrompt(
                f"{path}: the answer {wordless[0].answer!r} to {wordless[0].clean!r} has no word, by which what is "
                "written is scored: leave it out, or ask without new_tokens"
            )


def _check_entities(
    config: Config, texts: Sequence[Document], facts: Sequence[Fact | Question], consequence: str
) -> None:
    asked = {str(fact.labels.get(config.entity)) for fact in facts}
    if not any(text.entity in asked for text in texts):
        raise BadPrompt(
            f"no document of {config.documents} has an entity that a fact of {config.facts} names in its label "
            f"{config.entity!r}: {consequence}; name the label with entity ="
        )


def _check_model(config: Config, material: Material) -> None:
    """Names of parameters and modules, length and vocabulary, from a model without weights."""
    model = _skeleton(material.base)
    for strategy in config.strategies:
        described = roped(model.config, strategy.rope) if strategy.rope else model.config
        positions = context_of(described)
        longest = max(strategy.lengths or (config.longest,))
        if positions is not None and longest > positions:
            what = f"strategy {strategy.name}: lengths" if strategy.lengths else "longest"
            raise DriftError(
                f"{what} {longest} is more than the model's {positions} positions; lower {what.split()[-1]}, or raise "
                "the positions of the strategy's rope"
            )
    parameters = [name for name, _ in model.named_parameters()]
    modules = [name for name, _ in model.named_modules()]
    for strategy in config.strategies:
        check_names(strategy, parameters, modules)
        if strategy.tags:
            teach_tags(tokenizer_of(material.base), strategy.tags, rows=embedding_rows(model))


def _skeleton(base: Checkpoint) -> "PreTrainedModel":
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base.fetch()
    try:
        config = AutoConfig.for_model(**base.config)
    except NotACheckpoint:
        packed = packed_file(base.path)  # which brings its own
        if packed is None:
            raise
        config = AutoConfig.from_pretrained(packed.parent, gguf_file=packed.name, local_files_only=True)
    else:
        if "quantization_config" in base.config:
            raise DriftError(
                f"{base.path} is quantised (quantization_config), and weights on a grid are not trained: name the "
                "unquantised checkpoint as the config's model"
            )
    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config)
    return model
