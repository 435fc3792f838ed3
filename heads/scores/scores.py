"""Retrieval scores of one checkpoint as a value: numpy only, saved and loaded without torch."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.fields import pack, unpack
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from checkpoints.stats.bootstrap import Estimate
from checkpoints.stats.shares import score_interval
from checkpoints.stats.ttests import skewed_interval
from checkpoints.stats.units import Floats, independent_units, nanmean, nansd
from heads.scores.example import Example
from heads.scores.names import head_name, head_names, parse_head

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

THRESHOLD = 0.1
GATE = 0.5
"""Share of an answer beyond which a prompt is accepted (arXiv 2404.15574)."""
DIGITS, NEAR = 6, 2e-6
"""Decimals that count against a threshold, and how near to it they can matter."""
SHARES = ("copy", "needle_mass")
"""Detectors that are shares: no interval leaves 0 to 1, and few needles that agree tell no certainty."""


def retrieves(mean: Floats, threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    """Whether a mean score is strictly above the threshold, float32 rounding of exact tenths aside."""
    values = np.asarray(mean, dtype=float)
    found = np.asarray(values > threshold)
    near = np.abs(values - threshold) < NEAR
    if near.any():
        found = np.where(near, np.round(values, DIGITS) > threshold, found)
    return found


@dataclass(frozen=True, slots=True)
class HeadScore:
    """Retrieval score of one head: the share of the answer's tokens it copies, 0 to 1."""

    name: str
    layer: int
    head: int
    score: Estimate
    per_prompt: Floats = field(repr=False)


