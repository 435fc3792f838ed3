"""RULER's aggregation tasks: the most common words of a long list, which no single sentence states.

After NVIDIA/RULER's ``cwe`` and ``fwe``; words are our own. RULER counts words in any order, and so does the string
match of what the SFT probe has a model write; for teacher forcing the question says in which order: the alphabet's for
common words, most frequent first for coded ones. The list is as long as the prompt has room for, and depth means
nothing to it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from checkpoints.errors import BadPrompt
from checkpoints.tokenizers.framing import front_ids, prompt_ids
from heads.prompts.needles import Needle, NeedlePrompt, NeedleSet
from heads.prompts.pools import words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMMON, MOST = 10, 3
LONG = 4096
"""From this many tokens on, common words come 30 times and others 3 times, as in RULER; below, 6 times and once."""
ZETA = 2.0

Asked = tuple[str, str, str]
"""What stands before the question, the question, and its answer."""


@dataclass(frozen=True, slots=True)
class ListProbe:
    """A task of that kind; prompts of each length are drawn from name, seed and number.

    Attributes:
        name: of the task.
        count: prompts.
        seed: of words and places.
    """

    name: str
    count: int
    seed: int

    @property
    def needles(self) -> tuple[Needle, ...]:
        """None: nothing is hidden."""
        return ()

    @property
    def haystack(self) -> tuple[str, ...]:
        """A short form of every prompt, by which the task's words are known."""
        return tuple("".join(_MAKERS[self.name](self._draw(number), 60, LONG)) for number in range(self.count))

    def prompts(
        self, tokenizer: "PreTrainedTokenizerBase", *, length: int, depths: Sequence[float] = (), seed: int = 0
    ) -> NeedleSet:
        """The longest list of each prompt that fits; ``depths`` and ``seed`` of a haystack have no meaning here.

        Args:
            tokenizer: any transformers tokenizer.
            length: tokens of the prompt, the answer not counted.
            depths: not used.
            seed: not used.
        """
        made, refused = [], []
        for number in range(self.count):
            try:
                made.append(self._prompt(tokenizer, number, length))
            except BadPrompt as reason:
                refused.append((number, str(reason)))
        return NeedleSet(tuple(made), tuple(refused), length, front_ids(tokenizer))

    def _prompt(self, tokenizer: "PreTrainedTokenizerBase", number: int, length: int) -> NeedlePrompt:
        def built(size: int) -> tuple[tuple[int, ...], Asked]:
            asked = _MAKERS[self.name](self._draw(number), size, length)
            return tuple(prompt_ids(tokenizer, asked[0] + asked[1])), asked

        low, high = _LEAST[self.name], length
        if len(built(low)[0]) > length:
            raise BadPrompt(f"the shortest list of {self.name} takes {len(built(low)[0])} tokens: raise the length")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(built(middle)[0]) <= length else (low, middle)
        ids, (context, question, answer) = built(low)
        whole = tuple(prompt_ids(tokenizer, f"{context}{question} {answer}"))
        if whole[: len(ids)] != ids:
            raise BadPrompt("the answer changes how the end of the question is split into tokens")
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in whole[len(ids) :]:
            raise BadPrompt(f"the tokenizer does not know all of answer {answer!r}")
        return NeedlePrompt(
            ids=whole,
            answer_start=len(ids),
            answer_spans=(),
            needle_spans=(),
            distractor_spans=(),
            question_span=(len(ids), len(ids)),
            depth=float("nan"),
            requested_depth=float("nan"),
            needle=number,
            text=f"{context}{question}",
        )

    def _draw(self, number: int) -> random.Random:
        return random.Random(f"{self.name}/{self.seed}/{number}")


def _common_words(draw: random.Random, size: int, length: int) -> Asked:
    """Ten words come often, all others seldom (RULER's ``cwe``)."""
    often, seldom = (30, 3) if length >= LONG else (6, 1)
    if size < (often + seldom) * COMMON:  # short lists keep the ratio of a few to one
        often, seldom = 2, 1
    pool = draw.sample(_vocabulary(), min(len(_vocabulary()), COMMON + max(1, (size - often * COMMON) // seldom)))
    common, others = pool[:COMMON], pool[COMMON:]
    listed = draw.sample(often * common + seldom * others, often * len(common) + seldom * len(others))
    numbered = " ".join(f"{i}. {word}" for i, word in enumerate(listed, 1))
    context = f"Below is a numbered list of words. Some of them appear more often than others.\n{numbered}\n"
    question = f"Question: What are the {COMMON} most common words in the list, in alphabetical order?\nAnswer:"
    return context, question, ", ".join(sorted(common))


def _frequent_words(draw: random.Random, size: int, _length: int) -> Asked:
    """Coded words whose frequencies fall as the square of their rank; the first place is noise (RULER's ``fwe``)."""
    made = {"".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)): None for _ in range(4 * MOST + size // 4)}
    ranked = ["...", *made]
    weights = [1 / (rank + 1) ** ZETA for rank in range(len(ranked))]
    counts = [max(1, round(size * weight / sum(weights))) for weight in weights]
    for rank in range(MOST, 0, -1):  # the three most frequent are told apart by their counts, however short the text
        counts[rank] = max(counts[rank], counts[rank + 1] + 1)
    listed = [word for word, count in zip(ranked, counts, strict=True) for _ in range(count)]
    listed = listed[: max(size, sum(counts[: MOST + 2]))]
    draw.shuffle(listed)
    context = f"Read the following coded text and track the frequency of each coded word.\n{' '.join(listed)}\n"
    question = (
        f"Question: Leave the dots out. What are the {MOST} most frequent words of the coded text, the most frequent "
        "first?\nAnswer:"
    )
    return context, question, ", ".join(ranked[1 : MOST + 1])


def _vocabulary() -> list[str]:
    """Words to list: nouns, and pairs of nouns written as one where those are too few."""
    nouns = [str(noun) for noun in words()["nouns"]]
    return [*nouns, *(f"{one}-{other}" for one in nouns[:40] for other in nouns[40:])]


_MAKERS: Mapping[str, Callable[[random.Random, int, int], Asked]] = {
    "ruler_cwe": _common_words,
    "ruler_fwe": _frequent_words,
}
_LEAST = {"ruler_cwe": 2 * COMMON + 1, "ruler_fwe": 12}
LISTS = tuple(_MAKERS)
"""Names of the tasks: common words, frequent words."""
