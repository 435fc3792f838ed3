"""The one prompt of a set on which what every head reads is kept, and how it is taken from the answer rows."""

from collections.abc import Mapping

import numpy as np

from heads.detect.answer_rows import LayerRows
from heads.prompts.needles import NeedlePrompt, NeedleSet
from heads.scores.example import TOP, Example


def middle_prompt(needle_set: NeedleSet) -> NeedlePrompt:
    """The first needle's prompt whose depth is nearest to a half: neither the first tokens nor the last ones."""
    first = [prompt for prompt in needle_set if prompt.needle == needle_set.prompts[0].needle]
    return min(first, key=lambda prompt: abs(prompt.depth - 0.5))


def example_of(prompt: NeedlePrompt, layers: Mapping[int, LayerRows], shape: tuple[int, ...]) -> Example:
    """The largest weights of a prompt's answer rows.

    Args:
        prompt: teacher-forced.
        layers: layer -> its rows of this prompt alone.
        shape: layers and heads.
    """
    index = np.full((*shape, len(prompt.answer), TOP), -1, dtype=np.int32)
    weight = np.zeros(index.shape, dtype=np.float32)
    for layer, rows in layers.items():
        heads = slice(len(rows.top_index))
        kept = rows.top_index[..., :TOP]
        index[layer, heads, :, : kept.shape[-1]] = kept
        weight[layer, heads, :, : kept.shape[-1]] = np.where(kept < 0, 0, rows.top_weight[..., :TOP])
    return Example(
        ids=np.asarray(prompt.ids),
        answer_start=prompt.answer_start,
        answer_spans=prompt.answer_spans,
        needle_spans=prompt.needle_spans,
        index=index,
        weight=weight,
    )
