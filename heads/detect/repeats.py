"""Detectors on repeated random tokens: echo, induction, previous-token and duplicate-token heads."""

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.plain import takes_model
from heads.detect.chance import repeat_levels
from heads.detect.retrieval import about, check_positions, kv_heads, row_logits, table
from heads.rows.reduce import KeyGroups, RowStats
from heads.rows.rows import RowRequest, capture_rows
from heads.scores.scores import HeadScores

NAMES = ("echo", "induction", "previous_token", "duplicate_token")


@takes_model
def repeat_scores(
    model: PreTrainedModel,
    *,
    block: int = 100,
    repeats: int = 4,
    count: int = 4,
    bos: int | None = None,
    seed: int = 0,
    rows_at_once: int = 256,
    progress: bool = False,
) -> HeadScores:
    """Score heads on ``[bos] block block ...`` of random tokens, over the rows of all repeats but the first.

    ``echo`` is the attention on all earlier copies of the same token, ``induction`` on the tokens after them
    (RazorAttention; there, blocks of 2,500 tokens repeated four times, the mean taken over the whole map),
    ``previous_token`` on the token before, ``duplicate_token`` on the latest copy. Means over rows, in [0, 1].

    Args:
        model: in eval mode.
        block: tokens in a block, drawn without replacement where the vocabulary allows.
        repeats: how often it stands in the sequence, two at least.
        count: sequences.
        bos: first token; the model's own unless given, none where it has none.
        seed: of the tokens.
        rows_at_once: rows reduced together; changes memory, not results.
        progress: show a progress bar.

    Raises:
        BadPrompt: fewer than two repeats, or a sequence beyond the model's positions.
    """
    if repeats < 2 or block < 2:
        raise BadPrompt(f"repeats of a block need two blocks of two tokens at least: got {repeats} of {block}")
    config = model.config.get_text_config()
    first = config.bos_token_id if bos is None else bos
    head = [] if first is None else [int(first)]
    check_positions(model, len(head) + block * repeats)
    draw = np.random.default_rng(seed)
    records = []
    for _ in tqdm(range(count), desc="repeat scores", disable=not progress):
        tokens = draw.choice(config.vocab_size, block, replace=block > config.vocab_size // 2)
        ids = torch.tensor([[*head, *np.tile(tokens, repeats)]], device=model.device)
        records.append(_one(model, ids, len(head), block, rows_at_once))
    detectors = {name: np.stack([record[name] for record in records]) for name in NAMES}
    meta = {
        **about(model),
        "block": block,
        "repeats": repeats,
        "seed": seed,
        "length": len(head) + block * repeats,
        "chances": repeat_levels(len(head), block, repeats),
    }
    return HeadScores(detectors=detectors, kv_heads=kv_heads(model, detectors["echo"].shape[2]), meta=meta)


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
