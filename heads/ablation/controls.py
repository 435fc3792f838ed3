"""What to compare an ablation with: other heads, matched in one named respect and never tested themselves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.stats.units import nanmean
from heads.scores.names import head_name, parse_head
from heads.scores.scores import Scores, retrieves

Control = Literal["layer_matched", "non_retrieving", "equal_write"]
Draw = Callable[[], tuple[str, ...]]


def draw_controls(
    kind: Control, tested: Sequence[str], scores: Scores, *, count: int, draw: np.random.Generator
) -> tuple[tuple[str, ...], ...]:
    """Up to ``count`` different sets of as many heads as tested (`heads.ablation.kinds.CONTROLS`).

    Args:
        kind: in what the controls match.
        tested: names of the tested heads.
        scores: tell which heads retrieve, and for ``equal_write`` what each writes.
        count: how many draws; equal ones are kept once.
        draw: source of randomness.

    Raises:
        BadPrompt: an unknown kind, or too few heads to draw from.
    """
    makers: Mapping[str, Draw] = {
        "layer_matched": lambda: _layer_matched(tested, scores.shape, draw),
        "non_retrieving": lambda: _non_retrieving(tested, scores, draw),
        "equal_write": lambda: _equal_write(tested, scores),
    }
    if kind not in makers:
        raise BadPrompt(f"no control is called {kind!r}; there are {list(makers)}")
    return tuple(dict.fromkeys(makers[kind]() for _ in range(count)))


def _layer_matched(tested: Sequence[str], shape: tuple[int, int], draw: np.random.Generator) -> tuple[str, ...]:
    taken: dict[int, set[int]] = {}
    for name in tested:
        layer, head = parse_head(name, shape)
        taken.setdefault(layer, set()).add(head)
    chosen: list[str] = []
    for layer, heads in sorted(taken.items()):
        free = [head for head in range(shape[1]) if head not in heads]
        if len(free) < len(heads):
            raise BadPrompt(
                f"layer {layer} has {shape[1]} heads and {len(heads)} of them are tested, which leaves {len(free)} for "
                "a control: test fewer heads with top_k"
            )
        chosen += [head_name(layer, head) for head in sorted(draw.choice(free, len(heads), replace=False).tolist())]
    return tuple(chosen)


def _non_retrieving(tested: Sequence[str], scores: Scores, draw: np.random.Generator) -> tuple[str, ...]:
    free = _bystanders(tested, scores)
    return tuple(free[i] for i in sorted(draw.choice(len(free), len(tested), replace=False).tolist()))


def _equal_write(tested: Sequence[str], scores: Scores) -> tuple[str, ...]:
    """For each tested head in turn the bystander left whose direct write is nearest in size."""
    size = np.abs(nanmean(scores.detector("locos")))
    free, chosen = _bystanders(tested, scores), []
    for name in tested:
        wanted = size[parse_head(name, scores.shape)]
        gaps = [abs(float(size[parse_head(other, scores.shape)] - wanted)) for other in free]
        chosen.append(free.pop(int(np.argmin(gaps))))
    return tuple(sorted(chosen))


def _bystanders(tested: Sequence[str], scores: Scores) -> list[str]:
    """Heads that do not retrieve and are not tested; heads without rows are none."""
    still = ~retrieves(scores.mean) & ~np.isnan(scores.mean)
    names = [head_name(int(layer), int(head)) for layer, head in np.argwhere(still)]
    free = [name for name in names if name not in tested]
    if len(free) < len(tested):
        raise BadPrompt(
            f"{len(free)} of {scores.mean.size} heads do not retrieve, too few to control {len(tested)} tested ones: "
            "test fewer heads with top_k"
        )
    return free
