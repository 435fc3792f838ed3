"""How well a checkpoint answers over length and depth, and over distance and interference: both maps as a result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.results.result import Result
from checkpoints.stats.bootstrap import Estimate
from heads.niah.grid import NeedleMap
from heads.scores.scores import GATE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class NeedleMaps(Result):
    """The maps of arXiv 2604.02650 of one checkpoint.

    Attributes:
        depth: length x depth (its figures 2, 3 and 7).
        interference: distance x text before the needle (figures 8 and 9); None where no needle can be placed so.
        meta: what they were measured on.
    """

    artifact, title = "needle_maps", "Needle maps"

    depth: NeedleMap
    interference: NeedleMap | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answer_ppl(self) -> float:
        """Answer perplexity over the cells of length and depth."""
        return float(np.exp(self.depth.mean_nll))

    @property
    def needle_score(self) -> float:
        """Share of its prompts with over half of the answer's tokens right."""
        recall = self.depth.recall
        return float("nan") if recall is None else float(np.mean(recall > GATE))

    @property
    def middle_penalty(self) -> Estimate | None:
        """See `NeedleMap.middle_penalty`; None where the depths do not allow it."""
        try:
            return self.depth.middle_penalty()
        except BadPrompt:
            return None

    @property
    def interference_cost(self) -> Estimate | None:
        """See `NeedleMap.interference_cost`; None where there is no map over interference."""
        try:
            return None if self.interference is None else self.interference.interference_cost()
        except BadPrompt:
            return None

    @property
    def verdict(self) -> str:
        """The map over length and depth in a sentence, and what interference costs."""
        cost = self.interference_cost
        beside = "" if cost is None else f"; interference costs {cost} nats per token"
        return f"{self.depth.verdict}{beside}"

    def to_frame(self) -> "pd.DataFrame":
        """One row a cell of either map: map, row, column, and what `NeedleMap.to_frame` says of it."""
        import pandas as pd

        frames = []
        for part in (self.depth, self.interference):
            if part is not None:
                frame = part.to_frame().rename(columns=dict(zip(part.axes, ("row", "column"), strict=True)))
                frame.insert(0, "map", " x ".join(part.axes))
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def plot(self) -> "go.Figure":
        """The map over length and depth."""
        return self.depth.plot()
