"""Recall of questions that have no corrupt twin: how many answers are known, whole, and what the model writes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from checkpoints import DriftError
from checkpoints.files.reading import read_toml
from checkpoints.files.tables import values_of
from checkpoints.loading.load import LoadedModel
from checkpoints.tokenizers.framing import prompt_ids
from checkpoints.tokenizers.words import words_of
from circuit_drift.behaviour.generation import write_answers, written_prompts
from circuit_drift.behaviour.result import BehaviourMeasure, TaskScore, TaskScores, interval_of
from circuit_drift.behaviour.skills import forced_tokens
from circuit_drift.knowledge.rouge import rouge1_recall
from circuit_drift.measures.base import Asked
from circuit_drift.measures.tokenizers import tokenizer_of
from circuits.facts.questions import Questions, read_questions, tokenize_questions

NEW_TOKENS = 25
KNOWN = 0.6


@dataclass(frozen=True, slots=True)
class Asking:
    """How the questions of a file are asked, from TOML; the fields are those of `QuestionsMeasure`.

    Attributes:
        questions: the file, beside the TOML.
        by: the label whose values get scores of their own.
        new_tokens: of a written answer, at most.
        instruction: in front of every prompt that is answered in writing.
        chat: ask in writing as a user's turn of the tokenizer's chat template.
    """

    questions: Path
    by: str = "kind"
    new_tokens: int = NEW_TOKENS
    instruction: str = ""
    chat: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "questions", Path(self.questions))
        if self.new_tokens < 1:
            raise DriftError(f"new_tokens {self.new_tokens} must be at least 1: answers are written")


@dataclass(frozen=True)
class QuestionsMeasure(BehaviourMeasure):
    """Ask every question: ``run --measures questions:FILE``, or ``questions:ASK.toml`` to say how (`Asking`).

    Scores: ``exact``, the share of questions of whose answer every token is the most likely one after the right ones
    before it; ``nll``, nats per answer token; ``rouge1``, ROUGE-1 recall of the answer in what the model writes
    greedily (arXiv 2601.03858: 25 tokens at most); ``known``, the share of questions for which that is at least 0.6.
    Each over all questions and over each value of the label.

    Attributes:
        questions: from `circuits.facts.questions.read_questions`.
        origin: where they came from.
        by: the label whose values get scores of their own.
        new_tokens: of a written answer, at most.
        instruction: in front of every prompt that is answered in writing.
        chat: ask in writing as a user's turn of the tokenizer's chat template.
    """

    questions: Questions
    origin: str
    by: str = "kind"
    new_tokens: int = NEW_TOKENS
    instruction: str = ""
    chat: bool = False

    name = "questions"
    version = 4

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the file named, ``questions:FILE``."""
        if len(asked.arguments) != 1:
            raise DriftError(f"questions are those of one file: say questions:FILE, got {list(asked.arguments)}")
        path = Path(asked.arguments[0])
        if path.suffix != ".toml":
            return cls(_with_words(read_questions(path)), path.name)
        how = Asking(**values_of(Asking, read_toml(path, "how questions are asked"), str(path)))
        questions = _with_words(read_questions(path.parent / how.questions))
        return cls(questions, how.questions.name, how.by, how.new_tokens, how.instruction, how.chat)

    def params(self) -> dict[str, Any]:
        """The questions, the label, and how long answers may get."""
        told = json.dumps([asdict(question) for question in self.questions], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
        how = {"instruction": self.instruction, "chat": self.chat} if self.instruction or self.chat else {}
        return {"questions": digest, "by": self.by, "new_tokens": self.new_tokens, **how}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> TaskScores:
        """Ask them all.

        Raises:
            BadPrompt: none can be asked with this tokenizer.
        """
        tokenizer = tokenizer_of(loaded)
        asked = tokenize_questions(tokenizer, self.questions)
        hits, nll = forced_tokens(
            loaded.model,
            [(list(prompt), list(answer)) for prompt, answer in zip(asked.clean, asked.answer, strict=True)],
        )
        stop = prompt_ids(tokenizer, "\n")[-1:]
        prompts = written_prompts(tokenizer, asked, instruction=self.instruction, chat=self.chat)
        answers = write_answers(loaded.model, prompts, new_tokens=self.new_tokens, stop_ids=stop)
        texts = [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in answers]
        rouge = [rouge1_recall(question.answer, text) for question, text in zip(asked.facts, texts, strict=True)]
        items = {
            "exact": np.array([float(hit.all()) for hit in hits]),
            "nll": np.array([values.mean() for values in nll]),
            "rouge1": np.array(rouge),
            "known": np.array([float(recall >= KNOWN) for recall in rouge]),
        }
        kinds = np.array([str(question.labels.get(self.by, "")) for question in asked.facts])
        scores = [score for task, chosen in _groups(kinds) for score in _scores(task, chosen, items)]
        columns = {f"questions_{score.metric}": score.value for score in scores if score.task == "all"}
        return TaskScores(tuple(scores), columns, _refused(asked.refused), {"origin": self.origin})


def _with_words(read: Questions) -> Questions:
    """The questions whose answers have words, by which what is written is scored; the others are refused by name."""
    unread = {index for index, _ in read.refused}
    positions = [index for index in range(len(read) + len(unread)) if index not in unread]
    without = [
        (index, f"the answer {question.answer!r} has no word to recall")
        for index, question in zip(positions, read, strict=True)
        if not words_of(question.answer)
    ]
    kept = Questions(question for question in read if words_of(question.answer))
    kept.refused = tuple(sorted([*read.refused, *without]))
    return kept


def _groups(kinds: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(task, [N] which questions): all of them, then by kind where there are several."""
    named = [name for name in dict.fromkeys(kinds.tolist()) if name]
    return [("all", np.ones(len(kinds), dtype=bool)), *((name, kinds == name) for name in named)]


def _scores(task: str, chosen: np.ndarray, items: Mapping[str, np.ndarray]) -> list[TaskScore]:
    return [
        TaskScore(task, metric, *interval_of(metric, values[chosen]), int(chosen.sum()))
        for metric, values in items.items()
    ]


def _refused(refused: Sequence[tuple[int, str]]) -> dict[str, str]:
    if not refused:
        return {}
    index, reason = refused[0]
    return {"all": f"{len(refused)} refused and not asked; question {index}: {reason}"}
