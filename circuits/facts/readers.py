"""Facts from the files that others keep them in: CounterFact, LAMA, or probes of one's own, as clean/corrupt pairs.

A file says what is true of a subject. The corrupt prompt of a pair is the same prompt about another subject of the same
relation with another answer, which becomes the wrong answer. What cannot be read or paired is refused row by row.

    found = read_counterfact("counterfact.json", tokenizer)
    found.facts, found.refused, print(found)
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_records
from checkpoints.results.disk import write_file
from checkpoints.results.text import counted
from checkpoints.tokenizers.framing import gap
from circuits.facts.facts import Fact
from circuits.facts.questions import is_by_entity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Format = Literal["counterfact", "lama", "probes"]
MASK = "[MASK]"
ENDINGS = " .?!"


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """What a file gave.

    Attributes:
        facts: pairs, with the labels ``fact`` (the unit of the ledger), ``subject``, ``relation``, ``form``, and
            whatever the file adds.
        refused: (row of the file, or row and prompt; reason).
    """

    facts: tuple[Fact, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        reasons = Counter(reason for _, reason in self.refused)
        told = "; ".join(f"{count} refused: {reason}" for reason, count in reasons.most_common())
        return counted(len(self.facts), "fact") + (f"; {told}" if told else "")

    def write_jsonl(self, path: Path | str) -> Path:
        """Write the facts as `circuits.facts.facts.load_facts` reads them; the folder is made where there is none.

        Raises:
            StoreError: the file cannot be written.
        """
        lines = "".join(json.dumps(asdict(fact), ensure_ascii=False) + "\n" for fact in self.facts)
        return write_file(path, lines)


@dataclass(frozen=True, slots=True)
class _Row:
    """One subject with its answer, and the prompts that ask for it: (form, text with ``{}`` for the subject)."""

    where: str
    key: str
    subject: str
    relation: str
    answer: str
    prompts: tuple[tuple[str, str], ...]
    labels: Mapping[str, Any] = field(default_factory=dict)


class _Refused(Exception):
    """A row that is no fact; says why."""


def read_counterfact(
    path: Path | str, tokenizer: "PreTrainedTokenizerBase | None" = None, *, seed: int = 0
) -> ReadFacts:
    """Facts of a CounterFact file (Meng et al. 2022): what is true, asked as written and in its paraphrases.

    Args:
        path: JSON, an array of records or one a line, each with ``requested_rewrite``.
        tokenizer: if given, the other subject is one of as many tokens, as circuits need it.
        seed: of the choice of the other subject.

    Raises:
        BadPrompt: the file cannot be read, or gives no fact.
    """
    return _read(path, _counterfact, tokenizer, seed)


def read_lama(
    path: Path | str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    templates: Path | str | None = None,
    seed: int = 0,
) -> ReadFacts:
    """Facts of a LAMA file (Petroni et al. 2019): T-REx, Google-RE, ConceptNet.

    A left-to-right model can fill a gap only where nothing follows it but punctuation.

    Args:
        path: JSON lines with ``sub_label``, ``obj_label`` and a relation (``predicate_id`` or ``pred``).
        tokenizer: as for `read_counterfact`.
        templates: LAMA's ``relations.jsonl``, with ``relation`` and ``template`` ("[X] was born in [Y] ."); without
            it the row's own ``masked_sentences`` are asked.
        seed: of the choice of the other subject.

    Raises:
        BadPrompt: a file cannot be read, or gives no fact.
    """
    known = None
    if templates is not None:
        rows = [record for _, record in _records(templates) if isinstance(record, dict)]
        known = {str(row.get("relation")): str(row.get("template", "")) for row in rows}
    return _read(path, lambda record, where: _lama(record, where, known), tokenizer, seed)


def read_probes(path: Path | str, tokenizer: "PreTrainedTokenizerBase | None" = None, *, seed: int = 0) -> ReadFacts:
    """Probes of one's own: JSON lines with ``prompt``, ``subject``, ``relation`` and ``answer``; the rest are labels.

    A relation file, one object with ``name``, ``prompt_templates`` and ``samples`` of ``subject`` and ``object``, is
    read too: every sample is asked with every template.

    The prompt ends where the answer begins and names the subject. Probes of one fact share a ``fact`` if given, else
    subject and relation.

    Args:
        path: the file.
        tokenizer: as for `read_counterfact`.
        seed: of the choice of the other subject.

    Raises:
        BadPrompt: the file cannot be read, or gives no fact.
    """
    return _read(path, _probe, tokenizer, seed)


def _read(
    path: Path | str,
    parse: Callable[[Mapping[str, Any], str], _Row],
    tokenizer: "PreTrainedTokenizerBase | None",
    seed: int,
) -> ReadFacts:
    rows: list[_Row] = []
    refused: list[tuple[str, str]] = []
    for where, record in _records(path):
        try:
            if not isinstance(record, dict):
                raise _Refused(record if isinstance(record, str) else "the row is no JSON object")
            rows.append(parse(record, where))
        except _Refused as refusal:
            refused.append((where, str(refusal)))
    facts: list[Fact] = []
    rng = random.Random(f"readers-{seed}")
    for row in rows:
        for made, reason in _pairs(row, rows, tokenizer, rng):
            if made is None:
                refused.append((row.where, reason))
            else:
                facts.append(made)
    if not facts:
        told = "; ".join(f"{where}: {reason}" for where, reason in refused[:3])
        raise BadPrompt(f"{path} gives no fact. {told or 'it is empty'}")
    return ReadFacts(tuple(facts), tuple(refused))


def _records(path: Path | str) -> Iterator[tuple[str, Any]]:
    """Rows of a list, of JSON lines or of a relation; a line that is not JSON comes as the text of its error."""
    for record in read_records(path, "facts"):
        if record.problem is not None:
            yield record.where, "the line is not JSON"
        elif isinstance(record.value, dict) and isinstance(record.value.get("samples"), list):
            yield from _samples(record.value)
        elif is_by_entity(record.value):
            raise BadPrompt(
                f"{path} holds questions by entity, which have no corrupt twin: circuits need one, recall does not; "
                "ask them with circuit-drift run --measures questions:FILE"
            )
        else:
            yield record.where, record.value


def _samples(relation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The rows of a file that is one relation, with its templates and samples (Hernandez et al. 2023)."""
    about = {"relation": relation.get("name"), "prompt_templates": relation.get("prompt_templates")}
    for number, sample in enumerate(relation["samples"], 1):
        own = {"subject": sample.get("subject"), "answer": sample.get("object")} if isinstance(sample, dict) else None
        yield f"sample {number}", own and about | own


