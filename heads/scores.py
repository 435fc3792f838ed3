"""Retrieval scores of one checkpoint as a value: numpy only, saved and loaded without torch."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.artifacts import read_artifact, write_artifact
from checkpoints.errors import BadPrompt, StoreError
from heads.names import head_name, head_names, parse_head
from heads.stats import Estimate, Floats, bootstrap, nanmean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "retrieval_scores"
THRESHOLD = 0.1


def retrieves(mean: Floats, threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    """Whether a mean score is strictly above the threshold, float32 rounding of exact tenths aside."""
    return np.asarray(np.round(mean.astype(float), 6) > threshold)


@dataclass(frozen=True, slots=True)
class HeadScore:
    """Retrieval score of one head: the share of the answer's tokens it copies, 0 to 1."""

    name: str
    layer: int
    head: int
    score: Estimate
    per_prompt: Floats = field(repr=False)


@dataclass(frozen=True)
class RetrievalScores:
    """How much each head retrieves, and how well the model answers, prompt by prompt.

    Scores are shares in [0, 1], larger meaning more retrieval. NaN means *not applicable* (a layer without
    attention rows, a needle outside a layer's window) and is left out of every mean. N prompts, L layers, H heads,
    T tokens of the longest answer.

    Attributes:
        detectors: name -> [N, L, H] float32. ``copy`` is the retrieval score of arXiv 2604.02650, section 3.3 (set
            reading: distinct answer tokens copied / distinct answer tokens); ``needle_mass`` the attention on the
            answer inside the needle, mean over rows; the rest as `heads.DETECTORS` says.
        nll: [N, T] float32, nats per teacher-forced answer token, NaN beyond an answer's end.
        correct: [N] bool, every answer token is the most likely one: greedy decoding would answer right.
        depth: [N] share of the haystack before the needle, as achieved.
        needle: [N] which needle a prompt hides; prompts of one needle are not independent.
        meta: prompt hash, length, model facts.
    """

    detectors: Mapping[str, Floats]
    nll: Floats
    correct: NDArray[np.bool_]
    depth: Floats
    needle: NDArray[np.integer]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def copy(self) -> Floats:
        """[N, L, H] retrieval score, set reading."""
        return self.detectors["copy"]

    @property
    def needle_mass(self) -> Floats:
        """[N, L, H] attention mass on the answer inside the needle."""
        return self.detectors["needle_mass"]

    @cached_property
    def mean(self) -> Floats:
        """[L, H] retrieval score, mean over the prompts to which it applies."""
        return nanmean(self.copy)

    @cached_property
    def accepted_mean(self) -> Floats:
        """[L, H] the same over the prompts the model answers right (the gate of arXiv 2404.15574)."""
        return nanmean(self.copy[self.correct]) if self.correct.any() else np.full(self.shape, np.nan)

    @cached_property
    def interval(self) -> tuple[Floats, Floats]:
        """Ends of the 95 % bootstrap interval of `mean` over prompts, each [L, H]."""
        return bootstrap(self.copy)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return self.copy.shape[1], self.copy.shape[2]

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def prompt_nll(self) -> Floats:
        """[N] nats per answer token, mean over each answer."""
        return nanmean(self.nll, axis=1)

    @property
    def answer_nll(self) -> float:
        """Nats per answer token, over all answer tokens."""
        return float(np.nanmean(self.nll))

    @property
    def answer_ppl(self) -> float:
        """Exponential of the mean NLL over all answer tokens; a mean of exponentials would be one cell's."""
        return float(np.exp(self.answer_nll))

    @property
    def needle_accuracy(self) -> float:
        """Share of prompts answered right, 0 to 1."""
        return float(self.correct.mean())

    @property
    def chance(self) -> float:
        """Score of a head that attends to some key at random, to first order: one in the context's length."""
        return float(self.meta["chance"])

    def count(self, threshold: float = THRESHOLD) -> int:
        """Number of retrieval heads: mean score strictly above the threshold."""
        return int(np.sum(retrieves(self.mean, threshold)))

    def top(self, k: int = 10, *, by: str = "copy") -> tuple[HeadScore, ...]:
        """The k heads with the highest mean of a detector, best first; ties in layer order."""
        mean = np.nan_to_num(nanmean(self.detector(by)), nan=-np.inf).ravel()
        best = np.argsort(-mean, kind="stable")[:k]
        return tuple(self._head(int(i) // self.shape[1], int(i) % self.shape[1], by) for i in best if mean[i] > -np.inf)

    def detector(self, name: str) -> Floats:
        """[N, L, H] of a detector by name.

        Raises:
            BadPrompt: not measured here.
        """
        if name not in self.detectors:
            raise BadPrompt(f"detector {name!r} was not measured; this result has {sorted(self.detectors)}")
        return self.detectors[name]

    def __getitem__(self, name: str) -> HeadScore:
        return self._head(*parse_head(name, self.shape), "copy")

    def _head(self, layer: int, head: int, by: str) -> HeadScore:
        values = self.detector(by)[:, layer, head]
        low, high = bootstrap(values)
        applies = int((~np.isnan(values)).sum())
        estimate = Estimate(float(nanmean(values)), float(low), float(high), applies)
        return HeadScore(head_name(layer, head), layer, head, estimate, values)

    def to_frame(self) -> "pd.DataFrame":
        """One row a head: name, layer, head, n, mean and interval of the score, and the mean of every detector."""
        import pandas as pd

        layers, heads = np.indices(self.shape)
        low, high = self.interval
        columns: dict[str, Any] = {
            "name": head_names(self.shape),
            "layer": layers.ravel(),
            "head": heads.ravel(),
            "n": (~np.isnan(self.copy)).sum(axis=0).ravel(),
            "score": self.mean.ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
            "accepted_mean": self.accepted_mean.ravel(),
        }
        others = {k: nanmean(v).ravel() for k, v in self.detectors.items() if k != "copy"}
        return pd.DataFrame(columns | others)

    def to_head_lists(self) -> dict[str, list[float]]:
        """``{"layer-head": [score of each prompt]}``, the JSON that the published tools load; NaN left out."""
        layers, heads = self.shape
        return {
            f"{x}-{y}": [float(v) for v in self.copy[:, x, y] if not np.isnan(v)]
            for x in range(layers)
            for y in range(heads)
        }

    def plot(self, *, by: str = "copy") -> "go.Figure":
        """Heat map of a detector, layers x heads."""
        from heads.plots import plot_scores

        return plot_scores(self, by=by)

    def summary(self) -> str:
        """One sentence: heads, best head, accuracy, perplexity."""
        best = self.top(1)
        lead = f"the best is {best[0].name} at {best[0].score}" if best else "no layer has attention rows"
        return (
            f"{self.count()} of {self.mean.size} heads retrieve (score > {THRESHOLD}); {lead}; needle accuracy "
            f"{self.needle_accuracy:.1%}, answer PPL {self.answer_ppl:.3g}, over {len(self)} prompts of "
            f"{self.meta['length']} tokens"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{h.name}</td><td>{h.score.value:.3f}</td><td>[{h.score.low:.3f}, {h.score.high:.3f}]</td></tr>"
            for h in self.top(10)
        )
        head = "<tr><th>head</th><th>score</th><th>95 % interval</th></tr>"
        return f"<p>{html.escape(self.summary())}</p><table>{head}{rows}</table>"

    def save(self, folder: Path | str) -> Path:
        """Write the result to a folder, atomically."""
        arrays: dict[str, np.ndarray] = {
            f"detector.{name}": np.asarray(values) for name, values in self.detectors.items()
        }
        arrays |= {"nll": self.nll, "correct": self.correct, "depth": self.depth, "needle": self.needle}
        return write_artifact(folder, KIND, {"about": dict(self.meta)}, arrays)

    @classmethod
    def load(cls, folder: Path | str) -> "RetrievalScores":
        """Read what `save` wrote.

        Raises:
            StoreError: nothing there, damaged, or of another kind.
        """
        meta, arrays = read_artifact(folder, KIND)
        detectors = {k.removeprefix("detector."): v for k, v in arrays.items() if k.startswith("detector.")}
        try:
            rest = {name: arrays[name] for name in ("nll", "correct", "depth", "needle")}
            return cls(detectors, meta=meta["about"], **rest)
        except KeyError as missing:
            raise StoreError(f"{folder} lacks {missing}: delete the folder and run again") from missing
