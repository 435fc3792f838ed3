"""Which measures there are: the built-in ones, those of installed packages (entry points), and registered ones.

This is the only list of measures. The built-in ones are named by where they are defined, so that a room above may own
one; they are loaded when they are asked for.
"""

from collections.abc import Iterable, Iterator, Sequence

from checkpoints import Checkpoint, DriftError
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.plugins import offered
from circuit_drift.prompts import Prompts
from circuit_drift.record.record import Point

GROUP = "circuit_drift.measures"
BUILT_IN = {
    "heads": "circuit_drift.measures.heads:RetrievalMeasure",
    "circuit": "circuit_drift.measures.circuit:CircuitMeasure",
    "faithfulness": "circuit_drift.measures.faithfulness:FaithfulnessMeasure",
    "roles": "circuit_drift.measures.roles:RolesMeasure",
    "ablation": "circuit_drift.measures.causal.ablation:AblationMeasure",
    "writing": "circuit_drift.measures.causal.writing:WritingMeasure",
    "retrieval-circuit": "circuit_drift.measures.causal.retrieval:RetrievalCircuitMeasure",
    "patching": "circuit_drift.measures.causal.patching:PatchingMeasure",
    "lens": "circuit_drift.measures.lens:LensMeasure",
    "maps": "circuit_drift.measures.maps:MapsMeasure",
    "corpora": "circuit_drift.measures.corpora:CorporaMeasure",
    "routing": "circuit_drift.measures.routing:RoutingMeasure",
    "untrained": "circuit_drift.measures.untrained.measure:UntrainedMeasure",
    "sft": "circuit_drift.behaviour.sft:SftMeasure",
    "questions": "circuit_drift.behaviour.questions:QuestionsMeasure",
    "harness": "circuit_drift.behaviour.harness:HarnessMeasure",
}
MEASURES = ("heads", "circuit", "faithfulness", "roles")
"""What a run takes where nothing is asked for."""

_registered: dict[str, type[Measure]] = {}


def register(kind: type[Measure]) -> type[Measure]:
    """Make a measure known by its name in this process; usable as a decorator. An entry point does so in every one.

    Raises:
        DriftError: it is no measure, or its name is another one's.
    """
    _check(kind, getattr(kind, "__qualname__", repr(kind)))
    known = find(kind.name)
    if known is not None and (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise DriftError(
            f"{kind.__module__}.{kind.__qualname__} wants to be the measure {kind.name}, which is "
            f"{known.__module__}.{known.__qualname__}; give it another name"
        )
    if known is not kind and kind.name not in BUILT_IN:
        _registered[kind.name] = kind
    return kind


def find(name: str) -> type[Measure] | None:
    """The measure of a name; None where no package here has it.

    Raises:
        DriftError: the package that has it cannot be loaded, or holds no measure there.
    """
    if name in _registered:
        return _registered[name]
    point = next((point for point in offered(GROUP, BUILT_IN) if point.name == name), None)
    if point is None:
        return None
    try:
        kind: type[Measure] = point.load()
    except (ImportError, AttributeError) as error:
        raise DriftError(f"the measure {name} cannot be loaded from {point.value}: {error}") from error
    _check(kind, point.value)
    if kind.name != name:
        raise DriftError(f"{point.value} is registered as the measure {name}, and calls itself {kind.name}: say one")
    return kind


def known() -> tuple[str, ...]:
    """Names of all measures: the built-in ones, then those of packages and registered ones, by name."""
    others = {point.name for point in offered(GROUP, BUILT_IN)} | set(_registered)
    return (*BUILT_IN, *sorted(others - set(BUILT_IN)))


def kinds_in(points: Iterable[Point]) -> Iterator[type[Measure]]:
    """The measures that points hold results of, in the order of `known`; one that nobody has is passed over."""
    present = {name for point in points for name in point.results}
    for name in known():
        if name in present and (kind := find(name)) is not None:
            yield kind


def build_measures(
    prompts: Prompts | None, names: Sequence[str | Measure] = MEASURES, checkpoint: Checkpoint | None = None
) -> tuple[Measure, ...]:
    """The measures of those names over these prompts, with those that they need, in the order they must be taken.

    Args:
        prompts: what is asked; None where all measures are given themselves.
        names: names, as in ``heads`` or ``harness:hellaswag``, or measures themselves.
        checkpoint: the first one to be measured, for measures that look at its tokenizer.

    Raises:
        DriftError: an unknown name, an argument that a measure does not know, or two measures of one name.
    """
    given = [measure for measure in names if not isinstance(measure, str)]
    for measure in given:
        register(type(measure))
    built = {measure.name: measure for measure in given}
    arguments = _arguments([name for name in names if isinstance(name, str)])
    if not names or len(built) < len(given) or built.keys() & arguments.keys():
        what = "no measure is" if not names else "two measures of one name are"
        raise DriftError(f"{what} asked for; choose from {', '.join(known())}, each once")
    waiting = [(name, tuple(values)) for name, values in arguments.items()]
    needed = [need for measure in given for need in measure.needs]
    while waiting or needed:
        name, values = waiting.pop(0) if waiting else (needed.pop(0), ())
        if name in built:
            continue
        kind = find(name)
        if kind is None:
            raise DriftError(f"unknown measure {name!r}; choose from {', '.join(known())}")
        if prompts is None:
            raise DriftError(f"the measure {name} is asked for by name, and there are no prompts to make it from")
        built[name] = kind.build(Asked(prompts, values, checkpoint))
        needed += kind.needs
    return tuple(_in_order(built))


def _arguments(names: Sequence[str]) -> dict[str, list[str]]:
    """Name -> what stands behind its colons, in order."""
    found: dict[str, list[str]] = {}
    for text in names:
        name, _, argument = text.partition(":")
        values = found.setdefault(name, [])
        if argument and argument not in values:
            values.append(argument)
    return found


def _in_order(built: dict[str, Measure]) -> Iterator[Measure]:
    """Each after those that it needs; else in the order of `known`."""
    taken: set[str] = set()
    waiting = [name for name in known() if name in built]
    while waiting:
        ready = next((name for name in waiting if set(built[name].needs) <= taken), None)
        if ready is None:
            raise DriftError(f"the measures {', '.join(waiting)} need each other, so that none can be the first")
        waiting.remove(ready)
        taken.add(ready)
        yield built[ready]


def _check(kind: object, where: str) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Measure)):
        raise DriftError(f"{where} is no measure: it must be a class derived from circuit_drift.Measure")
    lacking = [name for name in ("name", "result") if not hasattr(kind, name)]
    if lacking:
        raise DriftError(f"the measure {where} has no {' and no '.join(lacking)}; give it to the class")
