"""What each detector would say of a head that attends to all keys alike: the level to read its value against."""

import numpy as np

from heads.detect.catalogue import LOCAL_WINDOW, SINK_TOKENS
from heads.prompts.needles import NeedlePrompt


def chance_levels(prompt: NeedlePrompt) -> dict[str, float]:
    """Detector -> its expectation under even attention over the keys that a causal row sees.

    Where a detector takes the strongest keys, even attention means that any are the strongest alike. Detectors of what
    a head writes have no such level, and narrower windows raise it. Unit: the detector's.
    """
    ids, answer, gold = np.asarray(prompt.ids), np.asarray(prompt.answer), np.asarray(prompt.gold)
    rows = prompt.answer_start - 1 + np.arange(len(answer))
    keys = rows + 1.0
    match = (ids[gold] == answer[:, None]) / keys[:, None]
    types = np.unique(ids[gold])
    typed = np.stack([match[:, ids[gold] == token].sum(axis=1) for token in types], axis=1)
    seen = np.arange(len(ids))
    middle = (seen >= SINK_TOKENS) & (seen <= rows[:, None] - LOCAL_WINDOW)
    levels = {
        "copy": _ever(typed).mean(),
        "copy_positions": _ever(match).mean(),
        "copy_count": match.sum() / len(gold),
        "activation": _ever(match.sum(axis=1)),
        "needle_mass": np.mean(len(gold) / keys),
        "spatial": 0.0,
        "headkv": np.sum(len(gold) / keys**2),
        "contextual": np.mean(_size(prompt.needle_spans) / keys),
        "sink_mass": np.mean(SINK_TOKENS / keys),
        "first_token": np.mean(1 / keys),
        "entropy": np.mean(np.log(keys)),
    }
    if middle.any(axis=1).all():
        levels["reasoning"] = np.mean(middle[:, gold].sum(axis=1) / middle.sum(axis=1))
    if prompt.distractor_spans:
        levels["distractor_mass"] = np.mean(_size(prompt.distractor_spans) / keys)
    return {name: float(value) for name, value in levels.items()}


def query_level(prompt: NeedlePrompt, size: int) -> float:
    """Even attention of a question of ``size`` tokens on the needle, mean over its rows: the level of ``qr``."""
    keys = prompt.question_span[0] + np.arange(size) + 1.0
    return float(np.mean(_size(prompt.needle_spans) / keys))


def repeat_levels(start: int, block: int, repeats: int) -> dict[str, float]:
    """The same for the detectors of `heads.repeat_scores`, mean over the rows of all repeats but the first.

    Args:
        start: tokens before the first block.
        block: tokens in a block.
        repeats: how often it stands in the sequence.
    """
    rows = start + np.arange(block, block * repeats)
    one = float(np.mean(1 / (rows + 1)))
    copies = float(np.mean((rows - start) // block / (rows + 1)))
    return {"echo": copies, "induction": copies, "previous_token": one, "duplicate_token": one}


def _ever(chance: np.ndarray) -> np.ndarray:
    """Probability that something happens at one row at least; rows on the first axis."""
    return np.asarray(1 - np.prod(1 - chance, axis=0))


def _size(spans: tuple[tuple[int, int], ...]) -> int:
    return sum(stop - start for start, stop in spans)
