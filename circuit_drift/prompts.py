"""What a checkpoint is asked: needles in a haystack, and facts as clean/corrupt pairs.

A series folder that carries ``needles.jsonl`` with ``haystack.txt``, or ``facts.jsonl``, supplies its own; a file
named by the user comes first; the built-in probes come last. Nothing here tokenizes, so a stored result can be
looked up by its prompts without torch.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import circuits
import heads
from checkpoints.errors import BadPrompt
from checkpoints.files.reading import read_text
from circuits.facts.facts import Answers, FactSet, default_facts, load_facts
from circuits.facts.tasks import TASKS, task_facts
from heads.prompts.needles import load_needles
from heads.prompts.pools import default_haystack, default_needles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from circuits.attribution.backward import Preset
    from circuits.attribution.methods import Method, Rule

DEFAULT_LENGTH = 256
DEFAULT_DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True)
class NeedleSource:
    """Needles and the text they are hidden in, before any tokenizer has seen them.

    Attributes:
        needles: one probe each.
        haystack: the text around them.
        length: prompt length in tokens, the teacher-forced answer not counted.
        depths: where the needles go, 0 = start, 1 = end of the haystack.
        seed: places the haystack cut and the distractors.
        origin: where this came from, for people to read.
    """

    needles: tuple[heads.Needle, ...]
    haystack: str
    length: int
    depths: tuple[float, ...]
    seed: int
    origin: str

    @property
    def hash(self) -> str:
        """Sha256 over everything but the origin."""
        return _digest(
            {
                "needles": [asdict(needle) for needle in self.needles],
                "haystack": self.haystack,
                "length": self.length,
                "depths": self.depths,
                "seed": self.seed,
            }
        )


@dataclass(frozen=True, slots=True)
class FactSource:
    """Facts as clean/corrupt pairs, before any tokenizer has seen them.

    Attributes:
        facts: the pairs.
        origin: where they came from, for people to read.
        answers: which answers are kept, as for `circuits.tokenize_facts`.
    """

    facts: tuple[circuits.Fact, ...]
    origin: str
    answers: "Answers" = "auto"

    @property
    def hash(self) -> str:
        """Sha256 over the facts in their order, and which answers are kept."""
        return _digest([[asdict(fact) for fact in self.facts], self.answers])

    def tokenized(self, tokenizer: "PreTrainedTokenizerBase") -> FactSet:
        """The facts in tokens.

        Raises:
            BadPrompt: none of them can be scored with this tokenizer.
        """
        return circuits.tokenize_facts(tokenizer, self.facts, answers=self.answers)


@dataclass(frozen=True, slots=True)
class EdgeScoring:
    """How the edges of knowledge circuits are scored; all of it decides the numbers, and is kept with each result.

    Attributes:
        method: as for `circuits.attribute`.
        ig_steps: gradients along the path.
        rule: which point of each step, counted from the corrupt end.
        metric: what is attributed.
        backward: ``plain``, ``gim`` or ``relp``.
        edges: how many edges the circuit that is drawn, compared and tested is pruned from; None = 5 %, at least 20.
    """

    method: "Method" = "eap-ig"
    ig_steps: int = 5
    rule: "Rule" = "midpoint"
    metric: str = "logit difference"
    backward: "Preset" = "plain"
    edges: int | None = None

    def check(self) -> None:
        """Refuse what cannot be scored, before a model is loaded.

        Raises:
            BadPrompt: an unknown method, rule, metric or backward pass, two that exclude each other, one that the
                method does not look at, or no size.
        """
        if self == USUAL_SCORING:
            return
        from circuits.attribution.backward import find_backward
        from circuits.attribution.methods import find_quadrature, require_effect
        from circuits.facts.metrics import require_gradient, require_metric

        find_quadrature(self.method, self.ig_steps, self.rule)
        find_backward(self.backward)
        require_metric(self.metric)
        require_gradient(self.metric, self.method)
        require_effect(self.method, self.changed("ig_steps", "rule", "backward"))
        if self.edges is not None and self.edges < 1:
            raise BadPrompt(f"a circuit of {self.edges:,} edges cannot be compared; leave edges out for 5 % of them")

    def changed(self, *names: str) -> dict[str, Any]:
        """The named settings that are not the usual ones."""
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(USUAL_SCORING, name)}


USUAL_SCORING = EdgeScoring()


@dataclass(frozen=True, slots=True)
class Prompts:
    """Everything one run asks of each checkpoint, and how its circuits are scored."""

    needles: NeedleSource
    facts: FactSource
    scoring: EdgeScoring = USUAL_SCORING


def prompts_for(
    folder: Path | str,
    *,
    needles: Path | str | None = None,
    haystack: Path | str | None = None,
    facts: Path | str | None = None,
    answers: "Answers" = "auto",
    length: int = DEFAULT_LENGTH,
    depths: Sequence[float] = DEFAULT_DEPTHS,
    seed: int = 0,
    scoring: EdgeScoring | None = None,
) -> Prompts:
    """The prompts for a series or checkpoint folder: the user's, else its own, else the built-in ones.

    Args:
        folder: a series folder, or a checkpoint folder (then its parent is looked at too).
        needles: a JSONL file of needles; asks for its own haystack or falls back to the built-in one.
        haystack: a text file.
        facts: a JSONL file of clean/corrupt facts, or the name of a built-in task (see `circuits.facts.tasks.TASKS`).
        answers: ``one token`` refuses longer answers, ``whole`` scores all tokens of each, ``first token`` the first;
            ``auto`` is ``one token`` unless most facts would be refused so.
        length: prompt length in tokens.
        depths: needle depths in [0, 1].
        seed: seed of the haystack cut.
        scoring: of the circuits' edges; EAP-IG with five midpoints unless told otherwise.

    Raises:
        BadPrompt: a named file is missing or holds nothing, or edges cannot be scored so.
    """
    folder, scoring = Path(folder), scoring or USUAL_SCORING
    scoring.check()
    needles = needles or _beside(folder, "needles.jsonl")
    haystack = haystack or _beside(folder, "haystack.txt")
    facts = facts or _beside(folder, "facts.jsonl")
    source = NeedleSource(
        needles=load_needles(needles) if needles else default_needles(seed),
        haystack=_read_text(Path(haystack)) if haystack else default_haystack(seed),
        length=length,
        depths=tuple(depths),
        seed=seed,
        origin=_origin(Path(needles)) if needles else "built-in needles",
    )
    return Prompts(
        needles=source,
        facts=replace(_fact_source(facts, seed), answers=answers),
        scoring=scoring,
    )


def _fact_source(facts: Path | str | None, seed: int) -> FactSource:
    if facts is None:
        return FactSource(default_facts(), "built-in facts")
    task = next((name for name in TASKS if name == str(facts)), None)
    if task is not None:
        return FactSource(task_facts(task, seed=seed), f"built-in task {task}")
    path = Path(facts)
    if not path.exists():
        raise BadPrompt(
            f"there is no file {path} to read facts from, nor a built-in task of that name; tasks: {', '.join(TASKS)}"
        )
    return FactSource(load_facts(path), _origin(path))


def _beside(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder.parent / name)
    return next((path for path in candidates if path.is_file()), None)


def _origin(path: Path) -> str:
    """A file's name with its folder's: enough to know it by, and no path of one machine in a report."""
    return f"{path.resolve().parent.name}/{path.name}"


def _read_text(path: Path) -> str:
    text = read_text(path, "the haystack")
    if not text.strip():
        raise BadPrompt(f"the haystack {path} is empty; give it at least as many tokens as --length")
    return text


def _digest(value: Any) -> str:
    document = json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict)
    return hashlib.sha256(document.encode()).hexdigest()
