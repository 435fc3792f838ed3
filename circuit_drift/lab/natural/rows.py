"""Rows of training: whole documents packed to a row's length, natural text filling what is left."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from circuit_drift.lab.data import FRAME, Rows
from circuit_drift.lab.natural.recipe import Recipe, Source
from circuit_drift.lab.natural.retrieval import (
    VALUE_WORDS,
    Piece,
    Words,
    draw_hidden,
    keyed_list,
    needle_document,
    word_list,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_NEEDLES = 8
TOKENS_A_WORD = 2.6  # of a rare word, generously
FRAME_TOKENS = 24  # of a needle's sentence and question besides the value, generously
SENTENCE_TOKENS = 60

Ids = npt.NDArray[np.uint16]


class RowStream:
    """An endless stream of rows; the next document is of the source furthest behind its share of its mix's tokens.

    Args:
        tokenizer: the series' own.
        natural: token ids of each training document.
        sentences: of the training documents, for filler.
        words: the pools of keys, values and frames.
        recipe: shares, weights and sizes.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        natural: Sequence[Ids],
        sentences: Sequence[str],
        words: Words,
        recipe: Recipe,
    ) -> None:
        self._encoder = tokenizer.backend_tokenizer
        self._bos, self._eos = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self._natural, self._sentences, self._words = natural, sentences, words
        self._recipe = recipe
        self._sizes = [len(ids) for ids in natural]
        self._rng = random.Random(f"{recipe.seed}-natural")
        self._mix: dict[Source, float] = {}
        self._written: dict[str, int] = {}  # tokens by source since the mix last changed

    def rows(self, step: int) -> Rows:
        """The rows of the step after ``step`` steps."""
        phase = self._recipe.phases[self._recipe.phase(step)]
        count = max(1, self._recipe.tokens_per_step // phase.length)
        if dict(phase.mix) != self._mix:
            self._mix, self._written = dict(phase.mix), {}
        packed = [self._row(phase.length, step) for _ in range(count)]
        ids, positions, weights = zip(*packed, strict=True)
        return Rows(np.array(ids, np.int64), np.array(positions, np.int64), np.array(weights, np.float32))

    def state(self) -> dict[str, Any]:
        """Where the stream stands: plain values from which `restore` goes on."""
        return {"mix": dict(self._mix), "written": dict(self._written), "rng": self._rng.getstate()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where a stream of the same arguments stood."""
        self._mix, self._written = dict(state["mix"]), dict(state["written"])
        version, internal, following = state["rng"]
        self._rng.setstate((version, tuple(internal), following))

    def _row(self, length: int, step: int) -> tuple[list[int], list[int], list[float]]:
        ids: list[int] = []
        positions: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            room = length - len(ids)
            source = self._next_source()
            document, weight = self._document(source, room, step)
            if len(document) > room:
                source, (document, weight) = "natural", self._natural_document(room)
            self._written[source] = self._written.get(source, 0) + len(document)
            ids += document
            positions += range(len(document))
            weights += weight
        return ids, positions, weights

    def _next_source(self) -> Source:
        total = sum(self._written.values()) + 1
        return max(self._mix, key=lambda name: self._mix[name] - self._written.get(name, 0) / total)

    def _document(self, source: Source, room: int, step: int) -> tuple[list[int], list[float]]:
        if source == "natural" or room < 2 * SENTENCE_TOKENS:
            return self._natural_document(room)
        return self._encode(self._pieces(source, room, step))

    def _natural_document(self, room: int) -> tuple[list[int], list[float]]:
        """A stretch of a document, chosen by length so that every token is as likely as any other."""
        text = self._rng.choices(self._natural, weights=self._sizes)[0]
        size = max(1, room - 1)
        start = self._rng.randrange(max(1, len(text) - size))
        ids = [self._bos, *(int(token) for token in text[start : start + size])][:room]
        return ids, [1.0] * len(ids)

    def _pieces(self, source: Source, room: int, step: int) -> list[Piece]:
        rng, pool = self._rng, self._recipe.words(step)
        if source == "needles":
            return self._needle_pieces(room, pool, self._recipe.variety(step))
        if source == "keyed_lists":
            pairs = rng.randint(2, 6)
            fit = int((room - FRAME) / (pairs * (VALUE_WORDS[1] * TOKENS_A_WORD + 8))) - 1
            return keyed_list(rng, self._words, pairs=pairs, repeats=max(1, min(fit, rng.randint(1, 3))), pool=pool)
        size = rng.randint(4, 20)
        fit = int((room - FRAME) / (size * TOKENS_A_WORD))
        return word_list(rng, self._words, size=size, repeats=max(2, min(rng.randint(2, 5), fit)), pool=pool)

    def _needle_pieces(self, room: int, pool: int, variety: float) -> list[Piece]:
        rng = self._rng
        size = 2 * (VALUE_WORDS[1] * TOKENS_A_WORD * 0.6 + FRAME_TOKENS)
        count = rng.randint(1, max(1, min(int(room / size), MOST_NEEDLES)))
        left = max(0, int((room - count * size) / SENTENCE_TOKENS))
        chosen = rng.choice((0, rng.randint(0, left), left))
        first = rng.randrange(len(self._sentences) - chosen)
        hidden = draw_hidden(rng, self._words, count, pool=pool, variety=variety)
        return needle_document(rng, hidden, self._sentences[first : first + chosen])

    def _encode(self, pieces: Sequence[Piece]) -> tuple[list[int], list[float]]:
        """Token ids of the joined text; a token has the weight of the piece that its last character stands in."""
        given = {"plain": 1.0, **{role: getattr(self._recipe.weights, role) for role in ("told", "asked", "answer")}}
        ends = np.cumsum([len(text) for text, _ in pieces])
        encoded = self._encoder.encode("".join(text for text, _ in pieces), add_special_tokens=False)
        lasts = np.array([stop - 1 for _, stop in encoded.offsets])
        places = np.searchsorted(ends, lasts, side="right")
        weights = [given[pieces[place][1]] for place in places]
        return [self._bos, *encoded.ids, self._eos], [1.0, *weights, 1.0]
