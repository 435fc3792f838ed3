"""Every detector that the answer rows of one pass can feed: formulas on arrays, one row of the table each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heads.detect.catalogue import LOCAL_WINDOW, SINK_TOKENS
from heads.detect.readings import copy_readings
from heads.prompts.needles import NeedlePrompt
from heads.rows.reduce import KeyGroups, RowStats
from heads.scores.stats import Floats

GROUPS = ("answer", "needle", "distractors", "first_token", "sink", "middle", "answer_middle", "all")


def answer_groups(prompts: Sequence[NeedlePrompt], size: int, device: torch.device) -> KeyGroups:
    """The groups of `GROUPS` for a batch of prompts padded to ``size`` tokens."""
    spans = torch.zeros(len(prompts), size, 3, dtype=torch.bool, device=device)
    for b, prompt in enumerate(prompts):
        groups = (prompt.answer_spans, prompt.needle_spans, prompt.distractor_spans)
        for group, members_ in enumerate(groups):
            for span in members_:
                spans[b, slice(*span), group] = True

    def members(rows: Tensor, keys: Tensor) -> Tensor:
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
    def of(stats: RowStats) -> "LayerRows":
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


def answer_detectors(layer: LayerRows, prompt: NeedlePrompt) -> dict[str, Floats]:
    """Every detector of the answer rows, each [H]; see `heads.DETECTORS`."""
    ids, answer = np.asarray(prompt.ids), np.asarray(prompt.answer)
    gold = np.asarray(prompt.gold)
    size = len(gold)
    mass = {name: layer.mass[..., g] for g, name in enumerate(GROUPS)}
    others = layer.reach[:, GROUPS.index("all")] - size
    spread = size / np.maximum(others, 1)
    on_answer = np.isin(layer.top_index[..., :size], gold)
    with np.errstate(invalid="ignore", divide="ignore"):
        reasoning = np.where(mass["middle"] > 0, mass["answer_middle"] / mass["middle"], np.nan)
    nothing = np.full(len(layer.argmax), np.nan)
    values = copy_readings(layer.argmax, ids, answer, gold)
    values |= {
        "needle_mass": mass["answer"].mean(axis=1),
        "spatial": (mass["answer"] - spread * (mass["all"] - mass["answer"])).mean(axis=1),
        "headkv": (layer.top_weight[..., :size] * on_answer).sum(axis=(1, 2)) / size,
        "reasoning": reasoning.mean(axis=1),
        "contextual": mass["needle"].mean(axis=1),
        "distractor_mass": mass["distractors"].mean(axis=1) if prompt.distractor_spans else nothing,
        "sink_mass": mass["sink"].mean(axis=1),
        "first_token": mass["first_token"].mean(axis=1),
        "learned_sink": layer.sink.mean(axis=1) if layer.sink.any() else nothing,
        "entropy": layer.entropy.mean(axis=1),
    }
    if layer.written is not None:
        total, answer_part = layer.written[..., GROUPS.index("all")], layer.written[..., GROUPS.index("answer")]
        raw, frozen = (answer_part - spread * (total - answer_part)).mean(axis=2)
        values |= {"locos": raw, "locos_frozen": frozen}
    return values
