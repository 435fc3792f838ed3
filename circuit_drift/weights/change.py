"""The change of weights as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.figure import UNSIGNED, dress
from checkpoints.results.result import Result
from circuit_drift.page.page import Section

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class WeightChange(Result):
    """How much the weights changed from checkpoint A to checkpoint B, without a prompt.

    A relative change is the Frobenius norm of B minus A over that of A, in [0, inf); a cosine of 1 is the same up to
    size. A head's QK map takes a pair of normalised stream vectors to its score (at distance 0 under rotary embedding),
    its OV map a stream vector to what it writes; the gain of the norm in front and biases are in them.

    Attributes:
        a, b: what the checkpoints are called.
        names, kinds, layers: of the components whose own weights are compared; layer -1 stands for none.
        relative, cosine: of each.
        qk, qk_cosine, ov, ov_cosine: [layers, heads] of the heads' maps; NaN where there are none.
        notes: what the numbers leave out.
    """

    artifact: ClassVar[str] = "weight-change"
    title: ClassVar[str] = "Weights"

    a: str
    b: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    relative: Floats
    cosine: Floats
    qk: Floats
    qk_cosine: Floats
    ov: Floats
    ov_cosine: Floats
    notes: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The largest changes."""
        if not self.relative.any() and not np.nan_to_num(self.qk).any():
            return f"Weights: {self.a} and {self.b} hold equal ones."
        frame = self.to_frame()
        told = []
        for what, kinds in (("QK map", ["QK"]), ("OV map", ["OV"])):
            own = frame[frame["kind"].isin(kinds)]
            if len(own):
                lead = own.iloc[0]
                turned = (
                    f", cosine {lead['cosine']:.3f}" if lead["cosine"] == lead["cosine"] else ""
                )  # NaN: one is zero
                size = f"{lead['component']} ({lead['relative']:.2g}{turned})"
                told.append(f"largest {what} {size}" if lead["relative"] else f"no {what} changed")
        others = frame[~frame["kind"].isin(["QK", "OV", "q", "k", "v", "o"])]
        if len(others):
            lead = others.iloc[0]
            size = f"of other components {lead['component']} ({lead['relative']:.2g})"
            told.append(size if lead["relative"] else "no other component")
        return f"Weights, relative change from {self.a} to {self.b}: {'; '.join(told)}."

    def to_frame(self) -> "pd.DataFrame":
        """One row a head's map (``a1.h2`` with kind QK or OV) and a component, the largest relative change first."""
        import pandas as pd

        rows = [
            (f"a{layer}.h{head}", kind, layer, relative[layer, head], cosine[layer, head])
            for kind, relative, cosine in (("QK", self.qk, self.qk_cosine), ("OV", self.ov, self.ov_cosine))
            for layer, head in np.ndindex(relative.shape)
            if relative[layer, head] == relative[layer, head]
        ]
        rows += [
            (name, kind, None if layer < 0 else layer, relative, cosine)
            for name, kind, layer, relative, cosine in zip(
                self.names, self.kinds, self.layers, self.relative, self.cosine, strict=True
            )
        ]
        frame = pd.DataFrame(rows, columns=["component", "kind", "layer", "relative", "cosine"])
        frame["layer"] = pd.Series([row[2] for row in rows], dtype=object)
        return frame.sort_values("relative", ascending=False, kind="stable", ignore_index=True)

    def plot(self) -> "go.Figure":
        """Layers x heads: relative change of the QK maps and of the OV maps."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(1, 2, subplot_titles=("QK", "OV"), horizontal_spacing=0.1)
        reach = float(np.nanmax([self.qk, self.ov], initial=0.0)) or 1.0
        for column, values in enumerate((self.qk, self.ov), start=1):
            layers, heads = values.shape
            figure.add_trace(
                go.Heatmap(z=values, x=[f"h{i}" for i in range(heads)], y=[f"a{i}" for i in range(layers)],
                           colorscale=UNSIGNED, zmin=0, zmax=reach, showscale=column == 2),
                row=1, col=column,
            )  # fmt: skip
        return dress(
            figure,
            title=f"How much each head's maps changed, {self.a} → {self.b}",
            subtitle="Frobenius norm of B minus A over that of A; QK: what it looks for, OV: what it writes",
        )

    def section(self, *, anchor: str) -> Section:
        """Its section of a pair's page."""
        caption = " ".join(("Without a prompt; exact products of the heads' factors.", *self.notes))
        figure = None if np.isnan(self.qk).all() else self.plot()
        return Section(
            f"weights-{anchor}", "Weights", text=self.verdict, figure=figure, caption=caption, frame=self.to_frame()
        )
