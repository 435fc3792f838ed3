"""The ledger: which units are known at each step, what became of them, and how sure that is."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.result import Result
from checkpoints.stats.bootstrap import wilson_interval
from circuit_drift.knowledge.diverging import Divergence, divergence
from circuit_drift.knowledge.history import Spell, Survival, spells, survival
from circuit_drift.knowledge.resampling import FEWEST_PROBES, Resampled, reaches, resample
from circuit_drift.knowledge.scores import UnitScores
from circuit_drift.knowledge.transitions import Bools, Transitions, transitions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

THRESHOLD = 0.6
"""Mean ROUGE-1 recall from which arXiv 2601.03858 calls an entity learned."""
SUPPORT = 0.95


@dataclass(frozen=True, repr=False)
class Ledger(Result):
    """What is known at each step; everything follows from the scores and the threshold.

    Attributes:
        scores: what was measured.
        threshold: a unit is known iff its mean score is at least this.
        support: share of probe resamples that must repeat an acquisition, else it cannot be told from flicker.
        draws: resamples of the probes.
        seed: of the resamples.
    """

    artifact = "knowledge_ledger"

    scores: UnitScores
    threshold: float = THRESHOLD
    support: float = SUPPORT
    draws: int = 1000
    seed: int = 0

    @cached_property
    def known(self) -> Bools:
        """[U, S] whether a unit is known."""
        return reaches(self.scores.mean, self.threshold)

    @cached_property
    def moves(self) -> Transitions:
        """Acquired, retained, forgotten, relearned: [U, S] each."""
        return transitions(self.known, self.scores.asked)

    @cached_property
    def spells(self) -> tuple[Spell, ...]:
        """Every stretch of checkpoints at which a unit was known."""
        return spells(self.known, self.scores.asked, self.scores.steps)

    @cached_property
    def resampled(self) -> Resampled | None:
        """The same under resampling of probes; None where units have one score a step."""
        if self.scores.probes.shape[2] < 2:
            return None
        return resample(self.scores, self.threshold, draws=self.draws, seed=self.seed)

    @cached_property
    def noise(self) -> Bools:
        """[U, S] acquisitions that cannot be told from flicker, as resampling probes undoes them.

        Many of them are real: of units that go from .1 to .8, two thirds with 5 probes and a third with 10. All False
        of units with fewer than five probes, of which nothing is said.
        """
        if self.resampled is None:
            return np.zeros_like(self.known)
        return self.moves.acquired & self.told[:, None] & (self.resampled.acquired < self.support)

    @cached_property
    def told(self) -> NDArray[np.bool_]:
        """[U] units with probes enough to speak of flicker."""
        return np.asarray((~np.isnan(self.scores.probes)).any(axis=1).sum(axis=1) >= FEWEST_PROBES)

    def interval(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[S] ends of the 95 % interval of a count, as if the units were drawn from many like them.

        Wilson's interval of the share of the units asked, times their number; it holds the count itself.

        Args:
            name: ``known``, ``acquired``, ``retained``, ``forgotten`` or ``relearned``.
        """
        asked = self.scores.asked.sum(axis=0)
        counts = (self.known if name == "known" else getattr(self.moves, name)).sum(axis=0)
        low, high = wilson_interval(counts, asked)
        return low * asked, high * asked

    @property
    def newly_learned(self) -> NDArray[np.bool_]:
        """[U] not known at the first step, known at some later one."""
        return np.asarray(self.scores.asked[:, 0] & ~self.known[:, 0] & self.known.any(axis=1))

    @property
    def retained(self) -> NDArray[np.bool_]:
        """[U] known at the first step and at the last."""
        return np.asarray(self.known[:, 0] & self.known[:, -1])

    @property
    def consolidated(self) -> NDArray[np.bool_]:
        """[U] acquired in the run and held to its end through at least two further checkpoints."""
        found = np.zeros(len(self.scores.units), dtype=bool)
        found[[spell.unit for spell in self.spells if spell.consolidated]] = True
        return found

    def by(self, label: str) -> dict[str, "Ledger"]:
        """A ledger for each value of a label, in order of first appearance."""
        return {value: replace(self, scores=part) for value, part in self.scores.groups(label).items()}

    def survival(self) -> Survival:
        """How long what was acquired is kept; see `history.survival`."""
        return survival(self.spells)

    def divergence(self, loss: Mapping[int, float], *, unit: str = "intervals") -> Divergence:
        """Loss against mean score; see `diverging.divergence`."""
        return divergence(self.scores, loss, unit=unit)

    def to_frame(self, by: str | None = None) -> "pd.DataFrame":
        """One row a step (and value of ``by``): counts with intervals, mean score, perhaps flicker (``noise``)."""
        import pandas as pd

        if by is not None:
            return pd.concat(
                [part.to_frame().assign(**{by: value}) for value, part in self.by(by).items()], ignore_index=True
            )
        columns: dict[str, object] = {"step": self.scores.steps, "asked": self.scores.asked.sum(axis=0)}
        columns |= {"mean": [float(np.nanmean(m)) if a.any() else np.nan for m, a in self._columns()]}
        for name in ("known", "acquired", "retained", "forgotten", "relearned"):
            columns[name] = (self.known if name == "known" else getattr(self.moves, name)).sum(axis=0)
            columns |= {f"{name}_{end}": ends for end, ends in zip(("low", "high"), self.interval(name), strict=True)}
        columns["noise"] = self.noise.sum(axis=0) if self.told.any() else np.nan
        return pd.DataFrame(columns)

    def units_frame(self) -> "pd.DataFrame":
        """One row a unit: its labels, first acquisition with its window, losses, relearning, how it ends."""
        import pandas as pd

        rows = []
        for index, unit in enumerate(self.scores.units):
            first = next((s for s in self.spells if s.unit == index and s.before is not None), None)
            rows.append(
                {
                    "unit": unit,
                    **{name: values[index] for name, values in self.scores.labels.items()},
                    "known_first": bool(self.known[index, 0]),
                    "not_yet_at": first.before if first else None,
                    "acquired_at": first.first if first else None,
                    "times_forgotten": int(self.moves.forgotten[index].sum()),
                    "times_relearned": int(self.moves.relearned[index].sum()),
                    "known_last": bool(self.known[index, -1]),
                    "consolidated": bool(self.consolidated[index]),
                    "noise": bool(self.noise[index].any()),
                }
            )
        return pd.DataFrame(rows).astype({"not_yet_at": "Int64", "acquired_at": "Int64"})

    def sensitivity(self, thresholds: Sequence[float] = (0.4, 0.5, 0.6, 0.7, 0.8)) -> "pd.DataFrame":
        """The run's outcome at other thresholds: one row each."""
        import pandas as pd

        return pd.DataFrame([{"threshold": t, **replace(self, threshold=t).outcome} for t in thresholds])

    @property
    def outcome(self) -> dict[str, int]:
        """The whole run in counts of units (``acquisitions`` and ``losses`` count events)."""
        return {
            "known_first": int(self.known[:, 0].sum()),
            "known_last": int(self.known[:, -1].sum()),
            "best": int(self.known.sum(axis=0).max()),
            "newly_learned": int(self.newly_learned.sum()),
            "newly_learned_held": int((self.newly_learned & self.known[:, -1]).sum()),
            "kept": int(self.retained.sum()),
            "consolidated": int(self.consolidated.sum()),
            "acquisitions": int(self.moves.acquired.sum()),
            "relearned": int(self.moves.relearned.sum()),
            "losses": int(self.moves.forgotten.sum()),
        }

    @property
    def findings(self) -> tuple[str, ...]:
        """What the numbers say, a sentence each."""
        from circuit_drift.knowledge.ledger_view import findings

        return findings(self)

    def plot(self) -> "go.Figure":
        """Known, acquired, retained and forgotten over the steps."""
        from circuit_drift.knowledge.ledger_view import plot_ledger

        return plot_ledger(self)

    def _columns(self) -> list[tuple[NDArray[np.float64], Bools]]:
        return list(zip(self.scores.mean.T, self.scores.asked.T, strict=True))

    @property
    def verdict(self) -> str:
        """The findings, after one another."""
        return "; ".join(self.findings)

    def _stored(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
        scores = self.scores
        about = {name: getattr(scores, name) for name in ("units", "steps", "name")}
        about |= {name: getattr(self, name) for name in ("threshold", "support", "draws", "seed")}
        return {**about, "labels": dict(scores.labels)}, {"probes": scores.probes}

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float64]]) -> "Ledger":
        labels = {name: tuple(values) for name, values in document["labels"].items()}
        steps, units = tuple(document["steps"]), tuple(document["units"])
        scores = UnitScores(units, steps, arrays["probes"], labels, document["name"])
        return cls(scores, *(document[name] for name in ("threshold", "support", "draws", "seed")))

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.findings)
        names = ["step", "asked", "mean", "known", "acquired", "retained", "forgotten", "relearned", "noise"]
        return f"<ul>{said}</ul>" + str(self.to_frame()[names].to_html(index=False, float_format="{:.3g}".format))


def ledger(
    scores: UnitScores, *, threshold: float = THRESHOLD, support: float = SUPPORT, draws: int = 1000, seed: int = 0
) -> Ledger:
    """Keep the ledger of a run.

    Args:
        scores: from `read_scores`, `scores_from_frame`, `series_scores` or `graph_scores`.
        threshold: a unit is known iff its mean score is at least this.
        support: share of probe resamples that must repeat an acquisition for it to be told from flicker.
        draws: resamples of the probes.
        seed: of the resamples.

    Raises:
        BadPrompt: the threshold is no number, or the support no share.
    """
    if not np.isfinite(threshold):
        raise BadPrompt(f"threshold {threshold} is no number; give the score from which a unit is known")
    if not 0 < support <= 1:
        raise BadPrompt(f"support {support} is no share of resamples; give one in (0, 1]")
    return Ledger(scores, threshold, support, draws, seed)
