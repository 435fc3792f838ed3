"""Loss of every token of plain text, with the whole window in front of it and with its end alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.finite import finite
from checkpoints.model.forward import kept_logits
from checkpoints.model.plain import takes_model
from checkpoints.model.rope import depends_on_length
from checkpoints.tokenizers.framing import front_ids
from heads.detect.retrieval import about, check_ids
from heads.niah.corpora import CorpusLoss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK, TOGETHER = 512, 16


@torch.no_grad()
@takes_model
def corpus_loss(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    corpora: Mapping[str, Sequence[str]],
    *,
    length: int,
    short: int,
    stride: int,
    windows: int = 16,
) -> CorpusLoss:
    """Read the first windows of every corpus, one after the other of each document.

    The short context of a token are the ``short`` tokens in front of its stride, and those of the stride before it:
    short to short + stride - 1 tokens (arXiv 2410.23771: 4,096 and 1,024). What the tokenizer puts in front of a text
    stands in front of every window and every short context.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        corpora: name -> documents; of equal tokens for all checkpoints of one tokenizer.
        length: tokens of a window, those in front included.
        short: tokens of the short context.
        stride: tokens that share one.
        windows: of each corpus, at most.

    Raises:
        BadPrompt: a corpus without two tokens, a length beyond the model, or a short context that is no shorter.
    """
    if stride < 1 or not 0 < short < length:
        raise BadPrompt(
            f"a short context has 1 to {length - 1} tokens, and a stride of 1 or more: got {short}, {stride}"
        )
    front = front_ids(tokenizer)
    found = windows_of(tokenizer, corpora, length=length, windows=windows)
    read = [(place, ids) for place, own in enumerate(found.values()) for ids in own]
    check_ids(model, [ids for _, ids in read])
    losses = np.full((2, len(read), length), np.nan, dtype=np.float32)
    for row, (_, ids) in enumerate(read):
        losses[0, row, 1 : len(ids)] = _losses(model, ids)
        for starts, nats in _short_losses(model, front, ids, short=short, stride=stride):
            for start, own in zip(starts, nats, strict=True):
                losses[1, row, start : start + len(own)] = own
    return CorpusLoss(
        names=tuple(found),
        corpus=np.array([place for place, _ in read]),
        long=losses[0],
        short=losses[1],
        meta={**about(model), "length": length, "short": short, "stride": stride},
    )


def windows_of(
    tokenizer: "PreTrainedTokenizerBase", corpora: Mapping[str, Sequence[str]], *, length: int, windows: int
) -> dict[str, list[tuple[int, ...]]]:
    """The token ids that `corpus_loss` reads of every corpus.

    Raises:
        BadPrompt: a corpus without two tokens.
    """
    front = front_ids(tokenizer)
    found = {name: _windows(tokenizer, texts, length, front)[:windows] for name, texts in corpora.items()}
    if empty := [name for name, own in found.items() if not own]:
        raise BadPrompt(f"the corpus {empty[0]} has no text of two tokens: give documents to read")
    return found


def _windows(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], length: int, front: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Consecutive windows of each document; what is left at its end counts as far as it goes, from two tokens on."""
    room = length - len(front)
    found = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        found += [(*front, *ids[start : start + room]) for start in range(0, len(ids), room)]
    return [ids for ids in found if len(ids) > max(1, len(front))]


def _short_losses(
    model: PreTrainedModel, front: Sequence[int], ids: Sequence[int], *, short: int, stride: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(starts, [n, stride] nats) of strides behind their short contexts, several in a pass; the last by itself."""
    starts = list(range(len(front) + short, len(ids), stride))
    whole = [start for start in starts if start + stride <= len(ids)]
    groups = [whole[at : at + TOGETHER] for at in range(0, len(whole), TOGETHER)]
    groups += [[start] for start in starts if start + stride > len(ids)]
    for group in groups:
        size = min(stride, len(ids) - group[0])
        parts = torch.tensor([[*front, *ids[start - short : start + size]] for start in group], device=model.device)
        rows = torch.arange(parts.shape[1] - size - 1, parts.shape[1] - 1, device=model.device)
        logits = finite(kept_logits(model, parts, rows)).float()
        target = parts[:, -size:]
        yield group, torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none").cpu().numpy()


def _losses(model: PreTrainedModel, ids: Sequence[int]) -> np.ndarray:
    """[len(ids) - 1] nats of every token but the first, in chunks behind a cache."""
    whole = depends_on_length(model)  # no chunk can go on from the keys of a shorter text
    cache = None if whole else DynamicCache(config=model.config.get_text_config())
    chunk = len(ids) if whole else CHUNK
    tokens, parts = torch.tensor([list(ids)], device=model.device), []
    for start in range(0, len(ids) - 1, chunk):
        stop = min(start + chunk, len(ids) - 1)
        logits = model(tokens[:, start:stop], past_key_values=cache, use_cache=not whole).logits[0]
        target = tokens[0, start + 1 : stop + 1]
        parts.append(torch.nn.functional.cross_entropy(finite(logits).float(), target, reduction="none").cpu().numpy())
    return np.concatenate(parts)
