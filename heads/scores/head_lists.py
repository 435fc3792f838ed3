"""Head scores as others publish them: JSON of ``{"layer-head": [score of each trial]}`` (nightdessert/Retrieval_Head).

`heads.Scores.to_head_lists` writes the same; `heads.scores.agreement.agreement` compares two of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import parse_lenient, read_text
from checkpoints.stats.units import Floats
from heads.scores.names import head_name
from heads.scores.scores import THRESHOLD, DetectorScores, retrieves

if TYPE_CHECKING:
    import pandas as pd

DETECTOR = "copy_count"
STRONG = 0.5


def load_head_lists(path: Path | str, *, kv_heads: int | None = None, detector: str = DETECTOR) -> DetectorScores:
    """Read a file of head lists as scores of one detector.

    A head with an empty list has no scores (a layer without attention rows); all others list the same trials, in the
    same order.

    Args:
        path: the JSON file.
        kv_heads: of the model, which the file does not say; every query head its own unless given.
        detector: what the file lists, which it does not say either; the published one unless given.

    Raises:
        BadPrompt: the file cannot be read, is no such object, lacks heads, lists different numbers of trials, or
            holds an infinite score.
    """
    path = Path(path)
    text = read_text(path, "head lists")
    try:
        content = parse_lenient(text)
        lists = {tuple(map(int, key.split("-"))): np.asarray(value, dtype=np.float32) for key, value in content.items()}
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise BadPrompt(f"{path} holds no head lists, which are JSON of 'layer-head': [scores]: {error}") from error
    if not lists or any(len(key) != 2 or values.ndim != 1 for key, values in lists.items()):
        raise BadPrompt(f"{path} holds no head lists: keys are 'layer-head', values lists of scores")
    layers, heads = (max(key[axis] for key in lists) + 1 for axis in (0, 1))
    if (missing := layers * heads - len(lists)) > 0:
        first = next((x, y) for x in range(layers) for y in range(heads) if (x, y) not in lists)
        raise BadPrompt(f"{path} lacks {missing} of {layers * heads} heads, {head_name(*first)} first")
    sizes = {len(values) for values in lists.values()} - {0}
    if len(sizes) != 1:
        raise BadPrompt(f"{path} lists {sorted(sizes) or 'no'} trials a head: they cannot be set beside each other")
    scores = np.full((sizes.pop(), layers, heads), np.nan, dtype=np.float32)
    for (layer, head), values in lists.items():
        if len(values):
            scores[:, layer, head] = values
    if np.isinf(scores).any():
        raise BadPrompt(f"{path} holds {np.isinf(scores).sum()} infinite scores: leave those trials out")
    return DetectorScores(detectors={detector: scores}, kv_heads=kv_heads or heads, meta={"source": path.name})


def head_list_table(*files: Path | str) -> "pd.DataFrame":
    """What published files say, one row each.

    Columns: file, layers, heads, trials, all_zero (trials in which no head scores), above_threshold and its share of
    all heads (mean > 0.1), strong (mean > 0.5), never (heads that score in no trial) and always (in every one) as
    counts, best (the five best with their means). Means are over the trials in the file: those that the gate let pass.

    Raises:
        BadPrompt: a file that `load_head_lists` refuses.
    """
    import pandas as pd

    return pd.DataFrame([{"file": Path(file).name, **_row(load_head_lists(file))} for file in files])


def _row(scores: DetectorScores) -> dict[str, object]:
    values: Floats = scores.detector(DETECTOR)
    mean, applies = scores.mean_of(DETECTOR), ~np.isnan(values).all(axis=0)
    scoring = np.nan_to_num(values) > 0
    return {
        "layers": values.shape[1],
        "heads": values.shape[2],
        "trials": len(values),
        "all_zero": int((~scoring.any(axis=(1, 2))).sum()),
        "above_threshold": (above := int(retrieves(mean, THRESHOLD).sum())),
        "share": above / int(applies.sum()),
        "strong": int(retrieves(mean, STRONG).sum()),
        "never": int((applies & ~scoring.any(axis=0)).sum()),
        "always": int(scoring.all(axis=0).sum()),
        "best": ", ".join(f"{head.name} {head.score.value:.3f}" for head in scores.top(5)),
    }
