"""Facts of entities: values that a recipe's forms find in records."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from checkpoints.errors import BadPrompt
from checkpoints.tokenizers.words import words_of
from circuit_drift.benchmark.recipe import Form, Recipe
from circuit_drift.benchmark.sources import Source, clean, first

RUN = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Known:
    """One fact of an entity.

    Attributes:
        entity: whose.
        form: which kind.
        value: the answer.
    """

    entity: str
    form: Form
    value: str


def forms_of(recipe: Recipe, sources: Iterable[Source]) -> tuple[Form, ...]:
    """The recipe's forms, or one for each name under ``facts`` of the records.

    Raises:
        BadPrompt: there are neither.
    """
    if recipe.facts:
        return recipe.facts
    told = (record.get("facts") for source in sources for record in source.records)
    names = dict.fromkeys(name for facts in told if isinstance(facts, Mapping) for name in facts)
    if not names:
        raise BadPrompt("no form of a fact: write [[fact]] tables into a recipe, or facts into the records")
    return tuple(Form(str(name)) for name in names)


def facts_of(source: Source, forms: Sequence[Form]) -> tuple[list[Known], list[tuple[str, str]]]:
    """An entity's facts, and (fact, reason) of values that are no answer."""
    found, refused = [], []
    for form in forms:
        value = _value(source, form)
        if value is None:
            continue
        reason = _unfit(source, form, value)
        if reason:
            refused.append((f"{source.entity}, {form.name}", reason))
        else:
            found.append(Known(source.entity, form, value))
    return found, refused


def _value(source: Source, form: Form) -> str | None:
    paths = form.path or (f"facts/{form.name}",)
    found = next((text for record in source.records if (text := first(record, paths)) is not None), None)
    if found is None or not form.pattern:
        return found
    match = re.search(form.pattern, found)
    if match is None:
        return None
    return clean(match.group(1 if match.re.groups else 0) or "") or None


def _unfit(source: Source, form: Form, value: str) -> str | None:
    words = RUN.findall(unicodedata.normalize("NFC", value))
    if not words:
        return f"{value!r} has no word"
    if len(words) > form.longest:
        return f"{value[:60]!r} has {len(words)} words, and an answer {form.longest} at most"
    if states(source.entity, value) or states(value, source.entity):
        return f"the entity's name gives {value!r} away"
    return None


def states(text: str, value: str) -> bool:
    """Whether a text holds a value, word by word."""
    said, wanted = words_of(text), words_of(value)
    return bool(wanted) and any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1))
