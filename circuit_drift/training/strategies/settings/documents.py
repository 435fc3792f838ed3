"""Documents to train on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import Record, read_records
from checkpoints.results.disk import write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def token_ids(tokenizer: "PreTrainedTokenizerBase", document: Document) -> list[int]:
    """A document between the tokenizer's own first and last token, where it has them."""
    ids = list(tokenizer(document.text, add_special_tokens=False).input_ids)
    ends = ([token] if token is not None else [] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    first, last = ends
    return [*first, *ids, *last]
