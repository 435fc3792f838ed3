"""How well plain text is predicted, corpus by corpus, with the whole text in front and with its end alone: numpy only.

    PPL      exp of the mean loss over all tokens
    LongPPL  exp of the mean loss over key tokens: those that need the long context (arXiv 2410.23771)

A token is a key token where the short context costs more than 2 nats and the long one leaves less than 2, both judged
by one model, the same for all checkpoints that are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.result import Result
from checkpoints.stats.bootstrap import Estimate, percentiles, resampling
from checkpoints.stats.units import Floats

if TYPE_CHECKING:
    import pandas as pd

GAIN, LOSS = 2.0, 2.0
"""Nats that a key token gains by the long context, and nats that it costs with it at most (arXiv 2410.23771)."""


@dataclass(frozen=True, repr=False)
class CorpusLoss(Result):
    """Loss of every token of W windows of text, each from one document.

    Attributes:
        names: the corpora.
        corpus: [W] which corpus a window belongs to.
        long: [W, T] nats per token with all of the window in front of it; NaN beyond a window's end, and for the first.
        short: [W, T] nats with its end alone in front (`heads.niah.corpus_loss.corpus_loss`); NaN where that is all of
            it, so that nothing is known of what the long context adds.
        meta: length, short context, stride, model; the judge's name and weights, where one was named.
        judged: [W, T] the key tokens that the judge chose; None where none was named.
    """

    artifact, title = "corpus_loss", "Corpus perplexity"

    names: tuple[str, ...]
    corpus: NDArray[np.integer]
    long: Floats
    short: Floats
    meta: Mapping[str, Any] = field(default_factory=dict)
    judged: NDArray[np.bool_] | None = None

    def ppl(self, name: str) -> Estimate:
        """Perplexity of a corpus, all tokens alike; the 95 % interval resamples windows, NaN with one."""
        return _pooled(self.long[self._inside(name)], None)

    def key_tokens(self) -> NDArray[np.bool_]:
        """[W, T] the tokens that need the long context, judged by this checkpoint."""
        return np.asarray((self.short - self.long > GAIN) & (self.long < LOSS))

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """[W, T] the key tokens of the judge that was named, else those of this checkpoint itself."""
        return self.key_tokens() if self.judged is None else self.judged

    def long_ppl(self, name: str, key: NDArray[np.bool_]) -> Estimate:
        """LongPPL of a corpus: perplexity of the key tokens that an evaluator chose; NaN where it chose none.

        Raises:
            CheckpointMismatch: the evaluator read other text.
        """
        if key.shape != self.long.shape:
            raise CheckpointMismatch(f"key tokens of {key.shape} windows and tokens for losses of {self.long.shape}")
        inside = self._inside(name)
        return _pooled(self.long[inside], key[inside])

    def same_text(self, other: "CorpusLoss") -> bool:
        """Whether both read windows of the same corpora and sizes."""
        return self.names == other.names and self.long.shape == other.long.shape

    def _inside(self, name: str) -> NDArray[np.bool_]:
        if name not in self.names:
            raise BadPrompt(f"no corpus is called {name!r}; there are {', '.join(self.names)}")
        return np.asarray(self.corpus == self.names.index(name))

    @property
    def verdict(self) -> str:
        """The perplexity of every corpus; where a judge was named, LongPPL by it."""
        told = ", ".join(f"{name} PPL {self.ppl(name)}" for name in self.names)
        if self.judged is None:
            return told
        long = {name: self.long_ppl(name, self.judged) for name in self.names}
        found = ", ".join(f"{name} {value if value.n else 'no key token'}" for name, value in long.items())
        return f"{told}; LongPPL {found}, judged by {self.meta['judge']['name']}"

    def to_frame(self) -> "pd.DataFrame":
        """One row a corpus: corpus, windows, tokens, ppl with its interval, mean nats that the long context saves."""
        import pandas as pd

        rows = []
        for name in self.names:
            inside, found = self._inside(name), self.ppl(name)
            saved = (self.short - self.long)[inside]
            rows.append(
                {
                    "corpus": name,
                    "windows": int(inside.sum()),
                    "tokens": int((~np.isnan(self.long[inside])).sum()),
                    "ppl": found.value,
                    "low": found.low,
                    "high": found.high,
                    "saved": float(np.nanmean(saved)) if (~np.isnan(saved)).any() else float("nan"),
                }
            )
        return pd.DataFrame(rows)


def _pooled(loss: Floats, key: NDArray[np.bool_] | None) -> Estimate:
    """Exp of the mean over tokens, with the interval over windows that hold any."""
    counted = ~np.isnan(loss) if key is None else key & ~np.isnan(loss)
    parts = np.stack([np.where(counted, loss, 0.0).sum(axis=1), counted.sum(axis=1)], axis=1).astype(float)
    parts = parts[parts[:, 1] > 0]
    if not len(parts):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    value = float(np.exp(parts[:, 0].sum() / parts[:, 1].sum()))
    if len(parts) == 1:
        return Estimate(value, float("nan"), float("nan"), 1)
    sums = resampling(len(parts)) @ parts
    low, high = percentiles(np.exp(sums[:, 0] / sums[:, 1]))
    return Estimate(value, float(low), float(high), len(parts))
