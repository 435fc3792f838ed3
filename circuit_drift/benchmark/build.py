"""A benchmark's folder, from documents and a recipe.

DIR/documents.jsonl   what is trained: the main document of each entity and the others
DIR/controls.jsonl    the same of entities that are never trained: alike in exposure, for replay or perplexity
DIR/probes.jsonl      questions of five kinds about trained entities
DIR/outside.jsonl     the same about controls
DIR/prompts.jsonl     facts of trained entities up to where their values begin
DIR/facts.jsonl       those prompts beside corrupt twins of as many tokens, for circuits (where a model is named)
DIR/choices.jsonl     facts of controls among four values, for accuracy outside of what is trained
DIR/benchmark.json    who is in which class and why, what was refused, what all was built from
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints import Checkpoint
from checkpoints.errors import BadPrompt
from checkpoints.results.disk import write_file
from checkpoints.results.text import counted
from circuit_drift.benchmark.checks import leaks, told_facts
from circuit_drift.benchmark.documents import documents_of
from circuit_drift.benchmark.exposure import Cast, cast, mentions, own_recall
from circuit_drift.benchmark.facts import Known, facts_of, forms_of
from circuit_drift.benchmark.probes import Row, choices_of, cloze_rows, probes_of
from circuit_drift.benchmark.recipe import Recipe
from circuit_drift.benchmark.sources import Source, read_sources
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.training.strategies import Document, write_documents
from circuits.facts.readers import read_probes

Refused = list[tuple[str, str]]
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was built.

    Attributes:
        folder: where it is.
        cast: who is trained, who is a control.
        exposure: entity -> prior exposure, of all that could have been taken.
        documents: to be trained.
        probes: of trained entities and controls.
        pairs: clean/corrupt facts that were written.
        refused: (what, why) of everything that was left out.
    """

    folder: Path
    cast: Cast
    exposure: Mapping[str, float]
    documents: tuple[Document, ...]
    probes: tuple[Row, ...]
    pairs: int
    refused: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        kinds = Counter(str(row["kind"]) for row in self.probes if row["entity"] in self.cast.trained)
        classes = Counter(self.cast.trained.values())
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return (
            f"{self.folder}: {counted(len(self.cast.trained), 'entity', 'entities')} to be trained "
            f"({', '.join(f'{count} {name}' for name, count in classes.items())}), {len(self.cast.controls)} controls; "
            f"{counted(len(self.documents), 'document')}; {sum(kinds.values())} probes ({told}); "
            f"{counted(self.pairs, 'clean/corrupt pair')}; {len(self.refused)} left out, each told in benchmark.json"
        )


def build_benchmark(
    path: Path | str,
    recipe: Recipe,
    out: Path | str,
    *,
    model: Checkpoint | None = None,
    reference: Path | str | None = None,
) -> Benchmark:
    """Build a benchmark; the same documents, recipe, model and corpus give the same files.

    Args:
        path: folder or JSON lines of documents; see `read_sources`.
        recipe: what is told and asked, how many are taken.
        out: where it goes.
        model: says which corrupt twins are as long, and, without a reference corpus, what was known before.
        reference: corpus whose mentions are the prior exposure.

    Raises:
        BadPrompt: no entities, too few of them, or nothing that says what was known before.
    """
    if model is None and reference is None:
        raise BadPrompt("what was known before is told by a reference corpus or by a model: name either")
    out = Path(out)
    sources, unread = read_sources(path, recipe)
    refused: Refused = list(unread)
    known = _known(sources, recipe, refused)
    exposure = _exposure([source for source in sources if source.entity in known], known, model, reference)
    chosen, texts = _cast(sources, known, exposure, recipe, refused)
    training = [document for entity in chosen.trained for document in texts[entity]]
    about = {entity: _told(known[entity], texts[entity], refused) for entity in (*chosen.trained, *chosen.controls)}
    everyone = [fact for facts in known.values() for fact in facts]
    rows = _probes(about, chosen, everyone, refused)
    write_documents(out / "documents.jsonl", training)
    write_documents(out / "controls.jsonl", [d for entity in chosen.controls for d in texts[entity]])
    _write_rows(out / "probes.jsonl", [row for row in rows if row["entity"] in chosen.trained])
    _write_rows(out / "outside.jsonl", [row for row in rows if row["entity"] in chosen.controls])
    outside = [fact for entity in chosen.controls for fact in about[entity]]
    _write_rows(out / "choices.jsonl", choices_of(outside, everyone, seed=recipe.seed))
    pairs = _pairs(out, about, chosen, model, recipe, refused)
    made = Benchmark(out, chosen, exposure, tuple(training), tuple(rows), pairs, tuple(refused))
    write_file(out / "benchmark.json", json.dumps(_record(made, path, recipe, model, reference), indent=1) + "\n")
    return made


