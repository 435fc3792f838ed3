"""Facts as clean/corrupt prompt pairs, and their token ids.

A fact is scored by the logit difference logit(answer) - logit(wrong) at the last prompt token. Clean and corrupt
prompt must have the same number of tokens, so that each position of one replaces the same position of the other.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS = ("clean", "corrupt", "answer", "wrong")


@dataclass(frozen=True, slots=True)
class Fact:
    """One clean/corrupt pair.

    Attributes:
        clean: the prompt, ending right before the answer.
        corrupt: the same prompt about something else, with the same number of tokens.
        answer: what follows the clean prompt; one token. A space is put between prompt and answer if neither has one.
        wrong: what follows the corrupt prompt; one token.
        labels: anything to group by (class, relation, person, ...).
    """

    clean: str
    corrupt: str
    answer: str
    wrong: str
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FactSet:
    """Facts in token ids of one tokenizer.

    Attributes:
        clean: N prompts, each a tuple of ids.
        corrupt: N prompts, each as long as its clean one.
        answer_id: [N] the answer's token.
        wrong_id: [N] the wrong answer's token.
        facts: the N facts kept.
        refused: (position in the input, reason) of every fact that cannot be scored.
    """

    clean: tuple[tuple[int, ...], ...]
    corrupt: tuple[tuple[int, ...], ...]
    answer_id: NDArray[np.int64]
    wrong_id: NDArray[np.int64]
    facts: tuple[Fact, ...]
    refused: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def hash(self) -> str:
        """sha256 of the token ids: equal exactly when the same prompts are scored the same way."""
        content = [self.clean, self.corrupt, self.answer_id.tolist(), self.wrong_id.tolist()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> "FactSet":
        """Some of the facts, in the order given."""
        chosen = list(indices)
        return FactSet(
            clean=tuple(self.clean[i] for i in chosen),
            corrupt=tuple(self.corrupt[i] for i in chosen),
            answer_id=self.answer_id[chosen],
            wrong_id=self.wrong_id[chosen],
            facts=tuple(self.facts[i] for i in chosen),
            refused=self.refused,
        )

    @classmethod
    def from_ids(
        cls,
        clean: Iterable[Iterable[int]],
        corrupt: Iterable[Iterable[int]],
        answer_id: Iterable[int],
        wrong_id: Iterable[int],
    ) -> "FactSet":
        """Facts given as token ids, without a tokenizer.

        Raises:
            BadPrompt: a pair that cannot be scored.
        """
        rows = list(zip(clean, corrupt, answer_id, wrong_id, strict=True))
        pairs = [(tuple(map(int, c)), tuple(map(int, d)), int(a), int(w)) for c, d, a, w in rows]
        for index, pair in enumerate(pairs):
            if reason := _obstacle(*pair):
                raise BadPrompt(f"fact {index}: {reason}")
        facts = [Fact(str(list(c)), str(list(d)), str(a), str(w)) for c, d, a, w in pairs]
        return _fact_set(pairs, facts, [])


def load_facts(path: Path | str) -> tuple[Fact, ...]:
    """Read facts from JSON lines with ``clean``, ``corrupt``, ``answer``, ``wrong`` and optionally ``labels``.

    Any further key of a line becomes a label.

    Raises:
        BadPrompt: the file is missing, or a line is not such an object; the message names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadPrompt(f"cannot read facts from {path}: {error.strerror}") from error
    facts = tuple(_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
    if not facts:
        raise BadPrompt(f"{path} holds no facts; write one JSON object with {', '.join(_TEXTS)} on each line")
    return facts


def default_facts() -> tuple[Fact, ...]:
    """Capitals, languages and landmarks in clean/corrupt pairs, for tokenizers of real languages."""
    lines = (files("circuits") / "data" / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_parse(line, f"built-in fact {number}") for number, line in enumerate(lines, 1))


def tokenize_facts(tokenizer: "PreTrainedTokenizerBase", facts: Iterable[Fact]) -> FactSet:
    """Turn facts into token ids, refusing one by one those that cannot be scored.

    The tokenizer's own beginning-of-sequence token is put in front exactly when it puts one there by itself.

    Raises:
        BadPrompt: no fact is left; the message gives the first reasons.
    """
    facts = tuple(facts)
    kept, pairs, refused = [], [], []
    for index, fact in enumerate(facts):
        try:
            clean, answer = _split(tokenizer, fact.clean, fact.answer, "answer")
            corrupt, wrong = _split(tokenizer, fact.corrupt, fact.wrong, "wrong answer")
        except BadPrompt as error:
            refused.append((index, str(error)))
            continue
        if reason := _obstacle(clean, corrupt, answer, wrong):
            refused.append((index, reason))
            continue
        kept.append(fact)
        pairs.append((clean, corrupt, answer, wrong))
    if not kept:
        reasons = "; ".join(f"fact {index}: {reason}" for index, reason in refused[:3])
        raise BadPrompt(f"none of {len(facts)} facts can be scored with this tokenizer. {reasons}")
    return _fact_set(pairs, kept, refused)


def _fact_set(
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...], int, int]],
    facts: Sequence[Fact],
    refused: Sequence[tuple[int, str]],
) -> FactSet:
    return FactSet(
        clean=tuple(pair[0] for pair in pairs),
        corrupt=tuple(pair[1] for pair in pairs),
        answer_id=np.array([pair[2] for pair in pairs], dtype=np.int64),
        wrong_id=np.array([pair[3] for pair in pairs], dtype=np.int64),
        facts=tuple(facts),
        refused=tuple(refused),
    )


