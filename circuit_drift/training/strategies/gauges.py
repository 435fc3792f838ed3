"""What is probed at every epoch besides circuits and heads: the facts, the documents themselves, skills elsewhere."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from checkpoints import Checkpoint
from checkpoints.loading.load import LoadedModel
from circuit_drift.behaviour import Arithmetic, Choices, Copying, Knowledge, Reading, TextPerplexity
from circuit_drift.behaviour.choices import read_choices
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.behaviour.harness import HarnessMeasure
from circuit_drift.behaviour.skills import forced_tokens
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.training.strategies.checks import Material
from circuit_drift.training.strategies.loop.epoch import TrainingState
from circuit_drift.training.strategies.settings.config import TASK, Config
from circuit_drift.training.strategies.settings.documents import Document, load_documents, token_ids

if TYPE_CHECKING:
    from circuits.facts.facts import Fact
    from circuits.facts.questions import Question

SAMPLE = 64


@dataclass(frozen=True, slots=True)
class DocumentLoss:
    """Mean NLL of the new documents' tokens, in nats: one loss for all strategies, whatever each trains on.

    Attributes:
        texts: the documents; of more than `SAMPLE` a fixed sample is read.
        longest: tokens of a document that are read.
    """

    texts: tuple[Document, ...]
    longest: int = 512
    name: str = field(default="documents", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """Read the documents as they are, without tags."""
        chosen = random.Random(0).sample(self.texts, SAMPLE) if len(self.texts) > SAMPLE else self.texts
        tokenizer = tokenizer_of(loaded)
        rows = [token_ids(tokenizer, text)[: self.longest] for text in chosen]
        _, nll = forced_tokens(loaded.model, [(row[:1], row[1:]) for row in rows if len(row) > 1])
        return Reading({"document_loss": float(np.concatenate(nll).mean())})


def prompts_of(config: Config, base: Checkpoint) -> Prompts:
    """Needles and traced facts of a config, those beside its model unless it names facts; and how edges are scored."""
    return prompts_for(base.fetch(), facts=config.traced, scoring=config.circuits.scoring)


def gauges_of(config: Config, material: Material) -> tuple[Gauge, ...]:
    """The gauges that a config asks for.

    Raises:
        DriftError: the choices or tasks cannot be read.
    """
    skills: dict[str, Gauge] = {"arithmetic": Arithmetic(), "copying": Copying()}
    found: list[Gauge] = [knowledge(config, material.facts), DocumentLoss(material.texts, config.longest)]
    found += [skills[name] for name in config.skills]
    if material.outside:
        found.append(Outside(knowledge(config, material.outside)))
    if config.choices is not None:
        found.append(Choices(read_choices(config.choices)))
    if config.tasks:
        found.append(Tasks(HarnessMeasure(config.tasks, config.tasks_folder, config.tasks_limit)))
    if config.text is not None:
        found.append(TextPerplexity(tuple(text.text for text in load_documents(config.text))))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Outside:
    """Facts outside the domain: their numbers in the log, under names of their own, and in no ledger.

    Attributes:
        asked: as the facts of the domain are.
    """

    asked: Knowledge
    name: str = field(default="outside", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """Ask them all."""
        return Reading({f"outside_{name}": value for name, value in self.asked.read(loaded).scalars.items()})


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks of lm-evaluation-harness: their numbers in the log, under names that tell them from all others.

    Attributes:
        asked: the tasks.
    """

    asked: HarnessMeasure
    name: str = field(default="tasks", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """Every metric of every task that can be run."""
        return Reading({f"{TASK}{name}": value for name, value in self.asked.read(loaded).scalars.items()})


def knowledge(config: Config, facts: "Sequence[Fact | Question]") -> Knowledge:
    """Facts asked as a config says."""
    how = config.answers
    return Knowledge(
        tuple(facts),
        unit=config.unit,
        score=how.score,
        new_tokens=how.new_tokens,
        instruction=how.instruction,
        chat=how.chat,
        stops=how.stops,
    )


@dataclass(frozen=True, slots=True)
class DocumentCount:
    """How many documents were told so far.

    Attributes:
        progress: of the run, read at each probe.
    """

    progress: TrainingState
    name: str = field(default="effort", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """One number for the log."""
        return Reading({"documents": float(self.progress.documents)})