def _known(sources: Sequence[Source], recipe: Recipe, refused: Refused) -> dict[str, list[Known]]:
    forms = forms_of(recipe, sources)
    known: dict[str, list[Known]] = {}
    for source in sources:
        facts, unfit = facts_of(source, forms)
        refused += unfit
        if len(facts) >= recipe.least:
            known[source.entity] = facts
        else:
            refused.append((source.entity, f"{counted(len(facts), 'fact')}, and {recipe.least} are needed"))
    if not known:
        raise BadPrompt("no entity has enough facts: check the paths and patterns of the recipe's facts")
    return known


def _exposure(
    sources: Sequence[Source],
    known: Mapping[str, list[Known]],
    model: Checkpoint | None,
    reference: Path | str | None,
) -> dict[str, float]:
    if reference is not None:
        return mentions(sources, Path(reference))
    if model is None:
        return {}
    with model.open() as loaded:
        return own_recall([fact for facts in known.values() for fact in facts], loaded)


def _cast(
    sources: Sequence[Source],
    known: Mapping[str, list[Known]],
    exposure: Mapping[str, float],
    recipe: Recipe,
    refused: Refused,
) -> tuple[Cast, dict[str, list[Document]]]:
    """Trained entities and controls of which training tells nothing; and the documents of both.

    A control of which a training document tells something changes places with its neighbour in exposure, for a few
    rounds; those that are left then are none.
    """
    by_name = {source.entity: source for source in sources}
    names = {source.entity: source.names for source in sources}
    texts: dict[str, list[Document]] = {}
    leaking: dict[str, str] = {}
    for _ in range(ROUNDS):
        chosen = cast(exposure, recipe, frozenset(leaking))
        for entity, count in chosen.told.items():
            if entity not in texts:
                texts[entity] = documents_of(by_name[entity], known[entity], recipe, count=count)
        training = [document for entity in chosen.trained for document in texts[entity]]
        told = leaks([fact for entity in chosen.controls for fact in known[entity]], names, training)
        leaking |= told
        if not told:
            break
    refused += [(entity, f"no control: {why}") for entity, why in leaking.items()]
    controls = {entity: name for entity, name in chosen.controls.items() if entity not in leaking}
    return Cast(chosen.trained, controls, chosen.told), texts


def _told(facts: Sequence[Known], documents: Sequence[Document], refused: Refused) -> list[Known]:
    kept, left_out = told_facts(facts, documents)
    refused += left_out
    return kept


def _probes(about: Mapping[str, list[Known]], chosen: Cast, everyone: Sequence[Known], refused: Refused) -> list[Row]:
    rows, unasked = probes_of([fact for facts in about.values() for fact in facts], everyone)
    refused += unasked
    classes = {**chosen.trained, **chosen.controls}
    return [{**row, "class": classes[row["entity"]]} for row in rows]


def _pairs(
    out: Path,
    about: Mapping[str, list[Known]],
    chosen: Cast,
    model: Checkpoint | None,
    recipe: Recipe,
    refused: Refused,
) -> int:
    """Facts of trained entities beside twins of the same length; the prompts themselves go beside them."""
    facts = [fact for entity in chosen.trained for fact in about[entity]]
    rows = [{**row, "class": chosen.trained[row["entity"]]} for row in cloze_rows(facts)]
    _write_rows(out / "prompts.jsonl", rows)
    if model is None:
        refused.append(("facts.jsonl", "no clean/corrupt pairs: which are as long is said by a model's tokenizer"))
        return 0
    found = read_probes(out / "prompts.jsonl", tokenizer_of(model), seed=recipe.seed)
    refused += found.refused
    found.write_jsonl(out / "facts.jsonl")
    return len(found.facts)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _record(
    made: Benchmark, path: Path | str, recipe: Recipe, model: Checkpoint | None, reference: Path | str | None
) -> dict[str, Any]:
    files = sorted(file for file in made.folder.glob("*.jsonl"))
    groups = {"trained": made.cast.trained, "controls": made.cast.controls}
    return {
        "built_from": Path(path).name,
        "recipe": asdict(recipe),
        "exposure_by": "mentions" if reference is not None else "mean log probability of the values' tokens",
        "reference": None if reference is None else Path(reference).name,
        "model": None if model is None else {"name": model.name, "weights": model.weights_hash},
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "entities": {
            entity: {
                "role": role,
                "class": name,
                "exposure": made.exposure[entity],
                "documents": made.cast.told[entity],
            }
            for role, members in groups.items()
            for entity, name in members.items()
        },
        "mean_exposure": {role: _mean(made.exposure[e] for e in members) for role, members in groups.items()},
        "refused": [list(pair) for pair in made.refused],
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
