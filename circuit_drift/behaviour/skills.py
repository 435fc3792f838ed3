"""Skills outside the domain that is trained on: arithmetic, in-context copying, general text; all offline."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.loading.load import LoadedModel
from checkpoints.tokenizers.framing import front_ids, prompt_ids
from circuit_drift.behaviour.gauges import Reading, logits_from
from circuit_drift.measures.tokenizers import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Additions and subtractions of small numbers after worked examples; teacher-forced, which equals greedy.

    Attributes:
        count: problems.
        largest: of the numbers.
        shots: worked examples in front of each problem.
        seed: of the problems.
    """

    count: int = 64
    largest: int = 20
    shots: int = 4
    seed: int = 0
    name: str = field(default="arithmetic", init=False)

    def problems(self) -> tuple[tuple[str, str], ...]:
        """(prompt, answer) pairs; no answer is negative."""
        rng = random.Random(f"arithmetic-{self.seed}")
        made = []
        for _ in range(self.count):
            shown = "".join(
                f"{question} {answer}\n" for question, answer in (self._draw(rng) for _ in range(self.shots))
            )
            question, answer = self._draw(rng)
            made.append((shown + question, answer))
        return tuple(made)

    def read(self, loaded: LoadedModel) -> Reading:
        """Share of problems whose every answer token is the most likely one, and the answers' perplexity.

        Raises:
            BadPrompt: the tokenizer does not know digits.
        """
        tokenizer = tokenizer_of(loaded)
        pairs = [
            (list(prompt_ids(tokenizer, prompt)), _answer(tokenizer, prompt, answer))
            for prompt, answer in self.problems()
        ]
        unknown = tokenizer.unk_token_id
        if unknown is not None and any(unknown in answer for _, answer in pairs):
            raise BadPrompt("the tokenizer does not know digits, so arithmetic cannot be asked; leave Arithmetic out")
        right, nll = forced(loaded.model, pairs)
        return Reading({"arithmetic_accuracy": float(right.mean()), "arithmetic_ppl": float(np.exp(nll.mean()))})

    def _draw(self, rng: random.Random) -> tuple[str, str]:
        a, b = rng.randint(0, self.largest), rng.randint(0, self.largest)
        if rng.random() < 0.5:
            return f"{a} + {b} =", str(a + b)
        return f"{max(a, b)} - {min(a, b)} =", str(abs(a - b))


@dataclass(frozen=True, slots=True)
class Copying:
    """In-context copying of random tokens: the second half of a prompt repeats the first (Olsson et al. 2022).

    Tokens are drawn from the tokenizer's own vocabulary, special ones left out, so that it can be asked of any model;
    or from words that the model has seen in such places.

    Attributes:
        count: sequences.
        length: tokens that are repeated.
        words: what is drawn from instead of the whole vocabulary; the first token of each.
        seed: of the tokens.
    """

    count: int = 16
    length: int = 24
    words: tuple[str, ...] = ()
    seed: int = 0
    name: str = field(default="copying", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """Accuracy and perplexity over the repeated tokens, the first of each sequence left out."""
        tokenizer = tokenizer_of(loaded)
        start = front_ids(tokenizer)
        pool = [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in self.words]
        pool = pool or sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        rng = random.Random(f"copying-{self.seed}")
        pairs = []
        for _ in range(self.count):
            drawn = [rng.choice(pool) for _ in range(self.length)]
            pairs.append(([*start, *drawn, drawn[0]], drawn[1:]))
        hits, nll = forced_tokens(loaded.model, pairs)
        return Reading(
            {
                "copying_accuracy": float(np.concatenate(hits).mean()),
                "copying_ppl": float(np.exp(np.concatenate(nll).mean())),
            }
        )


@dataclass(frozen=True, slots=True)
class TextPerplexity:
    """Perplexity of texts that the training documents have nothing to do with.

    Attributes:
        texts: one document each.
        longest: tokens of a text that are scored.
    """

    texts: tuple[str, ...]
    longest: int = 256
    name: str = field(default="text", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """Perplexity over all tokens of the texts but the first of each.

        Raises:
            BadPrompt: no text has two tokens.
        """
        rows = [list(prompt_ids(tokenizer_of(loaded), text))[: self.longest] for text in self.texts]
        pairs = [(row[:1], row[1:]) for row in rows if len(row) > 1]
        if not pairs:
            raise BadPrompt("no text has two tokens, so there is nothing to predict; give longer texts")
        _, nll = forced_tokens(loaded.model, pairs)
        return Reading({"text_ppl": float(np.exp(np.concatenate(nll).mean()))})


Pair = tuple[list[int], list[int]]


def forced(model: "PreTrainedModel", pairs: Sequence[Pair]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether each answer is what greedy decoding would give, and the mean NLL of its tokens in nats.

    Args:
        model: any causal language model.
        pairs: (prompt ids, answer ids).

    Returns:
        [N] bool and [N] nats per token.
    """
    hits, nll = forced_tokens(model, pairs)
    return np.array([hit.all() for hit in hits]), np.array([values.mean() for values in nll])


def forced_tokens(
    model: "PreTrainedModel", pairs: Sequence[Pair], *, batch_size: int = 32
) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.float64]]]:
    """The same token by token: N arrays each, as long as the answers.

    Rows are padded at their end, where a causal model cannot see it.
    """
    import torch

    device = next(model.parameters()).device
    hits: list[NDArray[np.bool_]] = []
    nll: list[NDArray[np.float64]] = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        longest = max(len(prompt) + len(answer) for prompt, answer in batch)
        rows = [[*prompt, *answer] + [0] * (longest - len(prompt) - len(answer)) for prompt, answer in batch]
        first = min(len(prompt) for prompt, _ in batch) - 1
        with torch.no_grad():
            logits = logits_from(model, torch.tensor(rows, device=device), first)
        for row, (prompt, answer) in zip(logits, batch, strict=True):
            begin = len(prompt) - 1 - first
            scored = row[begin : begin + len(answer)]
            wanted = torch.tensor(answer, device=device)
            hits.append((scored.argmax(dim=-1) == wanted).cpu().numpy())
            losses = torch.nn.functional.cross_entropy(scored, wanted, reduction="none")
            nll.append(losses.double().cpu().numpy())
    return hits, nll


def _answer(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> list[int]:
    """The tokens that the answer adds to its prompt.

    Raises:
        BadPrompt: it changes how the prompt is split.
    """
    before, whole = (list(prompt_ids(tokenizer, text)) for text in (prompt, f"{prompt} {answer}"))
    if whole[: len(before)] != before or len(whole) == len(before):
        raise BadPrompt(f"the answer {answer!r} changes how {prompt!r} is split into tokens")
    return whole[len(before) :]