def _obstacle(clean: tuple[int, ...], corrupt: tuple[int, ...], answer: int, wrong: int) -> str | None:
    """Why a pair cannot be scored."""
    if not clean:
        return "the prompt is empty"
    if len(clean) != len(corrupt):
        return f"the clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}; they must be equal"
    if clean == corrupt:
        return "the clean and the corrupt prompt are the same tokens"
    if answer == wrong:
        return f"the answer and the wrong answer are the same token, {answer}"
    return None


def _split(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, what: str) -> tuple[tuple[int, ...], int]:
    """Token ids of the prompt, and the one token that the answer adds to it."""
    space = "" if prompt[-1:].isspace() or answer[:1].isspace() else " "
    ids, whole = prompt_ids(tokenizer, prompt), prompt_ids(tokenizer, prompt + space + answer)
    if whole[: len(ids)] != ids:
        raise BadPrompt(f"the {what} {answer!r} changes how the prompt's last word is split; end the prompt at a word")
    added = whole[len(ids) :]
    if len(added) != 1:
        tokens = tokenizer.convert_ids_to_tokens(list(added))
        raise BadPrompt(f"the {what} {answer!r} is {len(added)} tokens ({' '.join(map(str, tokens))}), not one")
    if added[0] == tokenizer.unk_token_id:
        raise BadPrompt(f"the {what} {answer!r} is unknown to the tokenizer")
    return ids, added[0]


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Ids of a text with the front token that the tokenizer adds by itself, and without one at the end."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    full = tokenizer(text).input_ids
    bos = tokenizer.bos_token_id
    starts = bos is not None and full[:1] == [bos] and plain[:1] != [bos]
    return tuple([bos, *plain] if starts else plain)


def _parse(line: str, where: str) -> Fact:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BadPrompt(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in _TEXTS):
        raise BadPrompt(f"{where} must be an object whose {', '.join(_TEXTS)} are strings")
    labels = record.get("labels", {})
    if not isinstance(labels, dict):
        raise BadPrompt(f"{where}: labels must be an object, not {labels!r}")
    others = {name: value for name, value in record.items() if name not in (*_TEXTS, "labels")}
    clean, corrupt, answer, wrong = (record[name] for name in _TEXTS)
    return Fact(clean, corrupt, answer, wrong, labels={**others, **labels})
