"""Documents to train on, one's own or the lab's, and their batches in token ids."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import BadPrompt
from circuit_drift.lab import documents
from circuit_drift.lab.world import Fact, by_person

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and the entity it is about, if it is about one."""

    text: str
    entity: str | None = None


def lab_documents(facts: Sequence[Fact], *, per_person: int, seed: int = 0) -> tuple[Document, ...]:
    """Biographies of the lab's people, several each, as its own training states them.

    Args:
        facts: of the world (`World.batch`, `World.controls`).
        per_person: documents for each person.
        seed: of the paraphrases.
    """
    rng = random.Random(f"documents-{seed}")
    people = by_person(facts)
    return tuple(
        Document(documents.biography(rng, person), person[0].person.name)
        for person in people
        for _ in range(per_person)
    )


def write_documents(path: Path, texts: Iterable[Document]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(asdict(text)) + "\n" for text in texts), encoding="utf-8")


def load_documents(path: Path) -> tuple[Document, ...]:
    """Read JSON lines with ``text`` and optionally ``entity``.

    Raises:
        BadPrompt: a line is no such object, or there is none.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found.append(Document(str(record["text"]), record.get("entity")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadPrompt(f"{path}, line {number}: a document is an object with a text ({error!r})") from error
    if not found:
        raise BadPrompt(f"{path} holds no documents; write one JSON object with a text on each line")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents padded at their end, each [documents, tokens]; labels are -100 where nothing is to be learned."""

    ids: "torch.Tensor"
    mask: "torch.Tensor"
    labels: "torch.Tensor"


def batches(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Document], *, size: int, longest: int, rng: random.Random
) -> Iterator[Batch]:
    """All documents once, in random order, each between the tokenizer's own first and last token.

    Args:
        tokenizer: of the model.
        texts: the documents.
        size: documents in a batch.
        longest: tokens of a document that are kept.
        rng: of the order.
    """
    order = rng.sample(list(texts), len(texts))
    for start in range(0, len(order), size):
        yield _padded([_tokens(tokenizer, text)[:longest] for text in order[start : start + size]])


def _tokens(tokenizer: "PreTrainedTokenizerBase", document: Document) -> list[int]:
    ids = list(tokenizer(document.text, add_special_tokens=False).input_ids)
    ends = ([token] if token is not None else [] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    first, last = ends
    return [*first, *ids, *last]


def _padded(rows: Sequence[list[int]]) -> Batch:
    import torch

    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    return Batch(
        torch.tensor([row + [0] * gap for row, gap in zip(rows, gaps, strict=True)]),
        torch.tensor([[1] * len(row) + [0] * gap for row, gap in zip(rows, gaps, strict=True)]),
        torch.tensor([row + [IGNORED] * gap for row, gap in zip(rows, gaps, strict=True)]),
    )
