"""The reference for learning: the model as it was answers with a passage of the documents in front of the probe.

Which passage (arXiv 2601.03858): *gold*, one that states the answer; or the best match of a bag-of-words search for the
probe, among the documents of its *entity* or among *all*. A probe without such a passage, or one too long for the model
with it, is not asked, and counted as such.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.loading.load import LoadedModel
from checkpoints.model.rope import context_of
from checkpoints.results.disk import write_file
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.training.strategies.checkpointing import begin_folder, trajectory
from circuit_drift.training.strategies.checks import Material
from circuit_drift.training.strategies.gauges import knowledge
from circuit_drift.training.strategies.settings.config import Config, Passages
from circuit_drift.training.strategies.settings.documents import Document
from circuit_drift.training.strategies.settings.strategy import Strategy
from circuits.facts.questions import Question

if TYPE_CHECKING:
    import pandas as pd

    from circuits.facts.facts import Fact

    Asked = Fact | Question

FOLDER = "retrieval"
WORD = re.compile(r"\w+")


def answer_with_passages(config: Config, material: Material, out: Path) -> None:
    """Take the references that a config asks for, each once; tables DIR/retrieval/<kind>.csv, a row a probe."""
    folder = out / FOLDER
    wanted = [kind for kind in config.retrieval if not (folder / f"{kind}.csv").is_file()]
    if not config.retrieval:
        return
    begin_folder(folder, trajectory(config, Strategy(FOLDER), material.base))
    if wanted:
        loaded = material.base.load(config.placement)
        for kind in wanted:
            frame = answers_given(kind, material.facts, material.texts, loaded, config=config)
            write_file(folder / f"{kind}.csv", frame.to_csv(index=False))


def answers_given(
    kind: Passages,
    facts: "Sequence[Asked]",
    texts: Sequence[Document],
    loaded: LoadedModel,
    *,
    config: Config,
) -> "pd.DataFrame":
    """Every fact asked with its passage in front: one row a fact, as the ledger's gauge gives it.

    Facts about entities that no document is about are left out; the column ``refused`` says why another one has no
    score.

    Args:
        kind: which passage.
        facts: what is asked.
        texts: where passages come from.
        loaded: who answers.
        config: which labels name a document's entity and a unit of the ledger, and how facts are asked.

    Raises:
        BadPrompt: no fact can be asked.
    """
    import pandas as pd

    entity, unit = config.entity, config.unit
    told = {text.entity for text in texts}
    about = [fact for fact in facts if fact.labels.get(entity) in told]
    longest = context_of(loaded.model.config)
    asked: list[Asked] = []
    refused: list[dict[str, Any]] = []
    for fact, passage in zip(about, passages(kind, about, texts, entity=entity), strict=True):
        if passage is None:
            refused.append({"unit": _unit(fact, unit), "refused": "no document states it"})
            continue
        longer = _behind(passage.text, fact)
        tokens = len(tokenizer_of(loaded)(longer.clean).input_ids) + 1
        if longest is not None and tokens > longest:
            reason = f"{tokens} tokens with its passage, and the model has {longest} positions"
            refused.append({"unit": _unit(fact, unit), "refused": reason})
        else:
            asked.append(longer)
    if not asked:
        raise BadPrompt(f"no fact can be asked with a passage ({kind}): {refused[0]['refused'] if refused else 'none'}")
    rows = [dict(row) for row in knowledge(config, asked).read(loaded).units]
    return pd.DataFrame([*rows, *refused])


def passages(
    kind: Passages, facts: "Sequence[Asked]", texts: Sequence[Document], *, entity: str
) -> list[Document | None]:
    """The passage for each fact; None where there is none."""
    own: dict[str | None, list[Document]] = {}
    for text in texts:
        own.setdefault(text.entity, []).append(text)
    if kind == "gold":
        return [_gold(fact, own.get(fact.labels.get(entity), [])) for fact in facts]
    if kind == "all":
        index = Index(texts)
        return [index.best(fact.clean) for fact in facts]
    indices = {name: Index(group) for name, group in own.items()}
    found = [indices.get(fact.labels.get(entity)) for fact in facts]
    return [index.best(fact.clean) if index else None for fact, index in zip(facts, found, strict=True)]


def _gold(fact: "Asked", texts: Sequence[Document]) -> Document | None:
    """A document of the fact's entity that holds the answer, the main one if it does."""
    answer = _words(fact.answer)
    stating = [text for text in texts if set(answer) <= set(_words(text.text))]
    return next((text for text in stating if text.main), stating[0] if stating else None)


def _behind(passage: str, fact: "Asked") -> "Asked":
    """A fact whose prompts stand behind a passage."""
    if isinstance(fact, Question):
        return replace(fact, clean=f"{passage} {fact.clean}")
    return replace(fact, clean=f"{passage} {fact.clean}", corrupt=f"{passage} {fact.corrupt}")


def _unit(fact: "Asked", unit: str | None) -> str:
    return str(fact.labels[unit]) if unit is not None else f"{fact.clean} {fact.answer.strip()}"


class Index:
    """Bags of words with tf-idf weights, compared by cosine; the earlier document wins a tie."""

    def __init__(self, texts: Sequence[Document]) -> None:
        from scipy.sparse import csr_array

        self.texts = texts
        bags = [Counter(_words(text.text)) for text in texts]
        self._place = {word: i for i, word in enumerate(dict.fromkeys(word for bag in bags for word in bag))}
        frequency = Counter(word for bag in bags for word in bag)
        self._idf = np.array([1 + np.log((1 + len(bags)) / (1 + frequency[word])) for word in self._place])
        rows = [self._vector(bag) for bag in bags]
        cells = [(number, column, value) for number, row in enumerate(rows) for column, value in row.items()]
        row, column, value = zip(*cells, strict=True) if cells else ((), (), ())
        self._rows = csr_array((value, (row, column)), shape=(len(bags), len(self._place)))

    def best(self, query: str) -> Document:
        """The document most like the query."""
        wanted = np.zeros(len(self._place))
        for column, value in self._vector(Counter(_words(query))).items():
            wanted[column] = value
        likeness: NDArray[np.float64] = self._rows @ wanted
        return self.texts[int(np.argmax(likeness))]

    def _vector(self, bag: Counter[str]) -> dict[int, float]:
        known = {self._place[word]: count for word, count in bag.items() if word in self._place}
        weights = {column: count * float(self._idf[column]) for column, count in known.items()}
        norm = float(np.sqrt(sum(value**2 for value in weights.values()))) or 1.0
        return {column: value / norm for column, value in weights.items()}


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