@dataclass(frozen=True, repr=False, kw_only=True)
class DetectorScores(Result):
    """Detector values of every head on every prompt.

    NaN means *not applicable* (a layer without attention rows, a needle outside a layer's window) and is left out of
    every mean. N prompts, L layers, H heads.

    Attributes:
        detectors: name -> [N, L, H] float32; `heads.detect.detectors.DETECTORS` says what each measures.
        kv_heads: number of KV heads; query head h reads from KV head h // (H / kv_heads).
        meta: prompt hash, length, model facts.
    """

    detectors: Mapping[str, Floats]
    kv_heads: int
    meta: Mapping[str, Any] = field(default_factory=dict)

    main: ClassVar[str] = ""
    artifact = "head_scores"
    shapes: ClassVar[Mapping[str, str]] = {"detectors": "N L H"}
    extra: ClassVar[tuple[str, ...]] = ()

    @property
    def leading(self) -> str:
        """The detector that `top` ranks by unless told otherwise."""
        return self.main or next(iter(self.detectors))

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        values = self.detector(self.leading)
        return values.shape[1], values.shape[2]

    def __len__(self) -> int:
        return len(self.detector(self.leading))

    @property
    def cluster(self) -> NDArray[np.integer]:
        """[N] which independent unit a prompt belongs to: its needle, if it hides one."""
        return independent_units(np.asarray(self.meta.get("needle", range(len(self)))))[1]

    def detector(self, name: str) -> Floats:
        """[N, L, H] of a detector by name.

        Raises:
            BadPrompt: not measured here.
        """
        if name not in self.detectors:
            raise BadPrompt(f"detector {name!r} was not measured; this result has {sorted(self.detectors)}")
        return self.detectors[name]

    def mean_of(self, name: str) -> Floats:
        """[L, H] mean of a detector over the prompts to which it applies."""
        return nanmean(self.detector(name))

    def groups(self, name: str = "", *, reduce: Literal["mean", "max"] = "mean") -> Floats:
        """[N, L, KV heads] of a detector: mean or maximum over the query heads that share a KV head."""
        values = self.detector(name or self.leading)
        grouped = values.reshape(*values.shape[:2], self.kv_heads, -1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.asarray((np.nanmean if reduce == "mean" else np.nanmax)(grouped, axis=-1))

    def top(self, k: int = 10, *, by: str = "") -> tuple[HeadScore, ...]:
        """The k heads with the highest mean of a detector, best first; ties in layer order."""
        name = by or self.leading
        mean = np.nan_to_num(self.mean_of(name), nan=-np.inf).ravel()
        best = np.argsort(-mean, kind="stable")[:k]
        return tuple(self._head(*divmod(int(i), self.shape[1]), name) for i in best if mean[i] > -np.inf)

    def __getitem__(self, name: str) -> HeadScore:
        return self._head(*parse_head(name, self.shape), self.leading)

    def _head(self, layer: int, head: int, by: str) -> HeadScore:
        values = self.detector(by)[:, layer, head]
        low, high = self._ends(by, values)
        applies = int((~np.isnan(values)).sum())
        estimate = Estimate(float(nanmean(values)), float(low), float(high), applies)
        return HeadScore(head_name(layer, head), layer, head, estimate, values)

    def _ends(self, name: str, values: Floats) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval of means over `cluster`."""
        return (score_interval if name in SHARES else skewed_interval)(values, self.cluster)

    def interval_of(self, name: str) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval of a detector's mean, each [L, H]; NaN with fewer than three units."""
        return self._ends(name, self.detector(name))

    def to_frame(self) -> "pd.DataFrame":
        """One row a head: name, layer, head, and the mean of every detector."""
        import pandas as pd

        layers, heads = np.indices(self.shape)
        columns: dict[str, Any] = {"name": head_names(self.shape), "layer": layers.ravel(), "head": heads.ravel()}
        return pd.DataFrame(columns | {name: self.mean_of(name).ravel() for name in self.detectors})

    def statistics(self, name: str = "", *, groups: Literal["mean", "max"] | None = None) -> "pd.DataFrame":
        """One row a head, or a KV group, for one detector: n, mean, sd, 95 % interval, accepted-only mean, chance.

        ``n`` counts prompts; the interval is over independent units (`cluster`), NaN with fewer than three
        (`checkpoints.stats.ttests.skewed_interval`, of shares `checkpoints.stats.shares.score_interval`).
        ``accepted_mean`` is over the prompts that pass the gate, ``chance`` what even attention would give
        (`heads.detect.detectors.chance_levels`); NaN where there is no such thing.

        Args:
            name: of the detector; the leading one unless given.
            groups: KV groups (``a5.kv0``) in the place of query heads, each the mean or the maximum of its heads; a
                maximum has no chance level.
        """
        import pandas as pd

        values = self.groups(name, reduce=groups) if groups else self.detector(name or self.leading)
        low, high = self._ends(name or self.leading, values)
        layers, heads = (index.ravel() for index in np.indices(values.shape[1:]))
        kind, column = ("kv", "kv_head") if groups else ("h", "head")
        chance = np.nan if groups == "max" else self.meta.get("chances", {}).get(name or self.leading, np.nan)
        return pd.DataFrame(
            {
                "name": [f"a{layer}.{kind}{head}" for layer, head in zip(layers, heads, strict=True)],
                "layer": layers,
                column: heads,
                "n": (~np.isnan(values)).sum(axis=0).ravel(),
                "mean": nanmean(values).ravel(),
                "sd": nansd(values).ravel(),
                "low": low.ravel(),
                "high": high.ravel(),
                "accepted_mean": self._accepted(values).ravel(),
                "chance": chance,
            }
        )

    def to_head_lists(self, *, by: str = "") -> dict[str, list[float]]:
        """``{"layer-head": [value of each prompt]}``, the JSON that the published tools load; NaN left out.

        Values are written as the shortest decimals of their float32, so that 0.1 stays at a threshold of 0.1.

        Args:
            by: the detector; the leading one unless given. The published scores are ``copy_count``.
        """
        values = self.detector(by or self.leading)
        return {
            f"{x}-{y}": [float(str(v)) for v in values[:, x, y] if not np.isnan(v)] for x, y in np.ndindex(self.shape)
        }

    def _accepted(self, values: Floats) -> Floats:
        """[L, H] mean over accepted prompts: none where nothing was answered."""
        return np.full(values.shape[1:], np.nan)

    def plot(self, *, by: str = "") -> "go.Figure":
        """Heat map of a detector, layers x heads."""
        from heads.scores.scores_view import plot_scores

        return plot_scores(self, by=by or self.leading)

    @property
    def verdict(self) -> str:
        """One sentence: the detectors and their best heads."""
        best = {name: self.top(1, by=name) for name in self.detectors}
        said = [f"{name}: {found[0].name} at {found[0].score}" for name, found in best.items() if found]
        return f"over {counted(len(self), 'prompt')}, {'; '.join(said)}"

    def _stored(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        arrays = {f"detector.{name}": np.asarray(values) for name, values in self.detectors.items()}
        arrays |= {name: values for name in self.extra if (values := getattr(self, name)) is not None}
        return {"about": dict(self.meta), "kv_heads": self.kv_heads, "detectors": list(self.detectors)}, arrays

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        detectors = {name: arrays[f"detector.{name}"] for name in document["detectors"]}
        rest = {name: arrays.get(name) if name == "steps" else arrays[name] for name in cls.extra}
        return cls(detectors=detectors, meta=document["about"], kv_heads=document["kv_heads"], **rest)

    def _table(self) -> str:
        rows = "".join(
            f"<tr><td>{h.name}</td><td>{h.score.value:.3f}</td><td>{_ends_of(h.score)}</td></tr>" for h in self.top(10)
        )
        return f"<table><tr><th>head</th><th>{self.leading}</th><th>95 % interval</th></tr>{rows}</table>"


def _ends_of(score: Estimate) -> str:
    return f"[{score.low:.3f}, {score.high:.3f}]" if np.isfinite(score.low) else "too few units"


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores(DetectorScores):
    """How much each head retrieves, and how well the model answers, prompt by prompt.

    T tokens of the longest answer. ``copy`` is the retrieval score of arXiv 2604.02650, section 3.3: a share in
    [0, 1], larger meaning more retrieval.

    Attributes:
        nll: [N, T] float32, nats per teacher-forced answer token, NaN beyond an answer's end; those of the true answer
            also where the model generated its own.
        correct: [N] bool, every answer token is the most likely one: greedy decoding would answer right. When the
            model generated: the answer stands in what it wrote.
        accepted: [N] bool, prompts that pass the gate of arXiv 2404.15574 and enter `accepted_mean`: more than half
            of the answer's tokens are the most likely ones (when the model generated: ROUGE-1 recall above a half).
        depth: [N] share of the haystack before the needle, as achieved.
        needle: [N] which needle a prompt hides; prompts of one needle are not independent.
        steps: [N, L, H, T] int8, 1 where a head copies at the step that predicts an answer token, 0 where not, -1
            where there is no such step or it does not apply; None where steps were not kept.
        example: what every head reads on one of the prompts; None where it was not kept.
    """

    nll: Floats
    correct: NDArray[np.bool_]
    accepted: NDArray[np.bool_]
    depth: Floats
    needle: NDArray[np.integer]
    steps: NDArray[np.int8] | None = None
    example: Example | None = None

    main: ClassVar[str] = "copy"
    artifact = "retrieval_scores"
    needed = ("prompts", "chance")
    shapes: ClassVar[Mapping[str, str]] = {
        "detectors": "N L H", "nll": "N T", "correct": "N", "accepted": "N", "depth": "N", "needle": "N",
        "steps": "N L H T",
    }  # fmt: skip
    extra: ClassVar[tuple[str, ...]] = ("nll", "correct", "accepted", "depth", "needle", "steps")

    def _flaws(self) -> Iterator[str]:
        if "copy" not in self.detectors or not len(self):
            yield "it has no retrieval score of any prompt"
        elif self.kv_heads < 1 or self.shape[1] % self.kv_heads:
            yield f"{self.shape[1]} heads cannot share {self.kv_heads} KV heads"
        elif self.example is not None:
            yield from self.example.flaws(self.shape)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        document, arrays = super()._stored()
        if self.example is not None:
            document["example"] = pack(self.example, "example", arrays)
        return document, arrays

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        found = super()._restored(document, arrays)
        example = document.get("example")
        return found if example is None else replace(found, example=unpack(Example, example, "example", arrays))

    @property
    def cluster(self) -> NDArray[np.integer]:
        """[N] which independent unit a prompt belongs to: its needle, if it hides one."""
        return independent_units(self.needle)[1]

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
        return self.mean_of("copy")

    @cached_property
    def accepted_mean(self) -> Floats:
        """[L, H] the same over accepted prompts only (the gate of arXiv 2404.15574); NaN when there are none."""
        return self._accepted(self.copy)

    def _accepted(self, values: Floats) -> Floats:
        return nanmean(values[self.accepted]) if self.accepted.any() else np.full(self.shape, np.nan)

    @cached_property
    def interval(self) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval of `mean` over needles, each [L, H]; NaN with fewer than three."""
        return self.interval_of("copy")

    @property
    def prompt_nll(self) -> Floats:
        """[N] nats per answer token, mean over each answer."""
        return nanmean(self.nll, axis=1)

    @property
    def answer_nll(self) -> float:
        """Nats per answer token, over all answer tokens."""
        return float(nanmean(self.nll.ravel()))

    @property
    def answer_ppl(self) -> float:
        """Exponential of the mean NLL over all answer tokens; a mean of exponentials would be one cell's."""
        return float(np.exp(self.answer_nll))

    @property
    def needle_accuracy(self) -> float:
        """Share of prompts answered right, 0 to 1."""
        return float(self.correct.mean())

    @property
    def needle_score(self) -> float:
        """Share of prompts that pass the gate, 0 to 1: the lenient criterion by which needle tests are scored."""
        return float(self.accepted.mean())

    @property
    def chance(self) -> float:
        """Score of a head that attends to some key at random, to first order: one in the context's length."""
        return float(self.meta["chance"])

    def count(self, threshold: float = THRESHOLD) -> int:
        """Number of retrieval heads: mean score strictly above the threshold."""
        return int(np.sum(retrieves(self.mean, threshold)))

    def to_frame(self) -> "pd.DataFrame":
        """One row a head: name, n, score with interval, accepted-only mean, chance, and every detector's mean."""
        frame = super().to_frame()
        low, high = self.interval
        about = {
            "n": (~np.isnan(self.copy)).sum(axis=0).ravel(),
            "score": self.mean.ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
            "accepted_mean": self.accepted_mean.ravel(),
            "chance": self.chance,
        }
        for place, (name, values) in enumerate(about.items(), 3):
            frame.insert(place, name, values)
        return frame.drop(columns="copy")

    @property
    def verdict(self) -> str:
        """One sentence: heads, best head, accuracy, perplexity, what they rest on, how many needles were refused."""
        best = self.top(1)
        lead = f"the best is {best[0].name} at {best[0].score}" if best else "no layer has attention rows"
        answered = f"needle score {self.needle_score:.1%}, accuracy {self.needle_accuracy:.1%}"
        if not np.isnan(self.answer_nll):
            answered += f", answer PPL {self.answer_ppl:.3g}"
        unit, cluster = independent_units(self.needle)
        refused = len(self.meta.get("refused", ()))
        return (
            f"{self.count()} of {self.mean.size} heads retrieve (score > {THRESHOLD}); {lead}; {answered}, over "
            f"{counted(len(self), 'prompt')} of {self.meta['length']} tokens (intervals over "
            f"{counted(len(np.unique(cluster)), unit)})"
            + (f"; {counted(refused, 'needle')} refused" if refused else "")
        )
