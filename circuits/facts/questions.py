"""Questions with one right answer and no corrupt twin: enough for recall, which compares nothing with a changed prompt.

    found = read_questions("validation_probes.json")
    found, found.refused

Read are JSON lines or a list with ``question`` (or ``prompt``) and ``answer``, and the published probes of arXiv
2601.03858: one object that maps each entity to its kinds of question and their lists.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_records
from checkpoints.tokenizers.framing import Ids, front_ids, gap, prompt_ids
from circuits.facts.facts import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "Question: {}\nAnswer:"
_KNOWN = ("question", "prompt", "clean", "answer", "labels", "space", "chunk")


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        clean: the prompt, ending right before the answer.
        answer: what follows it.
        labels: anything to group by (entity, kind, ...).
        space: as in `circuits.Fact`.
    """

    clean: str
    answer: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    space: bool | None = None


class Questions(tuple[Question, ...]):
    """The questions of a file, with what holds none.

    Attributes:
        refused: (position among the file's questions, reason).
    """

    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions in token ids of one tokenizer.

    Attributes:
        clean: N prompts, each a tuple of ids.
        answer: N answers, each a tuple of ids.
        facts: the N questions kept.
        refused: (position in the input, reason) of those that cannot be asked.
        front: the tokens that the tokenizer puts in front of every prompt.
    """

    clean: tuple[Ids, ...]
    answer: tuple[Ids, ...]
    facts: tuple[Question, ...]
    refused: tuple[Refusal, ...]
    front: Ids

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def answer_id(self) -> NDArray[np.int64]:
        """[N] first token of each answer."""
        return np.array([ids[0] for ids in self.answer], dtype=np.int64)


def read_questions(path: Path | str, *, template: str = TEMPLATE) -> Questions:
    """The questions of a file.

    Args:
        path: JSON lines, a JSON list, or one JSON object of entities. ``question`` is put into the template, ``prompt``
            (or ``clean``) is asked as it stands; whatever else a row has becomes a label, but for ``chunk``.
        template: how a question is asked; ``{}`` is its place.

    Raises:
        BadPrompt: the file cannot be read, or holds no question.
    """
    kept: list[Question] = []
    refused: list[Refusal] = []
    for index, (where, row) in enumerate(_rows(path)):
        try:
            kept.append(_question(row, where, template))
        except BadPrompt as error:
            refused.append((index, str(error)))
    if not kept:
        reasons = "; ".join(reason for _, reason in refused[:3])
        raise BadPrompt(f"{path} holds no question; write one JSON object with question and answer a line. {reasons}")
    found = Questions(kept)
    found.refused = tuple(refused)
    return found


def tokenize_questions(tokenizer: "PreTrainedTokenizerBase", questions: Iterable[Question]) -> QuestionSet:
    """Questions in tokens, with all tokens of their answers.

    Raises:
        BadPrompt: none of them can be asked with this tokenizer.
    """
    unread = questions.refused if isinstance(questions, Questions) else ()
    asked, places = tuple(questions), {index for index, _ in unread}
    positions = [index for index in range(len(asked) + len(unread)) if index not in places]
    rows, kept, refused = [], [], list(unread)
    for index, question in zip(positions, asked, strict=True):
        try:
            rows.append(_ids(tokenizer, question))
            kept.append(question)
        except BadPrompt as error:
            refused.append((index, str(error)))
    if not rows:
        reasons = "; ".join(f"question {index}: {reason}" for index, reason in refused[:3])
        raise BadPrompt(f"none of {len(asked)} questions can be asked with this tokenizer. {reasons}")
    clean, answer = zip(*rows, strict=True)
    return QuestionSet(clean, answer, tuple(kept), tuple(sorted(refused)), front_ids(tokenizer))


def _ids(tokenizer: "PreTrainedTokenizerBase", question: Question) -> tuple[Ids, Ids]:
    between = gap(question.clean, question.answer, question.space)
    prompt = prompt_ids(tokenizer, question.clean)
    whole = prompt_ids(tokenizer, question.clean + between + question.answer)
    if not prompt or whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise BadPrompt(f"the answer {question.answer!r} changes how the end of its prompt is split into tokens")
    if tokenizer.unk_token_id in whole[len(prompt) :]:
        raise BadPrompt(f"the tokenizer does not know all of the answer {question.answer!r}")
    return prompt, whole[len(prompt) :]


def _rows(path: Path | str) -> Iterator[tuple[str, Any]]:
    for record in read_records(path, "questions"):
        if record.problem is not None:
            yield record.where, record.problem
        elif is_by_entity(record.value):
            yield from _of_entities(record.value)
        else:
            yield record.where, record.value


def is_by_entity(value: Any) -> bool:
    """Whether this is the published form: entities, each with lists of questions by kind."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            isinstance(kinds, dict) and any(isinstance(x, list) for x in kinds.values()) for kinds in value.values()
        )
    )


def _of_entities(entities: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for entity, kinds in entities.items():
        about = {name: value for name, value in kinds.items() if not isinstance(value, list)}
        for kind, rows in ((name, value) for name, value in kinds.items() if isinstance(value, list)):
            for number, row in enumerate(rows, 1):
                own = row if isinstance(row, dict) else {}
                yield f"{entity}, {kind}, question {number}", {"entity": entity, "kind": kind, **about, **own}


def _question(row: Any, where: str, template: str) -> Question:
    if not isinstance(row, dict):
        raise BadPrompt(f"{where} is no JSON object with question and answer")
    question, prompt, answer = row.get("question"), row.get("prompt", row.get("clean")), row.get("answer")
    if not all(isinstance(text, str) and text.strip() for text in (prompt if question is None else question, answer)):
        raise BadPrompt(f"{where} has no question (or prompt) and answer that are texts")
    space, labels = row.get("space"), row.get("labels", {})
    if not (space is None or isinstance(space, bool)) or not isinstance(labels, dict):
        raise BadPrompt(f"{where}: space is true or false and labels are an object")
    text = template.replace("{}", str(question).strip()) if question is not None else str(prompt)
    others = {name: value for name, value in row.items() if name not in _KNOWN}
    return Question(text, str(answer), {**others, **labels}, space)
