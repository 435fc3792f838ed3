"""From two checkpoints and the name of a behaviour to its explanation."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    labelled,
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
    order_of,
    require_metric,
)
from circuit_drift.explanation.line import Line, line_along, line_between
from circuit_drift.explanation.outputs import patch_outputs, writer_of
from circuit_drift.explanation.patching import patch
from circuit_drift.explanation.shares import NoGradient, PathShares, integrate, measure, one_by_one
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.record.groups import WAYS
from heads.detect.retrieval import check_ids

if TYPE_CHECKING:
    from checkpoints.loading.load import LoadedModel
    from circuits.facts.facts import FactSet

logger = logging.getLogger(__name__)

WINDOWS, WINDOW = 8, 128


def explain(
    a: Checkpoint | Path | str,
    b: Checkpoint | Path | str,
    metric: str | Behaviour = "needle",
    *,
    prompts: Prompts | None = None,
    placement: Placement = ANYWHERE,
    effort: Effort = DEFAULT_EFFORT,
) -> Explanation:
    """Which components' weights made a behaviour differ between two checkpoints, proved by putting them back.

    Args:
        a: a checkpoint, its folder, or ``SERIES@STEP``.
        b: the other one.
        metric: ``needle`` (NLL of needles' answers), ``accuracy`` (theirs, by patching alone), ``facts`` (logit
            difference) or ``log-probability`` of facts, either with ``:GROUP`` (a label's value, else ``kept``,
            ``lost``, ``learned`` or ``neither``, by recall at both), ``text`` (NLL of the haystack's text), a head as
            ``a18.h6`` (its attention on the needle), or a `Behaviour` of one's own.
        prompts: what is asked; by default what the folder of A brings along.
        placement: where the models run; float32.
        effort: prompts, steps, patching, outputs.

    Raises:
        CheckpointMismatch: different shapes, tokenizers or ties.
        UnsupportedArchitecture: parts that cannot be told apart, or quantised weights.
        BadPrompt: an unknown metric, or nothing to ask.
    """
    first, second = _opened(a), _opened(b)
    require_same_model(first, second)
    prompts = prompts or prompts_for(first.path)
    with opened_line(first, second, placement) as (line, loaded):
        behaviour = asked_of(metric, loaded, prompts, effort, line)
        return explain_line(line, behaviour, _labels(first, second), effort)


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
    return explained_by(path_of(line, behaviour, effort), line, behaviour, names, effort)


def explained_by(
    path: PathShares, line: Line, behaviour: Behaviour, names: tuple[str, str], effort: Effort
) -> Explanation:
    """An explanation from shares that are known, with its proof; arguments besides as for `explain_line`."""
    shares = path.shares.sum(1)
    change = float(path.change.mean())
    order = order_of(shares, change, line.changed)
    nonzero = [place for place in order if shares[:, place].any()]
    patching = None
    if effort.patching and nonzero and change:
        patching = patch(line, behaviour, nonzero, path.along[0], path.along[-1])
    components = line.components.all
    nodes = _nodes(line, order, effort)
    return Explanation(
        a=names[0],
        b=names[1],
        behaviour=behaviour.name,
        unit=behaviour.unit,
        names=tuple(component.name for component in components),
        kinds=tuple(component.kind for component in components),
        layers=tuple(-1 if component.layer is None else component.layer for component in components),
        changed=line.changed,
        shares=shares,
        parts=behaviour.parts,
        by_part=path.shares.mean(0),
        groups=behaviour.groups or ("all",) * len(behaviour),
        at=path.at,
        along=path.along,
        steps=path.steps,
        patching=patching,
        outputs=patch_outputs(line, behaviour, nodes) if nodes else None,
        meta={"tolerance": effort.tolerance, "n_prompts": len(behaviour)},
    )


def path_of(line: Line, behaviour: Behaviour, effort: Effort) -> PathShares:
    """Shares along the line, or without a gradient what each component does by itself (`PathShares.steps` is 0).

    Raises:
        BadPrompt: a behaviour without a gradient, and no patching.
    """
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


def asked_of(
    metric: str | Behaviour, loaded: "LoadedModel", prompts: Prompts, effort: Effort, line: Line | None = None
) -> Behaviour:
    """The behaviour, thinned to what may be spent, and held against the model's positions and vocabulary.

    Args:
        metric: as for `explain`.
        loaded: the model at A.
        prompts: what is asked.
        effort: at most so many prompts.
        line: between the two checkpoints that tell which facts were kept, lost or learned; without it no such group.

    Raises:
        BadPrompt: no such behaviour, or prompts that the model cannot read.
    """
    behaviour = metric if isinstance(metric, Behaviour) else named_behaviour(metric, loaded, prompts, line)
    check_ids(loaded.model, behaviour.prompts)
    return behaviour.thinned(effort.prompts)


def named_behaviour(metric: str, loaded: "LoadedModel", prompts: Prompts, line: Line | None = None) -> Behaviour:
    """The behaviour of that name, in the model's tokens; arguments as for `asked_of`.

    Raises:
        BadPrompt: there is none of that name, or it cannot be asked.
    """
    require_metric(metric)
    name, _, group = metric.partition(":")
    tokenizer = tokenizer_of(loaded)
    if name in GROUPED:
        facts, log_probability = prompts.facts.tokenized(tokenizer), name == "log-probability"
        if line is not None and group in WAYS and not labelled(facts, group):
            return facts_behaviour(
                facts, log_probability=log_probability, group=group, chosen=_moved(line, facts, group)
            )
        return facts_behaviour(facts, log_probability=log_probability, group=group or None)
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


def _moved(line: Line, facts: "FactSet", way: str) -> tuple[int, ...]:
    """Which facts are recalled at both ends of a line, at one or at neither.

    Raises:
        BadPrompt: none.
    """
    asked = recall_behaviour(facts)
    line.move(0.0)
    before = measure(line, asked) > 0
    line.move(1.0)
    after = measure(line, asked) > 0
    line.move(0.0)
    groups = dict(zip(WAYS, (before & after, before & ~after, ~before & after, ~before & ~after), strict=True))
    if not groups[way].any():
        counts = ", ".join(f"{found.sum()} {name}" for name, found in groups.items())
        raise BadPrompt(f"no fact of {len(facts)} is {way}; by recall at both checkpoints there are {counts}")
    return tuple(np.flatnonzero(groups[way]).tolist())


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
            line = line_between(first.model, second.model)
        yield line, first


def _opened(checkpoint: Checkpoint | Path | str) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)


def _labels(a: Checkpoint, b: Checkpoint) -> tuple[str, str]:
    found = (a.label, b.label)
    return found if found[0] != found[1] else (str(a.path), str(b.path))
