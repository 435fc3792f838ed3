"""Built-in tasks of the literature: prompts drawn from a seed, and the metric each is measured by.

Indirect object identification (Wang et al. 2022, arXiv 2211.00593) with the second subject exchanged for the indirect
object in the corrupt prompt (as in MIB); greater-than (Hanna et al. 2023, arXiv 2305.00586) with the start year 01 in
the corrupt prompt; and capitals, languages and landmarks. Every prompt is checked against the tokenizer.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.tokenizers.framing import Ids, front_ids, prompt_ids
from circuits.facts.facts import Fact, FactSet, default_facts
from circuits.facts.tokenizing import tokenize_facts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuits.facts.batch import Batch
    from circuits.facts.metrics import Metric, MetricName

TaskName = Literal["ioi", "greater-than", "capital", "language", "landmark"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
TRIES = 20


@dataclass(frozen=True, slots=True)
class Task:
    """Facts of one task in token ids, and what to measure on them.

    Attributes:
        name: as in `TASKS`.
        facts: N clean/corrupt pairs.
        metric: for `circuits.attribute` and `circuits.faithfulness`.
    """

    name: TaskName
    facts: FactSet
    metric: "MetricName | Metric"


def load_task(name: TaskName, tokenizer: "PreTrainedTokenizerBase", *, n: int = 50, seed: int = 0) -> Task:
    """Draw n prompts that this tokenizer can carry.

    Args:
        name: one of `TASKS`.
        tokenizer: every answer must be one token of it, and clean and corrupt prompt of one length.
        n: prompts wanted; the capitals, languages and landmarks are as many as there are, n at most.
        seed: of the draw.

    Returns:
        The task. Its metric is the logit difference, except for ``greater-than``: P(later years) - P(other years),
        over all two-digit tokens; with a tokenizer of single digits over the decade's digit, ties left out.

    Raises:
        BadPrompt: an unknown task, or the tokenizer carries none of its prompts.
    """
    require_choice("task", name, TASKS)
    if name == "greater-than":
        return _greater_than(tokenizer, n, seed)
    if name != "ioi":
        return Task(name, tokenize_facts(tokenizer, task_facts(name, n=n)), "logit difference")
    drawn = tokenize_facts(tokenizer, task_facts(name, n=TRIES * n, seed=seed))
    return Task(name, drawn.subset(range(min(n, len(drawn)))), "logit difference")


def task_facts(name: TaskName, *, n: int = 100, seed: int = 0) -> tuple[Fact, ...]:
    """The same prompts as text, for any tokenizer; what it cannot carry is refused when they are tokenized.

    Raises:
        BadPrompt: an unknown task, or ``greater-than``, whose years only `load_task` can split.
    """
    require_choice("task", name, TASKS)
    if name == "greater-than":
        raise BadPrompt(
            "the years of greater-than depend on the tokenizer; use circuits.load_task('greater-than', ...)"
        )
    if name == "ioi":
        return tuple(islice(_ioi(seed), n))
    return tuple(fact for fact in default_facts() if fact.labels["relation"] == name)[:n]


@cache
def words() -> dict[str, list[str]]:
    """Names, places, objects, templates and nouns that prompts are drawn from."""
    found: dict[str, list[str]] = json.loads((files("circuits") / "data" / "tasks.json").read_text(encoding="utf-8"))
    return found


def _ioi(seed: int) -> Iterator[Fact]:
    """Pairs in both orders of the names, each order every other time."""
    draw = np.random.default_rng(seed)
    templates = words()["ioi_templates"]
    order = 0
    while True:
        subject, indirect = draw.choice(words()["names"], 2, replace=False).tolist()
        template = str(draw.choice(templates))
        filled = {"place": draw.choice(words()["places"]), "object": draw.choice(words()["objects"])}
        pair = (indirect, subject) if order else (subject, indirect)
        yield Fact(
            clean=template.format(*pair, s=subject, **filled),
            corrupt=template.format(*pair, s=indirect, **filled),
            answer=indirect,
            wrong=subject,
            labels={"task": "ioi", "order": "ABBA" if order else "BABA", "template": templates.index(template)},
        )
        order = 1 - order


def _greater_than(tokenizer: "PreTrainedTokenizerBase", n: int, seed: int) -> Task:
    draw = np.random.default_rng(seed)
    candidates = _year_tokens(tokenizer)
    base = 100 // len(candidates)
    kept: list[tuple[Ids, Ids, int, int]] = []
    starts: dict[Ids, int] = {}
    facts, refused = [], []
    for index in range(TRIES * n):
        if len(kept) == n:
            break
        noun, century, year = (
            str(draw.choice(words()["spans"])),
            int(draw.integers(11, 18)),
            int(draw.integers(2 * base, 98)),
        )
        start = year // base
        if not 0 < start < len(candidates) - 1:
            continue
        later, earlier = int(draw.integers(start + 1, len(candidates))), int(draw.integers(0, start))
        prompts = [f"The {noun} lasted from the year {century}{y:02d} to the year {century}" for y in (year, 1)]
        try:
            clean, corrupt = (prompt_ids(tokenizer, prompt) for prompt in prompts)
            _check_years(tokenizer, prompts[0], clean, candidates, (later, earlier))
            if len(clean) != len(corrupt):
                raise BadPrompt(f"{century}{year} is split into other pieces than {century}01")
        except BadPrompt as error:
            refused.append((index, str(error)))
            continue
        kept.append((clean, corrupt, candidates[later], candidates[earlier]))
        starts[clean] = start
        labels = {"task": "greater-than", "noun": noun, "century": century, "year": year}
        width = 2 if base == 1 else 1
        facts.append(Fact(prompts[0], prompts[1], f"{later:0{width}d}", f"{earlier:0{width}d}", labels=labels))
    if not kept:
        raise BadPrompt(f"no year can be asked for with this tokenizer. {refused[0][1] if refused else ''}")
    clean_ids, corrupt_ids, answers, wrongs = zip(*kept, strict=True)
    made = FactSet.from_ids(clean_ids, corrupt_ids, answers, wrongs, front=front_ids(tokenizer))
    return Task(
        "greater-than",
        replace(made, facts=tuple(facts), refused=tuple(refused)),
        year_metric(candidates, starts, tie=base > 1),
    )


def year_metric(candidates: list[int], starts: Mapping[Ids, int], *, tie: bool) -> "Metric":
    """P(later) - P(not later) among the candidate tokens (Hanna et al. 2023, their probability difference).

    Args:
        candidates: tokens of 0, 1, 2, ... in order.
        starts: clean prompt -> the number to be exceeded; so the metric is right for any subset of the facts.
        tie: leave the number itself out, where a candidate is only a year's first digit.
    """

    def probability_difference(logits: "Tensor", batch: "Batch", _clean: "Tensor") -> "Tensor":
        import torch

        prompts = [tuple(batch.clean[row, : at + 1].tolist()) for row, at in zip(batch.row, batch.place, strict=True)]
        if foreign := [prompt for prompt in prompts if prompt not in starts]:
            raise BadPrompt(f"the prompt {list(foreign[0])} is none of greater-than's; use another metric for it")
        precision = logits.dtype if logits.dtype.itemsize >= 4 else torch.float32
        shares = torch.softmax(logits.to(precision), -1)[:, candidates]
        number = torch.arange(len(candidates), device=logits.device)
        start = torch.tensor([starts[prompt] for prompt in prompts], device=logits.device)[:, None]
        sign = (number > start).to(precision) - (number < start if tie else number <= start).to(precision)
        return (shares * sign).sum(-1)

    return probability_difference


def _year_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of 00 to 99 where those are tokens after a century, else of the digits 0 to 9."""
    century = prompt_ids(tokenizer, "the year 17")
    for count, width in ((100, 2), (10, 1)):
        tails = [prompt_ids(tokenizer, f"the year 17{number:0{width}d}")[len(century) :] for number in range(count)]
        unknown = tokenizer.unk_token_id
        if all(len(tail) == 1 and tail[0] != unknown for tail in tails) and len({tail[0] for tail in tails}) == count:
            return [tail[0] for tail in tails]
    raise BadPrompt("this tokenizer splits years neither into century and two digits nor into single digits")


def _check_years(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    ids: tuple[int, ...],
    candidates: list[int],
    chosen: tuple[int, int],
) -> None:
    width = 2 if len(candidates) == 100 else 1
    for number in chosen:
        if prompt_ids(tokenizer, f"{prompt}{number:0{width}d}") != (*ids, candidates[number]):
            raise BadPrompt(f"after {prompt[-12:]!r} the tokenizer joins {number:0{width}d} with what stands before it")
