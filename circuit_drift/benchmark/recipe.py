"""How a benchmark is built: which facts there are, how they are told and asked, how many entities are taken."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from checkpoints import DriftError
from checkpoints.errors import require_choice
from checkpoints.files.limits import require_bounded_pattern
from checkpoints.files.reading import read_toml
from checkpoints.files.tables import values_of

Kind = Literal["factual", "temporal_understanding", "time_sensitive"]
Classes = Literal["thirds", "frequent-rare", "told"]
PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of fact; ``{entity}``, ``{value}`` and ``{name}`` in its texts are filled in.

    Attributes:
        name: of the fact, as in ``capital``.
        path: where its value stands in a record: keys joined by ``/``; of several, the first that is there. By
            default ``facts/NAME``.
        pattern: a regular expression over the value; its first group, or the whole match, is the answer.
        kind: ``factual``; ``temporal_understanding``, whose answer is a time; or ``time_sensitive``, whose answer
            changes.
        prompt: the fact up to where its value begins: what circuits are traced on.
        question: asked of what is factual, temporal or time-sensitive.
        rephrased: the same question in other words; no document is written with them.
        statements: sentences that tell the fact, in turn, in the documents that are written.
        linking: asks for the entity, given the value; only where one entity alone has it.
        longest: words of an answer; longer values are no answer.
    """

    name: str
    path: tuple[str, ...] = ()
    pattern: str = ""
    kind: Kind = "factual"
    prompt: str = "The {name} of {entity} is"
    question: str = "What is the {name} of {entity}?"
    rephrased: tuple[str, ...] = ("Can you tell me {entity}'s {name}?",)
    statements: tuple[str, ...] = ("The {name} of {entity} is {value}.", "{value} is the {name} of {entity}.")
    linking: str = ""
    longest: int = 6

    def __post_init__(self) -> None:
        require_choice(f"fact {self.name}: kind", self.kind, get_args(Kind), error=DriftError)
        require_bounded_pattern(self.pattern, Path(self.name))
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise DriftError(f"fact {self.name}: pattern {self.pattern!r} is no regular expression: {error}") from error
        for what, texts, needs in (
            ("prompt", (self.prompt,), {"entity"}),
            ("question", (self.question, *self.rephrased), {"entity"}),
            ("statements", self.statements, {"entity", "value"}),
            ("linking", (self.linking,) if self.linking else (), {"value"}),
        ):
            for text in texts:
                found = set(PLACE.findall(text))
                if not needs <= found or found - {"entity", "value", "name"}:
                    raise DriftError(
                        f"fact {self.name}: {what} {text!r} must have {' and '.join(sorted(f'{{{n}}}' for n in needs))}"
                        " and no other place but {entity}, {value}, {name}"
                    )
        if not self.statements or self.longest < 1:
            raise DriftError(f"fact {self.name}: it needs a statement and longest at least 1")

    def fill(self, text: str, entity: str, value: str = "") -> str:
        """A text of the form with its places filled in."""
        told = {"entity": entity, "value": value, "name": self.name}
        return PLACE.sub(lambda found: told[found.group(1)], text)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A benchmark to be built.

    Attributes:
        facts: the forms; empty = one for each name under ``facts`` of the records, told in the default words.
        entity: where a record's entity stands (as a form's path); by default ``entity``, ``title`` or ``name``.
        aliases: where other names of it stand, by which it is mentioned too.
        text: where running text stands (values of all keys below are joined); it is cut into chunks.
        per_class: entities of each class that are trained.
        controls: entities that are never trained, alike in prior exposure.
        classes: ``thirds`` of all entities by prior exposure (high, middle, low); ``frequent-rare``, its two outer
            quarters (arXiv 2601.03858); ``told``, by how often documents here tell of an entity (Ou et al. 2025: high
            above 5, medium 2 to 5, low 1): written documents are made so many.
        documents: of each entity, the main one included.
        chunk: words of a chunk.
        least: facts that an entity needs to be taken.
        alike: two documents that share this much of their runs of five words are duplicates.
        seed: of every choice.
    """

    facts: tuple[Form, ...] = ()
    entity: tuple[str, ...] = ("entity", "title", "name")
    aliases: tuple[str, ...] = ("aliases",)
    text: tuple[str, ...] = ("text",)
    per_class: int = 20
    controls: int = 20
    classes: Classes = "thirds"
    documents: int = 4
    chunk: int = 120
    least: int = 1
    alike: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("classes", self.classes, get_args(Classes), error=DriftError)
        if min(self.per_class, self.documents, self.least) < 1 or self.controls < 0 or self.chunk < 10:
            raise DriftError(
                f"per_class {self.per_class}, documents {self.documents} and least {self.least} must be at least 1, "
                f"controls {self.controls} not below 0, chunk {self.chunk} at least 10"
            )
        if not 0 < self.alike <= 1:
            raise DriftError(f"alike {self.alike} is a share above 0, at most 1")
        names = [form.name for form in self.facts]
        if len(set(names)) < len(names):
            raise DriftError(f"facts need different names: got {names}")


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe from TOML: the fields of `Recipe`, with a ``[[fact]]`` table for each form.

    Raises:
        DriftError: it cannot be read, or a field is unknown or of a wrong type.
    """
    table = read_toml(Path(path), "the recipe")
    entries = table.pop("fact", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DriftError(f"{path}: fact is {entries!r}; write a table [[fact]] for each")
    forms = tuple(Form(**values_of(Form, entry, f"{path}, [[fact]]")) for entry in entries)
    return replace(Recipe(**values_of(Recipe, table, str(path))), facts=forms)
