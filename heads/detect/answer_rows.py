"""What formulas of detectors see: a layer's answer rows reduced to numbers, and the same rows under even attention.

H heads, T answer tokens, N gold positions, those of the answer inside the needle.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.units import Floats
from heads.prompts.needles import NeedlePrompt, Span

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from heads.rows.reduce import KeyGroups, RowStats

Ints = NDArray[np.integer]
SINK_TOKENS = 2
LOCAL_WINDOW = 32
GROUPS = ("answer", "needle", "distractors", "first_token", "sink", "middle", "answer_middle", "all")


def answer_groups(prompts: Sequence[NeedlePrompt], size: int, device: "torch.device") -> "KeyGroups":
    """The groups of `GROUPS` for prompts padded to ``size`` tokens, remembered since all layers ask the same."""
    import torch

    spans = torch.zeros(len(prompts), size, 3, dtype=torch.bool, device=device)
    for b, prompt in enumerate(prompts):
        groups = (prompt.answer_spans, prompt.needle_spans, prompt.distractor_spans)
        for group, members_ in enumerate(groups):
            for span in members_:
                spans[b, slice(*span), group] = True

    known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def members(rows: "Tensor", keys: "Tensor") -> "Tensor":
        block = int(keys[0]), len(keys)
        if block not in known or not torch.equal(known[block][0], rows):
            known[block] = rows, of(rows, keys)
        return known[block][1]

    def of(rows: "Tensor", keys: "Tensor") -> "Tensor":
        inside = spans[:, keys]
        middle = (keys >= SINK_TOKENS) & (keys <= rows[..., None] - LOCAL_WINDOW)
        fixed = torch.stack([keys == 0, keys < SINK_TOKENS], dim=-1)
        return torch.cat(
            [
                inside[:, None].expand(*rows.shape, *inside.shape[1:]),
                fixed.expand(*rows.shape, *fixed.shape),
                middle[..., None],
                (middle & inside[:, None, :, 0])[..., None],
                torch.ones_like(middle)[..., None],
            ],
            dim=-1,
        )

    return members


@dataclass(frozen=True, slots=True)
class LayerRows:
    """Row statistics of one layer as numpy; heads before rows, as in `RowStats`."""

    argmax: np.ndarray
    mass: np.ndarray
    reach: np.ndarray
    entropy: np.ndarray
    sink: np.ndarray
    top_index: np.ndarray
    top_weight: np.ndarray
    written: np.ndarray | None

    @staticmethod
    def of(stats: "RowStats") -> "LayerRows":
        """Move one layer's statistics to the host."""
        return LayerRows(
            argmax=stats.argmax.cpu().numpy(),
            mass=stats.mass.cpu().numpy(),
            reach=stats.reach.cpu().numpy(),
            entropy=stats.entropy.cpu().numpy(),
            sink=stats.sink.cpu().numpy(),
            top_index=stats.top_index.cpu().numpy(),
            top_weight=stats.top_weight.cpu().numpy(),
            written=None if stats.written is None else stats.written.cpu().numpy(),
        )

    @staticmethod
    def joined(layers: "Sequence[LayerRows]") -> "LayerRows":
        """The heads of layers that reach the same keys, one layer behind the other."""

        def join(name: str, axis: int = 1) -> np.ndarray:
            return np.concatenate([getattr(layer, name) for layer in layers], axis=axis)

        first, names = layers[0], ("argmax", "mass", "entropy", "sink", "top_index", "top_weight")
        written = None if first.written is None else join("written", axis=2)
        return LayerRows(reach=first.reach, written=written, **{name: join(name) for name in names})

    def prompt(self, b: int, n: int) -> "LayerRows":
        """Of one sequence of the batch: its first n rows, heads first."""
        return LayerRows(
            argmax=self.argmax[b, :, :n],
            mass=self.mass[b, :, :n],
            reach=self.reach[min(b, len(self.reach) - 1), :n],
            entropy=self.entropy[b, :, :n],
            sink=self.sink[b, :, :n],
            top_index=self.top_index[b, :, :n],
            top_weight=self.top_weight[b, :, :n],
            written=None if self.written is None else self.written[:, b, :, :n],
        )

    def reaches(self, keys: int) -> bool:
        """Whether every row can see all of the first group's keys."""
        return bool((self.reach[:, 0] == keys).all())


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers whose rows see the same keys, their heads one behind the other: a formula is asked once of all of them.

    Attributes:
        layers: their numbers, in that order.
        rows: theirs.
    """

    layers: tuple[int, ...]
    rows: LayerRows

    @staticmethod
    def of(layers: Mapping[int, LayerRows]) -> "list[Stack]":
        """As few as there can be of some layers."""
        alike: dict[Any, list[int]] = {}
        for index, rows in layers.items():
            name = (
                rows.argmax.shape,
                rows.reach.shape,
                rows.reach.tobytes(),
                bool(rows.sink.any()),
                rows.written is None,
            )
            alike.setdefault(name, []).append(index)
        return [Stack(tuple(found), LayerRows.joined([layers[index] for index in found])) for found in alike.values()]

    def heads(self) -> Iterator[tuple[int, slice]]:
        """Every layer and where its heads stand."""
        size = self.rows.argmax.shape[1] // len(self.layers)
        return ((layer, slice(size * place, size * (place + 1))) for place, layer in enumerate(self.layers))


@dataclass(frozen=True)
class AnswerRows:
    """The rows of one layer that predict the answer of one prompt, and what formulas share."""

    layer: LayerRows
    prompt: NeedlePrompt

    @cached_property
    def gold(self) -> Ints:
        """[N] positions of the answer inside the needle."""
        return np.asarray(self.prompt.gold)

    def mass(self, group: str) -> Floats:
        """[H, T] attention on a group of keys of `GROUPS`."""
        return self.layer.mass[..., GROUPS.index(group)]

    @cached_property
    def readings(self) -> dict[str, Floats]:
        """The copy score in each of its readings; see `copy_readings`."""
        ids, answer = np.asarray(self.prompt.ids), np.asarray(self.prompt.answer)
        return copy_readings(self.layer.argmax, ids, answer, self.gold)

    @cached_property
    def spread(self) -> Floats:
        """[T] gold positions for each other key of a row."""
        others = self.layer.reach[:, GROUPS.index("all")] - len(self.gold)
        return np.asarray(len(self.gold) / np.maximum(others, 1))

    @cached_property
    def nothing(self) -> Floats:
        """[H] of NaN."""
        return np.full(len(self.layer.argmax), np.nan)

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """[H, T] where a head copies; see `copied`."""
        ids, answer = np.asarray(self.prompt.ids), np.asarray(self.prompt.answer)
        return copied(self.layer.argmax, ids, answer, self.gold)

    @property
    def copy_written(self) -> Floats | None:
        """[H] frozen direct write of the answer's values at steps that copy, mean over all steps; None if not taken."""
        if self.layer.written is None:
            return None
        return np.asarray((self.hits * self.layer.written[1][..., GROUPS.index("answer")]).mean(axis=1))

    def written(self, reading: int) -> Floats | None:
        """[H] direct write of the answer's values minus that of as many others, where it was taken."""
        if self.layer.written is None:
            return None
        total, answer = (self.layer.written[..., GROUPS.index(group)] for group in ("all", "answer"))
        return np.asarray((answer - self.spread * (total - answer)).mean(axis=2)[reading])


