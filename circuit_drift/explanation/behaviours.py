"""What is explained: one number a prompt, differentiable, from logits at some positions or from attention rows."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt
from checkpoints.model.finite import finite
from checkpoints.model.rope import of_one_regime
from circuits.facts.facts import FactSet
from heads.prompts.needles import NeedleSet

Attention = Sequence[Tensor] | None
Value = Callable[[int, Tensor, Attention], Tensor]
WHOLE = "prompt"
UNPLACED = "not told apart"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Something that a model does, as one number for each prompt.

    Attributes:
        name: what it is, as sentences say it.
        unit: of its values.
        prompts: N sequences of token ids.
        rows: N tuples of positions whose logits are wanted.
        value: (index of the prompt, logits [rows, vocabulary], per layer its attention [heads, S, S] or ``None``) to a
            tensor of one number, through which gradients flow.
        groups: N names by which prompts are grouped.
        spans: N mappings from the name of a part of the prompt to (start, stop); what is in none is ``"rest"``.
        needle: N numbers of the needle that each prompt asks for; the prompts of one are one unit of intervals. Empty =
            every prompt is a unit.
        needs_attention: whether `value` reads attention, which the model then computes eagerly.
    """

    name: str
    unit: str
    prompts: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    value: Value
    groups: tuple[str, ...] = ()
    spans: tuple[Mapping[str, tuple[int, int]], ...] = ()
    needle: tuple[int, ...] = ()
    needs_attention: bool = False

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of prompts; the last holds what has no position in a prompt."""
        named = dict.fromkeys(name for spans in self.spans for name in spans)
        return (*named, "rest", UNPLACED) if named else (WHOLE, UNPLACED)

    def part_of(self, index: int, length: int) -> Tensor:
        """[length] the part that each position belongs to, as its place in `parts`."""
        parts = self.parts
        found = torch.full((length,), len(parts) - 2)
        for name, (start, stop) in (self.spans[index] if self.spans else {}).items():
            found[start:stop] = parts.index(name)
        return found

    def subset(self, indices: Sequence[int]) -> "Behaviour":
        """Some of the prompts."""
        kept = tuple(indices)
        value = self.value

        def pick(each: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(each[i] for i in kept) if each else ()

        return replace(
            self,
            prompts=pick(self.prompts),
            rows=pick(self.rows),
            groups=pick(self.groups),
            spans=pick(self.spans),
            needle=pick(self.needle),
            value=lambda index, logits, attention: value(kept[index], logits, attention),
        )

    def thinned(self, most: int) -> "Behaviour":
        """At most so many prompts, drawn once and for all: every so many-th would be all of one depth."""
        if len(self) <= most:
            return self
        drawn = np.random.default_rng(0).choice(len(self), most, replace=False)
        return self.subset(sorted(int(i) for i in drawn))


@dataclass(frozen=True, slots=True)
class Batch:
    """Some prompts as tensors, padded on the right.

    Attributes:
        indices: which prompts.
        ids: [b, t].
        mask: [b, t], or ``None`` where all are of one length.
        kept: [P] positions whose logits are computed.
    """

    indices: tuple[int, ...]
    ids: Tensor
    mask: Tensor | None
    kept: Tensor


def batches(behaviour: Behaviour, model: PreTrainedModel, size: int) -> Iterator[Batch]:
    """Prompts of similar length together."""
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in behaviour.prompts]
    order = sorted(range(len(behaviour)), key=lengths.__getitem__)
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        for places in of_one_regime(model, [lengths[i] for i in chunk]):
            own = [chunk[place] for place in places]
            width = max(lengths[i] for i in own)
            ids = torch.tensor([[*behaviour.prompts[i], *[0] * (width - lengths[i])] for i in own], device=device)
            short = torch.tensor([lengths[i] for i in own], device=device)
            mask = (torch.arange(width, device=device)[None] < short[:, None]).long()
            kept = torch.tensor(sorted({row for i in own for row in behaviour.rows[i]} or {0}), device=device)
            yield Batch(tuple(own), ids, None if bool(mask.all()) else mask, kept)


def run(model: PreTrainedModel, behaviour: Behaviour, batch: Batch, given: Mapping[str, Tensor]) -> Tensor:
    """[b] values of a batch.

    Args:
        model: under eager attention where the behaviour reads attention.
        behaviour: what is asked.
        batch: some of its prompts.
        given: parameters to take in place of the model's own.
    """
    options: dict[str, Any] = {"use_cache": False, "attention_mask": batch.mask}
    trims = "logits_to_keep" in inspect.signature(model.forward).parameters
    if trims:
        options["logits_to_keep"] = batch.kept
    if behaviour.needs_attention:
        options["output_attentions"] = True
    called = torch.func.functional_call(model, dict(given), (batch.ids,), options) if given else None
    out = model(batch.ids, **options) if called is None else called
    logits = finite(out.logits if trims else out.logits[:, batch.kept])
    values = []
    for row, index in enumerate(batch.indices):
        wanted = torch.tensor(behaviour.rows[index] or (0,), device=logits.device)
        own = logits[row, torch.searchsorted(batch.kept.to(logits.device), wanted)]
        attention = [layer[row] for layer in out.attentions] if behaviour.needs_attention else None
        values.append(behaviour.value(index, own, attention))
    return torch.stack(values)


def facts_behaviour(facts: FactSet, *, log_probability: bool = False, group: str = "") -> Behaviour:
    """Logit difference of answer and wrong answer, or log probability of the answer, summed over its tokens.

    Args:
        facts: in tokens.
        log_probability: whether that is taken.
        group: what these facts are called beside others.

    Raises:
        BadPrompt: answers of other numbers of tokens than their wrong ones.
    """
    uneven = [i for i in range(len(facts)) if len(facts.answer[i]) != len(facts.wrong[i])]
    if uneven and not log_probability:
        raise BadPrompt(
            f"fact {uneven[0]}: answer and wrong answer have different numbers of tokens, so there is no logit "
            "difference; explain log-probability instead"
        )

    def value(index: int, logits: Tensor, _attention: Attention) -> Tensor:
        answer = torch.tensor(facts.answer[index], device=logits.device)[:, None]
        if log_probability:
            return torch.log_softmax(logits, -1).gather(1, answer).sum()
        wrong = torch.tensor(facts.wrong[index], device=logits.device)[:, None]
        return (logits.gather(1, answer) - logits.gather(1, wrong)).sum()

    which = f" of {group} facts" if group else " of facts"
    return Behaviour(
        name=("log probability" if log_probability else "logit difference") + which,
        unit="nats" if log_probability else "logits",
        prompts=tuple((*ids, *facts.answer[i][:-1]) for i, ids in enumerate(facts.clean)),
        rows=tuple(tuple(len(ids) - 1 + k for k in range(len(facts.answer[i]))) for i, ids in enumerate(facts.clean)),
        value=value,
        groups=tuple(str(fact.labels.get("class", "all")) for fact in facts.facts),
        spans=tuple({name: (span[0], span[1]) for name, span in each.items()} for each in facts.segments),
    )


def recall_behaviour(facts: FactSet) -> Behaviour:
    """1 where every token of the answer is the model's top one, each after the right ones, else 0; has no gradient."""

    def value(index: int, logits: Tensor, _attention: Attention) -> Tensor:
        return (logits.argmax(-1) == torch.tensor(facts.answer[index], device=logits.device)).all().double()

    return replace(facts_behaviour(facts, log_probability=True), name="recall of facts", unit="of facts", value=value)


