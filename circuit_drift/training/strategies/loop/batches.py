"""Batches of documents in token ids: padded rows of one document each, or rows packed with several."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from checkpoints import DriftError
from circuit_drift.training.strategies.settings.config import Cut
from circuit_drift.training.strategies.settings.documents import Document, token_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
OPEN = 64
"""Rows that are still being filled at a time."""

Ids = list[int]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How documents become rows.

    Attributes:
        size: rows in a batch.
        longest: tokens of a row.
        cut: what becomes of a longer document's other tokens.
        packing: put whole documents side by side.
    """

    size: int
    longest: int
    cut: Cut = "drop"
    packing: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded at their end, each [rows, tokens]; labels are -100 where nothing is to be learned.

    Attributes:
        ids: tokens.
        mask: 1 where there is a token.
        labels: tokens to be predicted; not the first of a document.
        positions: within each document, where rows are packed; by them transformers keeps documents apart.
        documents: how many documents there are in it, pieces of one counted apart.
    """

    ids: "torch.Tensor"
    mask: "torch.Tensor"
    labels: "torch.Tensor"
    positions: "torch.Tensor | None" = None
    documents: int = 0

    def to(self, device: "torch.device") -> "Batch":
        """The same on a device."""
        positions = None if self.positions is None else self.positions.to(device)
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device), positions, self.documents)

    @property
    def inputs(self) -> "dict[str, torch.Tensor]":
        """What the model reads."""
        if self.positions is None:
            return {"input_ids": self.ids, "attention_mask": self.mask}
        return {"input_ids": self.ids, "position_ids": self.positions}


def batches(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Document], *, rows: RowLayout, rng: random.Random
) -> Iterator[Batch]:
    """All documents once, in random order, each between the tokenizer's own first and last token.

    Args:
        tokenizer: of the model.
        texts: the documents.
        rows: how they become rows.
        rng: of the order.
    """
    order = rng.sample(list(texts), len(texts))
    documents = (piece for text in order for piece in _pieces(token_ids(tokenizer, text), rows))
    packed = _packed(documents, rows.longest) if rows.packing else ([document] for document in documents)
    waiting: list[list[Ids]] = []
    for row in packed:
        waiting.append(row)
        if len(waiting) == rows.size:
            yield _batch(waiting, packing=rows.packing)
            waiting = []
    if waiting:
        yield _batch(waiting, packing=rows.packing)


def _pieces(ids: Ids, rows: RowLayout) -> list[Ids]:
    if rows.cut == "drop":
        return [ids[: rows.longest]]
    return [ids[start : start + rows.longest] for start in range(0, len(ids), rows.longest)]


def _packed(documents: Iterator[Ids], longest: int) -> Iterator[list[Ids]]:
    """Rows of whole documents: each goes into the first open row that has room for it."""
    rows: list[list[Ids]] = []
    for document in documents:
        place = next((row for row in rows if sum(map(len, row)) + len(document) <= longest), None)
        if place is not None:
            place.append(document)
            continue
        rows.append([document])
        if len(rows) > OPEN:
            yield rows.pop(0)
    yield from rows


def _batch(rows: Sequence[Sequence[Ids]], *, packing: bool) -> Batch:
    import torch

    longest = max(sum(map(len, row)) for row in rows)
    ids, mask, labels, positions = [], [], [], []
    for row in rows:
        flat = [token for document in row for token in document]
        gap = longest - len(flat)
        ids.append(flat + [0] * gap)
        mask.append([1] * len(flat) + [0] * gap)
        told = [token for document in row for token in ([IGNORED, *document[1:]] if packing else document)]
        labels.append(told + [IGNORED] * gap)
        positions.append([place for document in row for place in range(len(document))] + list(range(gap)))
    return Batch(
        torch.tensor(ids),
        torch.tensor(mask),
        torch.tensor(labels),
        torch.tensor(positions) if packing else None,
        sum(map(len, rows)),
    )


def require_apart(model: "PreTrainedModel") -> None:
    """Refuse a model that does not keep the documents of a packed row apart.

    Raises:
        DriftError: names the model.
    """
    import torch

    one, other = [1, 2, 3, 4], [3, 1, 2]
    with torch.no_grad():
        batch = _batch([[one, other]], packing=True).to(next(model.parameters()).device)
        together = model(**batch.inputs, use_cache=False).logits[0, len(one) :].float()
        alone = model(torch.tensor([other], device=batch.ids.device), use_cache=False).logits[0].float()
    if not torch.allclose(together, alone, rtol=0.05, atol=0.02 * float(alone.std())):
        raise DriftError(
            f"{type(model).__name__} does not keep the documents of a packed row apart: leave packing out for it"
        )
