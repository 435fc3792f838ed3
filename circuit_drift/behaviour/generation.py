"""Answers that a model writes, greedy and in batches, and whether words that were wanted stand in them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checkpoints.model.rope import context_of
from checkpoints.tokenizers.framing import chat_ids, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from circuits.facts.facts import FactSet
    from circuits.facts.questions import QuestionSet
    from heads.prompts.needles import NeedlePrompt

Ids = tuple[int, ...]


def write_answers(
    model: "PreTrainedModel",
    prompts: Sequence[Ids],
    *,
    new_tokens: int,
    stop_ids: Sequence[int] = (),
    batch_size: int = 64,
) -> tuple[Ids, ...]:
    """Greedy continuations, each as `heads.detect.generation.generate` writes it alone.

    Batches are padded at their beginning where the model takes that, and of one length where it does not; an answer
    that has ended leaves its batch (`checkpoints.model.writing.greedy`).

    Args:
        model: a causal language model with a cache, in eval mode.
        prompts: token ids.
        new_tokens: at most this many.
        stop_ids: end an answer, besides the model's end-of-sequence tokens; the token that ends it is included.
        batch_size: prompts at a time; changes no answer beyond ties.
    """
    from checkpoints.model.writing import batches, greedy, stop_tokens

    found: dict[int, Ids] = {}
    stops = {*stop_ids, *stop_tokens(model)}
    for rows in batches(model, prompts, new_tokens=new_tokens, size=batch_size):
        answers = greedy(model, [prompts[i] for i in rows], new_tokens=new_tokens, stops=stops)
        found |= zip(rows, answers, strict=True)
    return tuple(found[i] for i in range(len(prompts)))


def written_prompts(
    tokenizer: "PreTrainedTokenizerBase", asked: "FactSet | QuestionSet", *, instruction: str = "", chat: bool = False
) -> tuple[Ids, ...]:
    """The prompts of facts or questions as they are put to a model that answers in writing.

    Args:
        tokenizer: of the model.
        asked: the facts, in tokens.
        instruction: in front of each.
        chat: as a user's turn of the tokenizer's chat template.

    Raises:
        BadPrompt: it has no chat template.
    """
    if not instruction and not chat:
        return asked.clean
    return tuple((chat_ids if chat else prompt_ids)(tokenizer, f"{instruction}{fact.clean}") for fact in asked.facts)


def string_match(written: str, wanted: Sequence[str]) -> float:
    """Share of the wanted words that stand in a text, in any order and case (RULER's ``string_match_all``).

    Of a single word it is RULER's ``string_match_part`` as well.
    """
    text = written.lower()
    return sum(word.lower() in text for word in wanted) / len(wanted)


def string_matches(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: "Sequence[NeedlePrompt]",
    *,
    new_tokens: int,
    batch_size: int = 16,
) -> list[float]:
    """`string_match` of what the model writes after each prompt; what is wanted is its answer, split at commas.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        prompts: with their answers.
        new_tokens: at most this many, and none beyond the model's positions.
        batch_size: prompts at a time.
    """
    positions = context_of(model.config)
    asked = [prompt.ids[: prompt.answer_start] for prompt in prompts]
    room = new_tokens if positions is None else min(new_tokens, positions - max(map(len, asked)))
    written = write_answers(model, asked, new_tokens=room, batch_size=batch_size)
    texts = [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in written]
    wanted = [str(tokenizer.decode(list(prompt.answer))).strip().split(", ") for prompt in prompts]
    return [string_match(text, words) for text, words in zip(texts, wanted, strict=True)]