def _counterfact(record: Mapping[str, Any], where: str) -> _Row:
    request = record.get("requested_rewrite")
    if not isinstance(request, dict):
        raise _Refused("no requested_rewrite")
    subject, prompt, relation = (_text(request, name) for name in ("subject", "prompt", "relation_id"))
    true = request.get("target_true")
    answer = _text(true if isinstance(true, dict) else {}, "str", "target_true.str")
    if prompt.count("{}") != 1:
        raise _Refused("the prompt has no one place {} for the subject")
    prompts = [("cloze", prompt), *_with_subject("paraphrase", record.get("paraphrase_prompts", ()), subject)]
    key = str(record.get("case_id", where))
    return _Row(where, key, subject, relation, answer, tuple(prompts))


def _lama(record: Mapping[str, Any], where: str, templates: Mapping[str, str] | None) -> _Row:
    subject, answer = _text(record, "sub_label"), _text(record, "obj_label")
    relation = str(record.get("predicate_id") or record.get("pred") or "")
    if not relation:
        raise _Refused("no relation: neither predicate_id nor pred")
    if templates is not None:
        if relation not in templates:
            raise _Refused(f"no template for the relation {relation}")
        asked = [templates[relation].replace("[X]", "{}").replace("[Y]", MASK)]
    else:
        texts = record.get("masked_sentences", ())
        asked = [text for _, text in _with_subject("cloze", texts, subject)]
    ended = [text[: text.index(MASK)].rstrip() for text in asked if MASK in text and _ends(text)]
    prompts = [("cloze", text) for text in ended if text.count("{}") == 1]
    if not prompts:
        raise _Refused("no sentence that names the subject and ends with the gap")
    key = str(record.get("uuid", f"{subject}/{relation}"))
    return _Row(where, key, subject, relation, answer, tuple(prompts))


