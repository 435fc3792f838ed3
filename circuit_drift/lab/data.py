"""Streams of training rows: whole documents packed to a row's length."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from circuit_drift.lab import documents
from circuit_drift.lab.recipe import Mix, Source
from circuit_drift.lab.world import WorldFact, by_person

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FRAME = 2  # <bos> and <eos> around each document
NEEDLE_FRAME = 10  # tokens of a needle sentence besides its code words, the stop included
MOST_NEEDLES = 8
NEEDLE_WORDS = (6, 13)


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of packed documents, each array [rows, length].

    Attributes:
        ids: token ids.
        positions: counted from each document's ``<bos>``. A model given them keeps every document to itself, as
            it must: documents in one row may tell different codes for one key.
        weights: loss weight of each token as a target.
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


class RowStream:
    """An endless stream of rows in which whole documents follow each other, each as ``<bos> text <eos>``.

    The source of the next document is the one furthest behind its share of tokens; a document that does not fit
    opens the next row, and prose, cut to size, fills the gap it leaves.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        mix: Mix,
        facts: Sequence[WorldFact],
        rng: random.Random,
        *,
        novel_weight: float = 1.0,
    ) -> None:
        self._encoder = tokenizer.backend_tokenizer
        self._bos, self._eos = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self._codes = frozenset(self._ids(" ".join(documents.CODE_WORDS)))
        self._shares: dict[Source, float] = dict(mix)
        self._written: dict[Source, int] = dict.fromkeys(self._shares, 0)
        self._people = by_person(facts)
        self._queue: list[tuple[WorldFact, ...]] = []
        self._waiting: list[int] = []
        self._rng = rng
        self._novel_weight = novel_weight

    def rows(self, count: int, length: int, *, filler: int) -> Rows:
        """The next rows.

        Args:
            count: number of rows.
            length: tokens per row; no document is longer.
            filler: the longest filler of a needle document, in words.
        """
        rows = [self._row(length, filler) for _ in range(count)]
        return Rows(
            np.array(rows, dtype=np.int64),
            np.array([self._positions(row) for row in rows], dtype=np.int64),
            np.array([self._weights(row) for row in rows], dtype=np.float32),
        )

    def state(self) -> dict[str, Any]:
        """Where the stream stands: plain values from which `restore` goes on."""
        return {
            "written": dict(self._written),
            "queue": [self._people.index(person) for person in self._queue],
            "waiting": list(self._waiting),
            "rng": self._rng.getstate(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where a stream of the same arguments stood."""
        self._written = dict(state["written"])
        self._queue = [self._people[place] for place in state["queue"]]
        self._waiting = list(state["waiting"])
        version, internal, following = state["rng"]
        self._rng.setstate((version, tuple(internal), following))

    def _row(self, length: int, filler: int) -> list[int]:
        row: list[int] = []
        while len(row) < length:
            document = self._waiting or self._next_document(length, filler)
            self._waiting = []
            room = length - len(row)
            if len(document) > room:
                self._waiting = document if len(document) <= length else []
                document = self._encode(documents.prose(self._rng, words=room))[:room]
            row += document
        return row

    def _positions(self, row: list[int]) -> list[int]:
        positions: list[int] = []
        for token in row:
            positions.append(0 if token == self._bos or not positions else positions[-1] + 1)
        return positions

    def _weights(self, row: list[int]) -> list[float]:
        seen: set[int] = set()
        weights: list[float] = []
        for token in row:
            if token == self._bos:
                seen.clear()
            novel = token in self._codes and token not in seen
            seen.add(token)
            weights.append(self._novel_weight if novel else 1.0)
        return weights

    def _ids(self, text: str) -> list[int]:
        return list(self._encoder.encode(text, add_special_tokens=False).ids)

    def _encode(self, text: str) -> list[int]:
        return [self._bos, *self._ids(text), self._eos]

    def _next_document(self, length: int, filler: int) -> list[int]:
        total = sum(self._written.values()) + 1
        source = max(self._shares, key=lambda name: self._shares[name] - self._written[name] / total)
        ids = self._encode(self._text(source, length, filler))
        self._written[source] += len(ids)
        return ids

    def _text(self, source: Source, length: int, filler: int) -> str:
        match source:
            case "biographies":
                return documents.biography(self._rng, self._next_person())
            case "needles":
                return self._needle_document(length, filler)
            case "keyed_lists":
                return self._keyed_list(length)
            case "word_lists":
                words = self._rng.randint(4, 20)
                fit = (length - FRAME) // (words + 1)
                return documents.word_list(self._rng, words=words, repeats=min(self._rng.randint(2, 5), fit))
            case "prose":
                return documents.prose(self._rng, words=self._rng.randint(20, 60))

    def _next_person(self) -> tuple[WorldFact, ...]:
        if not self._queue:
            self._queue = self._rng.sample(self._people, len(self._people))
        return self._queue.pop()

    def _keyed_list(self, length: int) -> str:
        words, pairs = self._rng.randint(1, 3), self._rng.randint(2, 6)
        fit = (length - FRAME) // (pairs * (words + 5)) - 1
        repeats = max(1, min(fit, self._rng.randint(1, 3)))
        return documents.keyed_list(self._rng, pairs=pairs, words=words, repeats=repeats)

    def _needle_document(self, length: int, filler: int) -> str:
        words = self._rng.randint(*NEEDLE_WORDS)
        size = 2 * (words + NEEDLE_FRAME)
        room = length - FRAME - documents.LONGEST_SENTENCE
        count = self._rng.randint(1, max(1, min(room // size, MOST_NEEDLES)))
        longest = max(0, min(filler, room - count * size))
        chosen = self._rng.choice((0, self._rng.randint(0, longest), longest))
        codes = documents.draw_codes(self._rng, count, words=words)
        return documents.needle_document(self._rng, codes, filler=chosen)


def held_out_rows(
    tokenizer: PreTrainedTokenizerFast, mix: Mix, facts: Iterable[WorldFact], *, count: int, length: int, filler: int
) -> Rows:
    """Rows that no training stream contains, the same for every seed of training."""
    stream = RowStream(tokenizer, mix, tuple(facts), random.Random("held-out"))
    return stream.rows(count, length, filler=filler)
