"""From two checkpoints and the name of a behaviour to its explanation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.errors import BadPrompt
from checkpoints.loading.lora import load_on_one_base
from checkpoints.placement import ANYWHERE, Placement
from checkpoints.series.compat import require_same_model
from circuit_drift.explanation.behaviours import (
    Behaviour,
    accuracy_behaviour,
    facts_behaviour,
    mass_behaviour,
    needle_behaviour,
    recall_behaviour,
    text_behaviour,
)
from circuit_drift.explanation.explanation import (
    DEFAULT_EFFORT,
    GROUPED,
    Effort,
    Explanation,
    head_named,
    require_behaviour,
)
from circuit_drift.explanation.line import Line, line_along, line_between
from circuit_drift.explanation.outputs import patch_outputs, writer_of
from circuit_drift.explanation.patching import patch
from circuit_drift.explanation.shares import NoGradient, PathShares, integrate, measure, one_by_one
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.stored import identity, libraries
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.record.groups import WAYS, Bools, ways_of
from circuit_drift.store.kept import Place
from circuit_drift.store.store import Store, key_of
from circuits.facts.tokenizing import readable
from heads.detect.retrieval import check_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from checkpoints.loading.load import LoadedModel
    from circuits.facts.facts import FactSet
    from circuits.graph.scores import AttributionGraph

NAME, VERSION = "explanation", 3
WINDOWS, WINDOW = 8, 128
Ways = Callable[["FactSet"], Mapping[str, Bools]]
"""Which facts were kept, lost or learned between two checkpoints, each [N]."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """What decides an explanation, beside its two checkpoints and its effort.

    Attributes:
        store: where they are kept; ``None`` = nowhere.
        behaviour: as for `explain`; a `Behaviour` of one's own has no name to be found by, and is not kept.
        prompts: what is asked.
        placement: where the models run.
        ends: the checkpoints by whose recall facts are kept, lost or learned, where these are not the two explained.
    """

    store: Store | None
    behaviour: str | Behaviour
    prompts: Prompts
    placement: Placement
    ends: tuple[Checkpoint, ...] = ()

    def explanation(
        self,
        a: Checkpoint,
        b: Checkpoint,
        effort: Effort,
        compute: Callable[[], Explanation],
        *,
        what: Literal["all", "shares"] = "all",
    ) -> Explanation:
        """The explanation of two checkpoints, or its shares alone, as it is kept or else computed."""
        if self.store is None or not isinstance(self.behaviour, str):
            return compute()
        key = key_of(
            {
                "measure": NAME,
                "version": VERSION,
                "what": what,
                "behaviour": self.behaviour,
                "checkpoints": [identity(one) for one in (a, b, *self._ends(self.behaviour))],
                "prompts": [self.prompts.needles.hash, self.prompts.facts.hash],
                "effort": asdict(effort),
                "dtype": self.placement.dtype,
                "attention": a.attention(self.placement.attention),
                "libraries": libraries(),
            }
        )
        found = Place.of_result(self.store, NAME, key, Explanation).find_or_make(compute)
        names = _labels(a, b)
        return replace(found, a=names[0], b=names[1])

    def _ends(self, behaviour: str) -> tuple[Checkpoint, ...]:
        return self.ends if behaviour.partition(":")[2] in WAYS else ()


def explain(
    a: Checkpoint | Path | str,
    b: Checkpoint | Path | str,
    behaviour: str | Behaviour = "needle",
    *,
    prompts: Prompts | None = None,
    placement: Placement = ANYWHERE,
    effort: Effort = DEFAULT_EFFORT,
    graphs: "Sequence[AttributionGraph]" = (),
    store: Store | None = None,
) -> Explanation:
    """Which components' weights made a behaviour differ between two checkpoints, proved by putting them back.

    Args:
        a: a checkpoint, its folder, or ``SERIES@STEP``.
        b: the other one.
        behaviour: ``needle`` (NLL of needles' answers), ``accuracy`` (theirs, by patching alone), ``facts`` (logit
            difference) or ``log-probability`` of facts, either with ``:GROUP`` (a label's value, else ``kept``,
            ``lost``, ``learned`` or ``neither``, by recall at both), ``text`` (NLL of the haystack's text), a head as
            ``a18.h6`` (its attention on the needle), or a `Behaviour` of one's own.
        prompts: what is asked; by default what the folder of A brings along.
        placement: where the models run; float32.
        effort: prompts, steps, patching, outputs.
        graphs: the circuits of A and of B, which tell the facts that were kept, lost or learned; otherwise both
            checkpoints are asked.
        store: where explanations are kept and looked up; ``None`` = nowhere.

    Raises:
        CheckpointMismatch: different shapes, tokenizers or ties.
        UnsupportedArchitecture: parts that cannot be told apart, or quantised weights.
        BadPrompt: an unknown behaviour, or nothing to ask.
    """
    first, second = _opened(a), _opened(b)
    require_same_model(first, second)
    prompts = prompts or prompts_for(first.path)

    def compute() -> Explanation:
        with opened_line(first, second, placement) as (line, loaded):

            def ways(facts: "FactSet") -> Mapping[str, Bools]:
                return ways_told(graphs, facts) or ways_along(line, facts)

            found = asked_of(behaviour, loaded, prompts, effort, ways)
            return explain_line(line, found, _labels(first, second), effort)

    return Explainer(store, behaviour, prompts, placement).explanation(first, second, effort, compute)


def explain_line(line: Line, behaviour: Behaviour, names: tuple[str, str], effort: Effort) -> Explanation:
    """An explanation from two models' line; the core of `explain`.

    Args:
        line: from A to B.
        behaviour: what is explained; one without a gradient by exact patching alone (`Explanation.is_attributed`).
        names: what A and B are called.
        effort: how much to spend.

    Raises:
        BadPrompt: a behaviour without a gradient, and no patching.
    """
    return proved(attributed(line, behaviour, names, effort), line, behaviour, effort)


def attributed(line: Line, behaviour: Behaviour, names: tuple[str, str], effort: Effort) -> Explanation:
    """The shares of components, not proved yet; arguments as for `explain_line`.

    Raises:
        BadPrompt: a behaviour without a gradient, and no patching.
    """
    path = _path(line, behaviour, effort)
    components = line.components.all
    return Explanation(
        a=names[0],
        b=names[1],
        behaviour=behaviour.name,
        unit=behaviour.unit,
        names=tuple(component.name for component in components),
        kinds=tuple(component.kind for component in components),
        layers=tuple(-1 if component.layer is None else component.layer for component in components),
        changed=line.changed,
        shares=path.shares.sum(1),
        parts=behaviour.parts,
        by_part=path.shares.mean(0),
        groups=behaviour.groups or ("all",) * len(behaviour),
        at=path.at,
        along=path.along,
        steps=path.steps,
        needle=behaviour.needle,
        meta={"tolerance": effort.tolerance, "n_prompts": len(behaviour)},
    )


def proved(found: Explanation, line: Line, behaviour: Behaviour, effort: Effort) -> Explanation:
    """The explanation of a line's behaviour with components, and outputs, put back as far as effort asks for it."""
    tried = [place for place in found.order if found.shares[:, place].any()]
    nodes = _nodes(line, found.order, effort)
    patching = effort.patching and tried and found.change.value
    return replace(
        found,
        patching=patch(line, behaviour, tried, found.before, found.after) if patching else None,
        outputs=patch_outputs(line, behaviour, nodes) if nodes else None,
    )


def _path(line: Line, behaviour: Behaviour, effort: Effort) -> PathShares:
    """Shares along the line, or without a gradient what each component does by itself (`PathShares.steps` is 0)."""
    try:
        return integrate(line, behaviour, steps=effort.steps, tolerance=effort.tolerance)
    except NoGradient:
        if not effort.patching:
            raise
        return one_by_one(line, behaviour)


def _nodes(line: Line, order: Sequence[int], effort: Effort) -> tuple[str, ...]:
    """Whose outputs are to be put in: those named, or those of the first components, each once."""
    if isinstance(effort.outputs, tuple):
        return effort.outputs
    names = (writer_of(line.components.all[place].name) for place in order)
    return tuple(dict.fromkeys(name for name in names if name is not None))[: effort.outputs]


def asked_of(asked: str | Behaviour, loaded: "LoadedModel", prompts: Prompts, effort: Effort, ways: Ways) -> Behaviour:
    """The behaviour, thinned to what may be spent, and held against the model's positions and vocabulary.

    Args:
        asked: as for `explain`.
        loaded: the model at A.
        prompts: what is asked.
        effort: at most so many prompts.
        ways: which facts were kept, lost or learned; asked where a group needs it.

    Raises:
        BadPrompt: no such behaviour, or prompts that the model cannot read.
    """
    behaviour = asked if isinstance(asked, Behaviour) else _named(asked, loaded, prompts, ways)
    check_ids(loaded.model, behaviour.prompts)
    return behaviour.thinned(effort.prompts)


def _named(asked: str, loaded: "LoadedModel", prompts: Prompts, ways: Ways) -> Behaviour:
    """The behaviour of that name, in the model's tokens."""
    require_behaviour(asked)
    name, _, group = asked.partition(":")
    tokenizer = tokenizer_of(loaded)
    if name in GROUPED:
        metric = "log probability" if name == "log-probability" else "logit difference"
        facts = readable(prompts.facts.tokenized(tokenizer), metric)
        chosen = facts.subset(_of_group(facts, group, ways)) if group else facts
        return facts_behaviour(chosen, log_probability=name == "log-probability", group=group)
    if name == "text":
        ids = tokenizer(prompts.needles.haystack, add_special_tokens=False, verbose=False)["input_ids"]
        starts = range(0, max(len(ids) - 1, 0), WINDOW)
        return text_behaviour([ids[at : at + WINDOW] for at in starts if len(ids) - at > 1][:WINDOWS])
    if (head := head_named(name)) is not None:
        config = loaded.model.config.get_text_config()
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        if head[0] >= layers or head[1] >= heads:
            raise BadPrompt(f"there is no head {name}: the model has {layers} layers of {heads} heads, counted from 0")
        return mass_behaviour(needle_prompts_of(tokenizer, prompts.needles), *head)
    needles = needle_prompts_of(tokenizer, prompts.needles)
    return accuracy_behaviour(needles) if name == "accuracy" else needle_behaviour(needles)


def _of_group(facts: "FactSet", group: str, ways: Ways) -> list[int]:
    """Places of the facts that have this among the values of their labels, else of those that went that way.

    Raises:
        BadPrompt: there is none.
    """
    if found := [i for i, fact in enumerate(facts.facts) if group in map(str, fact.labels.values())]:
        return found
    if group not in WAYS:
        labels = sorted({str(value) for fact in facts.facts for value in fact.labels.values()})[:8]
        raise BadPrompt(f"no fact is labelled {group!r}; labels begin with {', '.join(labels) or 'none at all'}")
    went = ways(facts) or {}
    if group not in went or not went[group].any():
        counts = ", ".join(f"{chosen.sum()} {name}" for name, chosen in went.items())
        raise BadPrompt(f"no fact of {len(facts)} is {group}; by recall at both checkpoints there are {counts}")
    return np.flatnonzero(went[group]).tolist()


def ways_told(graphs: "Sequence[AttributionGraph]", facts: "FactSet") -> Mapping[str, Bools] | None:
    """Which facts went which way by the circuits of two checkpoints; ``None`` where they were asked other facts."""
    asked = [[fact.clean, fact.answer, fact.wrong] for fact in facts.facts]
    if len(graphs) < 2 or any(graph.meta.get("asked") != asked for graph in graphs):
        return None
    return ways_of(*(graph.answer_rank == 0 for graph in graphs))


def ways_along(line: Line, facts: "FactSet") -> Mapping[str, Bools]:
    """Which facts went which way, asked at both ends of a line; afterwards its model stands at A."""
    line.move(1.0)
    after = is_recalled(line.model, facts)
    line.move(0.0)
    return ways_of(is_recalled(line.model, facts), after)


def is_recalled(model: "PreTrainedModel", facts: "FactSet") -> Bools:
    """[N] whether every token of the answer is the model's top one."""
    return np.asarray(measure(model, recall_behaviour(facts)) > 0)


@contextmanager
def opened_line(a: Checkpoint, b: Checkpoint, placement: Placement) -> Iterator[tuple[Line, "LoadedModel"]]:
    """The line between two checkpoints; their two models, or one and adapters' factors, are all that is in memory."""
    if (adapted := load_on_one_base(a, b, placement)) is not None:
        loaded, change = adapted
        try:
            yield line_along(loaded.model, change), loaded
        finally:
            loaded.release()
        return
    with a.open(placement) as first:
        with b.open(placement) as second:
            line = line_between(first.model, second.model, _labels(a, b))
        yield line, first


def _opened(checkpoint: Checkpoint | Path | str) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)


def _labels(a: Checkpoint, b: Checkpoint) -> tuple[str, str]:
    """What two checkpoints are called; their folders, where they are called alike."""
    found = (a.label, b.label)
    return found if found[0] != found[1] else (str(a.path), str(b.path))
