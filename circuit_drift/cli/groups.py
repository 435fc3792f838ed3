"""Options that go together: a dataclass of options is one parameter of a command, and each of its fields an option.

@grouped
def heads(series: SeriesArgument, *, needles: NeedleOptions, placing: PlacementOptions) -> None:
    prompts = prompts_for(series, **needles.given)
"""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from checkpoints.errors import require_choice
from checkpoints.placement import AUTO, Placement
from circuit_drift.cli.options import (
    AnswersOption,
    AttentionOption,
    BackwardOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    EdgesOption,
    ExecutorOption,
    FactsOption,
    GpusOption,
    HaystackOption,
    IgStepsOption,
    KeepOption,
    LengthOption,
    MaxDiskOption,
    MaxHoursOption,
    MethodOption,
    MetricOption,
    NeedlesOption,
    RuleOption,
    SeedOption,
    WorkersOption,
    answers_of,
    placed,
)

if TYPE_CHECKING:
    from circuit_drift.prompts import EdgeScoring
    from circuits.attribution.backward import Preset
    from circuits.attribution.methods import Method, Rule


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each field of its groups as a parameter of its own, which is what typer reads."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    @wraps(command)
    def flat(**given: Any) -> None:
        own = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **own)

    declared = inspect.signature(command).parameters.values()
    parts = [
        _options(groups[each.name]) if each.name in groups else [each.replace(annotation=hints[each.name])]
        for each in declared
    ]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in chain(*parts)]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {each.name: each.annotation for each in parameters}
    return flat


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(each.name, kind, default=each.default, annotation=hints[each.name]) for each in fields(group)
    ]


@dataclass(frozen=True)
class NeedleOptions:
    """Which needles are asked, in what text."""

    needles: NeedlesOption = None
    haystack: HaystackOption = None
    length: LengthOption = 256
    seed: SeedOption = 0

    @property
    def given(self) -> dict[str, Any]:
        """As `prompts_for` takes them."""
        return asdict(self)


@dataclass(frozen=True)
class FactOptions:
    """Which facts are asked, and which of their answers' tokens are read."""

    facts: FactsOption = None
    answers: AnswersOption = "auto"

    @property
    def given(self) -> dict[str, Any]:
        """As `prompts_for` takes them.

        Raises:
            DriftError: no such kind of answers.
        """
        return {"facts": self.facts, "answers": answers_of(self.answers)}


@dataclass(frozen=True)
class ScoringOptions:
    """How edges are scored."""

    method: MethodOption = "eap-ig"
    ig_steps: IgStepsOption = 5
    rule: RuleOption = "midpoint"
    metric: MetricOption = "logit difference"
    edges: EdgesOption = None
    backward: BackwardOption = "plain"

    @property
    def given(self) -> "EdgeScoring":
        """As `prompts_for` takes it; a metric may be written with a hyphen."""
        from circuit_drift.prompts import EdgeScoring

        return EdgeScoring(
            method=cast("Method", self.method),
            ig_steps=self.ig_steps,
            rule=cast("Rule", self.rule),
            metric=self.metric.replace("-", " "),
            backward=cast("Preset", self.backward),
            edges=self.edges,
        )


@dataclass(frozen=True)
class Float32Options:
    """Where models run whose weights are read in float32."""

    device: DeviceOption = "auto"
    attention: AttentionOption = AUTO
    device_map: DeviceMapOption = None
    dtype = "float32"

    @property
    def placement(self) -> Placement:
        """The placement asked for.

        Raises:
            DriftError: no such dtype, or a device map that cannot be read.
        """
        return placed(self.device, self.dtype, self.attention, self.device_map)


@dataclass(frozen=True)
class PlacementOptions(Float32Options):
    """Where models run, and in which dtype."""

    dtype: DtypeOption = "float32"


@dataclass(frozen=True)
class WorkerOptions:
    """Who works on the checkpoints of a run."""

    executor: ExecutorOption = "serial"
    workers: WorkersOption = None
    gpus_per_worker: GpusOption = None

    @property
    def given(self) -> dict[str, Any]:
        """As `circuit_drift.run` takes them.

        Raises:
            BadPrompt: no such executor.
        """
        from circuit_drift.sweep.executors import EXECUTORS

        require_choice("executor", self.executor, EXECUTORS)
        return asdict(self)


@dataclass(frozen=True)
class BoundOptions:
    """What a run may take."""

    keep_downloads: KeepOption = 0
    max_disk: MaxDiskOption = None
    max_hours: MaxHoursOption = None

    @property
    def kept(self) -> int | None:
        """Downloads that stay on disk; ``None`` = all."""
        return None if self.keep_downloads < 0 else self.keep_downloads

    @property
    def given(self) -> dict[str, Any]:
        """The bounds as `circuit_drift.run` takes them.

        Raises:
            DriftError: no size.
        """
        from circuit_drift.sweep.limits import size_in_words

        disk = None if self.max_disk is None else size_in_words(self.max_disk)
        return {"max_disk": disk, "max_hours": self.max_hours}
