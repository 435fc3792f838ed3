"""Detectors on repeated random tokens: echo, induction, previous-token and duplicate-token heads."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.forward import row_logits
from checkpoints.model.plain import takes_model
from heads.detect.detectors import table
from heads.detect.retrieval import about, check_ids, check_positions, kv_heads
from heads.rows.reduce import KeyGroups, RowStats
from heads.rows.rows import RowRequest, capture_rows
from heads.scores.scores import DetectorScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = ("echo", "induction", "previous_token", "duplicate_token")


@takes_model
def repeat_scores(
    model: PreTrainedModel,
    *,
    block: int = 100,
    repeats: int = 4,
    count: int = 4,
    tokens: Sequence[int] | None = None,
    end: Sequence[int] = (),
    front: Sequence[int] = (),
    seed: int = 0,
    rows_at_once: int = 256,
    progress: bool = False,
) -> DetectorScores:
    """Score heads on ``[front] block block ...`` of random tokens, over the rows of all repeats but the first.

    ``echo`` is the attention on all earlier copies of the same token, ``induction`` on the tokens after them
    (RazorAttention; there, blocks of 2,500 tokens repeated four times, the mean taken over the whole map),
    ``previous_token`` on the token before, ``duplicate_token`` on the latest copy. Means over rows, in [0, 1].

    Args:
        model: in eval mode.
        block: tokens in a block, drawn without replacement where there are as many.
        repeats: how often it stands in the sequence, two at least.
        count: sequences.
        tokens: ids to draw from, best those that the model was trained on, as `seen_tokens` finds them in prompts: on
            the rest of a vocabulary it has no circuit to show. By default the whole vocabulary.
        end: ids that close every block besides, as a full stop closes a list, for a model that copies lists only.
        front: ids in front of the blocks: what the tokenizer puts in front of a text
            (`checkpoints.tokenizers.framing.front_ids`).
        seed: of the tokens.
        rows_at_once: rows reduced together; changes memory, not results.
        progress: show a progress bar.

    Raises:
        BadPrompt: fewer than two repeats or different tokens, or a sequence beyond the model's positions or vocabulary.
    """
    if repeats < 2 or block < 2:
        raise BadPrompt(f"repeats of a block need two blocks of two tokens at least: got {repeats} of {block}")
    head, vocabulary = [int(token) for token in front], model.config.get_text_config().vocab_size
    pool = np.arange(vocabulary) if tokens is None else np.unique(np.asarray(tokens, dtype=np.int64))
    if len(pool) < 2 or pool[0] < 0:
        raise BadPrompt(f"repeats are drawn from two different token ids at least, 0 or greater: got {pool.tolist()}")
    tail = [int(token) for token in end]
    period = block + len(tail)
    check_ids(model, [[*head, *tail, int(pool[-1])]])
    check_positions(model, len(head) + period * repeats)
    draw = np.random.default_rng(seed)
    records = []
    for _ in tqdm(range(count), desc="repeat scores", disable=not progress):
        drawn = draw.choice(pool, block, replace=block > len(pool))
        ids = torch.tensor([[*head, *np.tile([*drawn, *tail], repeats)]], device=model.device)
        records.append(_one(model, ids, len(head), period, rows_at_once))
    detectors = {name: np.stack([record[name] for record in records]) for name in NAMES}
    meta = {
        **about(model),
        "block": block,
        "repeats": repeats,
        "seed": seed,
        "front": head,
        "end": tail,
        "drawn_from": "vocabulary" if tokens is None else pool.tolist(),
        "length": len(head) + period * repeats,
        "chances": repeat_levels(len(head), period, repeats),
    }
    return DetectorScores(detectors=detectors, kv_heads=kv_heads(model, detectors["echo"].shape[2]), meta=meta)


def seen_tokens(tokenizer: "PreTrainedTokenizerBase", sequences: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The different tokens of some prompts, special ones and the unknown one left out, in order of their ids.

    Args:
        tokenizer: of the prompts.
        sequences: token ids.
    """
    special = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
    return tuple(sorted({int(token) for ids in sequences for token in ids} - special))


def repeat_levels(start: int, block: int, repeats: int) -> dict[str, float]:
    """What even attention gives the detectors of `repeat_scores`: mean over the rows after the first block.

    Args:
        start: tokens before the first block.
        block: tokens in a block.
        repeats: how often it stands in the sequence.
    """
    rows = start + np.arange(block, block * repeats)
    one = float(np.mean(1 / (rows + 1)))
    copies = float(np.mean((rows - start) // block / (rows + 1)))
    return {"echo": copies, "induction": copies, "previous_token": one, "duplicate_token": one}


def _one(model: PreTrainedModel, ids: Tensor, start: int, block: int, rows_at_once: int) -> dict[str, np.ndarray]:
    """[L, H] of every detector on one sequence; the rows are taken in several forwards to bound memory."""
    first, last = start + block, ids.shape[1]
    sums: dict[int, np.ndarray] = {}
    for low in range(first, last, rows_at_once):
        rows = torch.arange(low, min(low + rows_at_once, last), device=ids.device)[None]
        layers: dict[int, RowStats] = {}
        request = RowRequest(rows, _repeat_groups(start, block))
        with torch.no_grad(), capture_rows(model, request, layers.__setitem__):
            row_logits(model, ids, rows[:, -1:])
        for layer, stats in layers.items():
            sums[layer] = sums.get(layer, 0) + stats.mass[0].sum(dim=1).cpu().numpy()
    values = {i: (dict(zip(NAMES, (total / (last - first)).T, strict=True)), True) for i, total in sums.items()}
    return table(model, values)


def _repeat_groups(start: int, block: int) -> KeyGroups:
    def members(rows: Tensor, keys: Tensor) -> Tensor:
        back = rows[..., None] - keys
        random = keys >= start
        echo = (back > 0) & (back % block == 0) & random
        induction = (back > 0) & ((back + 1) % block == 0) & (keys > start)
        return torch.stack([echo, induction, back == 1, (back == block) & random], dim=-1)

    return members
