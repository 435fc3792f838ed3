"""Needle prompts with corrupt twins of equal length, which give retrieval circuits, faithfulness and diffs.

    pairs = value_swaps(heads.needle_prompts(tokenizer, needles, haystack, length=256, depths=[0.5]))
    circuits.attribute(model, pairs)

A value swap changes what the needle says and nothing else: the question still asks for the same key, and the metric is
the logit of the needle's answer minus that of the other one. It isolates what carries the value: values and outputs of
the heads that copy. Edges through queries and keys are small by design.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from checkpoints.errors import BadPrompt
from circuits.facts.facts import FactSet
from heads.prompts.needles import NeedlePrompt, NeedleSet, Span


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
    if tokens < 1:
        raise BadPrompt(f"the tokens of an answer that are scored are 1 or more, got {tokens}")
    pairs, refused = [], list(needles.refused)
    for prompt in needles:
        twin = _other(prompt, needles.prompts, tokens)
        if twin is None:
            refused.append((prompt.needle, "no other needle has an answer of as many tokens that begins differently"))
        else:
            pairs.append((prompt, twin))
    if not pairs:
        raise BadPrompt(f"no needle prompt has a twin: {refused[0][1] if refused else 'there is no prompt'}")
    made = FactSet.from_ids(
        clean=[prompt.ids[: prompt.answer_start] for prompt, _ in pairs],
        corrupt=[_with(prompt, twin.answer_in_needle)[: prompt.answer_start] for prompt, twin in pairs],
        answer=[prompt.answer[:tokens] for prompt, _ in pairs],
        wrong=[twin.answer[:tokens] for _, twin in pairs],
        front=needles.front or None,
    )
    return replace(made, refused=tuple(refused), segments=tuple(_segments(prompt) for prompt, _ in pairs))


def _other(prompt: NeedlePrompt, prompts: Sequence[NeedlePrompt], tokens: int) -> NeedlePrompt | None:
    """The next needle in the list, wrapping around, whose answer can stand in this one's place."""
    if len(prompt.answer_spans) > 1:
        return None
    size, depth = len(prompt.answer_in_needle), prompt.requested_depth
    last = max(other.needle for other in prompts) + 1
    able = [
        other
        for other in prompts
        if other.needle != prompt.needle
        and other.requested_depth == depth
        and len(other.answer_spans) == 1
        and len(other.answer_in_needle) == size
        and len(other.answer) == len(prompt.answer) >= tokens
        and other.answer[0] != prompt.answer[0]
    ]
    return min(able, key=lambda other: (other.needle - prompt.needle) % last, default=None)


def _with(prompt: NeedlePrompt, said: tuple[int, ...]) -> list[int]:
    """The prompt's tokens with another answer in the needle."""
    start, stop = prompt.answer_span
    return [*prompt.ids[:start], *said, *prompt.ids[stop:]]


def _segments(prompt: NeedlePrompt) -> Mapping[str, Span]:
    return {"needle": prompt.needle_span, "question": prompt.question_span}
