"""Documents to train on, and their batches in token ids."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import Record, read_records
from checkpoints.results.disk import write_file

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
