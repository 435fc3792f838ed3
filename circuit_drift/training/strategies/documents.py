"""Documents to train on, one's own or the lab's, and their batches in token ids."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import BadPrompt
from checkpoints.files.reading import Record, read_records
from checkpoints.results.disk import write_file
from circuit_drift.lab import documents
from circuit_drift.lab.world import Fact, by_person

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Document:
    """A text, the entity it is about, if it is about one, and whether it is that entity's main document."""

    text: str
    entity: str | None = None
    main: bool = False


def lab_documents(facts: Sequence[Fact], *, per_person: int, seed: int = 0) -> tuple[Document, ...]:
    """Biographies of the lab's people, several each, as its own training states them.

    The main document of a person tells all of the facts once; the others tell some of them.

    Args:
        facts: of the world (`World.batch`, `World.controls`).
        per_person: documents for each person, the main one among them.
        seed: of the paraphrases.
    """
    rng = random.Random(f"documents-{seed}")
    made = []
    for person in by_person(facts):
        name = person[0].person.name
        told = " ".join(f"{rng.choice(fact.prompts)} {fact.value}." for fact in rng.sample(person, len(person)))
        made.append(Document(told, name, main=True))
        made += [Document(documents.biography(rng, person), name) for _ in range(per_person - 1)]
    return tuple(made)


def lab_old_documents(facts: Sequence[Fact], *, count: int, seed: int = 0) -> tuple[Document, ...]:
    """What to replay from the lab's pre-training: biographies and prose in turn.

    Its lists and needles are left out: their words are random, and the plain loss of continual pre-training would learn
    them by heart, to the cost of copying (the lab's own training weighs them down instead).

    Args:
        facts: what the biographies state (`World.old`).
        count: documents in all.
        seed: of all of them.
    """
    rng = random.Random(f"old-{seed}")
    people = by_person(facts)
    made = []
    for number in range(count):
        person = rng.choice(people)
        told = Document(documents.biography(rng, person), person[0].person.name)
        made.append(Document(documents.prose(rng, words=40)) if number % 2 else told)
    return tuple(made)


def write_documents(path: Path, texts: Iterable[Document]) -> None:
    """Write one JSON object a line."""
    write_file(path, "".join(json.dumps(asdict(text)) + "\n" for text in texts))


def load_documents(path: Path) -> tuple[Document, ...]:
    """Read JSON lines with ``text`` and optionally ``entity`` and ``main``.

    Raises:
        BadPrompt: a line is no such object, or there is none.
    """
    found = []
    for read in read_records(path, "documents"):
        found.append(_document(read, f"{path}, {read.where}"))
    if not found:
        raise BadPrompt(f"{path} holds no documents; write one JSON object with a text on each line")
    return tuple(found)


def _document(read: Record, where: str) -> Document:
    if read.problem is not None:
        raise BadPrompt(f"{where} is not JSON: {read.problem}")
    about = read.value if isinstance(read.value, dict) else {}
    text, entity, main = about.get("text"), about.get("entity"), about.get("main", False)
    if not isinstance(text, str) or not isinstance(entity, str | None) or not isinstance(main, bool):
        raise BadPrompt(
            f"{where}: a document is an object with a text, and perhaps entity, a text, and main, true or false"
        )
    return Document(text, entity, main)


def annotated(texts: Sequence[Document], tags: tuple[str, str]) -> tuple[Document, ...]:
    """The documents with every mention of their own entity between tags."""
    opening, closing = tags
    return tuple(
        replace(text, text=text.text.replace(text.entity, f"{opening} {text.entity} {closing}"))
        if text.entity
        else text
        for text in texts
    )


def teach_tags(tokenizer: "PreTrainedTokenizerBase", tags: tuple[str, str], *, rows: int) -> None:
    """Add tags to a tokenizer whose closed vocabulary has no way to spell them; others are left as they are.

    Args:
        tokenizer: changed in place.
        tags: opening and closing.
        rows: of the model's embedding matrix, all of which may be used.

    Raises:
        BadPrompt: the matrix has no row left for them.
    """
    from tokenizers import AddedToken

    unknown = tokenizer.unk_token_id
    odd = [tag for tag in tags if unknown in tokenizer(tag, add_special_tokens=False).input_ids]
    if len(tokenizer) + len(odd) > rows:
        raise BadPrompt(
            f"the tokenizer cannot spell the tags {', '.join(odd)}, and the embedding has {rows} rows for its "
            f"{len(tokenizer)} tokens: choose tags of its own words, or resize the model first"
        )
    tokenizer.add_tokens([AddedToken(tag, lstrip=True, rstrip=True) for tag in odd])  # spaces beside a tag go with it


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents padded at their end, each [documents, tokens]; labels are -100 where nothing is to be learned."""

    ids: "torch.Tensor"
    mask: "torch.Tensor"
    labels: "torch.Tensor"

    def to(self, device: "torch.device") -> "Batch":
        """The same on a device."""
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device))


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
        yield _padded([token_ids(tokenizer, text)[:longest] for text in order[start : start + size]])


def token_ids(tokenizer: "PreTrainedTokenizerBase", document: Document) -> list[int]:
    """A document between the tokenizer's own first and last token, where it has them."""
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
