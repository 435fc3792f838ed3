"""Greedy answers, and how much of the true answer they hold."""

from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedModel

from checkpoints.model.plain import takes_model
from checkpoints.model.writing import greedy, stop_tokens

NEW_TOKENS = 50


@takes_model
def generate(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int] = (),
    new_tokens: int = NEW_TOKENS,
    end_of_sequence: bool = True,
) -> tuple[int, ...]:
    """Greedy continuation of one prompt, at least one token; a stop token ends it and is included.

    Args:
        model: any causal language model with a cache.
        prompt: token ids.
        stop_ids: end the answer.
        new_tokens: at most this many.
        end_of_sequence: the model's own end-of-sequence tokens end it too.
    """
    stops = {*stop_ids, *(stop_tokens(model) if end_of_sequence else ())}
    return greedy(model, [prompt], new_tokens=new_tokens, stops=stops)[0]


def recall(written: Sequence[int], answer: Sequence[int]) -> float:
    """Share of the answer's tokens that were written, each as often as it was (ROUGE-1 recall over token ids)."""
    found = Counter(written) & Counter(answer)
    return sum(found.values()) / len(answer)


def contains(written: Sequence[int], answer: Sequence[int]) -> bool:
    """Whether the answer stands in what was written, token for token."""
    size = len(answer)
    return any(tuple(written[i : i + size]) == tuple(answer) for i in range(len(written) - size + 1))
