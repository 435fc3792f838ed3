"""Gauges: cheap probes of a live model that return numbers, and scores of single units for the ledger."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import circuits
from checkpoints import BadPrompt, LoadedModel
from circuit_drift.measures import tokenizer_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Reading:
    """What a gauge says of one moment.

    Attributes:
        scalars: name -> number, for logs.
        units: rows (unit, score and labels) for the ledger; empty for a gauge without units.
    """

    scalars: Mapping[str, float]
    units: tuple[Mapping[str, Any], ...] = ()


class Gauge(Protocol):
    """A probe that needs no store."""

    @property
    def name(self) -> str:
        """Its noun."""

    def read(self, loaded: LoadedModel) -> Reading:
        """Probe the model, which is frozen and in eval mode."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model answers to each fact's clean prompt, each array [N].

    Attributes:
        rank: tokens of the vocabulary more likely than the answer; 0 = recalled.
        probability: of the answer's token.
    """

    rank: NDArray[np.int64]
    probability: NDArray[np.float64]


def answers(model: "PreTrainedModel", facts: "circuits.FactSet", *, batch_size: int = 64) -> Answers:
    """Rank and probability of every fact's answer after its clean prompt.

    Prompts of one length share a batch, so that nothing is padded.

    Args:
        model: any causal language model.
        facts: from `circuits.tokenize_facts`.
        batch_size: prompts in a forward pass; changes no number beyond rounding.
    """
    import torch

    rank, chance = np.zeros(len(facts), dtype=np.int64), np.zeros(len(facts))
    device = next(model.parameters()).device
    for rows in _batches([len(prompt) for prompt in facts.clean], batch_size):
        ids = torch.tensor([facts.clean[row] for row in rows], device=device)
        wanted = torch.tensor(facts.answer_id[rows], device=device)[:, None]
        with torch.no_grad():
            logits = logits_from(model, ids, ids.shape[1] - 1)[:, 0]
        rank[rows] = (logits > logits.gather(1, wanted)).sum(dim=1).cpu().numpy()
        chance[rows] = logits.softmax(dim=-1).gather(1, wanted)[:, 0].cpu().numpy()
    return Answers(rank, chance)


def logits_from(model: "PreTrainedModel", ids: "torch.Tensor", first: int) -> "torch.Tensor":
    """Float32 logits [batch, positions - first, vocabulary] of the positions from ``first`` on.

    Models that can leave the others out of the unembedding, which is most of the cost of a large vocabulary, do.
    """
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=ids.shape[1] - first).logits
    else:
        logits = model(input_ids=ids, use_cache=False).logits[:, first:]
    return logits.float()


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Positions of prompts, in batches of one length each."""
    by_length: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        by_length.setdefault(length, []).append(position)
    return [rows[i : i + size] for rows in by_length.values() for i in range(0, len(rows), size)]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Recall of facts: Hit@top and probability of each answer, by label in the log, by fact in the ledger.

    Attributes:
        facts: what is asked.
        top: how many tokens count as recalled.
        by: the label whose values get a scalar each (exposure class).
        unit: the label that says which facts are probes of one unit of the ledger (an entity, or one fact in several
            paraphrases); without it each fact is a unit of its own.
    """

    facts: tuple["circuits.Fact", ...]
    top: int = 1
    by: str = "class"
    unit: str | None = None
    name: str = field(default="knowledge", init=False)
    _tokenized: list[tuple[Any, "circuits.FactSet"]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def read(self, loaded: LoadedModel) -> Reading:
        """Ask every fact that the tokenizer can score.

        Raises:
            BadPrompt: no fact can be scored, or one lacks the label that names its unit.
        """
        if self.unit is not None and any(self.unit not in fact.labels for fact in self.facts):
            raise BadPrompt(f"a fact has no label {self.unit!r} to name its unit; give it one, or ask without unit=")
        facts = self._tokens(tokenizer_of(loaded))
        said = answers(loaded.model, facts)
        hit = said.rank < self.top
        groups = np.array([str(fact.labels.get(self.by, "")) for fact in facts.facts])
        scalars = {"recall": float(hit.mean()), "answer_probability": float(said.probability.mean())}
        scalars |= {f"recall_{name}": float(hit[groups == name].mean()) for name in dict.fromkeys(groups) if name}
        return Reading(scalars, tuple(_rows(facts.facts, hit, said, self.unit)))

    def _tokens(self, tokenizer: Any) -> "circuits.FactSet":
        """The facts in tokens, kept from one probe to the next of the same tokenizer."""
        if not (self._tokenized and self._tokenized[0][0] is tokenizer):
            self._tokenized[:] = [(tokenizer, circuits.tokenize_facts(tokenizer, self.facts))]
        return self._tokenized[0][1]


def _rows(
    facts: "Sequence[circuits.Fact]", hit: NDArray[np.bool_], said: Answers, unit: str | None
) -> list[Mapping[str, Any]]:
    return [
        {
            "unit": f"{fact.clean} {fact.answer.strip()}" if unit is None else str(fact.labels[unit]),
            "probe": f"{fact.clean} {fact.answer.strip()}",
            "score": float(hit[i]),
            "rank": int(said.rank[i]),
            "probability": float(said.probability[i]),
            **{f"label:{name}": str(value) for name, value in fact.labels.items()},
        }
        for i, fact in enumerate(facts)
    ]
