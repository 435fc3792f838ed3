"""Answer NLL of a model over a grid of prompts, and its perplexity on plain text."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.model.finite import finite
from checkpoints.model.plain import takes_model
from checkpoints.model.rope import depends_on_length
from checkpoints.stats.bootstrap import Estimate
from checkpoints.stats.ttests import mean_interval
from checkpoints.tokenizers.framing import prompt_ids
from heads.detect.retrieval import about, answer_tokens, check_fits, check_positions
from heads.niah.grid import NeedleMap
from heads.prompts.building import interference_prompts, needle_prompts
from heads.prompts.needles import Needle, NeedlePrompt, NeedleSet
from heads.rows.prefix import Prefix, cache_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@takes_model
def needle_map(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str | Sequence[str],
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    batch_size: int = 8,
    seed: int = 0,
    prefix: Prefix = "separate",
    progress: bool = False,
) -> NeedleMap:
    """Answer NLL over total length and needle depth (arXiv 2604.02650, figure 2).

    Args:
        model: in eval mode.
        tokenizer: the model's.
        needles: hidden in every cell.
        haystack: running text or units (`needle_prompts`).
        lengths: tokens of the prompts.
        depths: shares of the haystack before the needle.
        batch_size: prompts at a time.
        seed: of haystack windows.
        prefix: ``shared`` takes the prompts one by one and reuses keys and values up to the first token that differs,
            ``auto`` where it pays (`heads.score`). Changes cost, not results.
        progress: show a progress bar.

    Raises:
        BadPrompt: no needle that can be scored at every length, with the reason, or a length beyond the model. Those
            that cannot are left out of all cells, and named in ``meta["refused"]``.
    """
    depths = [float(depth) for depth in depths]
    sets = [needle_prompts(tokenizer, needles, haystack, length=n, depths=depths, seed=seed) for n in lengths]
    refused = _refused(sets)
    cells = [(row, prompt) for row, prompts in enumerate(sets) for prompt in prompts if prompt.needle not in refused]
    column = [depths.index(prompt.requested_depth) for _, prompt in cells]
    axes = ("length", "depth")
    found = _measure(model, cells, column, axes, lengths, depths, size=batch_size, prefix=prefix, progress=progress)
    return replace(found, meta={**found.meta, "refused": [list(pair) for pair in refused.items()]})


@takes_model
def interference_map(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    needles: Sequence[Needle],
    haystack: str | Sequence[str],
    *,
    distances: Sequence[int],
    befores: Sequence[int],
    batch_size: int = 8,
    seed: int = 0,
    prefix: Prefix = "separate",
    progress: bool = False,
) -> NeedleMap:
    """Answer NLL over absolute distance and interference length, in tokens (arXiv 2604.02650, figure 8).

    Arguments as in `needle_map` and `interference_prompts`.
    """
    distances, befores = list(distances), list(befores)
    prompts = interference_prompts(tokenizer, needles, haystack, distances=distances, befores=befores, seed=seed)
    refused = _refused([prompts])
    cells = [(distances.index(prompt.distance), prompt) for prompt in prompts]
    column = [befores.index(prompt.before - len(prompts.front)) for _, prompt in cells]
    axes = ("distance", "before")
    found = _measure(model, cells, column, axes, distances, befores, size=batch_size, prefix=prefix, progress=progress)
    return replace(found, meta={**found.meta, "refused": [list(pair) for pair in refused.items()]})


def _refused(sets: Sequence[NeedleSet]) -> dict[int, str]:
    """Needle -> why it is left out of all cells, since a map compares cells over the same needles.

    Raises:
        BadPrompt: none is left.
    """
    refused = {index: reason for prompts in reversed(sets) for index, reason in prompts.refused}
    if not {prompt.needle for prompts in sets for prompt in prompts} - refused.keys():
        index = min(refused, default=None)
        why = "there is no needle" if index is None else f"needle {index} cannot stand in every cell: {refused[index]}"
        raise BadPrompt(f"no needle is left for the map; {why}")
    return refused


def _measure(
    model: PreTrainedModel,
    cells: Sequence[tuple[int, NeedlePrompt]],
    column: Sequence[int],
    axes: tuple[str, str],
    rows: Sequence[float],
    columns: Sequence[float],
    *,
    size: int,
    prefix: Prefix,
    progress: bool,
) -> NeedleMap:
    require_choice("prefix", prefix, get_args(Prefix))
    prompts = [prompt for _, prompt in cells]
    check_fits(model, prompts)
    nll = np.full((len(prompts), max(len(p.answer) for p in prompts)), np.nan, dtype=np.float32)
    recall = np.zeros(len(prompts), dtype=np.float32)
    in_turn = sorted(range(len(prompts)), key=partial(_turn, prompts, shared=True))
    cache = cache_for(model, prefix, [prompts[i].ids for i in in_turn])
    order = in_turn if cache else sorted(range(len(prompts)), key=partial(_turn, prompts, shared=False))
    step = 1 if cache else size
    for start in tqdm(range(0, len(order), step), desc="needle map", disable=not progress):
        batch = order[start : start + step]
        for i, (own, hits) in zip(batch, answer_tokens(model, [prompts[i] for i in batch], cache), strict=True):
            nll[i, : len(own)], recall[i] = own, hits.mean()
    return NeedleMap(
        axes=axes,
        rows=tuple(map(float, rows)),
        columns=tuple(map(float, columns)),
        row=np.array([row for row, _ in cells]),
        column=np.array(column),
        needle=np.array([p.needle for p in prompts]),
        nll=nll,
        correct=recall == 1,
        achieved=np.array([p.depth for p in prompts], dtype=np.float32),
        recall=recall,
        meta=about(model),
    )


def _turn(prompts: Sequence[NeedlePrompt], i: int, *, shared: bool) -> tuple[int, ...]:
    """What prompts are ordered by: alike lengths together, or those together that share the longest prefix."""
    prompt = prompts[i]
    return (prompt.needle, -prompt.before, len(prompt.ids)) if shared else (len(prompt.ids), i)


@torch.no_grad()
@takes_model
def corpus_nll(
    model: PreTrainedModel,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    length: int,
    chunk: int = 512,
) -> Estimate:
    """Nats per token of plain text, the first ``length`` tokens of each; exp of it is the corpus PPL (figure 6).

    The t interval is over texts, from three on. Texts run in chunks behind a cache, so that only a chunk's
    logits exist at a time.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        texts: documents; shorter ones count as far as they go.
        length: tokens of a document, those that the tokenizer puts in front included.
        chunk: tokens at a time.

    Raises:
        BadPrompt: no text of two tokens, or a length beyond the model's positions.
    """
    check_positions(model, length)
    documents = [prompt_ids(tokenizer, text)[:length] for text in texts]
    means = np.array([_document_nll(model, ids, chunk) for ids in documents if len(ids) > 1])
    if not len(means):
        raise BadPrompt("no text has two tokens: give documents to read")
    low, high = mean_interval(means)
    return Estimate(float(means.mean()), float(low), float(high), len(means))


def _document_nll(model: PreTrainedModel, ids: Sequence[int], chunk: int) -> float:
    whole = depends_on_length(model)  # no chunk can go on from the keys of a shorter text
    cache, total = None if whole else DynamicCache(config=model.config.get_text_config()), 0.0
    chunk = len(ids) if whole else chunk
    tokens = torch.tensor([list(ids)], device=model.device)
    for start in range(0, len(ids) - 1, chunk):
        stop = min(start + chunk, len(ids) - 1)
        logits = model(tokens[:, start:stop], past_key_values=cache, use_cache=not whole).logits[0]
        logits = finite(logits).float()
        total += float(torch.nn.functional.cross_entropy(logits, tokens[0, start + 1 : stop + 1], reduction="sum"))
    return total / (len(ids) - 1)
