"""Needle prompts with corrupt twins of equal length, which give retrieval circuits, faithfulness and diffs.

    pairs = value_swaps(heads.needle_prompts(tokenizer, needles, haystack, length=256, depths=[0.5]))
    circuits.attribute(model, pairs)

A twin takes one part of the prompt from another needle, of as many tokens, and leaves every other token as it is. The
metric is the logit of the needle's answer minus that of the other needle's. What is swapped is what the graph isolates:

- the value: the needle says another answer. Values and outputs of the heads that copy carry the difference.
- the key: the needle says its answer of another key, and the question asks for the old one. Keys carry it.
- the question: another key is asked for, which the needle does not state. Queries carry it.

Edges through what is not swapped are small by design. A model that copies whatever needle there is, without a look at
its key, has no circuit under the last two: clean and corrupt prompts then get the same answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from checkpoints.errors import BadPrompt
from circuits.facts.facts import FactSet
from heads.prompts.needles import NeedlePrompt, NeedleSet, Span

Swapped = Callable[[NeedlePrompt], tuple[Span, ...]]


def value_swaps(needles: NeedleSet, *, tokens: int = 1) -> FactSet:
    """Each needle prompt beside the same prompt with the answer of another needle in its place.

    Args:
        needles: prompts of needles with one answer each.
        tokens: how many tokens of the answer are scored, from its first on.

    Returns:
        one clean/corrupt pair a prompt, in order; ``segments`` name the needle and the question. A prompt without
        another needle whose answer has as many tokens, and another first one, is counted in ``refused``.

    Raises:
        BadPrompt: tokens below 1, or no prompt has a twin.
    """
    return _swaps(needles, _value, "an answer of as many tokens that begins differently", tokens)


def key_swaps(needles: NeedleSet, *, tokens: int = 1) -> FactSet:
    """Each needle prompt beside the same prompt whose needle says its answer of another needle's key.

    Arguments, result and errors are as for `value_swaps`; what surrounds the answer in the twin's needle must differ,
    and have as many tokens before and behind it.
    """
    return _swaps(needles, _key, "another key in as many tokens, and another answer", tokens)


def question_swaps(needles: NeedleSet, *, tokens: int = 1) -> FactSet:
    """Each needle prompt beside the same prompt that asks the question of another needle.

    Arguments, result and errors are as for `value_swaps`; the twin's question must differ in as many tokens.
    """
    return _swaps(needles, _question, "another question of as many tokens, and another answer", tokens)


SWAPS = {"value": value_swaps, "key": key_swaps, "question": question_swaps}


def _swaps(needles: NeedleSet, swapped: Swapped, wanted: str, tokens: int) -> FactSet:
    if tokens < 1:
        raise BadPrompt(f"the tokens of an answer that are scored are 1 or more, got {tokens}")
    pairs, refused = [], list(needles.refused)
    for prompt in needles:
        twin = _other(prompt, needles.prompts, swapped, tokens)
        if len(prompt.answer_spans) > 1:
            refused.append((prompt.needle, "its answer stands in several sentences, and a twin replaces one"))
        elif twin is None:
            refused.append((prompt.needle, f"no other needle has {wanted}"))
        else:
            pairs.append((prompt, twin))
    if not pairs:
        raise BadPrompt(f"no needle prompt has a twin: {refused[0][1] if refused else 'there is no prompt'}")
    made = FactSet.from_ids(
        clean=[prompt.ids[: prompt.answer_start] for prompt, _ in pairs],
        corrupt=[_with(prompt, twin, swapped)[: prompt.answer_start] for prompt, twin in pairs],
        answer=[prompt.answer[:tokens] for prompt, _ in pairs],
        wrong=[twin.answer[:tokens] for _, twin in pairs],
        front=needles.front or None,
    )
    return replace(made, refused=tuple(refused), segments=tuple(_segments(prompt) for prompt, _ in pairs))


def _other(prompt: NeedlePrompt, prompts: Sequence[NeedlePrompt], swapped: Swapped, tokens: int) -> NeedlePrompt | None:
    """The needle whose part can stand in this one's place and differs in most tokens; of several the next in the list.

    Two keys that share a word ("wooden locket", "red locket") may be one to a model that reads that word alone.
    """
    last = max(other.needle for other in prompts) + 1
    own = _parts(prompt, swapped)
    able = [
        other
        for other in prompts
        if other.needle != prompt.needle
        and len(other.answer_spans) == 1
        and list(map(len, _parts(other, swapped))) == list(map(len, own))
        and _parts(other, swapped) != own
        and len(other.answer) == len(prompt.answer) >= tokens
        and other.answer[0] != prompt.answer[0]
    ]
    return min(able, key=lambda other: (_alike(_parts(other, swapped), own), (other.needle - prompt.needle) % last),
               default=None)  # fmt: skip


def _alike(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> int:
    """Tokens that two parts of as many have in common, place by place."""
    return sum(x == y for mine, theirs in zip(one, other, strict=True) for x, y in zip(mine, theirs, strict=True))


def _value(prompt: NeedlePrompt) -> tuple[Span, ...]:
    return (prompt.answer_span,)


def _key(prompt: NeedlePrompt) -> tuple[Span, ...]:
    """All of the needle but its answer."""
    (start, stop), (first, last) = prompt.needle_span, prompt.answer_span
    return (start, first), (last, stop)


def _question(prompt: NeedlePrompt) -> tuple[Span, ...]:
    return (prompt.question_span,)


def _parts(prompt: NeedlePrompt, swapped: Swapped) -> list[tuple[int, ...]]:
    return [prompt.ids[slice(*span)] for span in swapped(prompt)]


def _with(prompt: NeedlePrompt, twin: NeedlePrompt, swapped: Swapped) -> list[int]:
    """The prompt's tokens with the twin's in the place of what is swapped."""
    ids = list(prompt.ids)
    for span, said in zip(swapped(prompt), _parts(twin, swapped), strict=True):
        ids[slice(*span)] = said
    return ids


def _segments(prompt: NeedlePrompt) -> Mapping[str, Span]:
    return {"needle": prompt.needle_span, "question": prompt.question_span}
