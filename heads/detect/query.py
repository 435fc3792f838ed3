"""QRscore: how much the question attends to the needle (arXiv 2506.09944), with and without a null question."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.model.forward import row_logits
from checkpoints.model.plain import takes_model
from heads.detect.answer_rows import tokens_in
from heads.detect.detectors import table
from heads.detect.retrieval import about, check_fits, check_ids, kv_heads
from heads.prompts.haystacks import continuation
from heads.prompts.needles import NeedlePrompt, NeedleSet, Span
from heads.rows.reduce import KeyGroups, RowStats
from heads.rows.rows import RowRequest, capture_rows
from heads.scores.scores import DetectorScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OUTLIER = 2.0


@takes_model
def query_scores(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    needle_set: NeedleSet,
    *,
    null: str = "N/A",
    key_block: int = 2048,
    progress: bool = False,
) -> DetectorScores:
    """Score heads by the attention that question tokens pay to the needle sentence.

    ``qr`` is the sum over the needle's tokens of the attention, mean over the question's tokens (equations 2 to 4).
    ``qr_calibrated`` subtracts the same with a question that asks nothing, key token by key token, and drops key
    tokens more than two standard deviations below their needle's mean, as the published code does.

    Args:
        model: in eval mode.
        tokenizer: the one the prompts were built with.
        needle_set: what `needle_prompts` built.
        null: the question that asks nothing; takes the question's place after the same haystack.
        key_block: keys treated at a time; changes memory, not results.
        progress: show a progress bar.

    Raises:
        BadPrompt: prompts, or a null question after them, that the model cannot read.
        UnsupportedArchitecture: the model's attention rows cannot be read.
    """
    check_fits(model, needle_set)
    empty = continuation(tokenizer, null)
    check_ids(model, [(*p.ids[: p.question_span[0]], *empty) for p in needle_set])
    records = []
    for prompt in tqdm(needle_set.prompts, desc="query scores", disable=not progress):
        before = prompt.ids[: prompt.question_span[0]]
        asked = _attention_on_needle(model, prompt, prompt.ids[: prompt.answer_start], key_block)
        unasked = _attention_on_needle(model, prompt, (*before, *empty), key_block)
        values = {
            layer: ({"qr": on.sum(axis=1), "qr_calibrated": calibrated(on, unasked[layer][0])}, reaches)
            for layer, (on, reaches) in asked.items()
        }
        records.append(table(model, values))
    detectors = {name: np.stack([record[name] for record in records]) for name in records[0]}
    meta = {
        **about(model),
        "prompts": needle_set.hash,
        "null": null,
        "length": needle_set.length,
        "needle": [p.needle for p in needle_set],
        "chances": _levels(needle_set.prompts, len(empty)),
    }
    return DetectorScores(detectors=detectors, kv_heads=kv_heads(model, detectors["qr"].shape[2]), meta=meta)


def _levels(prompts: Sequence[NeedlePrompt], null: int) -> dict[str, float]:
    """What even attention would give, mean over the prompts."""
    asked = [query_level(p, p.question_span[1] - p.question_span[0]) for p in prompts]
    unasked = [query_level(p, null) for p in prompts]
    return {"qr": float(np.mean(asked)), "qr_calibrated": float(np.mean(asked) - np.mean(unasked))}


def query_level(prompt: NeedlePrompt, size: int) -> float:
    """Even attention of a question of ``size`` tokens on the needle, mean over its rows: the level of ``qr``."""
    keys = prompt.question_span[0] + np.arange(size) + 1.0
    return float(np.mean(tokens_in(prompt.needle_spans) / keys))


def calibrated(real: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Sum over the needle's tokens of (real - null), tokens far below their mean dropped; [H] from [H, tokens]."""
    difference = real - null
    floor = difference.mean(axis=1, keepdims=True) - OUTLIER * difference.std(axis=1, keepdims=True)
    return np.asarray(np.where(difference >= floor, difference, 0.0).sum(axis=1))


def _attention_on_needle(
    model: PreTrainedModel, prompt: NeedlePrompt, ids: Sequence[int], key_block: int
) -> dict[int, tuple[np.ndarray, bool]]:
    """Layer -> (attention of the question on each needle token [H, tokens], mean over rows; all reachable?)."""
    sequence = torch.tensor([list(ids)], device=model.device)
    rows = torch.arange(prompt.question_span[0], len(ids), device=model.device)[None]
    layers: dict[int, RowStats] = {}
    request = RowRequest(rows, _each_token(prompt.needle_spans), key_block=key_block)
    with torch.no_grad(), capture_rows(model, request, layers.__setitem__):
        row_logits(model, sequence, rows[:, -1:])
    return {
        layer: (stats.mass[0].mean(dim=1).cpu().numpy(), bool(stats.reach.all())) for layer, stats in layers.items()
    }


def _each_token(spans: Sequence[Span]) -> KeyGroups:
    """One group for each position of the spans."""
    positions = torch.tensor([position for span in spans for position in range(*span)])

    def members(rows: Tensor, keys: Tensor) -> Tensor:
        return (keys[:, None] == positions.to(keys.device))[None, None]

    return members