def needle_behaviour(needles: NeedleSet) -> Behaviour:
    """NLL of the needle's answer, mean over its tokens, in nats.

    Raises:
        BadPrompt: there is no prompt.
    """
    prompts = _some(needles)

    def value(index: int, logits: Tensor, _attention: Attention) -> Tensor:
        answer = torch.tensor(prompts[index].answer, device=logits.device)
        return torch.nn.functional.cross_entropy(logits, answer)

    return Behaviour(
        name="needle answer NLL",
        unit="nats",
        prompts=tuple(prompt.ids for prompt in prompts),
        rows=tuple(_answer_rows(prompt.answer_start, len(prompt.answer)) for prompt in prompts),
        value=value,
        groups=("all",) * len(prompts),
        spans=tuple(_needle_spans(prompt) for prompt in prompts),
        needle=tuple(prompt.needle for prompt in prompts),
    )


def accuracy_behaviour(needles: NeedleSet) -> Behaviour:
    """Share of the needle's answer tokens that are the model's top one, each after the right ones; has no gradient.

    Raises:
        BadPrompt: there is no prompt.
    """
    prompts = _some(needles)

    def value(index: int, logits: Tensor, _attention: Attention) -> Tensor:
        return (logits.argmax(-1) == torch.tensor(prompts[index].answer, device=logits.device)).double().mean()

    return replace(needle_behaviour(needles), name="needle accuracy", unit="of answer tokens", value=value)


def mass_behaviour(needles: NeedleSet, layer: int, head: int) -> Behaviour:
    """A head's attention on the answer inside the needle, mean over the rows that predict the answer, in [0, 1].

    Raises:
        BadPrompt: there is no prompt.
    """
    prompts = _some(needles)

    def value(index: int, _logits: Tensor, attention: Attention) -> Tensor:
        assert attention is not None
        prompt = prompts[index]
        rows = torch.tensor(_answer_rows(prompt.answer_start, len(prompt.answer)), device=attention[layer].device)
        gold = torch.tensor(prompt.gold, device=rows.device)
        return attention[layer][head][rows][:, gold].sum(-1).mean()

    return replace(
        needle_behaviour(needles),
        name=f"needle mass of a{layer}.h{head}",
        unit="of its attention",
        value=value,
        needs_attention=True,
    )


def text_behaviour(windows: Sequence[Sequence[int]]) -> Behaviour:
    """NLL of running text, mean over its tokens, in nats.

    Raises:
        BadPrompt: a window of fewer than two tokens, or none.
    """
    prompts = tuple(tuple(ids) for ids in windows)
    if not prompts or min(map(len, prompts)) < 2:
        raise BadPrompt("text is scored from its second token on: give windows of two tokens at least")

    def value(index: int, logits: Tensor, _attention: Attention) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, torch.tensor(prompts[index][1:], device=logits.device))

    return Behaviour(
        name="NLL of text",
        unit="nats",
        prompts=prompts,
        rows=tuple(tuple(range(len(ids) - 1)) for ids in prompts),
        value=value,
        groups=("all",) * len(prompts),
    )


def _some(needles: NeedleSet) -> tuple[Any, ...]:
    if not needles.prompts:
        reason = needles.refused[0][1] if needles.refused else "the set is empty"
        raise BadPrompt(f"there is no needle prompt to explain: {reason}")
    return needles.prompts


def _answer_rows(start: int, count: int) -> tuple[int, ...]:
    return tuple(range(start - 1, start - 1 + count))


def _needle_spans(prompt: Any) -> dict[str, tuple[int, int]]:
    return {
        "needle": prompt.needle_span,
        "question": prompt.question_span,
        "answer": (prompt.answer_start, len(prompt.ids)),
    }
