"""From argmaxes of attention rows to copy scores: pure functions on arrays."""

import numpy as np
from numpy.typing import NDArray

from heads.stats import Floats

Ints = NDArray[np.integer]


def copied(argmax: Ints, ids: Ints, answer: Ints, span: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a head copies: its row's top key lies in the span and holds the token the row has to predict.

    Args:
        argmax: [H, T] position of the top key of the row that predicts each answer token.
        ids: [S] token ids of the sequence.
        answer: [T] token ids to predict.
        span: the answer's place in the needle, [start, stop).

    Returns:
        [H, T] bool (criterion of arXiv 2404.15574, section 2).
    """
    inside = (argmax >= span[0]) & (argmax < span[1])
    return np.asarray(inside & (ids[argmax] == answer))


def copy_readings(argmax: Ints, ids: Ints, answer: Ints, span: tuple[int, int]) -> dict[str, Floats]:
    """The copy score in each of its readings, and whether the head copied at all; each [H].

    ``copy``: distinct token ids copied / distinct ids in the span (the papers' set reading). ``copy_positions``:
    distinct span positions hit / positions. ``copy_count``: steps that copy / positions (the published code; exceeds
    1 when tokens repeat). ``activation``: 1 if any token is copied.
    """
    hits = copied(argmax, ids, answer, span)
    size = span[1] - span[0]
    distinct = np.unique(ids[span[0] : span[1]])
    types = (hits[:, :, None] & (answer[None, :, None] == distinct)).any(axis=1)
    places = (hits[:, :, None] & (argmax[:, :, None] == np.arange(*span))).any(axis=1)
    return {
        "copy": types.sum(axis=1) / len(distinct),
        "copy_positions": places.sum(axis=1) / size,
        "copy_count": hits.sum(axis=1) / size,
        "activation": hits.any(axis=1).astype(float),
    }