def _ends(text: str) -> bool:
    return text.count(MASK) == 1 and not text[text.index(MASK) + len(MASK) :].strip(ENDINGS)


def _probe(record: Mapping[str, Any], where: str) -> _Row:
    if "prompt_templates" in record:
        return _sample(record, where)
    prompt, subject, relation, answer = (_text(record, name) for name in ("prompt", "subject", "relation", "answer"))
    prompts = _with_subject(str(record.get("form", "cloze")), [prompt], subject)
    if not prompts:
        raise _Refused("the prompt does not name its subject once")
    taken = ("prompt", "subject", "relation", "answer", "fact", "form")
    labels = {name: value for name, value in record.items() if name not in taken}
    return _Row(where, str(record.get("fact", f"{subject}/{relation}")), subject, relation, answer, prompts, labels)


def _sample(record: Mapping[str, Any], where: str) -> _Row:
    subject, relation, answer = (_text(record, name) for name in ("subject", "relation", "answer"))
    templates = record["prompt_templates"] if isinstance(record["prompt_templates"], list) else []
    texts = [text.rstrip() for text in templates if isinstance(text, str) and text.count("{}") == 1]
    if not texts:
        raise _Refused("no template of its relation has one place {} for the subject")
    forms = ["cloze", *["paraphrase"] * (len(texts) - 1)]
    return _Row(where, f"{subject}/{relation}", subject, relation, answer, tuple(zip(forms, texts, strict=True)))


def _text(record: Mapping[str, Any], name: str, called: str | None = None) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _Refused(f"no {called or name}")
    return value.strip()


def _with_subject(form: str, texts: Any, subject: str) -> tuple[tuple[str, str], ...]:
    """Texts that name the subject once, with a place for it; braces of their own would be places too."""
    if not isinstance(texts, Iterable):
        raise _Refused(f"the prompts of form {form} are no list")
    kept = [text for text in texts if isinstance(text, str) and text.count(subject) == 1 and "{" not in text]
    return tuple((form, text.replace(subject, "{}").rstrip()) for text in kept)


def _pairs(
    row: _Row, rows: Sequence[_Row], tokenizer: "PreTrainedTokenizerBase | None", rng: random.Random
) -> Iterator[tuple[Fact | None, str]]:
    """Every prompt of a row with a corrupt one, or why there is none."""
    others = [other for other in rows if other.relation == row.relation and other.answer != row.answer]
    if not others:
        yield None, "no other subject of its relation has another answer"
        return
    about = {"fact": row.key, "subject": row.subject, "relation": row.relation, **row.labels}
    for form, text in row.prompts:
        clean = text.replace("{}", row.subject)
        rival = _rival(text, clean, others, tokenizer, rng)
        if rival is None:
            yield None, "no other subject of its relation makes a prompt of as many tokens"
            continue
        corrupt = text.replace("{}", rival.subject)
        labels = {**about, "form": form}
        segments = {"subject": row.subject}
        yield (
            Fact(clean, corrupt, _following(clean, row.answer), _following(corrupt, rival.answer), labels, segments),
            "",
        )


def _following(prompt: str, answer: str) -> str:
    """An answer as it follows its prompt in running text, with the space that stands between."""
    return gap(prompt, answer) + answer


def _rival(
    text: str, clean: str, others: Sequence[_Row], tokenizer: "PreTrainedTokenizerBase | None", rng: random.Random
) -> _Row | None:
    """Another subject, of as many tokens where a tokenizer counts them."""
    shuffled = rng.sample(others, len(others))
    if tokenizer is None:
        return shuffled[0]
    wanted = len(tokenizer(clean).input_ids)
    fitting = (other for other in shuffled if len(tokenizer(text.replace("{}", other.subject)).input_ids) == wanted)
    return next(fitting, None)


READERS: Mapping[Format, Callable[..., ReadFacts]] = {
    "counterfact": read_counterfact,
    "lama": read_lama,
    "probes": read_probes,
}
