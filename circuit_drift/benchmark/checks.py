"""What would make a benchmark lie: documents twice, questions with two answers, controls that training tells of."""

from collections.abc import Iterable, Sequence

from checkpoints.tokenizers.words import words_of
from circuit_drift.benchmark.facts import Known, states
from circuit_drift.training.strategies import Document

RUN = 5


def without_duplicates(texts: Sequence[str], alike: float) -> list[str]:
    """The texts without those that share that much of their runs of five words with an earlier one (Jaccard)."""
    kept: list[tuple[str, frozenset[tuple[str, ...]]]] = []
    for text in texts:
        own = _runs(text)
        if all(_shared(own, other) < alike for _, other in kept):
            kept.append((text, own))
    return [text for text, _ in kept]


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    words = words_of(text)
    return frozenset(tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1)))


def _shared(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def told_facts(facts: Iterable[Known], documents: Iterable[Document]) -> tuple[list[Known], list[tuple[str, str]]]:
    """The facts that a document about their entity tells, and (fact, reason) of those that none does."""
    own: dict[str | None, list[str]] = {}
    for document in documents:
        own.setdefault(document.entity, []).append(document.text)
    kept, refused = [], []
    for fact in facts:
        if any(states(text, fact.value) for text in own.get(fact.entity, [])):
            kept.append(fact)
        else:
            refused.append((f"{fact.entity}, {fact.form.name}", f"no document tells {fact.value!r}"))
    return kept, refused


def leaks(
    controls: Iterable[Known], names: dict[str, tuple[str, ...]], documents: Sequence[Document]
) -> dict[str, str]:
    """Control entity -> the training document that tells one of its facts beside its name."""
    found: dict[str, str] = {}
    bags = [(document, frozenset(words_of(document.text))) for document in documents]
    for fact in controls:
        if fact.entity in found:
            continue
        value, called = words_of(fact.value), [words_of(name) for name in names[fact.entity]]
        for document, words in bags:
            near = words.issuperset(value) and any(words.issuperset(name) for name in called)
            if near and states(document.text, fact.value) and _mentions(document.text, names[fact.entity]):
                found[fact.entity] = f"a document of {document.entity} tells {fact.value!r} beside it"
                break
    return found


def _mentions(text: str, names: Iterable[str]) -> bool:
    return any(states(text, name) for name in names)
