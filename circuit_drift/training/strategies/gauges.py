"""What is probed at every epoch besides circuits and heads: the facts, the documents themselves, skills elsewhere."""

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from checkpoints import Checkpoint
from checkpoints.loading.load import LoadedModel
from circuit_drift.behaviour import Arithmetic, Copying, Knowledge, Reading, TextPerplexity
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.behaviour.skills import forced_tokens
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.training.strategies.config import Config
from circuit_drift.training.strategies.documents import Document, load_documents, token_ids

if TYPE_CHECKING:
    import circuits

SAMPLE = 256


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
    """Needles and traced facts of a config: those beside its model unless it names facts."""
    return prompts_for(base.fetch(), facts=config.traced)


def gauges_of(config: Config, texts: tuple[Document, ...], facts: "tuple[circuits.Fact, ...]") -> tuple[Gauge, ...]:
    """The gauges that a config asks for."""
    skills: dict[str, Gauge] = {"arithmetic": Arithmetic(), "copying": Copying()}
    found: list[Gauge] = [Knowledge(facts, unit=config.unit), DocumentLoss(texts, config.longest)]
    found += [skills[name] for name in config.skills]
    if config.text is not None:
        found.append(TextPerplexity(tuple(text.text for text in load_documents(config.text))))
    return tuple(found)
