"""As many prompts as the question needs: stop when the top heads and their number are known well enough."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.plain import takes_model
from checkpoints.stats.bootstrap import percentiles, resampled_means, resampling
from checkpoints.stats.units import independent_units
from heads.detect.detectors import levels
from heads.detect.retrieval import score, stack
from heads.prompts.needles import NeedleSet
from heads.scores.scores import THRESHOLD, Scores, retrieves


@takes_model  # type: ignore[arg-type]  # mypy fears a second `model` among the options
def adaptive_scores(
    model: PreTrainedModel,
    needle_set: NeedleSet,
    *,
    top_k: int = 20,
    overlap: float = 0.9,
    count_width: float = 0.25,
    first: int = 16,
    step: int = 8,
    draws: int = 500,
    seed: int = 0,
    **options: Any,
) -> Scores:
    """Score prompts in random order until the list of top heads and the count of retrieval heads are tight.

    Tight means: resampled needles share at least ``overlap`` of the top-K list on
    average, and the 95 % interval of the count is no wider than ``count_width`` of it (one head, at least). Compare
    checkpoints on one set of prompts. The result's ``meta["adaptive"]`` has the ``order`` of those used, whether they
    were ``tight`` or ran out before, and the ``overlap`` and ``count_width`` they reached.

    Args:
        model: in eval mode.
        needle_set: as many prompts as there may be need for.
        top_k: length of the list; heads at 0 are not ranked.
        overlap: share of it that must hold.
        count_width: width of the count's interval, as a share of the count.
        first: prompts before the first look.
        step: prompts between looks.
        draws: resamples.
        seed: of order and resamples.
        options: passed on to `score`.

    Raises:
        BadPrompt: shares outside (0, 1], or fewer than two prompts to start with.
    """
    if not 0 < overlap <= 1 or count_width <= 0 or first < 2 or step < 1:
        raise BadPrompt(f"give 0 < overlap <= 1, count_width > 0, first >= 2, step >= 1: got {overlap}, {count_width}")
    order = np.random.default_rng(seed).permutation(len(needle_set)).tolist()
    parts: list[Scores] = []
    used, tight, found = 0, False, (0.0, 0.0)
    while used < len(order) and not tight:
        chosen = order[used : used + (first if not used else step)]
        subset = replace(needle_set, prompts=tuple(needle_set.prompts[i] for i in chosen))
        parts.append(score(model, subset, **options))
        used += len(chosen)
        copy, needle = (np.concatenate([getattr(p, name) for p in parts]) for name in ("copy", "needle"))
        found = stability(copy, independent_units(needle)[1], top_k=top_k, draws=draws, seed=seed)
        tight = found[0] >= overlap and found[1] <= count_width
    taken = replace(needle_set, prompts=tuple(needle_set.prompts[i] for i in order[:used]))
    note = {"order": order[:used], "of": len(order), "tight": tight, "overlap": found[0], "count_width": found[1]}
    return _join(parts, {"prompts": taken.hash, **levels(taken.prompts), "adaptive": note})


def stability(
    copy: np.ndarray, cluster: np.ndarray | None = None, *, top_k: int, draws: int, seed: int
) -> tuple[float, float]:
    """How far a top-K list and a count can be trusted.

    Args:
        copy: [N, L, H] scores.
        cluster: [N] which independent unit a prompt belongs to; each its own unless given.
        top_k: length of the list.
        draws: resamples of the units.
        seed: of the resamples.

    Returns:
        mean share of the list that resamples keep, and the width of the count's 95 % interval as a share of the
        count; a width of one head counts as 0.
    """
    cluster = np.arange(len(copy)) if cluster is None else cluster
    means = resampled_means(copy, cluster, resampling(len(np.unique(cluster)), draws=draws, seed=seed))
    flat = np.nan_to_num(means.reshape(draws, -1))
    whole = np.nan_to_num(np.nanmean(copy, axis=0)).ravel()
    size = min(top_k, int((whole > 0).sum()))
    counts = retrieves(flat, THRESHOLD).sum(axis=1)
    low, high = percentiles(counts.astype(float))
    width = max(float(high - low) - 1.0, 0.0) / max(int(retrieves(whole, THRESHOLD).sum()), 1)
    if not size:
        return 1.0, width
    best = set(np.argsort(-whole, kind="stable")[:size].tolist())
    kept = [len(best & set(row.tolist())) / size for row in np.argsort(-flat, axis=1, kind="stable")[:, :size]]
    return float(np.mean(kept)), width


def _join(parts: Sequence[Scores], meta: dict[str, Any]) -> Scores:
    detectors = {name: np.concatenate([p.detectors[name] for p in parts]) for name in parts[0].detectors}
    return Scores(
        detectors=detectors,
        kv_heads=parts[0].kv_heads,
        nll=stack([row for p in parts for row in p.nll], fill=np.nan),
        steps=stack([step for p in parts if p.steps is not None for step in p.steps], fill=-1),
        correct=np.concatenate([p.correct for p in parts]),
        accepted=np.concatenate([p.accepted for p in parts]),
        depth=np.concatenate([p.depth for p in parts]),
        needle=np.concatenate([p.needle for p in parts]),
        meta={**parts[0].meta, **meta},
    )
