"""What an ablation did, and whether it did more than its controls: values, numpy only."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.artifacts import read_artifact, write_artifact
from heads.comparison import Change, independent_units
from heads.stats import Floats, cluster_means, paired_test

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "head_validation"
READOUT = "ablation"
_READINGS = ("correct", "nll", "text_nll")
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Readout:
    """What the model does with some heads ablated, prompt by prompt.

    Attributes:
        heads: ablated, by name; none for the model as it is.
        kind: what ablating meant.
        scope: at which positions.
        correct: [N] bool, the answer right token for token.
        nll: [N] nats per answer token.
        text_nll: [N] nats per token of plain haystack text, which needs no retrieval; larger after an ablation means
            damage beyond retrieval. With scope ``decode`` the text comes before what is touched.
    """

    heads: tuple[str, ...]
    kind: str
    scope: str
    correct: NDArray[np.bool_]
    nll: Floats
    text_nll: Floats

    @property
    def accuracy(self) -> float:
        """Share of prompts answered right."""
        return float(self.correct.mean())

    def summary(self) -> str:
        """One sentence: what was ablated, and what the model still does."""
        done = f"{', '.join(self.heads)} ablated ({self.kind}, {self.scope})" if self.heads else "nothing ablated"
        return (
            f"{done}: needle accuracy {self.accuracy:.1%}, answer NLL {self.nll.mean():.3g}, plain-text NLL "
            f"{self.text_nll.mean():.3g} nats per token, over {len(self.correct)} prompts"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row a prompt: correct, answer NLL, plain-text NLL."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in _READINGS})

    def plot(self) -> "go.Figure":
        """Answer NLL and plain-text NLL of every prompt, as boxes."""
        from heads.plots import plot_readout

        return plot_readout(self)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.summary())}</p>"

    def save(self, folder: Path | str) -> Path:
        """Write the result to a folder, atomically."""
        about = {"heads": list(self.heads), "ablation": self.kind, "scope": self.scope}
        return write_artifact(folder, READOUT, about, {name: getattr(self, name) for name in _READINGS})

    @classmethod
    def load(cls, folder: Path | str) -> "Readout":
        """Read what `save` wrote.

        Raises:
            StoreError: nothing there, damaged, or of another kind.
        """
        meta, arrays = read_artifact(folder, READOUT)
        return cls(tuple(meta["heads"]), meta["ablation"], meta["scope"], *(arrays[name] for name in _READINGS))


@dataclass(frozen=True, slots=True)
class Validation:
    """The tested heads' ablation beside the unablated model and matched random controls.

    Attributes:
        baseline: nothing ablated.
        tested: the top heads ablated.
        controls: as many other heads of the same layers, several draws.
        needle: [N] which needle a prompt hides.
        meta: model and prompts.
    """

    baseline: Readout
    tested: Readout
    controls: tuple[Readout, ...]
    needle: NDArray[np.integer]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> Change:
        """Needle accuracy, from the mean over the controls to the tested heads."""
        return self._against_controls("needle accuracy", "correct")

    @property
    def nll(self) -> Change:
        """Answer NLL, from the mean over the controls to the tested heads."""
        return self._against_controls("answer NLL (nats per token)", "nll")

    @property
    def text_nll(self) -> Change:
        """NLL of plain text, from the mean over the controls to the tested heads."""
        return self._against_controls("plain-text NLL (nats per token)", "text_nll")

    @property
    def causal(self) -> bool:
        """Ablating the tested heads raises the answer NLL significantly more than ablating the controls."""
        return bool(self.nll.delta > 0 and self.nll.p <= LEVEL)

    @property
    def verdict(self) -> str:
        """The finding in one sentence, with its numbers."""
        tested, n = self.tested, len(self.controls)
        answer = "are" if self.causal else "are not shown to be"
        spared = np.mean([c.accuracy for c in self.controls])
        also = self.meta.get("retrieving_controls", 0.0)
        note = f" ({also:.1f} heads of each retrieve too, for want of others)" if also else ""
        return (
            f"{', '.join(tested.heads)} {answer} causal for retrieval here: ablated ({tested.kind}, {tested.scope}), "
            f"needle accuracy goes from {self.baseline.accuracy:.1%} to {tested.accuracy:.1%}, against {spared:.1%} "
            f"for {n} random sets of the same layers{note}; {self.nll}; {self.text_nll}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row an ablation: heads, accuracy, answer NLL, plain-text NLL."""
        import pandas as pd

        named = [("baseline", self.baseline), ("tested", self.tested)]
        named += [(f"control {i}", control) for i, control in enumerate(self.controls, 1)]
        return pd.DataFrame(
            {
                "ablation": name,
                "heads": ", ".join(run.heads),
                "needle_accuracy": run.accuracy,
                "answer_nll": float(run.nll.mean()),
                "text_nll": float(run.text_nll.mean()),
            }
            for name, run in named
        )

    def plot(self) -> "go.Figure":
        """Needle accuracy and NLLs of the model as it is, the tested heads and the controls."""
        from heads.plots import plot_validation

        return plot_validation(self)

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format="{:.3g}".format)
        return f"<p>{html.escape(self.verdict)}</p>{table}"

    def _against_controls(self, name: str, what: str) -> Change:
        _, cluster = independent_units(np.asarray(self.needle))
        tested = np.asarray(getattr(self.tested, what), dtype=float)
        spared = np.mean([np.asarray(getattr(c, what), dtype=float) for c in self.controls], axis=0)
        test = paired_test(cluster_means(spared, cluster), cluster_means(tested, cluster))
        spread = (float(test.delta), float(test.low), float(test.high), float(test.p))
        return Change(name, float(spared.mean()), float(tested.mean()), *spread)

    def save(self, folder: Path | str) -> Path:
        """Write the result to a folder, atomically."""
        runs = (self.baseline, self.tested, *self.controls)
        about = [{"heads": list(r.heads), "kind": r.kind, "scope": r.scope} for r in runs]
        arrays = {name: np.stack([getattr(r, name) for r in runs]) for name in _READINGS}
        meta = {"about": dict(self.meta), "runs": about}
        return write_artifact(folder, KIND, meta, {**arrays, "needle": self.needle})

    @classmethod
    def load(cls, folder: Path | str) -> "Validation":
        """Read what `save` wrote.

        Raises:
            StoreError: nothing there, damaged, or of another kind.
        """
        meta, arrays = read_artifact(folder, KIND)
        runs = [
            Readout(tuple(r["heads"]), r["kind"], r["scope"], *(arrays[n][i] for n in _READINGS))
            for i, r in enumerate(meta["runs"])
        ]
        return cls(runs[0], runs[1], tuple(runs[2:]), needle=arrays["needle"], meta=meta["about"])
