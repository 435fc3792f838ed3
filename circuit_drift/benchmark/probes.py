"""Probes of the five kinds of arXiv 2601.03858, and choices, from facts."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from checkpoints.tokenizers.framing import gap
from circuit_drift.benchmark.facts import Known, states

Row = dict[str, Any]
OPTIONS = 4


def probes_of(facts: Sequence[Known], everyone: Iterable[Known]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Questions with their answers, in rows, and (fact, reason) of those that cannot be asked.

    ``factual``, ``temporal_understanding`` or ``time_sensitive``, as the form says; ``rephrased``, the same in other
    words; ``entity_linking``, which asks for the entity, where no other one has the value. A question that gives its
    answer away, or that has two answers, is refused.

    Args:
        facts: what is asked.
        everyone: all facts that there are, by which a value is one entity's own.
    """
    owners = Counter((fact.form.name, fact.value.lower()) for fact in everyone)
    rows: list[Row] = []
    refused: list[tuple[str, str]] = []
    for fact in facts:
        form, told = fact.form, (fact.entity, fact.value)
        asked: list[tuple[str, str, str]] = [(form.kind, form.question, fact.value)]
        asked += [("rephrased", text, fact.value) for text in form.rephrased]
        if form.linking and owners[form.name, fact.value.lower()] > 1:
            refused.append((f"{fact.entity}, {form.name}", f"{fact.value!r} is not one entity's alone: no linking"))
        elif form.linking:
            asked.append(("entity_linking", form.linking, fact.entity))
        for kind, text, answer in asked:
            question = form.fill(text, *told)
            if states(question, answer):
                refused.append((f"{fact.entity}, {form.name}, {kind}", "the question gives its answer away"))
                continue
            labels = {"entity": fact.entity, "fact": f"{fact.entity}, {form.name}", "relation": form.name}
            rows.append({"question": question, "answer": answer, "kind": kind, **labels})
    return _without_twins(rows, refused)


def _without_twins(rows: list[Row], refused: list[tuple[str, str]]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Each question once, and none that has two answers."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row["question"], set()).add(row["answer"])
    kept: dict[str, Row] = {}
    for row in rows:
        if len(answers[row["question"]]) > 1:
            refused.append((row["fact"], f"{row['question']!r} has {len(answers[row['question']])} answers"))
        else:
            kept.setdefault(row["question"], row)
    return list(kept.values()), refused


def cloze_rows(facts: Iterable[Known]) -> list[Row]:
    """Each fact up to where its value begins, as `circuits.facts.readers.read_probes` pairs them."""
    return [
        {
            "prompt": fact.form.fill(fact.form.prompt, fact.entity),
            "subject": fact.entity,
            "relation": fact.form.name,
            "answer": fact.value,
            "fact": f"{fact.entity}, {fact.form.name}",
            "entity": fact.entity,
        }
        for fact in facts
    ]


def choices_of(facts: Sequence[Known], everyone: Iterable[Known], *, seed: int) -> list[Row]:
    """A fact with three values of other entities, the right one first; none where there are not so many others."""
    values: dict[str, list[str]] = {}
    for fact in everyone:
        values.setdefault(fact.form.name, []).append(fact.value)
    rows = []
    for fact in facts:
        others = sorted({value for value in values[fact.form.name] if value.lower() != fact.value.lower()})
        if len(others) < OPTIONS - 1:
            continue
        wrong = random.Random(f"choices-{seed}-{fact.entity}-{fact.form.name}").sample(others, OPTIONS - 1)
        prompt = fact.form.fill(fact.form.prompt, fact.entity)
        options = [gap(prompt, value) + value for value in (fact.value, *wrong)]
        labels = {"entity": fact.entity, "relation": fact.form.name}
        rows.append({"prompt": prompt, "options": options, "labels": labels})
    return rows
