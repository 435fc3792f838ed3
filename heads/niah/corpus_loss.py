"""Loss of every token of plain text, with the whole window in front of it and with its end alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.finite import finite
from checkpoints.model.plain import takes_model
from checkpoints.model.rope import depends_on_length
from checkpoints.tokenizers.framing import front_ids, prompt_ids
from heads.detect.retrieval import about, check_ids
from heads.niah.corpora import CorpusLoss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512


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
    found = {name: _windows(tokenizer, texts, length, front)[:windows] for name, texts in corpora.items()}
    if empty := [name for name, own in found.items() if not own]:
        raise BadPrompt(f"the corpus {empty[0]} has no text of two tokens: give documents to read")
    read = [(place, ids) for place, own in enumerate(found.values()) for ids in own]
    check_ids(model, [ids for _, ids in read])
    losses = np.full((2, len(read), length), np.nan, dtype=np.float32)
    for row, (_, ids) in enumerate(read):
        losses[0, row, 1 : len(ids)] = _losses(model, ids)
        for start in range(len(front) + short, len(ids), stride):
            stop = min(start + stride, len(ids))
            part = (*front, *ids[start - short : stop])
            losses[1, row, start:stop] = _losses(model, part)[start - stop :]
    return CorpusLoss(
        names=tuple(found),
        corpus=np.array([place for place, _ in read]),
        long=losses[0],
        short=losses[1],
        meta={**about(model), "length": length, "short": short, "stride": stride},
    )


def _windows(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], length: int, front: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Consecutive windows of each document; what is left at its end counts as far as it goes, from two tokens on."""
    room = length - len(front)
    found = []
    for text in texts:
        ids = tuple(prompt_ids(tokenizer, text))[len(front) :]
        found += [(*front, *ids[start : start + room]) for start in range(0, len(ids), room)]
    return [ids for ids in found if len(ids) > max(1, len(front))]


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
