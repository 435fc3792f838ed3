"""Answers that a model writes: greedy, in batches, with its keys and values kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checkpoints.tokenizers.framing import chat_ids, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from circuits.facts.facts import FactSet
    from circuits.facts.questions import QuestionSet

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