@dataclass(frozen=True)
class EvenRows:
    """The same rows under even attention over the keys that a causal row sees; narrower windows raise what it gives.

    Where a detector takes the strongest keys, even attention means that any are the strongest alike.
    """

    prompt: NeedlePrompt

    @cached_property
    def rows(self) -> Ints:
        """[T] positions of the rows."""
        return np.asarray(self.prompt.answer_start - 1 + np.arange(len(self.prompt.answer)))

    @cached_property
    def keys(self) -> Floats:
        """[T] how many keys a row sees."""
        return np.asarray(self.rows + 1.0)

    @cached_property
    def gold(self) -> Ints:
        """[N] positions of the answer inside the needle."""
        return np.asarray(self.prompt.gold)

    @cached_property
    def match(self) -> Floats:
        """[T, N] probability that a row copies from a gold position."""
        held = np.asarray(self.prompt.ids)[self.gold]
        return np.asarray((held == np.asarray(self.prompt.answer)[:, None]) / self.keys[:, None])

    @cached_property
    def typed(self) -> Floats:
        """[T, distinct tokens] probability that a row copies a token."""
        held = np.asarray(self.prompt.ids)[self.gold]
        return np.stack([self.match[:, held == token].sum(axis=1) for token in np.unique(held)], axis=1)

    @property
    def reasoning(self) -> float | None:
        """Share of the gold positions among all keys but sink and local window; None where a row has no others."""
        seen = np.arange(len(self.prompt.ids))
        middle = (seen >= SINK_TOKENS) & (seen <= self.rows[:, None] - LOCAL_WINDOW)
        if not middle.any(axis=1).all():
            return None
        return float(np.mean(middle[:, self.gold].sum(axis=1) / middle.sum(axis=1)))

    def share(self, spans: tuple[Span, ...]) -> float:
        """Share of the keys that lie in some spans, mean over rows."""
        return float(np.mean(tokens_in(spans) / self.keys))


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


def tokens_in(spans: tuple[Span, ...]) -> int:
    """How many tokens some spans hold."""
    return sum(stop - start for start, stop in spans)


def ever(chance: Floats) -> Floats:
    """Probability that something happens at one row at least; rows on the first axis."""
    return np.asarray(1 - np.prod(1 - chance, axis=0))
