"""Which experts a mixture-of-experts model sends tokens to, and which it sends needle answers to: numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.result import Result
from checkpoints.stats.changes import moderated_test
from checkpoints.stats.units import Floats, cluster_means, independent_units, nanmean

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("text", "needle", "answer")
"""Which tokens: those of haystack and question, those of the needle, and those whose rows predict the answer."""
LEVEL = 0.05


@dataclass(frozen=True, repr=False)
class ExpertRouting(Result):
    """Share of the routing slots that each expert gets; a token fills top-k slots of every mixture.

    N prompts, L layers, E experts.

    Attributes:
        shares: [N, 3, L, E] for each of `KINDS`, summing to 1 over the experts; NaN in layers without experts.
        needle: [N] which needle a prompt hides.
        meta: prompts, experts a token, model.
    """

    artifact, title = "expert_routing", "Expert routing"

    shares: Floats
    needle: NDArray[np.integer]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def share(self, kind: str) -> Floats:
        """[L, E] mean over the prompts.

        Raises:
            BadPrompt: an unknown kind of tokens.
        """
        if kind not in KINDS:
            raise BadPrompt(f"no tokens are called {kind!r}; there are {', '.join(KINDS)}")
        return nanmean(self.shares[:, KINDS.index(kind)])

    def entropy(self, kind: str) -> Floats:
        """[L] entropy of `share` over that of even routing: 1 = all experts alike, 0 = one alone; NaN without any."""
        share = self.share(kind)
        logs = np.log(share, where=share > 0, out=np.zeros_like(share))
        return np.asarray(-(share * logs).sum(axis=1) / np.log(share.shape[1]))

    @property
    def answer_shift(self) -> Floats:
        """[L] total variation between the routing of answers and of text: the share of slots that moves, 0 to 1."""
        return variation(self.share("answer"), self.share("text"))

    def drift(self, other: "ExpertRouting") -> Floats:
        """[L] total variation of the text's routing between two checkpoints, this one and another.

        Raises:
            CheckpointMismatch: other layers or experts.
        """
        if self.shares.shape[2:] != other.shares.shape[2:]:
            raise CheckpointMismatch(f"{self.shares.shape[2:]} layers x experts against {other.shares.shape[2:]}")
        return variation(self.share("text"), other.share("text"))

    def to_frame(self) -> "pd.DataFrame":
        """One row an expert, the one that answers use most beyond text first.

        Columns: layer, expert, text, needle, answer (shares of the slots), delta (answer - text) with its 95 % interval
        over needles, q over all experts.
        """
        import pandas as pd

        _, cluster = independent_units(np.asarray(self.needle))
        layers = np.flatnonzero(~np.isnan(self.share("text")).all(axis=1))
        text, answer = (
            cluster_means(self.shares[:, KINDS.index(kind)][:, layers], cluster) for kind in ("text", "answer")
        )
        test = moderated_test(answer - text)
        of, expert = (index.ravel() for index in np.indices(test.delta.shape))
        columns: dict[str, Any] = {"layer": layers[of], "expert": expert}
        columns |= {kind: self.share(kind)[layers].ravel() for kind in KINDS}
        columns |= {name: getattr(test, name).ravel() for name in ("delta", "low", "high", "q")}
        frame = pd.DataFrame(columns)
        return frame.sort_values("delta", ascending=False, kind="stable", ignore_index=True)

    @property
    def answer_experts(self) -> tuple[str, ...]:
        """Experts that answers use significantly more than text does, most first: ``m3.e17``."""
        frame = self.to_frame()
        real = frame[(frame.q <= LEVEL) & (frame.delta > 0)]
        return tuple(f"m{layer}.e{expert}" for layer, expert in zip(real.layer, real.expert, strict=True))

    @property
    def verdict(self) -> str:
        """How even the routing is, and how needle answers depart from it."""
        experts, named = self.shares.shape[3], self.answer_experts
        which = f": {', '.join(named[:5])}{', …' if len(named) > 5 else ''}" if named else ""
        return (
            f"{experts} experts a layer; evenness {np.nanmean(self.entropy('text')):.2f} on text, "
            f"{np.nanmean(self.entropy('answer')):.2f} on answers; answers move {np.nanmean(self.answer_shift):.0%} of "
            f"the slots; {len(named)} experts are used more for them{which}"
        )


def variation(a: Floats, b: Floats) -> Floats:
    """[L] total variation distance of distributions [L, E], 0 = the same, 1 = none in common."""
    return np.asarray(np.abs(a - b).sum(axis=1) / 2)
