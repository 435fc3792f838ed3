"""Facts in token ids: what stands in front, where the answer begins, and which facts a tokenizer cannot carry."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.results.text import counted
from checkpoints.tokenizers.framing import Ids, front_ids, gap
from checkpoints.tokenizers.framing import prompt_ids as prompt_ids
from circuits.facts.facts import Answers, Fact, Facts, FactSet, fact_set, obstacle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MOST = 0.5
UNEVEN = "a logit difference needs equal numbers: use metric='log probability' (--metric 'log probability')"

logger = logging.getLogger(__name__)


def tokenize_facts(
    tokenizer: "PreTrainedTokenizerBase", facts: Iterable[Fact], *, answers: Answers = "one token"
) -> FactSet:
    """Turn facts into token ids, refusing one by one those that cannot be scored.

    In front of a prompt stands what the tokenizer itself puts there, and nothing else
    (`checkpoints.tokenizers.framing`).

    Args:
        tokenizer: of the model.
        facts: what to ask.
        answers: ``one token`` refuses longer ones; ``whole`` keeps all tokens of each, so that metrics run over the
            whole answer; ``first token`` cuts longer ones there, as published tools do; ``auto`` is ``one token``
            unless most facts were refused so and fewer are refused whole, and says so: `FactSet.answers`.

    Raises:
        BadPrompt: no fact is left; the message gives the first reasons. Or an unknown kind of answers.
    """
    require_choice("answers", answers, get_args(Answers))
    facts = facts if isinstance(facts, Facts) else Facts(facts)
    if answers != "auto":
        return _scored(_tokenized(tokenizer, facts, answers), facts)
    single = _tokenized(tokenizer, facts, "one token")
    if len(single) > (1 - MOST) * len(facts):
        return single
    whole = _tokenized(tokenizer, facts, "whole")
    if len(whole) <= len(single):
        return _scored(single, facts)
    logger.warning(
        "%d of %d facts have answers of one token, so whole answers are scored: the metric runs over all tokens of "
        "each; answers='one token' (--answers one-token) keeps to the others",
        len(single),
        len(facts),
    )
    return whole


def readable(facts: FactSet, metric: object) -> FactSet:
    """The facts that a metric can be read on; the others are named in `FactSet.refused`.

    A logit difference pairs the tokens of answer and wrong answer, so it needs as many of one as of the other. Every
    other metric reads all facts.

    Args:
        facts: all that were tokenized, no subset of them.
        metric: a metric's name, or a function.

    Raises:
        BadPrompt: it can be read on none of them.
    """
    if metric != "logit difference":
        return facts
    lengths = [(len(answer), len(wrong)) for answer, wrong in zip(facts.answer, facts.wrong, strict=True)]
    kept = [i for i, (answer, wrong) in enumerate(lengths) if answer == wrong]
    if len(kept) == len(facts):
        return facts
    places = {index for index, _ in facts.refused}
    positions = [index for index in range(len(facts) + len(places)) if index not in places]
    uneven = [
        (positions[i], f"the answer has {counted(answer, 'token')} and the wrong answer {wrong}; {UNEVEN}")
        for i, (answer, wrong) in enumerate(lengths)
        if answer != wrong
    ]
    refused = tuple(sorted([*facts.refused, *uneven]))
    if not kept:
        raise BadPrompt(
            f"a logit difference can be read on none of {len(facts)} facts. fact {uneven[0][0]}: {uneven[0][1]}"
        )
    return replace(facts.subset(kept), refused=refused)


def _scored(made: FactSet, facts: Facts) -> FactSet:
    if not len(made):
        reasons = "; ".join(f"fact {index}: {reason}" for index, reason in made.refused[:3])
        raise BadPrompt(f"none of {len(facts)} facts can be scored with this tokenizer. {reasons}")
    return made


def _tokenized(tokenizer: "PreTrainedTokenizerBase", facts: Facts, answers: Answers) -> FactSet:
    """The facts that can be scored with answers of one kind, and why the others cannot."""
    places = {index for index, _ in facts.refused}
    positions = [index for index in range(len(facts) + len(places)) if index not in places]
    kept, rows, segments, refused = [], [], [], list(facts.refused)
    for index, fact in zip(positions, facts, strict=True):
        try:
            clean, answer = _split(tokenizer, fact.clean, fact.answer, fact.space, "answer", answers)
            corrupt, wrong = _split(tokenizer, fact.corrupt, fact.wrong, fact.space, "wrong answer", answers)
            spans = {name: _segment(tokenizer, fact.clean, clean, name, text) for name, text in fact.segments.items()}
        except BadPrompt as error:
            refused.append((index, str(error)))
            continue
        if reason := obstacle(clean, corrupt, answer, wrong):
            refused.append((index, reason))
            continue
        kept.append(fact)
        rows.append((clean, corrupt, answer, wrong))
        segments.append(spans)
    named = segments if any(segments) else ()
    return fact_set(rows, kept, sorted(refused), named, front=front_ids(tokenizer), answers=answers)


def _split(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, spaced: bool | None, what: str, answers: Answers
) -> tuple[Ids, Ids]:
    """Token ids of the prompt, and those that the answer adds to it."""
    space = gap(prompt, answer, spaced)
    ids, whole = prompt_ids(tokenizer, prompt), prompt_ids(tokenizer, prompt + space + answer)
    if whole[: len(ids)] != ids:
        raise BadPrompt(f"the {what} {answer!r} changes how the prompt's last word is split; end the prompt at a word")
    added = whole[len(ids) :]
    if len(added) > 1 and answers == "first token":
        added = added[:1]
    if len(added) != 1 and answers != "whole":
        tokens = tokenizer.convert_ids_to_tokens(list(added))
        raise BadPrompt(f"the {what} {answer!r} is {len(added)} tokens ({' '.join(map(str, tokens))}), not one")
    if tokenizer.unk_token_id in added:
        raise BadPrompt(f"the {what} {answer!r} is unknown to the tokenizer")
    return ids, added


def _segment(tokenizer: "PreTrainedTokenizerBase", prompt: str, ids: Ids, name: str, text: str) -> tuple[int, int]:
    """First token that holds part of a segment's text, and the one after the last; of its first occurrence."""
    start = prompt.find(text)
    if start < 0 or not text:
        raise BadPrompt(f"the segment {name!r}, {text!r}, is not in the clean prompt {prompt!r}")
    if not tokenizer.is_fast:
        raise BadPrompt(f"the segment {name!r} needs a tokenizer that tells where its tokens stand (a fast one)")
    places = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    front = len(ids) - len(places)
    inside = [i + front for i, (low, high) in enumerate(places) if low < start + len(text) and high > start]
    return inside[0], inside[-1] + 1
