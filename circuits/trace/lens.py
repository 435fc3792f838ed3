"""The logit lens: where along the layers an answer comes to the top (nostalgebraist 2020; Yao et al., 2405.17969).

The residual stream after each layer is read as if it were the last one: final norm, unembedding, and the answer's rank
over the whole vocabulary. Positive shifts and scales of all logits change no rank, so caps and scalings do not matter.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.model.plain import takes_model
from checkpoints.results.result import Result
from checkpoints.results.text import counted

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel

    from checkpoints.model.anatomy import Anatomy
    from circuits.facts.facts import FactSet

TOP = 10


@dataclass(frozen=True, repr=False)
class LogitLens(Result):
    """Rank of every fact's answer after every layer.

    Attributes:
        rank: [N, L + 1] over the whole vocabulary, 1 = the top token; before the first layer, then after each. Of an
            answer of several tokens, each after the right ones before it, the one that fares worst counts.
        names: N facts: what is asked and the answer.
        labels: N mappings, the facts' labels.
        meta: prompt hash, answers kept, refused facts, dtype.
    """

    artifact, title = "logit_lens", "Logit lens"

    rank: NDArray[np.integer]
    names: tuple[str, ...]
    labels: tuple[Mapping[str, Any], ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def layers(self) -> int:
        """L, how many layers the model has."""
        return int(self.rank.shape[1]) - 1

    def hit(self, k: int) -> NDArray[np.floating]:
        """[L + 1] Hit@k after every layer: share of facts whose answer is among the k top tokens."""
        return np.asarray((self.rank <= k).mean(axis=0))

    @property
    def median(self) -> NDArray[np.floating]:
        """[L + 1] median rank over the facts."""
        return np.asarray(np.median(self.rank, axis=0))

    @property
    def settled(self) -> NDArray[np.floating]:
        """[N] first layer from which on the answer stays among the ten top tokens; 0 = the embedding, NaN = never."""
        inside = np.logical_and.accumulate(self.rank[:, ::-1] <= TOP, axis=1)[:, ::-1]
        return np.where(inside.any(axis=1), inside.argmax(axis=1), np.nan)

    @property
    def mean_settled(self) -> float:
        """Mean of `settled` over the facts that get there; NaN where none does."""
        there = self.settled[~np.isnan(self.settled)]
        return float(there.mean()) if len(there) else float("nan")

    @property
    def verdict(self) -> str:
        """How many answers come to the top, and after which layer."""
        there = int((~np.isnan(self.settled)).sum())
        when = f", from layer {self.mean_settled:.1f} of {self.layers} on average" if there else ""
        return (
            f"{there} of {counted(len(self), 'answer')} among the {TOP} top tokens at the end{when}; "
            f"median rank {self.median[0]:,.0f} at the embedding, {self.median[-1]:,.0f} at the end"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row a fact: fact, its labels, the layer from which on it stays among the ten top, rank by layer."""
        import pandas as pd

        names = sorted({name for labels in self.labels for name in labels} - {"fact", "settled"})
        columns: dict[str, Any] = {"fact": self.names}
        columns |= {name: [labels.get(name) for labels in self.labels] for name in names}
        columns |= {"settled": self.settled}
        ranks = {f"layer {layer}": self.rank[:, layer] for layer in range(self.layers + 1)}
        return pd.DataFrame(columns | ranks)


@takes_model
def logit_lens(model: "PreTrainedModel", facts: "FactSet", *, batch_size: int = 16) -> LogitLens:
    """Rank every fact's answer after every layer, on its clean prompt.

    Args:
        model: a decoder in Hugging Face form.
        facts: from `circuits.tokenize_facts`.
        batch_size: facts in one pass; changes no rank.

    Raises:
        UnsupportedArchitecture: the layers, the final norm or the unembedding cannot be found.
    """
    import torch

    from checkpoints.model.anatomy import anatomy
    from circuits.facts.batch import answer_rank, batches

    parts = anatomy(model)
    rank = np.zeros((len(facts), parts.n_layers + 1), dtype=np.int64)
    with torch.no_grad():
        for batch in batches(facts, batch_size, model):
            with _streams(parts) as streams:
                model(batch.clean, attention_mask=batch.attention_mask, use_cache=False)
            for layer, stream in enumerate(streams):
                here = stream[batch.row.to(stream.device), batch.place.to(stream.device)]
                normed = parts.final_norm.module(here.to(next(parts.unembedding.parameters()).device))
                logits = parts.unembedding(normed).to(batch.answer.device)
                rank[list(batch.indices), layer] = answer_rank(logits, batch).cpu().numpy() + 1
    return LogitLens(
        rank=rank,
        names=tuple(f"{fact.clean} {fact.answer.strip()}" for fact in facts.facts),
        labels=tuple(dict(fact.labels) for fact in facts.facts),
        meta={
            "prompts": facts.hash,
            "answers": facts.answers,
            "refused": [list(pair) for pair in facts.refused],
            "dtype": str(model.dtype).removeprefix("torch."),
        },
    )


@contextmanager
def _streams(parts: "Anatomy") -> "Iterator[list[Tensor]]":
    """The residual stream in front of the first layer and behind each, [b, t, d_model], as the model runs."""
    kept: list[Tensor] = []

    def first(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append((args[0] if args else kwargs["hidden_states"]).detach())

    def after(_module: Any, _args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).detach())

    handles = [parts.blocks[0].module.register_forward_pre_hook(first, with_kwargs=True)]
    handles += [block.module.register_forward_hook(after) for block in parts.blocks]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
