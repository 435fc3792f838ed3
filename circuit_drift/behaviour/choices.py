"""Choices: the right continuation among given ones, by the likelihood that a model gives to each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_records
from checkpoints.loading.load import LoadedModel
from checkpoints.tokenizers.framing import prompt_ids
from circuit_drift.behaviour.gauges import Reading
from circuit_drift.measures.tokenizers import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt with its options.

    Attributes:
        prompt: what stands before each option.
        options: the right one first.
        labels: anything to group by.
    """

    prompt: str
    options: tuple[str, ...]
    labels: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.options)) < max(2, len(self.options)):
            raise BadPrompt(f"the prompt {self.prompt!r} needs at least two different options: got {self.options}")


@dataclass(frozen=True, slots=True)
class Choices:
    """Share of choices that are right: the option of the highest likelihood per token, as harnesses normalise it.

    Attributes:
        choices: what is asked.
        by: the label whose values get a scalar each.
        unit: the label that names the unit of the ledger whose probe a choice is; without it they are in no ledger.
    """

    choices: tuple[Choice, ...]
    by: str = "form"
    unit: str | None = None
    name: str = field(default="choices", init=False)

    def read(self, loaded: LoadedModel) -> Reading:
        """Score every option of every choice.

        Raises:
            BadPrompt: nothing to ask, a choice without the unit's label, or an option that the tokenizer merges with
                its prompt.
        """
        if not self.choices or (self.unit and any(self.unit not in choice.labels for choice in self.choices)):
            raise BadPrompt(f"there is no choice to ask, or one has no label {self.unit!r} to name its unit")
        likely = self._likelihoods(loaded)
        right = [float(values[0] > values[1:].max()) for values in likely]
        groups = np.array([str(choice.labels.get(self.by, "")) for choice in self.choices])
        scalars = {"choices_accuracy": float(np.mean(right))}
        scalars["choices_chance"] = float(np.mean([1 / len(choice.options) for choice in self.choices]))
        for value in filter(None, dict.fromkeys(groups)):
            scalars[f"choices_accuracy_{value}"] = float(np.mean(np.array(right)[groups == value]))
        if self.unit is None:
            return Reading(scalars)
        asked = zip(self.choices, right, likely, strict=True)
        return Reading(scalars, tuple(_row(choice, self.unit, hit, values) for choice, hit, values in asked))

    def _likelihoods(self, loaded: LoadedModel) -> list[NDArray[np.float64]]:
        """[options] mean log probability per token, of each choice."""
        from circuit_drift.behaviour.skills import forced

        tokenizer = tokenizer_of(loaded)
        pairs = [_ids(tokenizer, choice.prompt, option) for choice in self.choices for option in choice.options]
        _, nll = forced(loaded.model, pairs)
        ends = np.cumsum([len(choice.options) for choice in self.choices])[:-1]
        return np.split(-nll, ends)


def read_choices(path: Path | str) -> tuple[Choice, ...]:
    """The choices of a file: JSON lines with ``prompt``, ``options`` (the right one first) and perhaps ``labels``.

    Raises:
        BadPrompt: a line is no such object, or there is none.
    """
    found = []
    for record in read_records(path, "choices"):
        row = record.value if isinstance(record.value, dict) else {}
        prompt, options, labels = row.get("prompt"), row.get("options"), row.get("labels", {})
        texts = [option for option in options if isinstance(option, str)] if isinstance(options, list) else []
        right = isinstance(options, list) and len(texts) == len(options)
        if not isinstance(prompt, str) or not right or not isinstance(labels, dict):
            raise BadPrompt(
                f"{path}, {record.where}: a choice is an object with prompt, a text, options, a list of texts of which "
                "the first is right, and perhaps labels, an object"
            )
        found.append(Choice(prompt, tuple(texts), labels))
    if not found:
        raise BadPrompt(f"{path} holds no choices; write one JSON object with prompt and options on each line")
    return tuple(found)


def _row(choice: Choice, unit: str, right: float, likely: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "unit": str(choice.labels[unit]),
        "probe": f"{choice.prompt} |{' |'.join(choice.options)}",
        "score": right,
        "probability": float(np.exp(likely[0] - np.logaddexp.reduce(likely))),
        **{f"label:{label}": str(value) for label, value in choice.labels.items()},
    }


def _ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, option: str) -> tuple[list[int], list[int]]:
    before, whole = (list(prompt_ids(tokenizer, text)) for text in (prompt, prompt + option))
    if whole[: len(before)] != before or len(whole) == len(before):
        raise BadPrompt(f"the option {option!r} changes how {prompt!r} is split into tokens; begin it with a space")
    return before, whole[len(before) :]
