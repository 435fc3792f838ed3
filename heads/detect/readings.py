"""From argmaxes of attention rows to copy scores: pure functions on arrays."""

import numpy as np
from numpy.typing import NDArray

from heads.scores.stats import Floats

Ints = NDArray[np.integer]


def copied(argmax: Ints, ids: Ints, answer: Ints, gold: Ints) -> NDArray[np.bool_]:
    """Where a head copies: its row's top key is a gold position and holds the token the row has to predict.

    Args:
        argmax: [H, T] position of the top key of the row that predicts each answer token.
        ids: [S] token ids of the sequence.
        answer: [T] token ids to predict.
        gold: positions of the answer in the needle.

    Returns:
        [H, T] bool (criterion of arXiv 2404.15574, section 2).
    """
    return np.asarray(np.isin(argmax, gold) & (ids[argmax] == answer))


def copy_readings(argmax: Ints, ids: Ints, answer: Ints, gold: Ints) -> dict[str, Floats]:
    """The copy score in each of its readings, and whether the head copied at all; each [H].

    ``copy``: distinct token ids copied / distinct ids at gold positions (the papers' set reading). ``copy_positions``:
    distinct gold positions hit / positions. ``copy_count``: steps that copy / positions (the published code; exceeds
    1 when tokens repeat). ``activation``: 1 if any token is copied.
    """
    hits = copied(argmax, ids, answer, gold)
    size = len(gold)
    distinct = np.unique(ids[gold])
    types = (hits[:, :, None] & (answer[None, :, None] == distinct)).any(axis=1)
    places = (hits[:, :, None] & (argmax[:, :, None] == gold)).any(axis=1)
    return {
        "copy": types.sum(axis=1) / len(distinct),
        "copy_positions": places.sum(axis=1) / size,
        "copy_count": hits.sum(axis=1) / size,
        "activation": hits.any(axis=1).astype(float),
    }
