"""The published detector of arXiv 2404.15574 (nightdessert/Retrieval_Head at 3ac171a) as it runs, defect by defect.

Its scores can be had with every defect, or with some of them mended, so that a difference between two studies can be
traced to its cause. The question's wording is the needle's own.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, require_choice, require_choices
from checkpoints.model.plain import takes_model
from checkpoints.tokenizers.framing import front_ids, prompt_ids
from heads.detect.answer_rows import copied
from heads.detect.detectors import table
from heads.detect.generation import NEW_TOKENS, generate
from heads.detect.retrieval import about, check_positions, kv_heads
from heads.detect.rouge import published_recall, rouge1_recall
from heads.prompts.building import answer_in
from heads.prompts.needles import Needle, Span
from heads.rows.reduce import RowStats
from heads.rows.rows import RowRequest, capture_rows
from heads.scores.scores import GATE, Scores

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

DEFECTS: Mapping[str, str] = {
    "period_ids": "insertion looks for Llama-2's full stops whatever the tokenizer; finding none, it goes to the start",
    "extra_bos": "every piece is encoded with special tokens, so that BOS stands inside the text",
    "span_search": "the answer is looked for by overlap of token sets; not found, the trial counts with all scores 0",
    "step_count": "steps that copy are counted, not distinct tokens: repeats count again and scores exceed 1",
    "newline_stop": "only Llama-2's newline ends an answer; other tokenizers always write fifty tokens",
    "successes_only": "trials without the answer are dropped before averaging",
    "stemming": "the gate's ROUGE compares the stems of words, so that another form of a word counts as the word",
}
Provider = Literal["LLaMA", "Mistral", "GLM", "other"]
PERIODS: Mapping[Provider, frozenset[int]] = {
    "LLaMA": frozenset((29889, 869)),
    "Mistral": frozenset((842, 28723)),
    "GLM": frozenset((918, 30930)),
}
"""Token ids that the published code takes for full stops, by its model provider; of ``other`` it encodes "."."""
LLAMA_NEWLINE = 144
BUFFER = 200
COVER = 0.9


class NothingAccepted(BadPrompt):
    """Every trial failed the gate, so that the published procedure has nothing to average."""


@takes_model
def published_scores(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    defects: Collection[str] = tuple(DEFECTS),
    provider: Provider = "LLaMA",
    progress: bool = False,
) -> Scores:
    """Score heads as the published code does, with the defects named and without the others.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        needles: sentence, answer and question; distractors are left out.
        haystack: running text, repeated until it is long enough.
        lengths: context lengths; 200 tokens of each are kept free, as published.
        depths: shares of the context before the needle.
        defects: names from `DEFECTS`; none for the mended procedure.
        provider: as its command line has it, ``LLaMA`` by default; decides which tokens it takes for full stops.
        progress: show a progress bar.

    Returns:
        scores whose ``copy`` detector is the published score (in the reading the defects imply), one entry per trial
        that is kept; ``depth`` is the one achieved, and ``meta["not_found"]`` counts the trials without a span.
        Checkpoints that keep different trials cannot be paired: `heads.diff` refuses them.

    Raises:
        BadPrompt: unknown defects or provider, a length that leaves no room, or (`NothingAccepted`) no trial kept.
    """
    require_choices("defect", defects, DEFECTS)
    grid = [(n, needle, length, depth) for length in lengths for depth in depths for n, needle in enumerate(needles)]
    recall_of = published_recall if "stemming" in defects else rouge1_recall
    stops = _stops(tokenizer, defects)
    trials = []
    for number, needle, length, depth in tqdm(grid, desc="published scores", disable=not progress):
        ids, span, achieved = published_prompt(
            tokenizer, needle, haystack, length, depth, defects=defects, provider=provider
        )
        check_positions(model, len(ids) + NEW_TOKENS)
        written, scores = published_trial(model, ids, span, stop_ids=stops, counting="step_count" in defects)
        text = str(tokenizer.decode(list(written), skip_special_tokens=True))
        trials.append(_Trial(ids, span, scores, recall_of(needle.answer, text) > GATE, achieved, number))
    kept = [trial for trial in trials if trial.accepted or "successes_only" not in defects]
    if not kept:
        raise NothingAccepted("the model answered no trial right, and the published procedure drops the others")
    copy = np.array([trial.scores for trial in kept], dtype=np.float32)
    accepted = np.array([trial.accepted for trial in kept])
    meta = {
        "defects": sorted(defects),
        "provider": provider,
        "front": list(front_ids(tokenizer)),
        "trials": len(grid),
        "not_found": sum(trial.span is None for trial in trials),
        "mode": "published",
        "prompts": hashlib.sha256(json.dumps([(trial.ids, trial.span) for trial in kept]).encode()).hexdigest(),
        "length": max(lengths),
        "chance": float(np.mean([1 / len(trial.ids) for trial in kept])),
    }
    return Scores(
        detectors={"copy": copy},
        kv_heads=kv_heads(model, copy.shape[2]),
        nll=np.full((len(kept), 1), np.nan, dtype=np.float32),
        correct=accepted,
        accepted=accepted,
        depth=np.array([trial.depth for trial in kept], dtype=np.float32),
        needle=np.array([trial.needle for trial in kept]),
        meta={**about(model), **meta},
    )


class _Trial(NamedTuple):
    """One prompt, what the heads copied of its needle, and whether the answer passed the gate."""

    ids: Sequence[int]
    span: Span | None
    scores: np.ndarray
    accepted: bool
    depth: float
    needle: int


def defect_table(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    progress: bool = False,
) -> "pd.DataFrame":
    """What each defect does: the procedure as published, with one defect mended at a time, and with all mended.

    Arguments as in `published_scores`. Columns: trials kept and all-zero ones, distinct depths tested, heads above
    0.1, the best head and its mean score.
    """
    import pandas as pd

    variants = {"as published": set(DEFECTS)}
    variants |= {f"without {name}": set(DEFECTS) - {name} for name in DEFECTS}
    variants["all mended"] = set()
    rows = []
    for name, defects in variants.items():
        try:
            scores = published_scores(
                model, tokenizer, needles, haystack, lengths=lengths, depths=depths, defects=defects, progress=progress
            )
        except NothingAccepted:
            rows.append({"procedure": name, "trials": 0})
            continue
        best = scores.top(1)[0]
        rows.append(
            {
                "procedure": name,
                "trials": len(scores),
                "all_zero": int((np.nansum(scores.copy, axis=(1, 2)) == 0).sum()),
                "depths_tested": len(np.unique(np.round(scores.depth, 2))),
                "retrieval_heads": scores.count(),
                "best_head": best.name,
                "best_score": best.score.value,
            }
        )
    return pd.DataFrame(rows)


def published_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    needle: Needle,
    haystack: str,
    length: int,
    depth: float,
    *,
    defects: Collection[str],
    provider: Provider = "LLaMA",
) -> tuple[tuple[int, ...], Span | None, float]:
    """Token ids, the answer's span (None: not found), and the depth achieved, as published or mended.

    The needle is put in verbatim: one that does not begin with white space stands right behind the full stop before it.

    Raises:
        BadPrompt: a length that leaves no room for any context, or an unknown provider.
    """
    require_choice("provider", provider, get_args(Provider))
    special = "extra_bos" in defects
    copies = length // max(len(haystack.split()), 1) + 1
    ids = _encode(tokenizer, " ".join([haystack] * copies), special)[:length]
    if special:
        ids = _encode(tokenizer, str(tokenizer.decode(ids)), special)
    hidden = _encode(tokenizer, needle.needle, special)
    ids = ids[: length - BUFFER - len(hidden)]
    if length - BUFFER - len(hidden) <= 0:
        raise BadPrompt(f"length {length} leaves no context beside {BUFFER} free tokens and the needle")
    at = len(ids) if depth >= 1 else int(len(ids) * depth)
    periods = _published_periods(tokenizer, provider) if "period_ids" in defects else _periods(tokenizer, ids)
    while depth < 1 and at and ids[at - 1] not in periods:
        at -= 1
    context = [*ids[:at], *hidden, *ids[at:]]
    if "span_search" in defects:
        text = str(tokenizer.decode(context)) + needle.question
        prompt = tuple(_encode(tokenizer, text, True)) if special else prompt_ids(tokenizer, text)
        return prompt, _search(prompt, _encode(tokenizer, needle.answer, False)), at / len(ids)
    question = _encode(tokenizer, needle.question, False)
    prompt = (*front_ids(tokenizer), *context, *question)
    _, (low, high) = answer_in(lambda text: tuple(_encode(tokenizer, text, special)), needle.needle, needle.answer)
    start = len(prompt) - len(context) - len(question) + at
    return prompt, (start + low, start + high), at / len(ids)


def published_trial(
    model: PreTrainedModel,
    ids: Sequence[int],
    span: Span | None,
    *,
    stop_ids: Collection[int],
    counting: bool = True,
) -> tuple[tuple[int, ...], np.ndarray]:
    """Answer greedily, at most fifty tokens, and score what was written; [L, H], all 0 without a span.

    Args:
        model: in eval mode.
        ids: the prompt.
        span: the answer's place in it.
        stop_ids: tokens that end the answer, included in it.
        counting: count steps; else distinct tokens.
    """
    written = generate(model, ids, stop_ids=tuple(stop_ids), end_of_sequence=False)
    sequence = torch.tensor([[*ids, *written]], device=model.device)
    rows = torch.arange(len(ids) - 1, sequence.shape[1] - 1, device=model.device)[None]
    layers: dict[int, RowStats] = {}
    with torch.no_grad(), capture_rows(model, RowRequest(rows, _no_groups), layers.__setitem__):
        model(sequence, use_cache=False)
    gold = np.arange(*span) if span else np.arange(0)
    tokens, answer = sequence[0].cpu().numpy(), np.asarray(written)
    values = {}
    for layer, stats in layers.items():
        hits = copied(stats.argmax[0].cpu().numpy(), tokens, answer, gold)
        if not counting:
            hits = hits & _first_time(hits, answer)
        values[layer] = ({"copy": hits.sum(axis=1) / max(len(gold), 1)}, True)
    return written, table(model, values)["copy"]


def _first_time(hits: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """[H, T] True where a head copies a token for the first time."""
    out = np.zeros_like(hits)
    for token in np.unique(answer):
        steps = np.flatnonzero(answer == token)
        first = hits[:, steps].argmax(axis=1)
        out[np.arange(len(hits)), steps[first]] = True
    return out


def _no_groups(rows: Tensor, keys: Tensor) -> Tensor:
    return torch.zeros(1, 1, len(keys), 0, dtype=torch.bool, device=keys.device)


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=special, verbose=False))


def _published_periods(tokenizer: "PreTrainedTokenizerBase", provider: Provider) -> frozenset[int]:
    """Of another provider the code encodes "." with special tokens: BOS counts as a full stop too."""
    return PERIODS[provider] if provider in PERIODS else frozenset(_encode(tokenizer, ".", True))


def _periods(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> frozenset[int]:
    return frozenset(i for i in set(ids) if str(tokenizer.decode([i])).strip().endswith("."))


def _stops(tokenizer: "PreTrainedTokenizerBase", defects: Collection[str]) -> frozenset[int]:
    piece = tokenizer.convert_tokens_to_ids("<0x0A>")
    known = {LLAMA_NEWLINE} | ({piece} if isinstance(piece, int) and piece != tokenizer.unk_token_id else set())
    if "newline_stop" in defects:
        return frozenset(known)
    ends = {tokenizer.eos_token_id} - {None}
    return frozenset(ends | set(_encode(tokenizer, "\n", False)[-1:]))


def _search(ids: Sequence[int], answer: Sequence[int]) -> Span | None:
    """The first window of the answer's length that covers more than 90 % of the set of its tokens."""
    wanted = set(answer)
    for start in range(len(ids)):
        if len(wanted & set(ids[start : start + len(answer)])) / len(wanted) > COVER:
            return start, start + len(answer)
    return None
