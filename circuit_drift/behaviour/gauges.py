"""Gauges: cheap probes of a live model that return numbers, and scores of single units for the ledger."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.loading.load import LoadedModel
from checkpoints.model.finite import finite
from checkpoints.model.plain import takes_model
from circuit_drift.knowledge.rouge import rouge1_recall
from circuit_drift.measures.tokenizers import tokenizer_of
from circuits.facts.facts import FactSet
from circuits.facts.questions import Question, tokenize_questions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from circuits.facts.questions import QuestionSet

    Asked = circuits.Fact | Question

By = Literal["rank", "probability", "rouge1"]


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
class AnswerRanks:
    """What a model answers to each fact's clean prompt, each array [N].

    Attributes:
        rank: tokens of the vocabulary more likely than the answer; 0 = recalled.
        probability: of the answer's token.
    """

    rank: NDArray[np.int64]
    probability: NDArray[np.float64]


@takes_model
def answers(model: "PreTrainedModel", facts: "FactSet | QuestionSet", *, batch_size: int = 64) -> AnswerRanks:
    """Rank and probability of the first token of every fact's answer after its clean prompt; see `last_logits`.

    Args:
        model: any causal language model.
        facts: from `circuits.tokenize_facts`.
        batch_size: prompts in a forward pass; changes no number beyond rounding.
    """
    import torch

    from checkpoints.model.forward import token_rank
    from circuit_drift.behaviour.packing import last_logits

    rank, chance = np.zeros(len(facts), dtype=np.int64), np.zeros(len(facts))
    for rows, logits in last_logits(model, facts.clean, batch_size=batch_size):
        wanted = torch.tensor(facts.answer_id[rows], device=logits.device)[:, None]
        rank[rows] = token_rank(logits, wanted[:, 0]).cpu().numpy()
        chance[rows] = logits.softmax(dim=-1).gather(1, wanted)[:, 0].cpu().numpy()
    return AnswerRanks(rank, chance)


def logits_from(model: "PreTrainedModel", ids: "torch.Tensor", first: int) -> "torch.Tensor":
    """Float32 logits [batch, positions - first, vocabulary] of the positions from ``first`` on."""
    import torch

    from checkpoints.model.forward import kept_logits

    return finite(kept_logits(model, ids, torch.arange(first, ids.shape[1], device=ids.device))).float()


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Recall of facts: by rank and probability of each answer, or by what the model writes; by fact in the ledger.

    With ``score="rouge1"`` and ``new_tokens=25`` it is the score of arXiv 2601.03858, whose ledger's threshold is 0.6.

    Attributes:
        facts: what is asked; answers of several tokens only where they are written. Of questions without a corrupt twin
            (`Question`), alone or among facts, any answer: rank and probability are of its first token.
        top: how many tokens count as recalled.
        by: the label whose values get a scalar each (exposure class).
        unit: the label that says which facts are probes of one unit of the ledger (an entity, or one fact in several
            paraphrases); without it each fact is a unit of its own.
        score: what the ledger gets: Hit@top of the answer's first token (``rank``), the ``probability`` of that token,
            or the ROUGE-1 recall of the answer that is written.
        new_tokens: tokens of a written answer at most; 0 = none is written.
        instruction: what is put in front of every prompt that is answered in writing.
        chat: ask in writing as a user's turn of the tokenizer's chat template; rank and probability stay those of the
            bare prompt.
        stops: texts that end a written answer, by their last token.
    """

    facts: tuple["Asked", ...]
    top: int = 1
    by: str = "class"
    unit: str | None = None
    score: By = "rank"
    new_tokens: int = 0
    instruction: str = ""
    chat: bool = False
    stops: tuple[str, ...] = ()
    name: str = field(default="knowledge", init=False)
    _tokenized: list[tuple[Any, "FactSet | QuestionSet"]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.score not in get_args(By) or self.new_tokens < 0:
            raise BadPrompt(f"score {self.score!r} is not one of {', '.join(get_args(By))}, or new_tokens is below 0")
        if self.score == "rouge1" and not self.new_tokens:
            raise BadPrompt("ROUGE-1 scores answers that are written; say how long they may get: new_tokens=25")

    def read(self, loaded: LoadedModel) -> Reading:
        """Ask every fact that the tokenizer can score.

        Raises:
            BadPrompt: no fact can be scored, or one lacks the label that names its unit.
        """
        if self.unit is not None and any(self.unit not in fact.labels for fact in self.facts):
            raise BadPrompt(f"a fact has no label {self.unit!r} to name its unit; give it one, or ask without unit=")
        tokenizer = tokenizer_of(loaded)
        facts = self._tokens(tokenizer)
        said = answers(loaded.model, facts)
        columns: dict[str, list[Any]] = {
            "score": (said.rank < self.top).astype(float).tolist(),
            "rank": said.rank.tolist(),
            "probability": said.probability.tolist(),
        }
        if self.new_tokens:
            texts = self._write(loaded.model, tokenizer, facts)
            right = [fact.answer for fact in facts.facts]
            columns |= {"written": texts, "rouge1": [rouge1_recall(*pair) for pair in zip(right, texts, strict=True)]}
        scalars = self._scalars(facts.facts, columns)
        if self.score != "rank":
            columns["score"] = columns[self.score]
        return Reading(scalars, tuple(_rows(facts.facts, columns, self.unit)))

    def _scalars(self, facts: "Sequence[Asked]", columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
        groups = np.array([str(fact.labels.get(self.by, "")) for fact in facts])
        found = {"answer_probability": float(np.mean(columns["probability"]))}
        asked = {"recall": columns["score"], **({"rouge1": columns["rouge1"]} if "rouge1" in columns else {})}
        found |= {name: float(np.mean(values)) for name, values in asked.items()}
        for value in filter(None, dict.fromkeys(groups)):
            found |= {f"{name}_{value}": float(np.mean(np.array(v)[groups == value])) for name, v in asked.items()}
        return found

    def _write(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", facts: "FactSet | QuestionSet"
    ) -> list[str]:
        from circuit_drift.behaviour.generation import write_answers, written_prompts

        prompts = written_prompts(tokenizer, facts, instruction=self.instruction, chat=self.chat)
        stops = [tokenizer(text, add_special_tokens=False).input_ids[-1] for text in self.stops]
        ids = write_answers(model, prompts, new_tokens=self.new_tokens, stop_ids=stops)
        return [str(tokenizer.decode(list(answer), skip_special_tokens=True)).strip() for answer in ids]

    def _tokens(self, tokenizer: Any) -> "FactSet | QuestionSet":
        """The facts in tokens, kept from one probe to the next of the same tokenizer."""
        if not (self._tokenized and self._tokenized[0][0] is tokenizer):
            self._tokenized[:] = [(tokenizer, self._in_tokens(tokenizer))]
        return self._tokenized[0][1]

    def _in_tokens(self, tokenizer: Any) -> "FactSet | QuestionSet":
        pairs = [fact for fact in self.facts if isinstance(fact, circuits.Fact)]
        if len(pairs) < len(self.facts):
            return tokenize_questions(tokenizer, [_question(fact) for fact in self.facts])
        whole: Literal["whole", "one token"] = "whole" if self.new_tokens else "one token"
        return circuits.tokenize_facts(tokenizer, pairs, answers=whole)


def _question(fact: "Asked") -> "Question":
    return Question(fact.clean, fact.answer, fact.labels, fact.space)


def _rows(facts: "Sequence[Asked]", columns: Mapping[str, Sequence[Any]], unit: str | None) -> list[Mapping[str, Any]]:
    return [
        {
            "unit": f"{fact.clean} {fact.answer.strip()}" if unit is None else str(fact.labels[unit]),
            "probe": f"{fact.clean} {fact.answer.strip()}",
            **{name: values[i] for name, values in columns.items()},
            **{f"label:{name}": str(value) for name, value in fact.labels.items()},
        }
        for i, fact in enumerate(facts)
    ]


def panel(
    facts: "Sequence[circuits.Fact]",
    *,
    per_group: int,
    by: str = "class",
    unit: str | None = None,
    seed: int = 0,
) -> "tuple[circuits.Fact, ...]":
    """A fixed sample of every group, so that a probe costs little and misses no group.

    A recall of n facts has a standard error of at most 0.5 / sqrt(n): 0.1 with 24 in a group.

    Args:
        facts: all of them.
        per_group: facts of each group, or units with all their probes where ``unit`` is given.
        by: the label whose values are the groups.
        unit: the label that names a unit of several probes.
        seed: of the sample.
    """
    rng = random.Random(f"panel-{seed}")
    groups: dict[str, dict[str, list[circuits.Fact]]] = {}
    for number, fact in enumerate(facts):
        member = str(number) if unit is None else str(fact.labels[unit])
        groups.setdefault(str(fact.labels.get(by, "")), {}).setdefault(member, []).append(fact)
    chosen = [rng.sample(list(units), min(per_group, len(units))) for units in groups.values()]
    return tuple(
        fact for units, names in zip(groups.values(), chosen, strict=True) for name in names for fact in units[name]
    )
